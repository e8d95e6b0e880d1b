//! A long reply that is no stream, on its way through: a whole embedding or completion whose bytes are handed on as
//! they come, in the dialect of the client. Only its beginning and its end are kept, for the counts.

use std::collections::VecDeque;

use bytes::Bytes;
use memchr::memmem;

use super::StreamFault;
use crate::{ollama::stream::Passed, usage::Usage};

/// How much of the beginning and of the end is kept, in bytes: the counts stand in one of them.
const KEPT_BYTES: usize = 16 * 1024;
/// How many bytes of a reply are taken for one token where the upstream never said.
const BYTES_PER_TOKEN: u64 = 4;
/// What an error has and no reply begins with: the key, which cannot stand inside a string without its quotes
/// being escaped.
const ERROR_KEY: &[u8] = b"\"error\"";

/// The state of one such reply.
#[derive(Debug)]
pub struct LongReply {
    /// What had come before, until it is handed on.
    first: Bytes,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    length: u64,
    /// Whether replies on that route are made of tokens.
    generates: bool,
}

// === impl LongReply ===

impl LongReply {
    /// Whether a reply that begins like this may be handed on before its end is known: it is an object, and it
    /// is no error.
    #[must_use]
    pub fn may_pass(beginning: &[u8]) -> bool {
        beginning.trim_ascii_start().starts_with(b"{")
            && memmem::find(beginning, ERROR_KEY).is_none()
    }

    /// A reply that begins like this.
    #[must_use]
    pub fn new(beginning: Bytes, generates: bool) -> Self {
        let head = beginning[..beginning.len().min(KEPT_BYTES)].to_vec();
        let mut long =
            Self { first: Bytes::new(), head, tail: VecDeque::new(), length: 0, generates };
        long.keep(&beginning);
        long.first = beginning;
        long
    }

    /// What had come before the reply was handed on; empty from then on.
    #[must_use]
    pub fn take_first(&mut self) -> Bytes {
        std::mem::take(&mut self.first)
    }

    /// Takes what arrived, and gives back what may go on: all of it.
    pub fn push(&mut self, chunk: Bytes) -> Passed {
        self.keep(&chunk);
        Passed { bytes: chunk, fault: None }
    }

    /// The upstream has ended the reply.
    pub fn end(&mut self) -> Passed {
        let last = self.tail.iter().rev().find(|byte| !byte.is_ascii_whitespace());
        let fault = (last != Some(&b'}')).then_some(StreamFault::BrokenOff);
        Passed { bytes: Bytes::new(), fault }
    }

    /// What the upstream said of its usage, if it has.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        said(&tail).or_else(|| said(&self.head))
    }

    /// How many tokens it is taken for, where the upstream does not say.
    #[must_use]
    pub fn produced(&self) -> u64 {
        if self.generates { self.length.div_ceil(BYTES_PER_TOKEN) } else { 0 }
    }

    fn keep(&mut self, chunk: &[u8]) {
        self.length = self.length.saturating_add(chunk.len() as u64);
        let kept = &chunk[chunk.len().saturating_sub(KEPT_BYTES)..];
        let over = (self.tail.len() + kept.len()).saturating_sub(KEPT_BYTES);
        self.tail.drain(..over);
        self.tail.extend(kept);
    }
}

/// The counts that stand in a part of a reply, in either dialect; the last ones of it.
fn said(part: &[u8]) -> Option<Usage> {
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| count(part, name));
    let prompt = first(["\"prompt_eval_count\":", "\"prompt_tokens\":"]);
    let completion = first(["\"eval_count\":", "\"completion_tokens\":"]);
    if prompt.is_none() && completion.is_none() {
        return None;
    }
    let (prompt, completion) = (prompt.unwrap_or_default(), completion.unwrap_or_default());
    Some(Usage { prompt, completion, estimated: false })
}

fn count(part: &[u8], name: &str) -> Option<u64> {
    let at = memmem::rfind(part, name.as_bytes())? + name.len();
    let digits = part[at..].trim_ascii_start();
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(parts: &[&str], generates: bool) -> (LongReply, String, Option<StreamFault>) {
        let mut parts = parts.iter().map(|part| Bytes::copy_from_slice(part.as_bytes()));
        let mut long = LongReply::new(parts.next().unwrap(), generates);
        let mut out = long.take_first().to_vec();
        for part in parts {
            out.extend_from_slice(&long.push(part).bytes);
        }
        let fault = long.end().fault;
        (long, String::from_utf8(out).unwrap(), fault)
    }

    #[test]
    fn the_counts_are_found_at_the_end_or_at_the_beginning_and_nothing_is_changed() {
        let numbers = "0.1,".repeat(20_000);
        let usage = |prompt, completion| Some(Usage { prompt, completion, estimated: false });
        let end = format!("{numbers}2]],\"prompt_eval_count\": 7}}\n");
        let (long, out, fault) = passed(&["{\"embeddings\":[[", &end], false);
        assert_eq!((long.usage(), fault), (usage(7, 0), None));
        assert_eq!(out, format!("{{\"embeddings\":[[{end}"));
        let begin = "{\"usage\":{\"prompt_tokens\":3,\"total_tokens\":3},\"data\":[";
        let (long, _, fault) = passed(&[begin, &numbers, "1]}"], false);
        assert_eq!((long.usage(), fault), (usage(3, 0), None));
        let end = "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9,\"total_tokens\":14}}";
        let (long, _, _) = passed(&["{\"choices\":[],", &numbers, end], true);
        assert_eq!(long.usage(), usage(5, 9));
    }

    #[test]
    fn a_reply_that_says_no_counts_is_taken_for_its_length() {
        let (long, _, fault) = passed(&["{\"a\":\"", &"x".repeat(100), "\"}"], true);
        assert_eq!((long.usage(), long.produced(), fault), (None, 27, None));
        assert_eq!(passed(&["{\"a\":[", "1]}"], false).0.produced(), 0);
    }

    #[test]
    fn what_is_cut_is_a_fault_and_an_error_never_passes() {
        assert_eq!(passed(&["{\"a\":[1,", "2"], true).2, Some(StreamFault::BrokenOff));
        for (beginning, may_pass) in [
            ("{\"model\":\"a\",\"embeddings\":[[1", true),
            (" \n{\"message\":{\"content\":\"an \\\"error\\\" is", true),
            ("{\"error\":\"UPSTREAM", false),
            ("{\"model\":\"a\",\"error\":{", false),
            ("<html>", false),
            ("", false),
        ] {
            assert_eq!(LongReply::may_pass(beginning.as_bytes()), may_pass, "{beginning}");
        }
    }
}
