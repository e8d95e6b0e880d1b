//! A stream of OpenAI's dialect on its way through: bytes untouched, events watched.
//!
//! Whole events are handed on as the slices they came in; only the beginning of an event whose end has
//! not arrived is held back. An event that is an error, which holds the upstream's own words, never
//! passes; neither does the one that tells the usage, where the client did not ask for it.

use bytes::{Bytes, BytesMut};
use memchr::{memchr_iter, memmem};
use serde_json::{Value, json};

use super::reply::{Aborted, Message, PassedReply, Reply, is_keep_alive};
use crate::{
    cause::Cause,
    ollama::{BadReply, stream::Passed},
    sse::{self, EVENT_MAX, Events},
    translate::StreamFault,
    usage::Usage,
};

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
        let mut passed = Passed::default();
        if !rest.iter().all(u8::is_ascii_whitespace) {
            passed = self.watch(rest);
        }
        if passed.fault.is_none() && !self.is_done() {
            passed = Passed { bytes: Bytes::new(), fault: Some(StreamFault::BrokenOff) };
        }
        passed
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
            self.cause = Cause::read(None, &read.data);
            return Err(StreamFault::UpstreamError);
        }
        if chunk.is_none() {
            let is_idle = is_keep_alive(&read.kind, &read.data);
            return if is_idle { Ok(Verdict::Hidden) } else { Err(StreamFault::UpstreamError) };
        }
        let (begun, ended) = chunk.choices().map_err(|Aborted| StreamFault::UpstreamError)?;
        if self.head.is_null() {
            self.head = serde_json::from_slice(&read.data).unwrap_or_default();
        }
        self.usage = chunk.usage().or(self.usage);
        let is_opening = begun > self.begun && is_silent(&read.data);
        self.begun = self.begun.max(begun);
        self.ended += ended;
        if chunk.is_without_choice() && chunk.usage().is_none() {
            // It opens the stream, and is no chunk to the SDKs.
            return Ok(Verdict::Hidden);
        }
        if chunk.is_without_choice() && chunk.usage().is_some() {
            return Ok(if self.hides_usage { Verdict::Hidden } else { Verdict::Passes });
        }
        let is_ending = memmem::find(&read.data, b"\"finish_reason\":\"").is_some();
        self.produced += u64::from(!is_opening && !is_ending);
        Ok(Verdict::Passes)
    }
}

/// Whether a chunk says nothing: it only opens the reply.
fn is_silent(chunk: &[u8]) -> bool {
    Reply::<Message<'_>>::read(chunk).is_some_and(|chunk| chunk.is_silent())
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"error\\\"\"}}]}\n\n\
        : comment\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n\
        data: [DONE]\n\n";

    fn run(hides: bool, parts: &[&[u8]]) -> (String, Option<StreamFault>, PassedStream) {
        let mut stream = PassedStream::new(hides);
        let mut out = Vec::new();
        for part in parts {
            let passed = stream.push(Bytes::copy_from_slice(part));
            out.extend_from_slice(&passed.bytes);
            if passed.fault.is_some() {
                return (String::from_utf8(out).unwrap(), passed.fault, stream);
            }
        }
        let passed = stream.end();
        out.extend_from_slice(&passed.bytes);
        (String::from_utf8(out).unwrap(), passed.fault, stream)
    }

    #[test]
    fn events_pass_without_being_copied_and_usage_is_read() {
        let mut stream = PassedStream::new(false);
        let chunk = Bytes::from_static(GOOD.as_bytes());
        let passed = stream.push(chunk.clone());
        assert_eq!((passed.bytes.as_ptr(), passed.bytes.len()), (chunk.as_ptr(), chunk.len()));
        assert_eq!(stream.end(), Passed::default());
        assert_eq!(stream.usage().map(|usage| usage.total()), Some(5));
        assert_eq!(stream.produced(), 1);
    }

    #[test]
    fn an_event_that_only_opens_the_reply_is_no_token() {
        let event = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{{{delta}}}}}]}}\n\n");
        let produced = |deltas: &[&str]| {
            let mut stream = PassedStream::new(false);
            for delta in deltas {
                assert_eq!(stream.push(event(delta).into()).fault, None);
            }
            stream.produced()
        };
        let said = r#""content":"a""#;
        for opening in
            [r#""role":"assistant","content":null"#, r#""role":"assistant","content":"""#]
        {
            assert_eq!(produced(&[opening, said, said]), 2, "{opening}");
            // Only the first: what comes later may be a token that has no letters yet.
            assert_eq!(produced(&[said, opening, opening]), 3, "{opening}");
        }
        for first in
            [said, r#""content":"","reasoning_content":"a""#, r#""tool_calls":[{"index":0}]"#]
        {
            assert_eq!(produced(&[first, said]), 2, "{first}");
        }
    }

    #[test]
    fn a_whole_reply_is_one_or_is_none() {
        let good = br#"{"choices":[{"message":{}}],"usage":{"prompt_tokens":1}}"#;
        assert_eq!(said(good).unwrap().map(|usage| usage.prompt), Some(1));
        assert_eq!(said(br#"{"data":[{"embedding":[1]}]}"#).unwrap(), None);
        for bad in [
            r#"{"error":{}}"#,
            "{}",
            r#"{"choices":[]}"#,
            r#"{"object":"error","message":"a"}"#,
            r#"{"detail":"a","usage":{"prompt_tokens":1}}"#,
            "[]",
            "x",
        ] {
            assert!(said(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn usage_that_nobody_asked_for_is_hidden() {
        let (out, fault, stream) = run(true, &[GOOD.as_bytes()]);
        assert_eq!(fault, None);
        let start = GOOD.find("data: {\"choices\":[],").unwrap();
        let end = GOOD.find("data: [DONE]").unwrap();
        assert_eq!(out, format!("{}{}", &GOOD[..start], &GOOD[end..]));
        assert!(stream.usage().is_some());
    }

    #[test]
    fn what_is_an_error_never_passes_and_what_came_before_does() {
        let first = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
        for (bad, expected) in [
            ("data: {\"error\":{\"message\":\"UPSTREAM-WORDS\"}}\n\n", StreamFault::UpstreamError),
            (
                "event: error\ndata: {\"message\":\"UPSTREAM-WORDS\"}\n\n",
                StreamFault::UpstreamError,
            ),
            (
                "data: {\"object\":\"error\",\"message\":\"UPSTREAM-WORDS\"}\n\n",
                StreamFault::UpstreamError,
            ),
            ("data: {\"detail\":\"UPSTREAM-WORDS\"}\n\n", StreamFault::UpstreamError),
            ("data: UPSTREAM-WORDS\n\n", StreamFault::NotJson),
            (
                "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}\n\n",
                StreamFault::UpstreamError,
            ),
            ("", StreamFault::BrokenOff),
        ] {
            let text = format!("{first}{bad}");
            for at in 0..text.len() {
                let (out, fault, _) = run(false, &[&text.as_bytes()[..at], &text.as_bytes()[at..]]);
                assert_eq!((out.as_str(), fault), (first, Some(expected)), "{bad} cut at {at}");
            }
        }
    }

    #[test]
    fn the_last_event_alone_ends_a_reply_but_is_none() {
        let chunk =
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"\"}]}\n\n";
        let text = format!("{chunk}data: [DONE]\n\n");
        let (out, fault, stream) = run(true, &[text.as_bytes()]);
        assert_eq!((out, fault, stream.is_done()), (text.clone(), None, true));
        let (out, fault, _) = run(true, &[chunk.as_bytes()]);
        assert_eq!((out.as_str(), fault), (chunk, Some(StreamFault::BrokenOff)));
        let (out, fault, _) = run(true, &[b"data: [DONE]\n\n"]);
        assert_eq!((out.as_str(), fault), ("", Some(StreamFault::BrokenOff)));
    }

    #[test]
    fn what_the_sdks_choke_on_is_left_out() {
        let text =
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n";
        for idle in [
            "event: ping",
            "event: ping\ndata: {\"type\":\"ping\"}",
            "data:",
            "data: {}",
            "retry: 3000",
            "id: 1",
            "data: {\"choices\":[],\"usage\":null}",
            "data: {\"object\":\"chat.completion.chunk\",\"choices\":null}",
        ] {
            let all = format!("{idle}\n\n{text}{idle}\r\n\r\n: comment\n\ndata: [DONE]\n\n");
            for at in 0..all.len() {
                let (out, fault, _) = run(false, &[&all.as_bytes()[..at], &all.as_bytes()[at..]]);
                let expected = format!("{text}: comment\n\ndata: [DONE]\n\n");
                assert_eq!((out, fault), (expected, None), "{idle} cut at {at}");
            }
        }
    }

    #[test]
    fn a_stream_that_is_stopped_ends_as_if_it_had_reached_its_length() {
        let mut stream = PassedStream::new(false);
        let first = "data: {\"id\":\"x\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
        stream.push(Bytes::from_static(first.as_bytes()));
        let end = stream.stop(Usage { prompt: 1, completion: 1, estimated: true });
        let end = std::str::from_utf8(&end).unwrap();
        for said in [
            "\"id\":\"x\"",
            "\"finish_reason\":\"length\"",
            "\"total_tokens\":2",
            "data: [DONE]\n\n",
        ] {
            assert!(end.contains(said), "{end}");
        }
        assert!(!end.contains("\"content\""), "{end}");
    }

    #[test]
    fn a_completion_of_plain_text_is_stopped_in_its_own_shape() {
        let mut stream = PassedStream::new(true);
        let first = "data: {\"choices\":[{\"index\":1,\"text\":\"a\"}]}\n\n";
        stream.push(Bytes::from_static(first.as_bytes()));
        let end = stream.stop(Usage { prompt: 1, completion: 1, estimated: true });
        let expected = "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"length\",\"text\":\"\"},\
            {\"index\":1,\"finish_reason\":\"length\",\"text\":\"\"}]}\n\ndata: [DONE]\n\n";
        assert_eq!(std::str::from_utf8(&end).unwrap(), expected);
    }

    #[test]
    fn a_stream_of_several_prompts_is_done_when_each_of_them_is() {
        let chunk = |index: u8, rest: &str| {
            format!("data: {{\"choices\":[{{\"index\":{index},\"text\":\"a\"{rest}}}]}}\n\n")
        };
        let (first, end) = (chunk(0, "") + &chunk(1, ""), ",\"finish_reason\":\"stop\"");
        let half = first + &chunk(0, end);
        let (_, fault, stream) = run(true, &[half.as_bytes()]);
        assert_eq!((fault, stream.is_done()), (Some(StreamFault::BrokenOff), false));
        let all = half + &chunk(1, end);
        let (_, fault, stream) = run(true, &[all.as_bytes()]);
        assert_eq!((fault, stream.is_done()), (None, true));
    }

    #[test]
    fn an_event_of_many_chunks_is_looked_at_once() {
        let mut stream = PassedStream::new(true);
        stream.push(Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\""));
        let piece = Bytes::from(vec![b'a'; 16]);
        let mut moved = 0;
        let mut place = stream.held.as_ptr();
        for _ in 0..100_000 {
            assert_eq!(stream.push(piece.clone()), Passed::default());
            moved += usize::from(place != stream.held.as_ptr());
            place = stream.held.as_ptr();
        }
        assert!(moved < 40, "moved {moved} times");
        let passed = stream.push(Bytes::from_static(b"\"}}]}\n\n"));
        assert_eq!((passed.bytes.len() > 1_600_000, passed.fault), (true, None));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_same_bytes_pass(
            cuts in prop::collection::vec(0..GOOD.len(), 0..12),
            hides in any::<bool>(),
        ) {
            let mut cuts = cuts;
            cuts.extend([0, GOOD.len()]);
            cuts.sort_unstable();
            let parts: Vec<_> = cuts.windows(2).map(|pair| &GOOD.as_bytes()[pair[0]..pair[1]]).collect();
            let (out, fault, stream) = run(hides, &parts);
            prop_assert_eq!(fault, None);
            prop_assert_eq!(out, run(hides, &[GOOD.as_bytes()]).0);
            prop_assert_eq!(stream.usage().map(|usage| usage.total()), Some(5));
        }
    }
}
