//! What is read of a reply line: the counts for accounting, the content for translation.
//!
//! One shape serves `/api/chat`, `/api/generate` and the embedding routes. Values stay as they stand
//! in the text; what nobody asks for (the token ids of `context`, vectors, durations) is skipped.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    body::Text,
    json,
    openai::calls::arguments_of,
    translate::piece::{CallPiece, Ending, Piece, Reason},
    usage::Usage,
};

/// What accounting must know of a reply, or of the last line of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The line is a JSON object at all. Where it is not, nothing else here is set.
    pub is_json: bool,
    /// The reply ends with this line.
    pub done: bool,
    /// Why it ended (`stop`, `length`, `load`, `unload`).
    pub done_reason: Option<String>,
    /// Tokens of the prompt that were evaluated; 0 where it is not said.
    pub prompt_eval_count: u64,
    /// Tokens that were produced; 0 where it is not said.
    pub eval_count: u64,
    /// The line is an error of the upstream's.
    pub error: bool,
    /// The line carries something that a model produced: content, thinking or tool calls.
    pub produced: bool,
}

/// A reply line, borrowed.
#[derive(Default, Deserialize)]
pub(crate) struct Line<'a> {
    #[serde(borrow)]
    pub(crate) error: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) message: Option<Message<'a>>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) logprobs: Option<&'a RawValue>,
    pub(crate) done: Option<bool>,
    #[serde(borrow)]
    pub(crate) done_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    prompt_eval_count: Option<&'a RawValue>,
    #[serde(borrow)]
    eval_count: Option<&'a RawValue>,
}

/// The message of a line of `/api/chat`.
#[derive(Clone, Copy, Default, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) content: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) tool_calls: Option<&'a RawValue>,
}

/// Reads what accounting needs. It never fails: what cannot be read has not been said.
#[must_use]
pub fn tail(line: &[u8]) -> Tail {
    let Some(line) = Line::read(line) else { return Tail::default() };
    let message = line.message.unwrap_or_default();
    let carried = [
        message.content,
        message.thinking,
        message.tool_calls,
        line.response,
        line.thinking,
        line.tool_calls,
    ];
    Tail {
        is_json: true,
        done: line.done == Some(true),
        prompt_eval_count: line.prompt_tokens(),
        eval_count: line.produced_tokens(),
        error: line.error.is_some(),
        produced: carried.into_iter().any(is_filled),
        done_reason: line.done_reason.map(Cow::into_owned),
    }
}

/// Whether a value is a string or an array with something in it.
pub(crate) fn is_filled(value: Option<&RawValue>) -> bool {
    value.is_some_and(|raw| json::is_filled(raw.get()))
}

// === impl Line ===

impl<'a> Line<'a> {
    /// Reads a line; `None` where it is not a JSON object of this shape.
    pub(crate) fn read(line: &'a [u8]) -> Option<Self> {
        // One check of the whole line for UTF-8 is cheaper than one for each value that is kept.
        let text = std::str::from_utf8(line).ok()?;
        Self::of_chunk(text).or_else(|| json::read_object(text))
    }

    /// A line in the middle of a stream, spelled as Ollama spells it: what stands around the message or the
    /// response is compared, and only these are parsed. `None` for any other, whether it is JSON or not.
    ///
    /// ```text
    /// {"model":"…","created_at":"…","message":{"role":"assistant","content":"…"},"done":false}
    /// {"model":"…","created_at":"…","response":"…","done":false}
    /// ```
    fn of_chunk(text: &'a str) -> Option<Self> {
        let text = text.strip_suffix(",\"done\":false}")?.strip_prefix("{\"model\":\"")?;
        let text = after_string(text)?.strip_prefix(",\"created_at\":\"")?;
        let said = after_string(text)?;
        let (mut message, mut response) = (None, None);
        if let Some(text) = said.strip_prefix(",\"message\":") {
            let content = text.strip_prefix("{\"role\":\"assistant\",\"content\":");
            let content = content.and_then(|text| string(text.strip_suffix('}')?));
            let alone =
                content.map(|content| Message { content: Some(content), ..Message::default() });
            message = Some(alone.or_else(|| json::read_object(text))?);
        } else {
            response = Some(string(said.strip_prefix(",\"response\":")?)?);
        }
        Some(Self { message, response, done: Some(false), ..Self::default() })
    }

    fn prompt_tokens(&self) -> u64 {
        count(self.prompt_eval_count)
    }

    fn produced_tokens(&self) -> u64 {
        count(self.eval_count)
    }

    /// Whether it is the line of a chat, or of a generated text.
    pub(crate) fn says_something(&self) -> bool {
        self.message.is_some() || self.response.is_some()
    }

    /// What it says, in no dialect; `first`: the index of its first call. `None` where something is not
    /// what it must be.
    pub(crate) fn piece(&self, first: usize) -> Option<Piece<'a>> {
        let message = self.message.unwrap_or_default();
        let filled = |raw: Option<&'a RawValue>| raw.filter(|raw| is_filled(Some(raw)));
        let listed = filled(message.tool_calls.or(self.tool_calls));
        Some(Piece {
            content: message.content.or(self.response),
            thinking: filled(message.thinking.or(self.thinking)),
            calls: listed.map_or(Some(Vec::new()), |raw| calls(raw, first))?,
            logprobs: filled(self.logprobs),
        })
    }

    /// How the reply ended, where it ends with this line.
    pub(crate) fn ending(&self) -> Option<Ending> {
        let (prompt, completion) = (self.prompt_tokens(), self.produced_tokens());
        let usage = Some(Usage { prompt, completion, estimated: false });
        let reason = Reason::of_ollama(self.done_reason.as_deref());
        (self.done == Some(true)).then_some(Ending { reason, usage })
    }
}

/// What follows a string without escapes whose opening quote has been read; `None` where it is another one.
fn after_string(text: &str) -> Option<&str> {
    let end = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    text[end..].strip_prefix('"')
}

/// One JSON string and nothing else.
fn string(text: &str) -> Option<&RawValue> {
    if text.starts_with('"') { serde_json::from_str(text).ok() } else { None }
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Reads Ollama's list of calls, counting from `first`; `None` where it is no such list.
pub(crate) fn calls<'a>(raw: &'a RawValue, first: usize) -> Option<Vec<CallPiece<'a>>> {
    let calls: Vec<&'a RawValue> = serde_json::from_str(raw.get()).ok()?;
    let read = |(at, raw): (usize, &'a RawValue)| {
        let Call { id, function } = json::read_object(raw.get())?;
        Some(CallPiece {
            index: first + at,
            id: id.map(|Text(id)| id),
            name: Some(function.name.0),
            arguments: arguments_of(function.arguments)?,
        })
    };
    calls.into_iter().enumerate().map(read).collect()
}

fn count(value: Option<&RawValue>) -> u64 {
    value.and_then(|raw| raw.get().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_line_of_a_chat_gives_the_counts() {
        let line = br#"{"model":"m","created_at":"x","message":{"role":"assistant","content":""},
            "done":true,"done_reason":"length","prompt_eval_count":26,"eval_count":298}"#;
        let expected = Tail {
            is_json: true,
            done: true,
            done_reason: Some("length".to_owned()),
            prompt_eval_count: 26,
            eval_count: 298,
            ..Tail::default()
        };
        assert_eq!(tail(line), expected);
    }

    #[test]
    fn what_carries_something_was_produced() {
        for line in [
            r#"{"message":{"role":"assistant","content":"a"}}"#,
            r#"{"message":{"content":"","thinking":"a"}}"#,
            r#"{"message":{"content":"","tool_calls":[{}]}}"#,
            r#"{"response":"a"}"#,
            r#"{"response":"","thinking":"a"}"#,
            r#"{"response":"","tool_calls":[{}]}"#,
        ] {
            assert!(tail(line.as_bytes()).produced, "{line}");
        }
        for line in [
            r#"{"message":{"role":"assistant","content":"","thinking":"","tool_calls":[ ]}}"#,
            r#"{"response":""}"#,
            r#"{"message":null}"#,
            r#"{"embeddings":[[0.1,0.2]],"prompt_eval_count":3}"#,
        ] {
            assert!(!tail(line.as_bytes()).produced, "{line}");
        }
    }

    #[test]
    fn an_embedding_has_a_count_and_no_done() {
        let tail = tail(br#"{"model":"m","embeddings":[[0.1]],"prompt_eval_count":3}"#);
        assert_eq!((tail.done, tail.prompt_eval_count, tail.eval_count), (false, 3, 0));
    }

    #[test]
    fn an_error_is_an_error_and_null_is_none() {
        assert!(tail(br#"{"error":"boom"}"#).error);
        assert!(tail(br#"{"error":{"message":"boom"}}"#).error);
        assert!(!tail(br#"{"error":null,"done":true}"#).error);
        assert!(!tail(br#"{"message":{"content":"\"error\""}}"#).error);
    }

    #[test]
    fn an_odd_count_is_none() {
        for count in ["-1", "\"3\"", "1.5", "null", "99999999999999999999999"] {
            let line = format!(r#"{{"done":true,"eval_count":{count}}}"#);
            let tail = tail(line.as_bytes());
            assert_eq!((tail.done, tail.eval_count), (true, 0), "{count}");
        }
    }

    #[test]
    fn what_is_no_object_says_nothing() {
        for line in ["", "x", "[]", "1", "null", "{\"done\":true", "[null,null,null,true]"] {
            assert_eq!(tail(line.as_bytes()), Tail::default(), "{line}");
        }
    }

    /// All that a line says.
    fn told<'a>(line: &Line<'a>) -> [Option<&'a str>; 11] {
        let message = line.message.unwrap_or_default();
        let values = [
            line.error,
            message.content,
            message.thinking,
            message.tool_calls,
            line.response,
            line.thinking,
            line.tool_calls,
            line.logprobs,
            line.prompt_eval_count,
            line.eval_count,
        ];
        let mut told = [None; 11];
        told.iter_mut().zip(values).for_each(|(told, value)| *told = value.map(RawValue::get));
        told[10] = line.message.map(|_| "it has a message");
        told
    }

    /// Lines of which one place is changed below.
    const GLANCED: [&str; 4] = [
        r#"{"model":"m","created_at":"x","message":{"role":"assistant","content":"a"},"done":false}"#,
        r#"{"model":"m","created_at":"x","message":{"role":"assistant","content":"","thinking":"a"},"done":false}"#,
        r#"{"model":"m","created_at":"x","message":{"role":"assistant","tool_calls":[{}]},"done":false}"#,
        r#"{"model":"m","created_at":"x","response":"a","done":false}"#,
    ];

    #[test]
    fn a_line_as_ollama_spells_it_is_read_at_a_glance() {
        for (line, is_one) in [
            (
                r#"{"model":"m","created_at":"x","message":{"role":"assistant","content":" \n"},"done":false}"#,
                true,
            ),
            (
                r#"{"model":"m","created_at":"x","message":{"role":"assistant","content":"","thinking":"a"},"done":false}"#,
                true,
            ),
            (
                r#"{"model":"m","created_at":"x","message":{"role":"assistant","content":null},"done":false}"#,
                true,
            ),
            (r#"{"model":"m","created_at":"x","response":"a","done":false}"#, true),
            (r#"{"model":"m","created_at":"x","response":"a","thinking":"b","done":false}"#, false),
            (r#"{"model":"m","created_at":"x","response":null,"done":false}"#, false),
            (r#"{"model":"\u006d","created_at":"x","response":"a","done":false}"#, false),
            (r#"{"model":"m","created_at":"x","response":"a","done":true}"#, false),
            (r#"{"model":"m", "created_at":"x","response":"a","done":false}"#, false),
            // Twice said, or no JSON.
            (r#"{"model":"m","created_at":"x","response":"a","done":true,"done":false}"#, false),
            (
                r#"{"model":"m","created_at":"x","message":{"role":"assistant","content":"a"},"x":{"y":"b"},"done":false}"#,
                false,
            ),
            (
                r#"{"model":"m","created_at":"x","message":{"role":"assistant","content":"a","content":"b"},"done":false}"#,
                false,
            ),
            (r#"{"model":"m","created_at":"x","response":"\x","done":false}"#, false),
            (r#"{"model":"m","created_at":"x","response":"a"b","done":false}"#, false),
        ] {
            let glanced = Line::of_chunk(line);
            assert_eq!(glanced.is_some(), is_one, "{line}");
            if let Some(glanced) = glanced {
                let read = json::read_object::<Line<'_>>(line).unwrap();
                assert_eq!((told(&glanced), glanced.done), (told(&read), read.done), "{line}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_at_a_glance_is_what_the_parser_reads(
            line in prop::sample::select(&GLANCED[..]),
            at in any::<prop::sample::Index>(),
            removed in 0..4_usize,
            added in r#"|"a"|[a",:{}\\\[\]n \x01]{0,4}|,"(done|content|response|message)":(null|true|"b")"#,
        ) {
            let at = at.index(line.len() + 1);
            let rest = line.get(at + removed..).unwrap_or_default();
            let line = format!("{}{added}{rest}", &line[..at]);
            if let Some(glanced) = Line::of_chunk(&line) {
                let read = json::read_object::<Line<'_>>(&line);
                prop_assert_eq!(Some(told(&glanced)), read.as_ref().map(told), "{}", line);
            }
        }

        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = tail(&line);
        }
    }
}
