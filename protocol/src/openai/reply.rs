//! What is read of a reply of an OpenAI-compatible server: of a whole completion, of a chunk of a
//! stream, of an embedding.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    body::Text,
    json,
    ollama::reply::is_filled,
    translate::piece::{Arguments, CallPiece, Piece, Reason},
    usage::Usage,
};

/// A completion or a chunk, borrowed.
#[derive(Deserialize)]
pub(crate) struct Reply<'a> {
    #[serde(borrow)]
    pub(crate) error: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    /// Embeddings.
    #[serde(borrow)]
    pub(crate) data: Option<Vec<Embedding<'a>>>,
}

/// One vector.
#[derive(Deserialize)]
pub(crate) struct Embedding<'a> {
    #[serde(borrow)]
    pub(crate) embedding: &'a RawValue,
}

#[derive(Deserialize)]
struct Choice<'a> {
    index: Option<usize>,
    #[serde(borrow)]
    delta: Option<Message<'a>>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    /// Of a completion of plain text.
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Logprobs<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Call<'a> {
    index: Option<usize>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// The calls of a reply so far: some servers give two of them one index, or none an index at all.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The index and the id under which each call began.
    begun: Vec<(Option<usize>, Option<String>)>,
}

// === impl Reply ===

impl<'a> Reply<'a> {
    /// Reads one; `None` where it is not a JSON object of this shape.
    pub(crate) fn read(text: &'a [u8]) -> Option<Self> {
        json::read_object(std::str::from_utf8(text).ok()?)
    }

    /// What it says, in no dialect; `None` where something is not what it must be.
    pub(crate) fn piece(&self, calls: &mut Calls) -> Option<Piece<'a>> {
        let Some(choice) = self.choices.as_ref().and_then(|choices| choices.first()) else {
            return Some(Piece::default());
        };
        let message = choice.delta.or(choice.message).unwrap_or_default();
        let filled = |raw: Option<&'a RawValue>| raw.filter(|raw| is_filled(Some(raw)));
        let logprobs = choice.logprobs.and_then(|raw| json::read_object::<Logprobs<'a>>(raw.get()));
        let listed = filled(message.tool_calls);
        Some(Piece {
            content: message.content.or(choice.text),
            thinking: filled(message.reasoning_content).or(filled(message.reasoning)),
            calls: listed.map_or(Some(Vec::new()), |raw| calls.read(raw))?,
            logprobs: filled(logprobs.and_then(|logprobs| logprobs.content)),
        })
    }

    /// Why it ended, where it says so.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let choice = self.choices.as_ref()?.first()?;
        choice.finish_reason.as_ref().map(|Text(word)| Reason::of_openai(word))
    }

    /// What was used, where it says so.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let counts: Counts = json::read_object(self.usage?.get())?;
        let Counts { prompt_tokens: prompt, completion_tokens: completion } = counts;
        Some(Usage { prompt, completion, estimated: false })
    }

    /// How many choices have shown themselves by it, and how many of them it ends.
    pub(crate) fn choices(&self) -> (usize, usize) {
        let choices = self.choices.as_deref().unwrap_or_default();
        let seen = choices.iter().map(|choice| choice.index.unwrap_or(0).saturating_add(1)).max();
        let ended = choices.iter().filter(|choice| choice.finish_reason.is_some());
        (seen.unwrap_or(0), ended.count())
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

    /// Whether nothing is said in it: the first chunk of most servers only tells the role.
    pub(crate) fn is_silent(&self) -> bool {
        let is_silent = |choice: &Choice<'_>| {
            let message = choice.delta.or(choice.message).unwrap_or_default();
            let said = [message.content, message.reasoning, message.reasoning_content];
            !said.into_iter().chain([message.tool_calls, choice.text]).any(is_filled)
        };
        self.choices.iter().flatten().all(is_silent)
    }
}

// === impl Calls ===

impl Calls {
    fn read<'a>(&mut self, raw: &'a RawValue) -> Option<Vec<CallPiece<'a>>> {
        let calls: Vec<&'a RawValue> = serde_json::from_str(raw.get()).ok()?;
        let read = |raw: &'a RawValue| {
            let Call { index, id, function } = json::read_object(raw.get())?;
            let id = id.map(|Text(id)| id).filter(|id| !id.is_empty());
            let (name, arguments) = function.map_or((None, None), |function| {
                (function.name.map(|Text(name)| name), function.arguments)
            });
            let name = name.filter(|name| !name.is_empty());
            let begun = self.begun.len();
            let index = self.place(index, id.as_deref(), name.is_some())?;
            // Some servers repeat it in every part.
            let name = name.filter(|_| index == begun);
            Some(CallPiece { index, id, name, arguments: arguments_of(arguments) })
        };
        calls.into_iter().map(read).collect()
    }

    /// Which call a part belongs to: the last that began under its index, unless it begins another.
    fn place(&mut self, index: Option<usize>, id: Option<&str>, is_named: bool) -> Option<usize> {
        let found = self.begun.iter().rposition(|(begun, _)| index.is_none() || *begun == index);
        let is_same = |at: usize| {
            let (_, begun) = &self.begun[at];
            !is_named || (id.is_some() && begun.as_deref() == id)
        };
        match found.filter(|at| is_same(*at)) {
            Some(at) => Some(at),
            // A part of a call that never began.
            None if !is_named => None,
            None => {
                self.begun.push((index, id.map(str::to_owned)));
                Some(self.begun.len() - 1)
            }
        }
    }
}

fn arguments_of(raw: Option<&RawValue>) -> Arguments<'_> {
    match raw {
        Some(raw) if raw.get().starts_with('"') => Arguments::Text(raw),
        // Not as OpenAI has it; some servers have.
        Some(raw) if raw.get().starts_with('{') => Arguments::Object(raw),
        _ => Arguments::Nothing,
    }
}

/// The text of a JSON string.
pub(crate) fn text_of(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    json::text_of(raw?.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(chunks: &[&str]) -> Vec<Option<Vec<usize>>> {
        let mut calls = Calls::default();
        let read = |chunk: &&str| {
            let text = format!(r#"{{"choices":[{{"delta":{{"tool_calls":{chunk}}}}}]}}"#);
            let reply = Reply::read(text.as_bytes()).unwrap();
            let piece = reply.piece(&mut calls)?;
            Some(piece.calls.iter().map(|call| call.index).collect())
        };
        chunks.iter().map(read).collect()
    }

    #[test]
    fn parts_of_calls_find_the_call_they_belong_to() {
        let begin = |index: &str, id: &str| {
            format!(r#"[{{{index}"id":"{id}","function":{{"name":"f","arguments":""}}}}]"#)
        };
        let part = |index: &str| format!(r#"[{{{index}"function":{{"arguments":"{{"}}}}]"#);
        let (zero, one) = (r#""index":0,"#, r#""index":1,"#);
        let all = |texts: &[String]| indices(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let some = |index: usize| Some(vec![index]);
        assert_eq!(
            all(&[begin(zero, "a"), part(zero), begin(one, "b"), part(one), part(zero)]),
            [some(0), some(0), some(1), some(1), some(0)]
        );
        // One index for two calls, and none at all.
        assert_eq!(
            all(&[begin(zero, "a"), part(zero), begin(zero, "b"), part(zero)]),
            [some(0), some(0), some(1), some(1)]
        );
        assert_eq!(all(&[begin("", "a"), part(""), begin("", "b")]), [some(0), some(0), some(1)]);
        assert_eq!(all(&[part(zero)]), [None]);
    }

    #[test]
    fn a_call_whose_id_and_name_are_repeated_begins_once() {
        let mut calls = Calls::default();
        let mut names = |arguments: &str| {
            let text = format!(
                r#"{{"choices":[{{"delta":{{"tool_calls":[{{"index":0,"id":"a","function":{{"name":"f","arguments":"{arguments}"}}}}]}}}}]}}"#
            );
            let reply = Reply::read(text.as_bytes()).unwrap();
            let piece = reply.piece(&mut calls).unwrap();
            (piece.calls[0].index, piece.calls[0].name.is_some())
        };
        assert_eq!([names(""), names("{"), names("}")], [(0, true), (0, false), (0, false)]);
    }

    #[test]
    fn a_chunk_says_what_it_carries() {
        let text = r#"{"choices":[{"delta":{"content":"a","reasoning_content":"b"},
            "logprobs":{"content":[{"token":"a"}]},"finish_reason":"length"}],
            "usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        let reply = Reply::read(text.as_bytes()).unwrap();
        let piece = reply.piece(&mut Calls::default()).unwrap();
        assert_eq!(text_of(piece.content).as_deref(), Some("a"));
        assert_eq!(text_of(piece.thinking).as_deref(), Some("b"));
        assert!(piece.logprobs.is_some());
        assert_eq!(reply.reason(), Some(Reason::Length));
        assert_eq!(reply.usage().map(|usage| usage.total()), Some(7));
        let last = Reply::read(br#"{"choices":[],"usage":null}"#).unwrap();
        assert!(last.is_without_choice() && last.usage().is_none());
        assert!(Reply::read(b"[]").is_none() && Reply::read(b"x").is_none());
    }
}
