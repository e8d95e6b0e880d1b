//! What is asked of `/v1/embeddings`, and its body for Ollama's `/api/embed`.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    body::{BodyError, Fields},
    json::{is_filled, written},
    openai::chat::are_texts,
};

/// The fields of a request to `/v1/embeddings` that matter.
pub(crate) const FIELDS: [&str; 12] = [
    "model",
    "input",
    "dimensions",
    "encoding_format",
    "stream",
    "messages",
    "truncate",
    "normalize",
    "input_type",
    "instruction",
    "task",
    "prompt_name",
];

pub(super) type Given<'a> = Fields<'a, { FIELDS.len() }>;

/// The body of Ollama's `/api/embed`.
#[derive(Serialize)]
struct Embed<'b> {
    model: &'b str,
    input: Option<&'b RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate: Option<bool>,
}

/// That there are texts to embed, and nothing else.
pub(super) fn check(given: &Given<'_>) -> Result<(), BodyError> {
    if given.get("messages").is_some() {
        let why = "Messages are not embedded: send the text itself as `input`.";
        return Err(BodyError::unsupported("messages", why));
    }
    let asked = given.get("input");
    let must = || given.must("input", "a string or a list of strings");
    let raw = asked.filter(|raw| is_filled(raw.get())).ok_or_else(must)?;
    if !are_texts(raw) {
        let is_tokens = raw.get()[1..].trim_start().starts_with(['[', '-'])
            || raw.get()[1..].trim_start().starts_with(|first: char| first.is_ascii_digit());
        if is_tokens {
            let why = "Token ids are not taken: send the text itself. (LangChain: \
                `check_embedding_ctx_length=False`.)";
            return Err(BodyError::unsupported("input", why));
        }
        return Err(must());
    }
    Ok(())
}

/// The body of Ollama's `/api/embed`, of about that length.
///
/// # Errors
/// Where vectors are asked for that Ollama does not make.
pub(super) fn embed(given: &Given<'_>, model: &str, length: usize) -> Result<Vec<u8>, BodyError> {
    for name in ["input_type", "instruction", "task", "prompt_name"] {
        if given.get(name).is_some_and(|raw| raw.get() != "\"\"") {
            let why =
                "The model server takes the text alone: put what belongs before it into `input`.";
            return Err(BodyError::unsupported(name, why));
        }
    }
    if given.flag("normalize")? == Some(false) {
        return Err(BodyError::unsupported("normalize", "The vectors have the length 1."));
    }
    // Cohere's and TEI's words, and Ollama's.
    let truncate = match given.get("truncate").map(RawValue::get) {
        Some("\"NONE\"") => Some(false),
        Some("\"END\"") => Some(true),
        Some("\"START\"") => {
            return Err(BodyError::unsupported("truncate", "A text is cut at its end."));
        }
        _ => given.flag("truncate")?,
    };
    let dimensions = given.integer("dimensions")?;
    written(&Embed { model, input: given.get("input"), dimensions, truncate }, length)
}
