//! Lines out of chunks: the framing of Ollama's streams.
//!
//! A line is handed on as a slice of the chunk it came in; only a line that spans chunks is copied.
//! It is cut at `\n` bytes and never decoded before it is whole, so that a character cut in two by
//! the network is none of our business. Blank lines are skipped, a trailing `\r` is dropped. No byte
//! is looked at twice.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

/// The longest line that is read, in bytes. Ollama's own clients read lines of up to 8 MB.
pub const LINE_MAX: usize = 8 * 1024 * 1024;

/// An incremental decoder of lines.
pub struct Lines {
    line_max: usize,
    /// The beginning of a line, from earlier chunks.
    begun: BytesMut,
    /// What has not been looked at.
    chunk: Bytes,
}

/// A line is longer than the limit. Nothing more can be read from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than the limit")]
pub struct TooLong;

// === impl Lines ===

impl Lines {
    /// A decoder of lines of at most `line_max` bytes, not counting the newline.
    #[must_use]
    pub fn new(line_max: usize) -> Self {
        Self { line_max, begun: BytesMut::new(), chunk: Bytes::new() }
    }

    /// Takes a chunk. Ask for lines until there is none before the next one is given: otherwise
    /// what is left has to be copied to stand before it.
    pub fn push(&mut self, chunk: Bytes) {
        append(&mut self.chunk, chunk);
    }

    /// The next whole line, without its end; `None` until more has been pushed.
    ///
    /// # Errors
    /// [`TooLong`], then and on every later call.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, TooLong> {
        loop {
            let end = memchr(b'\n', &self.chunk);
            let length = end.unwrap_or(self.chunk.len());
            if self.begun.len() + length > self.line_max {
                return Err(TooLong);
            }
            let piece = self.chunk.split_to(length);
            if end.is_none() {
                self.begun.extend_from_slice(&piece);
                return Ok(None);
            }
            self.chunk.advance(1);
            if let Some(line) = self.joined(piece) {
                return Ok(Some(line));
            }
        }
    }

    /// The last line, where the stream ended without a newline. Ask for the whole lines first.
    pub fn finish(&mut self) -> Option<Bytes> {
        let piece = std::mem::take(&mut self.chunk);
        self.joined(piece)
    }

    /// The line that `piece` ends, unless it is blank.
    fn joined(&mut self, piece: Bytes) -> Option<Bytes> {
        let mut line = piece;
        if !self.begun.is_empty() {
            self.begun.extend_from_slice(&line);
            line = self.begun.split().freeze();
        }
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        (!line.iter().all(u8::is_ascii_whitespace)).then_some(line)
    }
}

/// Puts bytes behind those that have not been looked at; copies only where there are any.
pub(crate) fn append(chunk: &mut Bytes, more: Bytes) {
    if chunk.is_empty() {
        *chunk = more;
    } else {
        let mut both = BytesMut::with_capacity(chunk.len() + more.len());
        both.extend_from_slice(chunk);
        both.extend_from_slice(&more);
        *chunk = both.freeze();
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new(LINE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<Bytes> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for part in parts {
            lines.push(Bytes::copy_from_slice(part));
            while let Some(line) = lines.next_line().unwrap() {
                found.push(line);
            }
        }
        found.extend(lines.finish());
        found
    }

    #[test]
    fn a_line_within_one_chunk_is_a_slice_of_it() {
        let chunk = Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n");
        let mut lines = Lines::default();
        lines.push(chunk.clone());
        let first = lines.next_line().unwrap().unwrap();
        let second = lines.next_line().unwrap().unwrap();
        assert_eq!(first.as_ptr(), chunk.as_ptr());
        assert_eq!(second.as_ptr(), chunk[8..].as_ptr());
        assert_eq!(lines.next_line(), Ok(None));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn blank_lines_and_carriage_returns_are_dropped() {
        assert_eq!(decode([&b"\r\n\n a\r\n  \nb"[..], b"\r", b"\n\r\n"]), [" a", "b"]);
    }

    #[test]
    fn a_chunk_may_be_pushed_before_the_last_one_is_read() {
        let mut lines = Lines::default();
        lines.push(Bytes::from_static(b"a\nb"));
        lines.push(Bytes::from_static(b"c\nd"));
        assert_eq!(lines.next_line(), Ok(Some(Bytes::from_static(b"a"))));
        assert_eq!(lines.next_line(), Ok(Some(Bytes::from_static(b"bc"))));
        assert_eq!(lines.next_line(), Ok(None));
        assert_eq!(lines.finish(), Some(Bytes::from_static(b"d")));
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused_and_nothing_follows() {
        let mut lines = Lines::new(4);
        lines.push(Bytes::from_static(b"1234\n12"));
        assert_eq!(lines.next_line(), Ok(Some(Bytes::from_static(b"1234"))));
        assert_eq!(lines.next_line(), Ok(None));
        lines.push(Bytes::from_static(b"345\na\n"));
        assert_eq!(lines.next_line(), Err(TooLong));
        assert_eq!(lines.next_line(), Err(TooLong));
        let mut lines = Lines::new(4);
        lines.push(Bytes::from_static(b"12345"));
        assert_eq!(lines.next_line(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_lines_are_the_same(
            text in "[ab\r\n ]{0,60}",
            size in 1_usize..9,
        ) {
            let whole = decode([text.as_bytes()]);
            let model: Vec<Vec<u8>> = text
                .split('\n')
                .map(|line| line.strip_suffix('\r').unwrap_or(line))
                .filter(|line| !line.trim().is_empty())
                .map(|line| line.as_bytes().to_vec())
                .collect();
            prop_assert_eq!(&whole, &model);
            prop_assert_eq!(decode(text.as_bytes().chunks(size)), whole);
        }
    }
}
