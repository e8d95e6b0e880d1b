//! The body of every answer on the data listener.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::pipeline::{settled::Record, streaming::Relay};

/// Either known whole, or relayed from an upstream as it comes. It owns the record of its request,
/// which is settled when the body is dropped.
pub struct ReplyBody {
    content: Content,
    /// Dropped after the content, which may still have something to say to it.
    record: Option<Record>,
}

enum Content {
    Whole(Bytes),
    Relay(Box<Relay>),
}

// === impl ReplyBody ===

impl ReplyBody {
    /// A whole body; empty for none.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole(bytes), record: None }
    }

    /// A body that comes as the upstream sends it.
    #[must_use]
    pub fn relay(relay: Relay) -> Self {
        Self { content: Content::Relay(Box::new(relay)), record: None }
    }

    /// The same body, with the record of its request.
    #[must_use]
    pub fn with(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }

    /// The same answer without its bytes, for `HEAD`.
    #[must_use]
    pub fn without_bytes(mut self) -> Self {
        self.content = Content::Whole(Bytes::new());
        self
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { content, record } = &mut *self;
        match content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Relay(relay) => {
                relay.poll_bytes(cx, record.as_mut()).map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Relay(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Relay(_) => SizeHint::default(),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if let (Content::Relay(relay), Some(record)) = (&mut self.content, &mut self.record) {
            relay.settle(record);
        }
    }
}
