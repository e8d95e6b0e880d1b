//! The lines of a streamed reply of `/api/chat` as OpenAI's server-sent events.
//!
//! The order of events is the one that Ollama's own front has, because clients are tested against
//! it: the role once, with the first line's content even where that is empty; a chunk for each line
//! (two where thinking and content come together, thinking first); at the end, the finish reason, the
//! usage if it was asked for, and `[DONE]`. Where Ollama swallows an error, this reports a fault.
//!
//! Thinking goes out as `reasoning` (Ollama, OpenRouter) and as `reasoning_content` (vLLM, llama.cpp,
//! DeepSeek): clients read one or the other, and the second copy costs a few bytes of a thinking
//! chunk and nothing anywhere else.
//!
//! A chunk is not serialized. What is the same in all chunks is built once; the content is spliced
//! in between, escaped as the upstream escaped it. In the steady state nothing is allocated.

use bytes::{BufMut, BytesMut};
use serde_json::value::RawValue;

use super::{
    StreamFault, calls,
    chat_reply::{ReplyMeta, write_head, write_usage},
    finish_reason,
};
use crate::{
    error::Code,
    json::{splice_list, splice_string, write_string},
    ollama::reply::{Line, is_filled},
    openai::error::openai_error,
    sse,
    usage::Usage,
};

/// The end of a chunk that is not the last, after its delta.
const CHUNK_END: &[u8] = b",\"finish_reason\":null}]}\n\n";
/// The beginning of the first chunk and of every other one, after the head.
const FIRST: &[u8] = b"{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":";
const NEXT: &[u8] = b"{\"index\":0,\"delta\":{\"content\":";

/// The translation of one stream.
#[derive(Debug)]
pub struct ChatStream {
    meta: ReplyMeta,
    include_usage: bool,
    /// An event up to its list of choices, which is still empty.
    head: Vec<u8>,
    /// A chunk that is not the first, up to its content.
    next: Vec<u8>,
    /// The role has been sent.
    is_started: bool,
    /// Tool calls that have been sent.
    calls: usize,
    produced: u64,
    usage: Option<Usage>,
}

/// What goes into one chunk.
#[derive(Clone, Copy, Default)]
struct Delta<'a> {
    content: Option<&'a RawValue>,
    thinking: Option<&'a RawValue>,
    calls: Option<&'a RawValue>,
    logprobs: Option<&'a RawValue>,
}

/// Writes an event that says what went wrong. No `[DONE]` follows one: both SDKs raise on it, and
/// nothing else tells them that the stream is not whole.
pub fn error_event(code: Code, message: &str, out: &mut BytesMut) {
    sse::event(openai_error(code, message, None).as_bytes(), out);
}

// === impl ChatStream ===

impl ChatStream {
    /// The translation of a stream. All its events carry `meta`.
    #[must_use]
    pub fn new(meta: ReplyMeta, include_usage: bool) -> Self {
        let mut head = b"data: ".to_vec();
        write_head(&meta, "chat.completion.chunk", &mut head);
        let next = [head.as_slice(), NEXT].concat();
        Self {
            meta,
            include_usage,
            head,
            next,
            is_started: false,
            calls: 0,
            produced: 0,
            usage: None,
        }
    }

    /// Translates one line, without its newline, and appends its events to `out`. What follows the
    /// done line is not read.
    ///
    /// # Errors
    /// [`StreamFault::NotJson`] or [`StreamFault::UpstreamError`]. Nothing is appended then, and the
    /// stream is over.
    pub fn line(&mut self, native_line: &[u8], out: &mut BytesMut) -> Result<(), StreamFault> {
        if self.is_done() || native_line.trim_ascii().is_empty() {
            return Ok(());
        }
        let line = Line::read(native_line).ok_or(StreamFault::NotJson)?;
        if line.error.is_some() {
            return Err(StreamFault::UpstreamError);
        }
        let start = out.len();
        if self.chunks(&line, out).is_none() {
            out.truncate(start);
            return Err(StreamFault::NotJson);
        }
        if line.done == Some(true) {
            self.finish(&line, out);
        }
        Ok(())
    }

    /// The upstream has ended its stream.
    ///
    /// # Errors
    /// [`StreamFault::BrokenOff`] where it never said that it is done.
    pub fn end(&mut self, _out: &mut BytesMut) -> Result<(), StreamFault> {
        if self.is_done() { Ok(()) } else { Err(StreamFault::BrokenOff) }
    }

    /// The stream is ended before its end: as if the reply had reached its greatest length.
    pub fn stop(&mut self, usage: Usage, out: &mut BytesMut) {
        if !self.is_done() {
            self.write_finish("length", usage, out);
        }
    }

    /// Whether the whole reply has been translated, `[DONE]` included.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.usage.is_some()
    }

    /// What the upstream says was used; `None` until it is done.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// How many lines carried something: about as many as tokens were produced.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// Writes the chunks of a line; `None` where something is not what it must be.
    fn chunks(&mut self, line: &Line<'_>, out: &mut BytesMut) -> Option<()> {
        let message = line.message.unwrap_or_default();
        let mut delta = Delta {
            content: message.content,
            thinking: message.thinking.filter(|raw| is_filled(Some(raw))),
            calls: message.tool_calls.filter(|raw| is_filled(Some(raw))),
            logprobs: line.logprobs.filter(|raw| is_filled(Some(raw))),
        };
        let says_something = is_filled(delta.content) || delta.calls.is_some();
        let carries = says_something || delta.thinking.is_some();
        let is_last = line.done == Some(true);
        if is_last && self.is_started && !carries && delta.logprobs.is_none() {
            return Some(());
        }
        self.produced += u64::from(carries);
        if says_something && delta.thinking.is_some() {
            let first = Delta { content: None, calls: None, ..delta };
            self.chunk(first, out)?;
            delta = Delta { thinking: None, logprobs: None, ..delta };
        }
        self.chunk(delta, out)
    }

    fn chunk(&mut self, delta: Delta<'_>, out: &mut BytesMut) -> Option<()> {
        let content = delta.content.map_or("\"\"", RawValue::get);
        out.reserve(self.next.len() + content.len() + 128);
        if self.is_started {
            out.put_slice(&self.next);
        } else {
            out.put_slice(&self.head);
            out.put_slice(FIRST);
            self.is_started = true;
        }
        splice_string(content, out)?;
        if let Some(thinking) = delta.thinking {
            out.put_slice(b",\"reasoning\":");
            splice_string(thinking.get(), out)?;
            out.put_slice(b",\"reasoning_content\":");
            splice_string(thinking.get(), out)?;
        }
        if let Some(raw) = delta.calls {
            out.put_slice(b",\"tool_calls\":");
            self.calls += calls::write(raw, &self.meta.id, self.calls, out)?;
        }
        out.put_u8(b'}');
        if let Some(logprobs) = delta.logprobs {
            out.put_slice(b",\"logprobs\":{\"content\":");
            splice_list(logprobs.get(), out)?;
            out.put_u8(b'}');
        }
        out.put_slice(CHUNK_END);
        Some(())
    }

    fn finish(&mut self, line: &Line<'_>, out: &mut BytesMut) {
        let usage = Usage {
            prompt: line.prompt_tokens(),
            completion: line.produced_tokens(),
            estimated: false,
        };
        let reason = finish_reason(line.done_reason.as_deref(), self.calls > 0);
        self.write_finish(reason, usage, out);
    }

    fn write_finish(&mut self, reason: &str, usage: Usage, out: &mut BytesMut) {
        out.put_slice(&self.head);
        out.put_slice(b"{\"index\":0,\"delta\":{},\"finish_reason\":");
        write_string(reason, out);
        out.put_slice(b"}]}\n\n");
        if self.include_usage {
            out.put_slice(&self.head);
            out.put_slice(b"],\"usage\":");
            write_usage(usage, out);
            out.put_slice(b"}\n\n");
        }
        out.put_slice(sse::DONE);
        self.usage = Some(usage);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn stream() -> ChatStream {
        let meta = ReplyMeta { id: "chatcmpl-1".to_owned(), created: 1, model: "m".to_owned() };
        ChatStream::new(meta, true)
    }

    /// The data of all events, after checking that each is JSON and one line.
    fn events(out: &BytesMut) -> Vec<serde_json::Value> {
        assert!(out.is_empty() || out.ends_with(b"\n\n"));
        let mut events = sse::Events::default();
        events.push(Bytes::copy_from_slice(out));
        let mut found = Vec::new();
        while let Some(event) = events.next_event().unwrap() {
            assert!(!event.data.contains(&b'\n'));
            if event.data != "[DONE]" {
                found.push(serde_json::from_slice(&event.data).unwrap());
            }
        }
        assert_eq!(events.finish(), None);
        found
    }

    #[test]
    fn a_fault_appends_nothing_and_is_never_an_end() {
        for (line, fault) in [
            ("{\"error\":\"UPSTREAM-WORDS\"}", StreamFault::UpstreamError),
            ("{\"error\":{},\"done\":true}", StreamFault::UpstreamError),
            ("<html>", StreamFault::NotJson),
            ("[]", StreamFault::NotJson),
            ("{\"message\":{\"content\":\"a\"},\"done\":tru", StreamFault::NotJson),
            ("{\"message\":{\"content\":1},\"done\":true}", StreamFault::NotJson),
            ("{\"message\":{\"thinking\":\"a\",\"content\":{}}}", StreamFault::NotJson),
            ("{\"message\":{\"content\":\"a\",\"tool_calls\":[1]}}", StreamFault::NotJson),
            ("{\"message\":{\"content\":\"\\ud800\"}}", StreamFault::NotJson),
        ] {
            let mut out = BytesMut::from(&b"before"[..]);
            let mut stream = stream();
            assert_eq!(stream.line(line.as_bytes(), &mut out), Err(fault), "{line}");
            assert_eq!(out, "before", "{line}");
            assert!(!stream.is_done());
            assert_eq!(stream.end(&mut out), Err(StreamFault::BrokenOff));
        }
    }

    #[test]
    fn nothing_follows_the_end() {
        let mut out = BytesMut::new();
        let mut stream = stream();
        stream.line(br#"{"done":true,"eval_count":2}"#, &mut out).unwrap();
        assert!(stream.is_done());
        let length = out.len();
        stream.line(br#"{"message":{"content":"a"}}"#, &mut out).unwrap();
        stream.end(&mut out).unwrap();
        assert_eq!(out.len(), length);
        assert_eq!(stream.usage().map(|usage| usage.completion), Some(2));
    }

    #[test]
    fn lines_that_carry_something_are_counted() {
        let mut out = BytesMut::new();
        let mut stream = stream();
        for line in [
            r#"{"message":{"role":"assistant","content":""}}"#,
            r#"{"message":{"content":"","thinking":"a"}}"#,
            r#"{"message":{"content":"a"}}"#,
            r#"{"message":{"content":"","tool_calls":[{"function":{"name":"f"}}]}}"#,
        ] {
            stream.line(line.as_bytes(), &mut out).unwrap();
        }
        assert_eq!((stream.produced(), stream.usage()), (3, None));
    }

    #[test]
    fn a_fault_becomes_an_event_of_its_own() {
        let mut out = BytesMut::new();
        error_event(Code::UpstreamFailed, "a\nb", &mut out);
        let expected = "data: {\"error\":{\"message\":\"a\\nb\",\"type\":\"server_error\",\
            \"param\":null,\"code\":\"upstream_failed\"}}\n\n";
        assert_eq!(out, expected);
    }

    /// A value that may stand where a text is due.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            8 => any::<String>().prop_map(|text| serde_json::json!(text).to_string()),
            1 => Just("null".to_owned()),
            1 => Just(" [ { \"function\" :\r{\"name\":\"f\",\"arguments\":{\"a\":\t1}}}] ".to_owned()),
            1 => Just("[{\"token\":\r\"a\"}]".to_owned()),
            1 => Just("\"\\ud83d\\u2028\"".to_owned()),
        ]
    }

    fn line() -> impl Strategy<Value = String> {
        let names = prop::sample::select(vec!["content", "thinking", "tool_calls"]);
        let message = prop::collection::btree_map(names, value(), 0..4);
        let field = |(name, value)| format!("\"{name}\":{value}");
        (message, value(), any::<bool>()).prop_map(move |(message, logprobs, done)| {
            let message: Vec<_> = message.into_iter().map(field).collect();
            let message = message.join(",");
            format!(r#"{{"message":{{{message}}},"logprobs":{logprobs},"done":{done}}}"#)
        })
    }

    proptest! {
        #[test]
        fn whatever_the_upstream_says_the_client_reads_events_of_json(
            lines in prop::collection::vec(line(), 0..6),
            noise in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut out = BytesMut::new();
            let mut stream = stream();
            let noise = [noise];
            for line in lines.iter().map(String::as_bytes).chain(noise.iter().map(|n| &n[..])) {
                let _ = stream.line(line, &mut out);
            }
            let roles = events(&out)
                .iter()
                .filter(|event| event.pointer("/choices/0/delta/role").is_some())
                .count();
            prop_assert!(roles <= 1);
            prop_assert_eq!(stream.is_done(), out.ends_with(sse::DONE));
        }
    }
}
