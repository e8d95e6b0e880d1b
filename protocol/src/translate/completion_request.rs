//! What is asked of `/v1/completions`, and its body for Ollama's `/api/generate`.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::chat_request::options;
use crate::{
    body::{BodyError, Fields},
    caps,
    json::{Cursor, is_filled, written},
    ollama::chat::Options,
    openai::chat::texts,
};

/// The fields of a request to `/v1/completions` that matter.
pub(super) const FIELDS: [&str; 23] = [
    "model",
    "prompt",
    "suffix",
    "echo",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "n",
    "best_of",
    "logprobs",
    "logit_bias",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repetition_penalty",
    "repeat_last_n",
];

/// Where those begin that are seldom there.
const SELDOM: usize = 17;

pub(super) type Given<'a> = Fields<'a, { FIELDS.len() }>;

/// The body of Ollama's `/api/generate`.
#[derive(Serialize)]
struct Generate<'b> {
    model: &'b str,
    prompt: Cow<'b, str>,
    stream: bool,
    options: Options<'b>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: Option<Cow<'b, str>>,
}

/// The body for Ollama, for the model of that name.
///
/// # Errors
/// [`BodyError`] with `UnsupportedParameter` where something is asked for that Ollama has not.
pub(super) fn generate(
    given: &Given<'_>,
    model: &str,
    stream: bool,
    tokens_max: Option<u64>,
) -> Result<Vec<u8>, BodyError> {
    for name in ["logprobs", "logit_bias"] {
        let asks = |raw: &&RawValue| !matches!(raw.get(), "0" | "false" | "{}");
        if given.get(name).filter(asks).is_some() {
            let why = "The model server has nothing like it.";
            return Err(BodyError::unsupported(name, why));
        }
    }
    let options = options(given, SELDOM, tokens_max)?;
    let body =
        Generate { model, prompt: asked(given)?, stream, options, suffix: given.string("suffix")? };
    written(&body, body.prompt.len() + body.prompt.len() / 8 + 512)
}

/// How many prompts there are: texts, or lists of token ids.
pub(super) fn prompts(given: &Given<'_>) -> Result<u64, BodyError> {
    let must = || given.must("prompt", "a string or a list of strings");
    let raw = given.get("prompt").ok_or_else(must)?.get();
    if raw.starts_with('"') {
        return Ok(1);
    }
    if !is_filled(raw) {
        return Err(must());
    }
    let mut prompts = 0;
    Cursor::new(raw).items(|cursor, _| {
        prompts += u64::from(matches!(cursor.peek(), Some(b'"' | b'[')));
        if prompts > caps::PROMPTS_MAX as u64 { cursor.end() } else { _ = cursor.value() }
    });
    if prompts > caps::PROMPTS_MAX as u64 {
        return Err(caps::too_many("prompt", caps::PROMPTS_MAX));
    }
    // Numbers alone are the tokens of one prompt.
    Ok(prompts.max(1))
}

/// The one prompt.
pub(super) fn asked<'a>(given: &Given<'a>) -> Result<Cow<'a, str>, BodyError> {
    let must = || given.must("prompt", "a string, or a list of one");
    let raw = given.get("prompt").ok_or_else(must)?;
    let mut prompts = texts(raw).ok_or_else(must)?;
    match prompts.len() {
        1 => Ok(prompts.swap_remove(0)),
        0 => Err(must()),
        _ => Err(BodyError::unsupported("prompt", "The model server takes one prompt at a time.")),
    }
}
