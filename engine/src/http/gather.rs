//! A body that comes in parts, put together without copying where it comes in one.

use bytes::{Bytes, BytesMut};

/// The parts so far.
pub(crate) struct Gathered {
    /// How long the whole was announced to be; 0 where nobody said.
    announced: usize,
    first: Bytes,
    rest: BytesMut,
}

// === impl Gathered ===

impl Gathered {
    /// Nothing yet.
    pub(crate) fn new(announced: usize) -> Self {
        Self { announced, first: Bytes::new(), rest: BytesMut::new() }
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.first.len().max(self.rest.len())
    }

    /// The next part.
    pub(crate) fn push(&mut self, part: Bytes) {
        let length = self.len() + part.len();
        if length == part.len() {
            self.first = part;
            return;
        }
        if self.rest.is_empty() {
            self.rest.reserve(self.announced.max(length));
            self.rest.extend_from_slice(&self.first);
        }
        self.rest.extend_from_slice(&part);
    }

    /// All of it.
    pub(crate) fn finish(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_not_copied_and_several_are_put_together() {
        let part = Bytes::from_static(b"abc");
        let mut one = Gathered::new(3);
        one.push(part.clone());
        assert_eq!(one.finish().as_ptr(), part.as_ptr());
        let mut more = Gathered::new(0);
        for part in ["", "ab", "", "c", "de"] {
            more.push(Bytes::from_static(part.as_bytes()));
        }
        assert_eq!((more.len(), more.finish()), (5, Bytes::from_static(b"abcde")));
    }
}
