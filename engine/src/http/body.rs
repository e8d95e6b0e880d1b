//! The body of every answer on the data listener.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::pipeline::{
    live::{Aborted, Live},
    settled::Record,
};

/// The bytes of an answer: known whole, or coming bit by bit.
pub struct ReplyBody(Content);

enum Content {
    Whole(Bytes),
    Live(Live),
}

// === impl ReplyBody ===

impl ReplyBody {
    /// A whole body; empty for none.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self(Content::Whole(bytes))
    }

    /// A body that comes bit by bit.
    #[must_use]
    pub fn live(live: Live) -> Self {
        Self(Content::Live(live))
    }

    /// The same body with the record of its request. The record of a whole one is settled here: a client that
    /// does not read it keeps no slot.
    #[must_use]
    pub fn with(mut self, record: Box<Record>) -> Self {
        match &mut self.0 {
            Content::Whole(_) => drop(record),
            Content::Live(live) => live.attach(record),
        }
        self
    }

    /// The same answer without its bytes, for `HEAD`.
    #[must_use]
    pub fn without_bytes(self) -> Self {
        Self::whole(Bytes::new())
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let next = match &mut self.0 {
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Content::Live(live) => ready!(live.poll_bytes(cx)),
        };
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Live(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Live(live) => live.left().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
