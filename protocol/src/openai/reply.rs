//! What is read of a reply of an OpenAI-compatible server: of a whole completion, of a chunk of a
//! stream, of an embedding.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::{RawValue, Value};

use super::said::{self, Said};
use crate::{
    body::Text,
    json,
    ollama::reply::is_filled,
    translate::piece::{Piece, Reason},
    usage::Usage,
};

/// A completion or a chunk, borrowed. `M`: what is read of a message.
#[derive(Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
pub(crate) struct Reply<'a, M = Message<'a>> {
    #[serde(borrow)]
    pub(crate) error: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a, M>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    /// Embeddings.
    #[serde(borrow)]
    pub(crate) data: Option<Vec<Embedding<'a>>>,
}

/// One that passes: nothing is read of its messages but that they are objects.
pub(crate) type PassedReply<'a> = Reply<'a, Skipped>;

/// One vector.
#[derive(Deserialize)]
pub(crate) struct Embedding<'a> {
    #[serde(borrow)]
    pub(crate) embedding: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
struct Choice<'a, M> {
    index: Option<usize>,
    delta: Option<M>,
    /// Of a whole reply, where one more allocation costs nothing; a chunk is to be small.
    message: Option<Box<M>>,
    /// Of a completion of plain text.
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
}

/// A message or a part of one. What few servers send stands apart, so that it costs nothing where it is not there.
pub(crate) struct Message<'a> {
    content: Option<&'a RawValue>,
    reasoning: Option<&'a RawValue>,
    reasoning_content: Option<&'a RawValue>,
    tool_calls: Option<&'a RawValue>,
    rest: Option<Box<Rest<'a>>>,
}

#[derive(Clone, Copy, Default)]
struct Rest<'a> {
    refusal: Option<&'a RawValue>,
    reasoning_text: Option<&'a RawValue>,
    reasoning_details: Option<&'a RawValue>,
    thinking: Option<&'a RawValue>,
    function_call: Option<&'a RawValue>,
}

/// The fields of a message that are read.
#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Content,
    Reasoning,
    ReasoningContent,
    ToolCalls,
    Refusal,
    ReasoningText,
    ReasoningDetails,
    Thinking,
    FunctionCall,
    #[serde(other)]
    Other,
}

/// An object of which nothing is read.
#[derive(Deserialize)]
pub(crate) struct Skipped {}

struct MessageVisitor<'a>(PhantomData<&'a ()>);

/// What a reply or a chunk says.
pub(crate) struct Told<'a> {
    /// Its plain strings; no calls.
    pub(crate) piece: Piece<'a>,
    /// What a list has instead of such a string: of the content, of the reasoning.
    pub(crate) lists: Lists<'a>,
    pub(crate) calls: Called<'a>,
}

/// Lists of texts, as they stand there.
#[derive(Default)]
pub(crate) struct Lists<'a> {
    content: Option<&'a RawValue>,
    reasoning: Option<&'a RawValue>,
}

/// Tool calls, as they stand there.
#[derive(Clone, Copy)]
pub(crate) enum Called<'a> {
    None,
    /// A list of calls, or of parts of them.
    Listed(&'a RawValue),
    /// The one call of the older shape.
    Function(&'a RawValue),
}

/// It ended because the server failed, or because somebody there ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aborted;

#[derive(Deserialize)]
struct Logprobs<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

// === impl Message ===

impl<'de: 'a, 'a> Deserialize<'de> for Message<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor(PhantomData))
    }
}

impl<'de: 'a, 'a> Visitor<'de> for MessageVisitor<'a> {
    type Value = Message<'a>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message<'a>, A::Error> {
        let mut message = Message::NOTHING;
        while let Some(field) = map.next_key::<Field>()? {
            if matches!(field, Field::Other) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Some(value) = map.next_value::<Option<&'a RawValue>>()? else { continue };
            if message.place(field).is_some_and(|place| place.replace(value).is_some()) {
                return Err(A::Error::custom("a field stands there twice"));
            }
        }
        Ok(message)
    }
}

impl<'a> Message<'a> {
    const NOTHING: Self = Self {
        content: None,
        reasoning: None,
        reasoning_content: None,
        tool_calls: None,
        rest: None,
    };

    /// Where a field is kept.
    #[inline]
    fn place(&mut self, field: Field) -> Option<&mut Option<&'a RawValue>> {
        match field {
            Field::Content => return Some(&mut self.content),
            Field::Reasoning => return Some(&mut self.reasoning),
            Field::ReasoningContent => return Some(&mut self.reasoning_content),
            Field::ToolCalls => return Some(&mut self.tool_calls),
            _ => {}
        }
        let rest = self.rest.get_or_insert_default();
        match field {
            Field::Refusal => Some(&mut rest.refusal),
            Field::ReasoningText => Some(&mut rest.reasoning_text),
            Field::ReasoningDetails => Some(&mut rest.reasoning_details),
            Field::Thinking => Some(&mut rest.thinking),
            Field::FunctionCall => Some(&mut rest.function_call),
            _ => None,
        }
    }
}

// === impl Reply ===

impl<'a> Reply<'a> {
    /// What it says, in no dialect.
    #[inline]
    pub(crate) fn told(&self) -> Told<'a> {
        let Some(choice) = self.choices.as_ref().and_then(|choices| choices.first()) else {
            let (piece, lists) = (Piece::default(), Lists::default());
            return Told { piece, lists, calls: Called::None };
        };
        let message = choice.delta.as_ref().or(choice.message.as_deref());
        let message = message.unwrap_or(const { &Message::NOTHING });
        let logprobs = choice.logprobs.and_then(|raw| {
            json::read_object::<Logprobs<'a>>(raw.get())?.content.filter(|raw| is_filled(Some(raw)))
        });
        let (mut content, mut lists) = (message.content.or(choice.text), Lists::default());
        if content.is_some_and(|raw| raw.get().as_bytes().first() == Some(&b'[')) {
            lists.content = content.take();
        }
        // Some servers say the same under two names.
        let mut thinking = text(message.reasoning_content).or_else(|| text(message.reasoning));
        let listed = message.tool_calls.filter(|raw| is_filled(Some(raw)));
        let mut calls = listed.map_or(Called::None, Called::Listed);
        if let Some(rest) = message.rest.as_deref() {
            if !is_filled(content) {
                content = text(rest.refusal).or(content);
            }
            thinking = thinking.or(text(rest.reasoning_text)).or(text(rest.thinking));
            if thinking.is_none() {
                lists.reasoning = rest.reasoning_details;
            }
            if let (Called::None, Some(raw)) = (calls, rest.function_call) {
                calls = Called::Function(raw);
            }
        }
        Told { piece: Piece { content, thinking, calls: Vec::new(), logprobs }, lists, calls }
    }

    /// Whether nothing is said in it: the first chunk of most servers only tells the role.
    pub(crate) fn is_silent(&self) -> bool {
        let told = self.told();
        told.is_plain() && !told.piece.carries()
    }
}

impl<'a, M: Deserialize<'a>> Reply<'a, M> {
    /// Reads one; `None` where it is not a JSON object of this shape.
    pub(crate) fn read(text: &'a [u8]) -> Option<Self> {
        json::read_object(std::str::from_utf8(text).ok()?)
    }

    /// Why it ended, where it says so.
    #[inline]
    pub(crate) fn reason(&self) -> Result<Option<Reason>, Aborted> {
        let choice = self.choices.as_ref().and_then(|choices| choices.first());
        let word = choice.and_then(|choice| choice.finish_reason.as_ref());
        word.map_or(Ok(None), |Text(word)| reason_of(word))
    }

    /// What was used, where it says so.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let counts: Counts = json::read_object(self.usage?.get())?;
        let Counts { prompt_tokens: prompt, completion_tokens: completion } = counts;
        Some(Usage { prompt, completion, estimated: false })
    }

    /// How many choices have shown themselves by it, and how many of them it ends.
    pub(crate) fn choices(&self) -> Result<(usize, usize), Aborted> {
        let choices = self.choices.as_deref().unwrap_or_default();
        let seen = choices.iter().map(|choice| choice.index.unwrap_or(0).saturating_add(1)).max();
        let mut ended = 0;
        for Text(word) in choices.iter().filter_map(|choice| choice.finish_reason.as_ref()) {
            ended += usize::from(reason_of(word)?.is_some());
        }
        Ok((seen.unwrap_or(0), ended))
    }

    /// Whether it has nothing that a reply has: it may be an error in the server's own shape
    /// (`{"object":"error",…}`, `{"detail":…}`).
    pub(crate) fn is_none(&self) -> bool {
        self.choices.is_none() && self.data.is_none() && self.usage().is_none()
    }

    /// Whether it has no choice: the last chunk of a stream, which tells the usage.
    pub(crate) fn is_without_choice(&self) -> bool {
        self.choices.as_ref().is_none_or(Vec::is_empty)
    }
}

// === impl Told ===

impl Told<'_> {
    /// Whether plain strings are all that it says.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.calls, Called::None) && !self.has_lists()
    }

    /// Whether some of it stands in lists.
    pub(crate) fn has_lists(&self) -> bool {
        self.lists.content.is_some() || self.lists.reasoning.is_some()
    }

    /// All that it says but for the calls, thinking first; `None` where something is no text.
    pub(crate) fn said(&self) -> Option<Vec<Said>> {
        let mut all: Vec<Said> = self.lists.reasoning.and_then(said::details).into_iter().collect();
        all.extend(Said::of_piece(&self.piece));
        if let Some(raw) = self.lists.content {
            all.extend(said::content(raw)?);
        }
        Some(all)
    }
}

/// A string with something in it.
fn text(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get().starts_with('"') && raw.get().len() > 2)
}

/// The reason of a word, some of which say that nothing has ended.
fn reason_of(word: &str) -> Result<Option<Reason>, Aborted> {
    match word {
        "" | "null" => Ok(None),
        // vLLM, SGLang; OpenRouter, Mistral; DeepSeek; GLM.
        "abort" | "error" | "insufficient_system_resource" | "network_error" => Err(Aborted),
        word => Ok(Some(Reason::of_openai(word))),
    }
}

/// Whether an event that is no chunk only keeps the connection alive, or opens the stream.
pub(crate) fn is_keep_alive(kind: &[u8], data: &[u8]) -> bool {
    const PINGS: [&str; 4] = ["ping", "keepalive", "keep-alive", "heartbeat"];
    const CHUNKS: [&str; 3] = ["chat.completion.chunk", "chat.completion", "text_completion"];
    let is = |value: Option<&Value>, words: &[&str]| {
        value.and_then(Value::as_str).is_some_and(|word| words.contains(&word))
    };
    let data = data.trim_ascii();
    let object = match serde_json::from_slice(data) {
        Ok(Value::Object(object)) => object,
        Ok(Value::Null) => return true,
        _ => return data.is_empty() || PINGS.iter().any(|ping| kind == ping.as_bytes()),
    };
    let is_error = object.get("error").is_some_and(|error| !error.is_null());
    !is_error
        && (object.is_empty()
            || is(object.get("type"), &PINGS)
            || is(object.get("object"), &CHUNKS)
            || object.contains_key("choices"))
}

/// The text of a JSON string.
pub(crate) fn text_of(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    json::text_of(raw?.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_says_what_it_carries() {
        let text = r#"{"choices":[{"delta":{"content":"a","reasoning_content":"b"},
            "logprobs":{"content":[{"token":"a"}]},"finish_reason":"length"}],
            "usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        let reply: Reply<'_> = Reply::read(text.as_bytes()).unwrap();
        let piece = reply.told().piece;
        assert_eq!(text_of(piece.content).as_deref(), Some("a"));
        assert_eq!(text_of(piece.thinking).as_deref(), Some("b"));
        assert!(piece.logprobs.is_some());
        assert_eq!(reply.reason(), Ok(Some(Reason::Length)));
        assert_eq!(reply.usage().map(|usage| usage.total()), Some(7));
        let last: Reply<'_> = Reply::read(br#"{"choices":[],"usage":null}"#).unwrap();
        assert!(last.is_without_choice() && last.usage().is_none());
        for text in ["[]", "x", r#"{"choices":[{"delta":"a"}]}"#] {
            assert!(Reply::<'_, Message<'_>>::read(text.as_bytes()).is_none(), "{text}");
            assert!(PassedReply::read(text.as_bytes()).is_none(), "{text}");
        }
    }

    fn told(message: &str) -> Option<Vec<(bool, String)>> {
        let text = format!(r#"{{"choices":[{{"message":{message}}}]}}"#);
        let said = Reply::read(text.as_bytes()).unwrap().told().said()?;
        Some(said.into_iter().map(|said| (said.is_thinking, said.text.get().to_owned())).collect())
    }

    #[test]
    fn texts_are_found_under_all_their_names_and_count_once() {
        let said = |parts: &[(bool, &str)]| {
            Some(parts.iter().map(|(is, text)| (*is, format!("{text:?}"))).collect::<Vec<_>>())
        };
        for name in ["reasoning", "reasoning_content", "reasoning_text", "thinking"] {
            let message = format!(r#"{{"content":"b","{name}":"a"}}"#);
            assert_eq!(told(&message), said(&[(true, "a"), (false, "b")]), "{name}");
        }
        for (message, expected) in [
            (r#"{"reasoning":"a","reasoning_content":"a"}"#, said(&[(true, "a")])),
            (r#"{"reasoning":"a","reasoning_content":""}"#, said(&[(true, "a")])),
            (r#"{"reasoning":{},"thinking":null,"content":null}"#, said(&[])),
            (r#"{"reasoning":"a","reasoning_details":[{"text":"a"}]}"#, said(&[(true, "a")])),
            (
                r#"{"reasoning_details":[{"text":"a"}],"content":"b"}"#,
                said(&[(true, "a"), (false, "b")]),
            ),
            (r#"{"content":null,"refusal":"no"}"#, said(&[(false, "no")])),
            (r#"{"content":"","refusal":"no"}"#, said(&[(false, "no")])),
            (r#"{"content":"a","refusal":null}"#, said(&[(false, "a")])),
            (r#"{"content":[{"type":"text","text":"a"}]}"#, said(&[(false, "a")])),
            (r#"{"content":[{"type":"audio"}]}"#, None),
        ] {
            assert_eq!(told(message), expected, "{message}");
        }
    }

    #[test]
    fn a_word_may_say_that_nothing_has_ended_or_that_the_server_failed() {
        let reason = |word: &str| {
            let text = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":{word}}}]}}"#);
            let reply: Reply<'_> = Reply::read(text.as_bytes()).unwrap();
            assert_eq!(
                reply.choices().map(|(_, ended)| ended > 0),
                reply.reason().map(|reason| reason.is_some())
            );
            reply.reason()
        };
        for word in ["null", "\"\"", "\"null\""] {
            assert_eq!(reason(word), Ok(None));
        }
        for word in ["\"abort\"", "\"error\""] {
            assert_eq!(reason(word), Err(Aborted));
        }
        for word in ["stop", "tool_calls", "function_call", "eos", "end_turn"] {
            assert_eq!(reason(&format!("{word:?}")), Ok(Some(Reason::Stop)));
        }
    }

    #[test]
    fn what_keeps_a_connection_alive_is_no_error() {
        for (kind, data) in [
            ("", ""),
            ("", " "),
            ("", "null"),
            ("", "{}"),
            ("ping", "now"),
            ("", r#"{"type":"ping"}"#),
            ("", r#"{"object":"chat.completion.chunk","usage":null}"#),
            ("", r#"{"choices":null,"error":null}"#),
        ] {
            assert!(is_keep_alive(kind.as_bytes(), data.as_bytes()), "{kind} {data}");
        }
        for (kind, data) in [
            ("", "now"),
            ("error", "{\"message\":\"a\"}"),
            ("ping", r#"{"error":{}}"#),
            ("", r#"{"object":"error","message":"a"}"#),
            ("", r#"{"detail":"a"}"#),
            ("", "[]"),
        ] {
            assert!(!is_keep_alive(kind.as_bytes(), data.as_bytes()), "{kind} {data}");
        }
    }
}
