//! A native stream on its way through: bytes untouched, lines watched.
//!
//! Whole lines are handed on as the slices they came in; only the beginning of a line whose end has
//! not arrived is held back (and copied), so that an error line, which holds the upstream's own
//! words, can be kept from the client however it was cut. Nothing else is read of a line while the
//! stream runs: the last one of each chunk is kept for the counts, as a copy, since a slice would hold the
//! whole buffer that was read into for as long as the stream says nothing more.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::{memchr_iter, memmem::Finder, memrchr};
use serde_json::{Map, Value, json};

use super::reply::{Tail, tail};
use crate::{cause::Cause, ndjson::LINE_MAX, translate::StreamFault, usage::Usage};

/// What the line of an error has and no other line: the key, which cannot stand inside a string
/// without its quotes being escaped.
static ERROR_KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// The state of one stream.
#[derive(Debug, Default)]
pub struct NativeStream {
    held: BytesMut,
    last: Vec<u8>,
    lines: u64,
    cause: Option<Cause>,
}

/// What became of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Whole lines for the client.
    pub bytes: Bytes,
    /// Why nothing may follow them.
    pub fault: Option<StreamFault>,
}

impl From<Passed> for (Bytes, Option<StreamFault>) {
    fn from(passed: Passed) -> Self {
        (passed.bytes, passed.fault)
    }
}

// === impl NativeStream ===

impl NativeStream {
    /// Takes what arrived, and gives back what may go on.
    pub fn push(&mut self, chunk: Bytes) -> Passed {
        let Some(end) = memrchr(b'\n', &chunk) else {
            self.held.extend_from_slice(&chunk);
            return self.check_held();
        };
        let rest = chunk.slice(end + 1..);
        let mut whole = chunk;
        whole.truncate(end + 1);
        if !self.held.is_empty() {
            self.held.extend_from_slice(&whole);
            whole = self.held.split().freeze();
        }
        self.held.extend_from_slice(&rest);
        let passed = self.watch(whole);
        if passed.fault.is_some() {
            passed
        } else {
            Passed { fault: self.check_held().fault, ..passed }
        }
    }

    /// The upstream has ended the stream: the last line may lack its newline.
    pub fn end(&mut self) -> Passed {
        let rest = self.held.split().freeze();
        let mut passed = Passed::default();
        if !rest.iter().all(u8::is_ascii_whitespace) {
            passed = self.watch(rest);
        }
        if passed.fault.is_none() && !self.tail().done {
            passed = Passed { bytes: Bytes::new(), fault: Some(StreamFault::BrokenOff) };
        }
        passed
    }

    /// A last line for a stream that is ended before its end: as if the reply had reached its greatest
    /// length.
    #[must_use]
    pub fn stop(&self, usage: Usage) -> Bytes {
        let mut line: Map<String, Value> = serde_json::from_slice(&self.last).unwrap_or_default();
        if line.contains_key("message") {
            line.insert("message".to_owned(), json!({ "role": "assistant", "content": "" }));
        }
        if line.contains_key("response") {
            line.insert("response".to_owned(), "".into());
        }
        for (name, value) in [
            ("done", true.into()),
            ("done_reason", "length".into()),
            ("prompt_eval_count", usage.prompt.into()),
            ("eval_count", usage.completion.into()),
        ] {
            line.insert(name.to_owned(), value);
        }
        Bytes::from(Value::Object(line).to_string() + "\n")
    }

    /// What the last whole line says.
    #[must_use]
    pub fn tail(&self) -> Tail {
        tail(&self.last)
    }

    /// Why the upstream does not go on, where it told an error of a known cause.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// How many lines before the last one have gone by: an estimate of the tokens, where the upstream
    /// never says.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.lines - u64::from(self.tail().done)
    }

    fn check_held(&self) -> Passed {
        let fault = (self.held.len() > LINE_MAX).then_some(StreamFault::TooLong);
        Passed { bytes: Bytes::new(), fault }
    }

    /// Watches whole lines go by, up to the first that may not.
    fn watch(&mut self, whole: Bytes) -> Passed {
        let suspect = ERROR_KEY.find(&whole).is_some();
        let mut start = 0;
        let ends = memchr_iter(b'\n', &whole).map(|at| at + 1);
        let unended = (!whole.ends_with(b"\n")).then_some(whole.len());
        let mut last: &[u8] = &[];
        for end in ends.chain(unended) {
            let line = whole[start..end].trim_ascii();
            if !line.is_empty() {
                let fault = if !(line.starts_with(b"{") && line.ends_with(b"}")) {
                    Some(StreamFault::NotJson)
                } else if suspect && tail(line).error {
                    Some(StreamFault::told(line, &mut self.cause))
                } else {
                    None
                };
                if fault.is_some() {
                    self.keep(last);
                    return Passed { bytes: whole.slice(..start), fault };
                }
                self.lines += 1;
                last = line;
            }
            start = end;
        }
        self.keep(last);
        Passed { bytes: whole, fault: None }
    }

    /// Keeps the last line of a chunk, if there was one.
    fn keep(&mut self, line: &[u8]) {
        if !line.is_empty() {
            self.last.clear();
            self.last.extend_from_slice(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "{\"message\":{\"content\":\"a\"},\"done\":false}\n\r\n\
        {\"message\":{\"content\":\"say \\\"error\\\" {\"},\"done\":false}\n\
        {\"message\":{\"tool_calls\":[{\"function\":{\"arguments\":{\"error\":1}}}]},\"done\":false}\n\
        {\"done\":true,\"prompt_eval_count\":3,\"eval_count\":2}\n";

    fn run(parts: &[&[u8]]) -> (Vec<u8>, Option<StreamFault>, NativeStream) {
        let mut stream = NativeStream::default();
        let mut out = Vec::new();
        for part in parts {
            let passed = stream.push(Bytes::copy_from_slice(part));
            out.extend_from_slice(&passed.bytes);
            if passed.fault.is_some() {
                return (out, passed.fault, stream);
            }
        }
        let passed = stream.end();
        out.extend_from_slice(&passed.bytes);
        (out, passed.fault, stream)
    }

    #[test]
    fn whole_lines_pass_without_being_copied() {
        let mut stream = NativeStream::default();
        let chunk = Bytes::from_static(GOOD.as_bytes());
        let passed = stream.push(chunk.clone());
        assert_eq!(passed.bytes.as_ptr(), chunk.as_ptr());
        assert_eq!(stream.end(), Passed::default());
        assert_eq!(stream.produced(), 3);
        assert_eq!((stream.tail().prompt_eval_count, stream.tail().eval_count), (3, 2));
    }

    #[test]
    fn what_was_read_is_let_go_of_when_it_has_passed() {
        let mut stream = NativeStream::default();
        let chunk = Bytes::from(GOOD.as_bytes().to_vec());
        drop(stream.push(chunk.clone()));
        assert!(chunk.is_unique());
        assert!(stream.tail().done);
    }

    #[test]
    fn an_error_line_never_passes_and_what_came_before_does() {
        let first = "{\"message\":{\"content\":\"a\"},\"done\":false}\n";
        let text = format!("{first}{{\"error\":\"UPSTREAM-WORDS\"}}\n");
        for at in 0..text.len() {
            let (out, fault, _) = run(&[&text.as_bytes()[..at], &text.as_bytes()[at..]]);
            assert_eq!(out, first.as_bytes(), "cut at {at}");
            assert_eq!(fault, Some(StreamFault::UpstreamError), "cut at {at}");
        }
    }

    #[test]
    fn the_cause_of_an_error_line_is_known() {
        let (_, fault, stream) = run(&[b"{\"error\":\"prompt is too long\"}\n"]);
        assert_eq!(fault, Some(StreamFault::UpstreamError));
        assert!(matches!(stream.cause(), Some(Cause::Context(_))));
        assert_eq!(run(&[b"{\"error\":\"boom\"}\n"]).2.cause(), None);
    }

    #[test]
    fn an_end_without_a_done_line_is_a_fault() {
        let (out, fault, _) = run(&[b"{\"done\":false}\n"]);
        assert_eq!(
            (out.as_slice(), fault),
            (&b"{\"done\":false}\n"[..], Some(StreamFault::BrokenOff))
        );
        assert_eq!(run(&[]).1, Some(StreamFault::BrokenOff));
    }

    #[test]
    fn half_a_line_at_the_end_never_passes() {
        let (out, fault, _) = run(&[b"{\"done\":false}\n{\"mess"]);
        assert_eq!(out, b"{\"done\":false}\n");
        assert_eq!(fault, Some(StreamFault::NotJson));
    }

    #[test]
    fn a_last_line_may_lack_its_newline() {
        let (out, fault, _) = run(&[b"{\"done\":false}\n{\"done\":true}"]);
        assert_eq!((out.as_slice(), fault), (&b"{\"done\":false}\n{\"done\":true}"[..], None));
    }

    #[test]
    fn a_stream_that_is_stopped_says_so() {
        let line = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"hi\"},\"done\":false}\n";
        let (_, _, stream) = run(&[line.as_bytes()]);
        let stopped = stream.stop(Usage { prompt: 3, completion: 1, estimated: true });
        let said: Value = serde_json::from_slice(&stopped).unwrap();
        assert_eq!((&said["model"], &said["message"]["content"]), (&json!("m"), &json!("")));
        assert_eq!((&said["done"], &said["done_reason"]), (&json!(true), &json!("length")));
        assert_eq!((&said["prompt_eval_count"], &said["eval_count"]), (&json!(3), &json!(1)));
        let (_, _, stream) = run(&[b"{\"response\":\"hi\",\"done\":false}\n"]);
        let said: Value = serde_json::from_slice(&stream.stop(Usage::default())).unwrap();
        assert_eq!(said["response"], "");
    }

    #[test]
    fn what_is_no_object_never_passes() {
        let (out, fault, _) = run(&[b"<html>UPSTREAM-WORDS</html>\n"]);
        assert_eq!((out.as_slice(), fault), (&b""[..], Some(StreamFault::NotJson)));
    }

    #[test]
    fn a_line_without_end_is_a_fault() {
        let mut stream = NativeStream::default();
        let part = Bytes::from(vec![b'{'; LINE_MAX / 2 + 1]);
        assert_eq!(stream.push(part.clone()).fault, None);
        assert_eq!(stream.push(part).fault, Some(StreamFault::TooLong));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_same_bytes_pass(cuts in prop::collection::vec(0..GOOD.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut start = 0;
            for cut in cuts {
                parts.push(&GOOD.as_bytes()[start..cut]);
                start = cut;
            }
            parts.push(&GOOD.as_bytes()[start..]);
            let (out, fault, stream) = run(&parts);
            prop_assert_eq!(out, GOOD.as_bytes());
            prop_assert_eq!(fault, None);
            prop_assert_eq!(stream.produced(), 3);
        }
    }
}
