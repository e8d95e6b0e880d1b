//! What a scripted server serves and how it behaves, as code or as a TOML file.
//!
//! Every field has a default that suits a test, so an empty file is a valid script.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::directives::Directives;
use crate::name;

/// How many requests the log keeps, unless the script says otherwise.
const LOG_DEFAULT: usize = 1_024;

/// The script of one server.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// The installed models.
    pub models: Vec<Model>,
    /// The version that `/api/version` tells.
    pub version: String,
    /// The wait before every chunk; `pace_ms` in a file.
    #[serde(rename = "pace_ms", deserialize_with = "milliseconds")]
    pub pace: Duration,
    /// The wait before the first byte of an answer; `first_byte_ms` in a file.
    #[serde(rename = "first_byte_ms", deserialize_with = "milliseconds")]
    pub first_byte: Duration,
    /// How long a model takes to load for its first request; `cold_load_ms` in a file.
    #[serde(rename = "cold_load_ms", deserialize_with = "milliseconds")]
    pub cold_load: Duration,
    /// Content chunks in an answer; absent: as many as its text has words.
    pub chunks: Option<usize>,
    /// Lines that are ready at once leave in one write instead of one write each.
    pub gather: bool,
    /// Magic words that hold for every request, `[[status 500]]` and the like.
    pub behave: String,
    /// `n_predict` goes before `max_tokens` in OpenAI's dialect, as it does with llama.cpp.
    pub n_predict: bool,
    /// What callers must present as a bearer token, as servers of OpenAI's dialect may ask; absent: nothing.
    pub api_key: Option<String>,
    /// Requests that the log keeps, the oldest going first; 0 keeps none.
    pub log_requests: usize,
    /// The time on every line; absent: the machine's.
    pub fixed_time: Option<Timestamp>,
}

/// One installed model.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Its name, with or without a tag.
    pub name: String,
    /// What it is called in OpenAI's dialect, to the letter; empty: its name.
    pub id: String,
    /// Bytes on disk.
    pub size: u64,
    /// SHA-256 of its manifest, in hex; empty: made from the name.
    pub digest: String,
    /// When it was installed: the newest model is listed first.
    pub modified_at: Timestamp,
    /// Its architecture.
    pub family: String,
    /// Its size in words, `3.2B`.
    pub parameter_size: String,
    /// How its weights are stored, `Q4_K_M`.
    pub quantization_level: String,
    /// What it can do: `completion`, `tools`, `thinking`, `vision`, `insert`, `embedding`.
    pub capabilities: Vec<String>,
    /// Tokens it can attend to.
    pub context_length: u64,
    /// Numbers in one of its embeddings.
    pub embedding_length: usize,
    /// The server that it really runs on; empty: this one.
    pub remote_host: String,
    /// What it always says; absent: the echo of the last message.
    pub reply: Option<String>,
}

/// Why a script cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// The file is no TOML, or holds what a script does not.
    #[error("the script is not valid: {0}")]
    Toml(#[from] toml::de::Error),
    /// A model's name is none that Ollama would take.
    #[error("{0:?} is no name of a model")]
    Name(String),
    /// `behave` holds a word that means nothing.
    #[error("{0:?} is no magic word")]
    Behave(String),
}

// === impl Script ===

impl Script {
    /// Reads a script from TOML and checks it.
    ///
    /// # Errors
    /// Whatever [`ScriptError`] names.
    pub fn from_toml(text: &str) -> Result<Self, ScriptError> {
        let script: Self = toml::from_str(text)?;
        script.check()?;
        Ok(script)
    }

    /// Whether names and magic words mean something.
    ///
    /// # Errors
    /// [`ScriptError::Name`] and [`ScriptError::Behave`].
    pub fn check(&self) -> Result<(), ScriptError> {
        for model in &self.models {
            if name::canonical(&model.name).is_none() {
                return Err(ScriptError::Name(model.name.clone()));
            }
        }
        match Directives::unknown_word(&self.behave) {
            Some(word) => Err(ScriptError::Behave(word.to_owned())),
            None => Ok(()),
        }
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            models: default_models(),
            version: "0.33.0".to_owned(),
            pace: Duration::ZERO,
            first_byte: Duration::ZERO,
            cold_load: Duration::ZERO,
            chunks: None,
            gather: false,
            behave: String::new(),
            n_predict: false,
            api_key: None,
            log_requests: LOG_DEFAULT,
            fixed_time: None,
        }
    }
}

// === impl Model ===

impl Model {
    /// A model of this name that chats and calls tools.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Whether the model can do this.
    #[must_use]
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }
}

impl Default for Model {
    fn default() -> Self {
        Self {
            name: String::new(),
            id: String::new(),
            size: 2_019_393_189,
            digest: String::new(),
            modified_at: Timestamp::constant(1_767_225_600, 0),
            family: "llama".to_owned(),
            parameter_size: "3.2B".to_owned(),
            quantization_level: "Q4_K_M".to_owned(),
            capabilities: vec!["completion".to_owned(), "tools".to_owned()],
            context_length: 131_072,
            embedding_length: 3_072,
            remote_host: String::new(),
            reply: None,
        }
    }
}

fn default_models() -> Vec<Model> {
    let installed = |day: i64| Timestamp::constant(1_767_225_600 + day * 86_400, 123_456_789);
    let capabilities = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect();
    vec![
        Model { modified_at: installed(3), ..Model::named("llama3.2:latest") },
        Model {
            size: 5_225_387_677,
            modified_at: installed(2),
            family: "qwen3".to_owned(),
            parameter_size: "8.2B".to_owned(),
            capabilities: capabilities(&["completion", "tools", "thinking"]),
            context_length: 40_960,
            embedding_length: 4_096,
            ..Model::named("qwen3:8b")
        },
        Model {
            size: 274_302_450,
            modified_at: installed(1),
            family: "nomic-bert".to_owned(),
            parameter_size: "137M".to_owned(),
            quantization_level: "F16".to_owned(),
            capabilities: capabilities(&["embedding"]),
            context_length: 2_048,
            embedding_length: 768,
            ..Model::named("nomic-embed-text:latest")
        },
        Model { modified_at: installed(0), ..Model::named("secret-model:latest") },
    ]
}

fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_script() {
        let script = Script::from_toml("").unwrap();
        let names: Vec<_> = script.models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(
            names,
            ["llama3.2:latest", "qwen3:8b", "nomic-embed-text:latest", "secret-model:latest"]
        );
        assert_eq!(script.pace, Duration::ZERO);
    }

    #[test]
    fn a_file_says_pace_chunks_and_models() {
        let script = Script::from_toml(
            "pace_ms = 10\nchunks = 100\nfixed_time = \"2026-01-02T03:04:05Z\"\n\
             [[models]]\nname = \"one\"\nreply = \"Yes.\"",
        )
        .unwrap();
        assert_eq!(script.pace, Duration::from_millis(10));
        assert_eq!(script.chunks, Some(100));
        assert_eq!(script.models.len(), 1);
        assert_eq!(script.models[0].reply.as_deref(), Some("Yes."));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert!(matches!(Script::from_toml("pase_ms = 1"), Err(ScriptError::Toml(_))));
        let bad_name = Script::from_toml("[[models]]\nname = \"a b\"");
        assert!(matches!(bad_name, Err(ScriptError::Name(name)) if name == "a b"));
        let bad_word = Script::from_toml("behave = \"[[explode 3]]\"");
        assert!(matches!(bad_word, Err(ScriptError::Behave(word)) if word == "explode 3"));
    }
}
