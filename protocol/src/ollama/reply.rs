//! A line of a native reply, read as far as accounting needs it.

use serde::Deserialize;
use serde_json::value::RawValue;

/// What accounting reads of a reply. Counts that are not there are 0, as Go leaves zeros out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// It is a JSON object at all.
    pub is_json: bool,
    /// It is the last line of a stream, or a whole reply that says so.
    pub done: bool,
    /// It is an error, with the upstream's words in it.
    pub error: bool,
    /// Prompt tokens.
    pub prompt_eval_count: u64,
    /// Completion tokens.
    pub eval_count: u64,
}

#[derive(Deserialize)]
struct Read<'a> {
    #[serde(default)]
    done: bool,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    prompt_eval_count: u64,
    #[serde(default)]
    eval_count: u64,
}

/// Reads a line, or a whole reply.
#[must_use]
pub fn tail(line: &[u8]) -> Tail {
    serde_json::from_slice::<Read<'_>>(line).map_or_else(
        |_| Tail::default(),
        |read| Tail {
            is_json: true,
            done: read.done,
            error: read.error.is_some(),
            prompt_eval_count: read.prompt_eval_count,
            eval_count: read.eval_count,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_read_and_absent_ones_are_zero() {
        let read = tail(br#"{"model":"a","done":true,"prompt_eval_count":3}"#);
        let expected = Tail { is_json: true, done: true, prompt_eval_count: 3, ..Tail::default() };
        assert_eq!(read, expected);
    }

    #[test]
    fn an_error_is_told() {
        assert!(tail(br#"{"error":"words"}"#).error);
        assert!(!tail(br#"{"message":{"error":1}}"#).error);
        assert_eq!(tail(b"words"), Tail::default());
    }
}
