//! What the edge of a connection knows of its requests, shared by the socket, the connection and its requests.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::{body::ReplyBody, framing::Head, streams::Flow};
use crate::pipeline::live::Aborted;

/// What the edge of a connection knows of its requests.
#[derive(Default)]
pub(crate) struct Seen {
    /// The head that was read last, until its request begins: a [`Head`], or [`NO_HEAD`].
    head: AtomicU8,
    /// Whether the head of the request that began last may be read in one way only.
    agreed: AtomicBool,
    body_left: AtomicBool,
    /// Requests whose answers have not ended.
    open: AtomicUsize,
    /// Requests that began, ever.
    begun: AtomicU64,
    /// Bytes that the socket took, ever; it may wrap.
    written: AtomicUsize,
}

/// A request whose answer has not ended, as long as this lives.
pub(crate) struct Open(Arc<Seen>);

/// The body of an answer; its request is open until it is dropped.
pub(crate) struct Served {
    /// None: it has said all. Its request is settled, also where the client has not taken the rest yet.
    body: Option<ReplyBody>,
    /// Said, and not handed over yet.
    rest: Bytes,
    /// Of an HTTP/2 stream; none of HTTP/1.1, where it is the socket that waits.
    flow: Option<Arc<Flow>>,
    _open: Open,
}

/// What is handed over at once to an HTTP/2 stream: what it does not take it holds where nobody can end it.
const PART_BYTES_MAX: usize = 32 * 1024;

/// No head was read since the last request began.
const NO_HEAD: u8 = 0;

// === impl Seen ===

impl Seen {
    /// A head was read to its end. Two heads without a request between them are one too many: hyper and we do
    /// not read the same, so that the request is refused.
    pub(crate) fn head_read(&self, head: Head) {
        let unread = self.head.swap(head as u8, Ordering::Relaxed) != NO_HEAD;
        if unread {
            self.head.store(Head::Refused as u8, Ordering::Relaxed);
        }
    }

    /// An HTTP/1.1 request begins, which hyper takes for one in chunks, or not. To be told before hyper reads on:
    /// the head of the next request may come before this one is looked at.
    pub(crate) fn head_taken(&self, is_chunked: bool) {
        let head = self.head.swap(NO_HEAD, Ordering::Relaxed);
        let wanted = if is_chunked { Head::Chunked } else { Head::Plain };
        self.agreed.store(head == wanted as u8, Ordering::Relaxed);
    }

    /// Whether the head of the request that began last may be read in one way only, and was read by us as by hyper.
    pub(crate) fn agrees(&self) -> bool {
        self.agreed.load(Ordering::Relaxed)
    }

    /// The request has no body, or it has been read to its end: nothing of it is left to swallow.
    pub(crate) fn head_follows(&self) {
        self.body_left.store(false, Ordering::Relaxed);
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

    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// How many requests are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many requests began, ever.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// The socket took so many bytes. Only the connection's own task says so.
    pub(crate) fn wrote(&self, bytes: usize) {
        let written = self.written.load(Ordering::Relaxed).wrapping_add(bytes);
        self.written.store(written, Ordering::Relaxed);
    }

    /// How many bytes the socket took, ever.
    pub(crate) fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }
}

// === impl Open ===

impl Open {
    /// The request is open as long as this body.
    pub(super) fn over(self, body: ReplyBody, flow: Option<Arc<Flow>>) -> Served {
        // With a window that is shut from the beginning, not even the first part is asked for.
        if let Some(flow) = &flow {
            flow.handed();
        }
        Served { body: Some(body), rest: Bytes::new(), flow, _open: self }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Served ===

impl Body for Served {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let Self { body, rest, flow, .. } = &mut *self;
        let Some(flow) = flow else {
            return body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx));
        };
        if rest.is_empty() {
            flow.asked();
            let Some(said) = body.as_mut() else { return Poll::Ready(None) };
            let frame = match ready!(Pin::new(&mut *said).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => frame,
                Some(Err(aborted)) => return Poll::Ready(Some(Err(aborted))),
            };
            let Ok(data) = frame.into_data() else { return Poll::Ready(None) };
            *rest = data;
            if said.is_end_stream() {
                *body = None;
            }
        }
        flow.handed();
        let part = rest.split_to(rest.len().min(PART_BYTES_MAX));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let said = self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let rest = self.rest.len() as u64;
        let mut all = SizeHint::new();
        all.set_lower(said.lower() + rest);
        if let Some(upper) = said.upper() {
            all.set_upper(upper + rest);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_a_head_of_its_own_that_was_read_alike() {
        let seen = Seen::default();
        let agrees = |is_chunked| {
            seen.head_taken(is_chunked);
            seen.agrees()
        };
        assert!(!seen.agrees() && !agrees(false), "no head was read");
        for (head, is_chunked, fine) in [
            (Head::Plain, false, true),
            (Head::Plain, true, false),
            (Head::Chunked, true, true),
            (Head::Chunked, false, false),
            (Head::Refused, false, false),
            (Head::Refused, true, false),
        ] {
            seen.head_read(head);
            assert_eq!(agrees(is_chunked), fine, "{head:?} {is_chunked}");
            assert!(!agrees(is_chunked), "a head counts once");
        }
        seen.head_read(Head::Plain);
        seen.head_read(Head::Plain);
        assert!(!agrees(false), "two heads, one request");
    }

    #[test]
    fn a_whole_answer_is_handed_to_a_stream_in_parts() {
        let whole = Bytes::from(vec![7; 3 * PART_BYTES_MAX + 1]);
        let seen = Arc::new(Seen::default());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (flow, parts) in [(Some(Arc::default()), 4), (None, 1)] {
            let mut served = seen.begin().over(ReplyBody::whole(whole.clone()), flow);
            let mut taken = Vec::new();
            for part in 1..=parts {
                assert!(!served.is_end_stream());
                assert_eq!(served.size_hint().exact(), Some((whole.len() - taken.len()) as u64));
                let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut served).poll_frame(&mut cx) else {
                    panic!("part {part} is missing")
                };
                taken.extend_from_slice(&frame.into_data().unwrap());
            }
            assert!(served.is_end_stream() && taken == whole);
        }
    }

    #[test]
    fn a_request_is_open_until_it_is_dropped() {
        let seen = Arc::new(Seen::default());
        let (one, two) = (seen.begin(), seen.begin());
        assert_eq!((seen.open(), seen.begun()), (2, 2));
        drop(one.over(ReplyBody::whole(Bytes::new()), None));
        drop(two);
        assert_eq!((seen.open(), seen.begun()), (0, 2));
    }
}
