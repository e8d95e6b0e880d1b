//! Lines of a stream, framed on bytes: a line is given out when it is whole, wherever it was cut.

use bytes::{Bytes, BytesMut};
use memchr::memchr;

/// The longest line, in bytes: what Ollama's own client accepts.
pub const LINE_MAX: usize = 8 * 1024 * 1024;

/// A line is longer than [`LINE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is too long")]
pub struct TooLong;

/// An incremental decoder of lines. Blank lines are passed over, and so is a `\r` at the end.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not arrived.
    held: BytesMut,
    /// What has arrived and was not looked at.
    chunk: Bytes,
}

// === impl Lines ===

impl Lines {
    /// Takes in what arrived, after all lines of what arrived before have been taken out.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            let mut both = BytesMut::with_capacity(self.chunk.len() + chunk.len());
            both.extend_from_slice(&self.chunk);
            both.extend_from_slice(&chunk);
            self.chunk = both.freeze();
        }
    }

    /// The next whole line: a slice of what arrived, copied only where it spans chunks.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn next_line(&mut self) -> Result<Option<Bytes>, TooLong> {
        while let Some(end) = memchr(b'\n', &self.chunk) {
            let mut line = self.chunk.split_to(end + 1);
            line.truncate(end);
            if !self.held.is_empty() {
                self.held.extend_from_slice(&line);
                line = self.held.split().freeze();
            }
            if line.len() > LINE_MAX {
                return Err(TooLong);
            }
            let trimmed = line.trim_ascii();
            if !trimmed.is_empty() {
                return Ok(Some(line.slice_ref(trimmed)));
            }
        }
        self.held.extend_from_slice(&std::mem::take(&mut self.chunk));
        if self.held.len() > LINE_MAX { Err(TooLong) } else { Ok(None) }
    }

    /// The last line, where it has no newline.
    pub fn finish(&mut self) -> Option<Bytes> {
        let line = self.held.split().freeze();
        let trimmed = line.trim_ascii();
        (!trimmed.is_empty()).then(|| line.slice_ref(trimmed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<Bytes> {
        let mut decoder = Lines::default();
        let mut out = Vec::new();
        for part in parts {
            decoder.push(Bytes::copy_from_slice(part));
            while let Ok(Some(line)) = decoder.next_line() {
                out.push(line);
            }
        }
        out.extend(decoder.finish());
        out
    }

    #[test]
    fn blank_lines_and_carriage_returns_are_passed_over() {
        assert_eq!(lines(&[b"a\r\n\n\r\nb\n\nc"]), ["a", "b", "c"]);
    }

    #[test]
    fn a_line_within_a_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"abc\ndef\n");
        let mut decoder = Lines::default();
        decoder.push(chunk.clone());
        assert!(matches!(decoder.next_line(), Ok(Some(line)) if line.as_ptr() == chunk.as_ptr()));
    }

    #[test]
    fn a_line_without_end_is_too_long() {
        let mut decoder = Lines::default();
        decoder.push(Bytes::from(vec![b'a'; LINE_MAX + 1]));
        assert_eq!(decoder.next_line(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(text in "[a-c\\n\\ré]{0,60}", cut in 0_usize..60) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let bytewise: Vec<_> = bytes.chunks(1).collect();
            prop_assert_eq!(lines(&[bytes]), lines(&[&bytes[..cut], &bytes[cut..]]));
            prop_assert_eq!(lines(&[bytes]), lines(&bytewise));
        }
    }
}
