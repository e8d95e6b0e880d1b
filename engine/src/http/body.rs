//! The body of every answer on the data listener.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::refusal;
use crate::pipeline::{
    queued::{Next, Queued},
    relay::Relay,
    settled::Record,
};

/// Known whole, relayed from an upstream as it comes, or waiting for that. It owns the record of its request,
/// which is settled when the body is dropped.
pub struct ReplyBody {
    content: Content,
    /// Dropped after the content, which may still have something to say to it.
    record: Option<Box<Record>>,
}

enum Content {
    Whole(Bytes),
    Relay(Box<Relay>),
    Queued(Box<Queued>),
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

    /// A body that says that it waits, until the upstream's turn comes.
    #[must_use]
    pub fn queued(queued: Queued) -> Self {
        Self { content: Content::Queued(Box::new(queued)), record: None }
    }

    /// The same body, with the record of its request.
    #[must_use]
    pub fn with(mut self, record: Box<Record>) -> Self {
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
        loop {
            let next = match content {
                Content::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
                Content::Whole(bytes) => Some(std::mem::take(bytes)),
                Content::Relay(relay) => ready!(relay.poll_bytes(cx, record.as_deref_mut())),
                Content::Queued(queued) => match ready!(queued.poll_next(cx)) {
                    Next::Comment(bytes) => Some(bytes),
                    Next::Streams(streaming) => {
                        let gateway = queued.gateway();
                        let relay = record
                            .as_mut()
                            .and_then(|record| streaming.into_relay(&gateway, record));
                        *content = match relay {
                            Some(relay) => Content::Relay(Box::new(relay)),
                            None => Content::Whole(Bytes::new()),
                        };
                        continue;
                    }
                    Next::Refused(refusal) => {
                        if let Some(record) = record {
                            record.refuse_late(&refusal);
                        }
                        *content = Content::Whole(refusal::event(&refusal, queued.reply()));
                        continue;
                    }
                },
            };
            return Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))));
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Relay(_) | Content::Queued(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Relay(_) | Content::Queued(_) => SizeHint::default(),
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
