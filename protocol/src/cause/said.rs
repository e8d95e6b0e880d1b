//! What an error of a model server says, as far as its reason is looked for.

use std::num::NonZeroU32;

use serde_json::Value;

/// The largest error that is read, in bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How much of a sentence is looked at, in bytes: servers give the reason first, and may add what they were sent.
const TEXT_BYTES_MAX: usize = 2 * 1024;
/// The longest `type` or `code` that is one, in bytes.
const KIND_BYTES_MAX: usize = 64;
/// The largest number of tokens that is believed.
const TOKENS_MAX: u32 = 1_000_000_000;
/// From here on a sentence repeats what the server was sent: llama.cpp (`; messages = …`), pydantic (`'input': …`).
const ECHOES: [&str; 3] = ["; messages =", "'input':", "input_value="];

/// What an error says.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Its sentence, in lower case and cut where it repeats what was sent.
    pub(super) text: String,
    /// Its `type` and `code`, in lower case.
    pub(super) kinds: Vec<String>,
    /// A `code` that is an HTTP status.
    pub(super) status: Option<u16>,
    /// `n_prompt_tokens` and `n_ctx` (llama.cpp).
    pub(super) prompt: Option<NonZeroU32>,
    pub(super) most: Option<NonZeroU32>,
}

// === impl Said ===

impl Said {
    /// Reads an error. None where it is none; a body that is no JSON is one where its status says so.
    pub(super) fn read(status: Option<u16>, body: &[u8]) -> Option<Self> {
        let body = &body[..body.len().min(ERROR_BYTES_MAX)];
        let mut said = Self::default();
        match serde_json::from_slice::<Value>(body) {
            Ok(outer) => match outer.get("error").or_else(|| outer.get("detail")) {
                Some(Value::String(text)) => {
                    said.tell(text);
                    said.read_kinds(&outer);
                }
                Some(inner @ Value::Object(_)) => said.read_object(inner),
                // SGLang, and vLLM before 0.10: the error has no shell.
                _ if outer.is_object() && (status.is_some() || is_error(&outer)) => {
                    said.read_object(&outer);
                }
                _ => return None,
            },
            Err(_) if status.is_none() || body.trim_ascii_start().starts_with(b"<") => return None,
            Err(_) => said.tell(&String::from_utf8_lossy(body)),
        }
        Some(said)
    }

    /// Whether its sentence has one of these words in it.
    pub(super) fn says(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.contains(word))
    }

    /// The number directly after those words, or after "about" or "at least" behind them.
    pub(super) fn number_after(&self, words: &str) -> Option<NonZeroU32> {
        let at = self.text.find(words)? + words.len();
        let rest = &self.text[at..];
        let rest = ["about ", "at least ", "only "]
            .iter()
            .find_map(|hedge| rest.strip_prefix(hedge))
            .unwrap_or(rest);
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        tokens(&rest[..length])
    }

    /// The number directly before those words.
    pub(super) fn number_before(&self, words: &str) -> Option<NonZeroU32> {
        let end = self.text.find(words)?;
        let length = self.text[..end].bytes().rev().take_while(u8::is_ascii_digit).count();
        tokens(&self.text[end - length..end])
    }

    fn read_object(&mut self, error: &Value) {
        if let Some(Value::String(text)) = error.get("message").or_else(|| error.get("detail")) {
            self.tell(text);
        }
        self.read_kinds(error);
    }

    fn read_kinds(&mut self, error: &Value) {
        for name in ["type", "code", "error_type"] {
            match error.get(name) {
                Some(Value::String(word)) if word.len() <= KIND_BYTES_MAX => {
                    self.kinds.push(word.to_ascii_lowercase());
                }
                Some(Value::Number(number)) => {
                    let status = number.as_u64().and_then(|number| u16::try_from(number).ok());
                    self.status = status.filter(|status| (400..600).contains(status));
                }
                _ => {}
            }
        }
        let count = |name: &str| tokens(&error.get(name)?.as_u64()?.to_string());
        (self.prompt, self.most) = (count("n_prompt_tokens"), count("n_ctx"));
    }

    fn tell(&mut self, text: &str) {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        let end = ECHOES.iter().filter_map(|echo| text.find(echo)).min().unwrap_or(text.len());
        self.text = text[..end].to_ascii_lowercase();
    }
}

fn is_error(outer: &Value) -> bool {
    ["object", "type"].iter().any(|name| outer.get(*name).is_some_and(|value| value == "error"))
}

/// A number of tokens. None where it is none, or too large to be believed.
pub(super) fn tokens(digits: &str) -> Option<NonZeroU32> {
    digits.parse().ok().filter(|tokens: &NonZeroU32| tokens.get() <= TOKENS_MAX)
}
