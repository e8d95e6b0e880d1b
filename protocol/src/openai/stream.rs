//! A stream of OpenAI's dialect on its way through: bytes untouched, events watched.
//!
//! Whole events are handed on as the slices they came in; only the beginning of an event whose end has
//! not arrived is held back. An event that is an error, which holds the upstream's own words, never
//! passes; neither does the one that tells the usage, where the client did not ask for it.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::{
    memchr_iter,
    memmem::{self, Finder},
};
use serde_json::{Value, json};

use super::reply::{Aborted, Message, PassedReply, Reply, is_keep_alive};
use crate::{
    cause::Cause,
    ollama::{BadReply, stream::Passed},
    sse::{self, EVENT_MAX, Events},
    translate::StreamFault,
    usage::Usage,
};

/// What a chunk has that says why a choice ends.
static FINISH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"finish_reason\":\""));

/// The most bytes that end an event: `\n\r\n`.
const BLANK_MAX: usize = 3;

/// The state of one stream.
#[derive(Debug)]
pub struct PassedStream {
    held: BytesMut,
    hides_usage: bool,
    usage: Option<Usage>,
    /// How many choices have begun, one for each prompt, and how many have said why they end.
    begun: usize,
    ended: usize,
    is_done: bool,
    produced: u64,
    cause: Option<Cause>,
    /// What all of its events begin with.
    head: Value,
}

/// What is to become of an event.
enum Verdict {
    Passes,
    Hidden,
}

/// What a whole reply that passes through says of its usage, if it does.
///
/// # Errors
/// [`BadReply`] where it is no reply: an error among them.
pub fn said(reply: &[u8]) -> Result<Option<Usage>, BadReply> {
    let reply = PassedReply::read(reply).ok_or(BadReply)?;
    let says_something = !reply.is_without_choice() || reply.data.is_some();
    if reply.error.is_some() || reply.choices().is_err() || !says_something {
        Err(BadReply)
    } else {
        Ok(reply.usage())
    }
}

// === impl PassedStream ===

impl PassedStream {
    /// A stream whose event of usage is kept from the client, or is not.
    #[must_use]
    pub fn new(hides_usage: bool) -> Self {
        Self {
            held: BytesMut::new(),
            hides_usage,
            usage: None,
            begun: 0,
            ended: 0,
            is_done: false,
            produced: 0,
            cause: None,
            head: Value::Null,
        }
    }

    /// Takes what arrived, and gives back what may go on.
    pub fn push(&mut self, chunk: Bytes) -> Passed {
        let (mut whole, end) = if self.held.is_empty() {
            let end = last_end(&chunk);
            (chunk, end)
        } else {
            // What is held has no end in it, but for as much of one as is cut here. It is looked at once.
            let from = self.held.len().saturating_sub(BLANK_MAX - 1);
            self.held.extend_from_slice(&chunk);
            match last_end(&self.held[from..]) {
                0 => (Bytes::new(), 0),
                end => (self.held.split().freeze(), from + end),
            }
        };
        let rest = whole.split_off(end);
        self.held.extend_from_slice(&rest);
        let passed = self.watch(whole);
        if passed.fault.is_none() && self.held.len() > EVENT_MAX {
            return Passed { fault: Some(StreamFault::TooLong), ..passed };
        }
        passed
    }

    /// The upstream has ended the stream: the last event may lack its blank line.
    pub fn end(&mut self) -> Passed {
        let rest = self.held.split().freeze();
        if self.head.is_null() && sse::is_object(&rest) {
            let streamed = self.streamed(&rest);
            return streamed
                .unwrap_or_else(|fault| Passed { bytes: Bytes::new(), fault: Some(fault) });
        }
        let mut passed = Passed::default();
        if !rest.iter().all(u8::is_ascii_whitespace) {
            passed = self.watch(rest);
        }
        if passed.fault.is_none() && !self.is_done() {
            passed = Passed { bytes: Bytes::new(), fault: Some(StreamFault::BrokenOff) };
        }
        passed
    }

    /// A reply in one piece, which came in the place of a stream, as one.
    fn streamed(&mut self, reply: &[u8]) -> Result<Passed, StreamFault> {
        let read = PassedReply::read(reply).ok_or(StreamFault::NotJson)?;
        if read.error.is_some() || read.is_without_choice() {
            return Err(StreamFault::told(reply, &mut self.cause));
        }
        read.choices().map_err(|Aborted| StreamFault::UpstreamError)?;
        let mut chunk: Value = serde_json::from_slice(reply).map_err(|_| StreamFault::NotJson)?;
        let usage = chunk.as_object_mut().and_then(|chunk| chunk.remove("usage"));
        if chunk["object"] == "chat.completion" {
            chunk["object"] = "chat.completion.chunk".into();
        }
        for choice in chunk["choices"].as_array_mut().into_iter().flatten() {
            as_part(choice);
        }
        let mut out = BytesMut::new();
        sse::event(chunk.to_string().as_bytes(), &mut out);
        if let Some(usage) = usage.filter(|_| !self.hides_usage) {
            (chunk["choices"], chunk["usage"]) = (json!([]), usage);
            sse::event(chunk.to_string().as_bytes(), &mut out);
        }
        out.extend_from_slice(sse::DONE);
        (self.usage, self.is_done, self.produced) = (read.usage(), true, 1);
        Ok(Passed { bytes: out.freeze(), fault: None })
    }

    /// The end of a stream that is ended before its end: as if the reply had reached its greatest length.
    pub fn stop(&mut self, usage: Usage) -> Bytes {
        let head = self.head.as_object().cloned().unwrap_or_default();
        let chunk = |choices: Value, usage: Option<Value>| {
            let mut chunk = Value::Object(head.clone());
            chunk["choices"] = choices;
            if let Some(usage) = usage {
                chunk["usage"] = usage;
            }
            chunk.to_string()
        };
        let mut out = BytesMut::new();
        // A completion of plain text has a text where a chat has a delta.
        let is_text = self.head["choices"][0].get("text").is_some();
        let ending = |index: usize| {
            let mut choice = json!({ "index": index, "finish_reason": "length" });
            choice[if is_text { "text" } else { "delta" }] =
                if is_text { "".into() } else { json!({}) };
            choice
        };
        let endings: Vec<Value> = (0..self.begun.max(1)).map(ending).collect();
        sse::event(chunk(endings.into(), None).as_bytes(), &mut out);
        if !self.hides_usage {
            let counts = json!({
                "prompt_tokens": usage.prompt,
                "completion_tokens": usage.completion,
                "total_tokens": usage.total(),
            });
            sse::event(chunk(json!([]), Some(counts)).as_bytes(), &mut out);
        }
        out.extend_from_slice(sse::DONE);
        self.is_done = true;
        out.freeze()
    }

    /// What the upstream said of its usage, if it has.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Why the upstream does not go on, where it told an error of a known cause.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Whether the reply has come to its end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done || self.has_reason()
    }

    /// How many events have gone by that said something: an estimate of the tokens.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// Whether all that has begun has said why it ends.
    fn has_reason(&self) -> bool {
        self.begun > 0 && self.ended >= self.begun
    }

    /// Watches whole events go by, up to the first that may not.
    fn watch(&mut self, whole: Bytes) -> Passed {
        let mut kept: Option<BytesMut> = None;
        let mut start = 0;
        while start < whole.len() {
            let end = start + first_end(&whole[start..]);
            let event = whole.slice(start..end);
            let verdict = match self.judge(&event) {
                Ok(verdict) => verdict,
                Err(fault) => {
                    let bytes = kept.map_or_else(|| whole.slice(..start), BytesMut::freeze);
                    return Passed { bytes, fault: Some(fault) };
                }
            };
            match (verdict, &mut kept) {
                (Verdict::Passes, Some(kept)) => kept.extend_from_slice(&event),
                (Verdict::Hidden, None) => kept = Some(BytesMut::from(&whole[..start])),
                (Verdict::Passes, None) | (Verdict::Hidden, Some(_)) => {}
            }
            start = end;
        }
        Passed { bytes: kept.map_or(whole, BytesMut::freeze), fault: None }
    }

    fn judge(&mut self, event: &Bytes) -> Result<Verdict, StreamFault> {
        let mut events = Events::default();
        events.push(event.clone());
        let read = events.next_event().map_err(StreamFault::from)?.or_else(|| events.finish());
        let Some(read) = read else {
            return Ok(if is_comment(event) { Verdict::Passes } else { Verdict::Hidden });
        };
        if read.is_done() {
            self.is_done = true;
            // It may be all that says that this is the end, but not all there is.
            let has_begun = self.begun > 0;
            return if has_begun { Ok(Verdict::Passes) } else { Err(StreamFault::BrokenOff) };
        }
        let Some(chunk) = PassedReply::read(&read.data) else {
            let is_idle = is_keep_alive(&read.kind, &read.data);
            return if is_idle { Ok(Verdict::Hidden) } else { Err(StreamFault::NotJson) };
        };
        if chunk.error.is_some() || read.kind == "error" {
            return Err(StreamFault::told(&read.data, &mut self.cause));
        }
        if chunk.is_none() {
            if is_keep_alive(&read.kind, &read.data) {
                return Ok(Verdict::Hidden);
            }
            return Err(StreamFault::told(&read.data, &mut self.cause));
        }
        let (begun, ended) = chunk.choices().map_err(|Aborted| StreamFault::UpstreamError)?;
        if self.head.is_null() {
            self.head = serde_json::from_slice(&read.data).unwrap_or_default();
        }
        let usage = chunk.usage();
        self.usage = usage.or(self.usage);
        let is_opening = begun > self.begun && is_silent(&read.data);
        self.begun = self.begun.max(begun);
        self.ended += ended;
        if chunk.is_without_choice() {
            // One without a usage only opens the stream, and is no chunk to the SDKs.
            let is_hidden = usage.is_none() || self.hides_usage;
            return Ok(if is_hidden { Verdict::Hidden } else { Verdict::Passes });
        }
        let is_ending = FINISH.find(&read.data).is_some();
        self.produced += u64::from(!is_opening && !is_ending);
        Ok(Verdict::Passes)
    }
}

/// Whether a chunk says nothing: it only opens the reply.
fn is_silent(chunk: &[u8]) -> bool {
    Reply::<Message<'_>>::read(chunk).is_some_and(|chunk| chunk.is_silent())
}

/// Makes a choice of a whole reply one of a chunk.
fn as_part(choice: &mut Value) {
    let Some(choice) = choice.as_object_mut() else { return };
    if let Some(mut message) = choice.remove("message") {
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for (index, call) in calls.into_iter().flatten().enumerate() {
            if let Some(call) = call.as_object_mut() {
                call.insert("index".to_owned(), index.into());
            }
        }
        choice.insert("delta".to_owned(), message);
    }
    let reason = choice.entry("finish_reason").or_insert(Value::Null);
    if reason.as_str().unwrap_or_default().is_empty() {
        *reason = "stop".into();
    }
}

/// Whether an event without data has nothing but comments: the SDKs choke on every other field.
fn is_comment(event: &[u8]) -> bool {
    event.split(|byte| matches!(byte, b'\n' | b'\r')).all(|line| matches!(line, [] | [b':', ..]))
}

/// Where the first event ends: after its blank line, or with the text.
fn first_end(text: &[u8]) -> usize {
    let end = |at: usize| match &text[at..] {
        [_, b'\n', ..] => Some(at + 2),
        [_, b'\r', b'\n', ..] => Some(at + BLANK_MAX),
        _ => None,
    };
    memchr_iter(b'\n', text).find_map(end).unwrap_or(text.len())
}

/// Where the last whole event ends.
fn last_end(text: &[u8]) -> usize {
    let plain = memmem::rfind(text, b"\n\n").map_or(0, |at| at + 2);
    let windows = memmem::rfind(text, b"\n\r\n").map_or(0, |at| at + 3);
    plain.max(windows)
}

#[cfg(test)]
mod tests;
