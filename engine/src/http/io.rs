//! A client's connection, as bytes: what hyper does not say or show, seen at its edge.
//!
//! Two things are done here and nowhere else:
//! - hyper refuses a head that it cannot parse with a bare status of its own. Such an answer is
//!   replaced by a proper error with a request id ([`Io::poll_write`]).
//! - hyper drops `Content-Length` where `Transfer-Encoding` is given too, as RFC 9112 6.3 allows. We
//!   refuse the pair, since a proxy in front may have read it the other way; so it has to be seen
//!   before hyper drops it ([`Head`]).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use memchr::memmem;
use protocol::error::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// hyper's own refusals are heads without a body, well below this many bytes.
const OWN_REFUSAL_BYTES_MAX: usize = 256;

const CONTENT_LENGTH: &[u8] = b"content-length";

/// What the request's handler wants to know of the bytes of its head.
#[derive(Default)]
pub(crate) struct Seen {
    content_length: AtomicBool,
    body_left: AtomicBool,
    again: AtomicBool,
}

/// A connection with its first bytes put back in front of it.
pub(crate) struct Io<S> {
    stream: S,
    /// Read already, to find out which protocol is spoken.
    prefix: Bytes,
    head: Head,
    seen: Arc<Seen>,
    /// What is written instead of an answer of hyper's.
    instead: Bytes,
    refuse: fn(Code) -> Bytes,
}

/// Watches heads go by for a `Content-Length`.
#[derive(Default)]
struct Head {
    /// The beginning of the line that is being read, no longer than is needed to know it.
    line: Vec<u8>,
    over: bool,
}

// === impl Seen ===

impl Seen {
    /// Whether the head that was just parsed had a `Content-Length`, whatever hyper made of it.
    pub(crate) fn content_length(&self) -> bool {
        self.content_length.swap(false, Ordering::Relaxed)
    }

    /// The request has no body, or it has been read to its end: what comes next is a head.
    pub(crate) fn head_follows(&self) {
        self.body_left.store(false, Ordering::Relaxed);
        self.again.store(true, Ordering::Relaxed);
    }

    /// The request was answered before its body had been read: what is still on its way has to be
    /// swallowed before the connection is closed, or the answer is lost to a reset.
    pub(crate) fn leave_body(&self) {
        self.body_left.store(true, Ordering::Relaxed);
    }

    /// Whether [`Seen::leave_body`] was said.
    pub(crate) fn body_left(&self) -> bool {
        self.body_left.load(Ordering::Relaxed)
    }
}

// === impl Head ===

impl Head {
    /// Takes in what was read; true when a `Content-Length` line began.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !self.over && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = (CONTENT_LENGTH.len() + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if let Some(end) = end {
                found |= self.is_content_length();
                self.over = matches!(self.line.as_slice(), b"" | b"\r");
                self.line.clear();
                bytes = &bytes[end + 1..];
            } else {
                bytes = &[];
            }
        }
        found
    }

    fn is_content_length(&self) -> bool {
        self.line
            .split_at_checked(CONTENT_LENGTH.len())
            .is_some_and(|(name, rest)| name.eq_ignore_ascii_case(CONTENT_LENGTH) && rest == b":")
    }

    fn restart(&mut self) {
        self.over = false;
        self.line.clear();
    }
}

// === impl Io ===

impl<S> Io<S> {
    /// `refuse` makes the whole answer that replaces one of hyper's.
    pub(crate) fn new(
        stream: S,
        prefix: Bytes,
        seen: Arc<Seen>,
        refuse: fn(Code) -> Bytes,
    ) -> Self {
        Self { stream, prefix, head: Head::default(), seen, instead: Bytes::new(), refuse }
    }

    /// The bare connection.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
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
        let this = &mut *self;
        let before = buf.filled().len();
        if this.prefix.has_remaining() {
            let count = this.prefix.remaining().min(buf.remaining());
            buf.put_slice(&this.prefix[..count]);
            this.prefix.advance(count);
        } else {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        }
        if this.seen.again.swap(false, Ordering::Relaxed) {
            this.head.restart();
        }
        if !this.head.over && this.head.read(&buf.filled()[before..]) {
            this.seen.content_length.store(true, Ordering::Relaxed);
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

    fn content_length_in(parts: &[&str]) -> bool {
        let mut head = Head::default();
        let mut found = false;
        for part in parts {
            found |= head.read(part.as_bytes());
        }
        found
    }

    #[test]
    fn a_content_length_is_seen_however_the_head_is_cut() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nCoNtent-LENGTH: 5\r\n\r\n";
        assert!(content_length_in(&[head]));
        for at in 0..head.len() {
            assert!(content_length_in(&[&head[..at], &head[at..]]), "cut at {at}");
        }
    }

    #[test]
    fn what_only_looks_like_one_is_not() {
        for head in [
            "GET /content-length: HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nx-content-length: 5\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-lengths: 5\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\ncontent-length: 5\r\n",
        ] {
            assert!(!content_length_in(&[head]), "{head}");
        }
    }

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
