//! What a request to the upstream asks for: the stream flag and the words in the prompt, found without
//! parsing the body. A gateway may rewrite the body, so nothing depends on order or spaces.

use std::time::Duration;

use memchr::memmem;

/// The most chunks of one reply.
const CHUNKS_MAX: usize = 100_000;

/// The shape of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// `"stream": true` or `false`, where it is said.
    pub(crate) stream: Option<bool>,
    /// `[[chunks N]]`: pieces of content.
    pub(crate) chunks: usize,
    /// `[[pace MS]]`: the time between two of them; zero: as fast as they can.
    pub(crate) pace: Duration,
    /// `[[gather N]]`: so many chunks go out in one write; Ollama flushes each.
    pub(crate) gather: usize,
    /// `[[hold]]`: one chunk, and then nothing until the client leaves.
    pub(crate) hold: bool,
}

// === impl Marks ===

impl Marks {
    /// Reads them from a request's body.
    pub(crate) fn read(body: &[u8]) -> Self {
        let mut marks = Self {
            stream: flag(body, b"\"stream\""),
            chunks: 10,
            pace: Duration::ZERO,
            gather: 1,
            hold: false,
        };
        for at in memmem::find_iter(body, b"[[") {
            marks.apply(&body[at + 2..]);
        }
        marks
    }

    fn apply(&mut self, text: &[u8]) {
        if let Some(count) = argument(text, b"chunks ") {
            self.chunks = count.min(CHUNKS_MAX);
        } else if let Some(ms) = argument(text, b"pace ") {
            self.pace = Duration::from_millis(ms as u64);
        } else if let Some(count) = argument(text, b"gather ") {
            self.gather = count.max(1);
        } else if text.starts_with(b"hold]]") {
            self.hold = true;
        }
    }
}

/// The number in `chunks 100]]…`.
fn argument(text: &[u8], verb: &[u8]) -> Option<usize> {
    let rest = text.strip_prefix(verb)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !rest[digits..].starts_with(b"]]") {
        return None;
    }
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// The boolean behind a name.
fn flag(body: &[u8], name: &[u8]) -> Option<bool> {
    let at = memmem::find(body, name)? + name.len();
    let rest = body[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    if rest.starts_with(b"true") {
        Some(true)
    } else if rest.starts_with(b"false") {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_wherever_they_stand() {
        let body =
            br#"{"stream" : false,"messages":[{"content":"Go [[pace 10]][[chunks 100]] on"}]}"#;
        let marks = Marks::read(body);
        assert_eq!((marks.stream, marks.chunks), (Some(false), 100));
        assert_eq!((marks.pace, marks.gather, marks.hold), (Duration::from_millis(10), 1, false));
        assert!(Marks::read(b"[[hold]]").hold);
        assert_eq!(Marks::read(b"[[gather 100]]").gather, 100);
    }

    #[test]
    fn what_is_no_mark_is_text() {
        let marks = Marks::read(b"{\"prompt\":\"[[chunks x]] [[chunks 5 [[\"}");
        assert_eq!((marks.stream, marks.chunks), (None, 10));
    }

    #[test]
    fn a_reply_has_its_limit() {
        assert_eq!(Marks::read(b"[[chunks 999999999]]").chunks, CHUNKS_MAX);
    }
}
