//! What one line or event of an upstream says, in no dialect: borrowed from its text.
//!
//! Readers (of Ollama's lines, of OpenAI's chunks) make pieces, writers (of each dialect that clients
//! speak) take them. A whole reply is one piece and an ending.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::usage::Usage;

/// A part of a reply.
#[derive(Clone, Debug, Default)]
pub(crate) struct Piece<'a> {
    /// A JSON string.
    pub(crate) content: Option<&'a RawValue>,
    /// A JSON string with something in it.
    pub(crate) thinking: Option<&'a RawValue>,
    pub(crate) calls: Vec<CallPiece<'a>>,
    /// A JSON array with something in it.
    pub(crate) logprobs: Option<&'a RawValue>,
}

/// A tool call, or the next part of one.
#[derive(Clone, Debug)]
pub(crate) struct CallPiece<'a> {
    /// Which call of the reply it is, from 0. Parts of one call come one after another, and nothing else comes
    /// between them.
    pub(crate) index: usize,
    pub(crate) id: Option<Cow<'a, str>>,
    /// Its function; only the first part of a call has one.
    pub(crate) name: Option<Cow<'a, str>>,
    pub(crate) arguments: Arguments<'a>,
}

/// The arguments of a call, as an upstream gives them.
#[derive(Clone, Debug)]
pub(crate) enum Arguments<'a> {
    /// All of them, as a JSON object.
    Object(&'a RawValue),
    /// The next part of their text, as a JSON string.
    Text(&'a RawValue),
    /// The same, decoded: it has waited.
    Held(String),
    /// All of them: there are none.
    Empty,
}

/// Why a reply ended, in the words that all dialects have a word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The model had said all.
    Stop,
    /// It reached the greatest length.
    Length,
    /// Something held it back.
    Filtered,
}

/// How a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) reason: Reason,
    /// What the upstream says was used, if it does.
    pub(crate) usage: Option<Usage>,
}

// === impl Piece ===

impl Piece<'_> {
    /// Whether a model produced something of it.
    pub(crate) fn carries(&self) -> bool {
        self.has_content() || self.thinking.is_some() || !self.calls.is_empty()
    }

    pub(crate) fn has_content(&self) -> bool {
        crate::ollama::reply::is_filled(self.content)
    }
}

// === impl Arguments ===

impl Arguments<'_> {
    /// Their text, or the next part of it.
    pub(crate) fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Object(raw) => Some(crate::json::compact(raw.get())),
            Self::Text(raw) => crate::json::text_of(raw.get()),
            Self::Held(text) => Some(text.into()),
            Self::Empty => Some("{}".into()),
        }
    }
}

// === impl Reason ===

impl Reason {
    /// The reason of Ollama's word. Its others (`load`, `unload`, none at all) are as good as a stop.
    pub(crate) fn of_ollama(word: Option<&str>) -> Self {
        if word == Some("length") { Self::Length } else { Self::Stop }
    }

    /// The reason of OpenAI's word.
    pub(crate) fn of_openai(word: &str) -> Self {
        match word {
            "length" | "max_tokens" | "model_length" => Self::Length,
            "content_filter" | "refusal" | "safety" | "sensitive" => Self::Filtered,
            _ => Self::Stop,
        }
    }

    /// Whether something else than the model ended it, perhaps in the middle of a call.
    pub(crate) const fn is_cut(self) -> bool {
        matches!(self, Self::Length | Self::Filtered)
    }

    /// OpenAI's word. Its SDKs know a closed set of them.
    pub(crate) const fn openai(self, has_calls: bool) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Filtered => "content_filter",
            Self::Stop if has_calls => "tool_calls",
            Self::Stop => "stop",
        }
    }

    /// Anthropic's word.
    pub(crate) const fn anthropic(self, has_calls: bool) -> &'static str {
        match self {
            Self::Length => "max_tokens",
            Self::Filtered => "refusal",
            Self::Stop if has_calls => "tool_use",
            Self::Stop => "end_turn",
        }
    }

    /// Ollama's word.
    pub(crate) const fn ollama(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Stop | Self::Filtered => "stop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_a_word_in_every_dialect() {
        for (ollama, openai, with_calls, anthropic) in [
            (Some("stop"), "stop", "tool_calls", "end_turn"),
            (Some("length"), "length", "length", "max_tokens"),
            (Some("load"), "stop", "tool_calls", "end_turn"),
            (None, "stop", "tool_calls", "end_turn"),
        ] {
            let reason = Reason::of_ollama(ollama);
            assert_eq!((reason.openai(false), reason.openai(true)), (openai, with_calls));
            assert_eq!(reason.anthropic(false), anthropic);
        }
        for word in ["stop", "length", "content_filter"] {
            assert_eq!(Reason::of_openai(word).openai(false), word);
        }
        assert_eq!(Reason::of_openai("tool_calls").anthropic(true), "tool_use");
        assert_eq!(Reason::of_openai("content_filter").ollama(), "stop");
    }
}
