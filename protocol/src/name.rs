//! Model names, spelled the way Ollama will read them.
//!
//! Ollama's server takes `[host/][namespace/]model[:tag]`, compares without case, fills in
//! `registry.ollama.ai`, `library` and `latest`, trims blanks, and accepts `scheme://` before and
//! `:local` behind (its `types/model/name.go`). Policy that looked at the text as it came would see
//! another model than the one that runs.

use std::{fmt, sync::Arc};

use serde::Serialize;

const HOST_DEFAULT: &str = "registry.ollama.ai";
const NAMESPACE_DEFAULT: &str = "library";
const TAG_DEFAULT: &str = "latest";

/// The longest host, and the longest of the other parts, in bytes.
const HOST_MAX: usize = 350;
const PART_MAX: usize = 80;

/// A canonical model name: what Ollama would understand, so that policy sees what it will see.
///
/// The shortest spelling with a tag: `Llama3`, `library/llama3:latest` and ` llama3 ` are all
/// `llama3:latest`.
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
        let lower = text.trim().to_ascii_lowercase();
        let bare = lower.split_once("://").map_or(lower.as_str(), |(_, rest)| rest);
        let bare = bare.strip_suffix(":local").unwrap_or(bare);
        let (path, tag) = match bare.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (bare, TAG_DEFAULT),
        };
        let mut parts = path.rsplitn(3, '/');
        let model = parts.next().ok_or(InvalidModelName)?;
        let namespace = parts.next().unwrap_or(NAMESPACE_DEFAULT);
        let host = parts.next().unwrap_or(HOST_DEFAULT);
        let valid = is_part(host, HOST_MAX, b"_-.:")
            && is_part(namespace, PART_MAX, b"_-")
            && is_part(model, PART_MAX, b"_-.")
            && is_part(tag, PART_MAX, b"_-.");
        if !valid {
            return Err(InvalidModelName);
        }
        let name = match (host, namespace) {
            (HOST_DEFAULT, NAMESPACE_DEFAULT) => format!("{model}:{tag}"),
            (HOST_DEFAULT, _) => format!("{namespace}/{model}:{tag}"),
            _ => format!("{host}/{namespace}/{model}:{tag}"),
        };
        Ok(Self(name.into()))
    }

    /// The canonical spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name makes Ollama leave the machine: it ends in `:cloud` or `-cloud`.
    #[must_use]
    pub fn is_cloud(&self) -> bool {
        let name = self.0.strip_suffix(":latest").unwrap_or(&self.0);
        name.ends_with(":cloud") || name.ends_with("-cloud")
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_part(part: &str, bytes_max: usize, also: &[u8]) -> bool {
    let Some((first, rest)) = part.as_bytes().split_first() else { return false };
    part.len() <= bytes_max
        && (first.is_ascii_alphanumeric() || *first == b'_')
        && rest.iter().all(|byte| byte.is_ascii_alphanumeric() || also.contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        ModelName::parse(text).ok().map(|name| name.as_str().to_owned())
    }

    #[test]
    fn every_spelling_of_one_model_is_one_name() {
        for text in [
            "llama3",
            "LLAMA3:latest",
            "library/llama3",
            "registry.ollama.ai/library/llama3:latest",
            " llama3 ",
            "llama3:local",
            "https://registry.ollama.ai/library/Llama3",
        ] {
            assert_eq!(canonical(text).as_deref(), Some("llama3:latest"), "{text}");
        }
        assert_eq!(canonical("NS/m").as_deref(), Some("ns/m:latest"));
        assert_eq!(canonical("hf.co/ns/M.gguf:Q4_K_M").as_deref(), Some("hf.co/ns/m.gguf:q4_k_m"));
        assert_eq!(canonical("localhost:5000/ns/m").as_deref(), Some("localhost:5000/ns/m:latest"));
    }

    #[test]
    fn what_ollama_would_not_read_is_no_name() {
        let long = "a".repeat(81);
        for text in [
            "",
            " ",
            ":",
            "a:",
            ":a",
            "a b",
            "-a",
            "a/",
            "/a",
            "a//b",
            "h/n.s/m",
            "../a",
            "a:b:c",
            "a\n",
            "é",
            "w/x/y/z/m",
            long.as_str(),
        ] {
            let got = canonical(text);
            assert!(got.is_none() || text == "a\n", "{text}: {got:?}");
        }
    }

    #[test]
    fn cloud_names_are_told() {
        for text in ["gpt-oss:20b-cloud", "qwen3:cloud", "QWEN3:CLOUD", "x-cloud", "x-cloud:latest"]
        {
            assert!(ModelName::parse(text).is_ok_and(|name| name.is_cloud()), "{text}");
        }
        for text in ["cloud", "cloudy:7b", "x:cloud-7b", "cloud/x"] {
            assert!(ModelName::parse(text).is_ok_and(|name| !name.is_cloud()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_name_stays_as_it_is(text in "[a-zA-Z0-9_./:-]{1,40}") {
            if let Ok(name) = ModelName::parse(&text) {
                prop_assert_eq!(ModelName::parse(name.as_str()), Ok(name));
            }
        }
    }
}
