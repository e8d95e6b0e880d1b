//! A client's HTTP/1.1 connection, as bytes: what hyper does not say or show, seen at its edge.
//!
//! Two things are done here and nowhere else:
//! - hyper refuses a head that it cannot parse with a bare status of its own. Such an answer is
//!   replaced by a proper error with a request id ([`Io::poll_write`]).
//! - Each request is followed as its bytes pass ([`Framing`]), and hyper is given the bytes of one request at
//!   a time, so that what was seen of a head belongs to the request that begins next.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use memchr::memmem;
use protocol::error::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    framing::{Advanced, Framing},
    seen::Seen,
};

/// hyper's own refusals are heads without a body, well below this many bytes.
const OWN_REFUSAL_BYTES_MAX: usize = 256;

/// An HTTP/1.1 connection.
pub(crate) struct Io<S> {
    stream: S,
    framing: Framing,
    /// Bytes of requests after the one that is being read; at most what was read at once.
    next: Bytes,
    seen: Arc<Seen>,
    /// What is written instead of an answer of hyper's.
    instead: Bytes,
    refuse: fn(Code) -> Bytes,
}

// === impl Io ===

impl<S> Io<S> {
    /// `refuse` makes the whole answer that replaces one of hyper's.
    pub(crate) fn new(stream: S, seen: Arc<Seen>, refuse: fn(Code) -> Bytes) -> Self {
        let (framing, next, instead) = (Framing::default(), Bytes::new(), Bytes::new());
        Self { stream, framing, next, seen, instead, refuse }
    }

    /// The bare connection.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

/// Follows bytes; how many of them belong to the request that is being read.
fn follow(framing: &mut Framing, seen: &Seen, bytes: &[u8]) -> usize {
    let Advanced { used, head } = framing.advance(bytes);
    if let Some(head) = head {
        seen.head_read(head);
    }
    used
}

impl<S: AsyncWrite + Unpin> Io<S> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.instead.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes an answer of hyper's out of the way; true when it was one.
    fn replace(&mut self, bytes: &[u8]) -> bool {
        let Some(code) = own_refusal(bytes) else { return false };
        self.instead = (self.refuse)(code);
        self.seen.leave_body();
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, framing, next, seen, .. } = &mut *self;
        if next.has_remaining() {
            let count = next.remaining().min(buf.remaining());
            let used = follow(framing, seen, &next[..count]);
            buf.put_slice(&next[..used]);
            next.advance(used);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        let used = follow(framing, seen, read);
        if used < read.len() {
            *next = Bytes::copy_from_slice(&read[used..]);
            buf.set_filled(before + used);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if self.replace(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if let Some(first) = bytes.iter().find(|slice| !slice.is_empty())
            && self.replace(first)
        {
            return Poll::Ready(Ok(first.len()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The refusal that hyper means by these bytes, if they are an answer that it made by itself: a
/// whole head with an empty body and without the request id that all of ours have.
fn own_refusal(bytes: &[u8]) -> Option<Code> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let code = match status {
        b"400" => Code::MalformedRequest,
        b"414" => Code::UriTooLong,
        b"431" => Code::HeadersTooLarge,
        _ => return None,
    };
    let whole = bytes.len() <= OWN_REFUSAL_BYTES_MAX && bytes.ends_with(b"\r\n\r\n");
    let ours = memmem::find(bytes, b"x-request-id").is_some();
    let empty = memmem::find(bytes, b"content-length: 0\r\n").is_some();
    (whole && empty && !ours).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_refusal_of_hypers_is_taken_for_one() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(own_refusal(bare), Some(Code::HeadersTooLarge));
        for other in [
            "HTTP/1.1 400 Bad Request\r\nx-request-id: a\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "{\"HTTP/1.1 400\"}",
        ] {
            assert_eq!(own_refusal(other.as_bytes()), None, "{other}");
        }
    }
}
