//! A stream that is answered while it still waits for a slot: comments tell it its place.
//!
//! The head of the answer has gone out by then, so that what goes wrong later is an event of the stream.
//! That is why it is off unless somebody asks for it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use protocol::translate::Reply;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::{
    passage::Passage,
    settled::Record,
    streaming::{Streaming, as_sse},
};
use crate::{
    gateway::Gateway,
    http::{body::ReplyBody, refusal::Refusal},
};

/// The way of a request to its upstream.
pub(super) type Dispatch = Pin<Box<dyn Future<Output = Result<Streaming, Refusal>> + Send>>;

/// A request that waits inside its answer.
pub struct Queued {
    dispatch: Dispatch,
    passage: Arc<Passage>,
    gateway: Arc<Gateway>,
    reply: Reply,
    comments: Interval,
}

/// What comes next of it.
pub enum Next {
    /// A comment for the client.
    Comment(Bytes),
    /// Its stream begins.
    Streams(Streaming),
    /// It goes no further.
    Refused(Refusal),
}

/// Waits for the upstream; who waits for a slot for longer than `every` is answered meanwhile, in the
/// dialect of that reply.
pub(super) async fn answer(
    mut dispatch: Dispatch,
    passage: Arc<Passage>,
    (every, reply): (Duration, Reply),
    gateway: &Arc<Gateway>,
    record: &mut Record,
) -> Result<Response<ReplyBody>, Refusal> {
    loop {
        match timeout(every, &mut dispatch).await {
            Ok(streaming) => return Ok(streaming?.into_response(gateway, record)),
            Err(_) if passage.get().waits_since.is_some() => break,
            Err(_) => {}
        }
    }
    let mut comments = interval(every);
    comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let gateway = Arc::clone(gateway);
    let queued = Queued { dispatch, passage, gateway, reply, comments };
    let mut response = Response::new(ReplyBody::queued(queued));
    as_sse(response.headers_mut());
    Ok(response)
}

// === impl Queued ===

impl Queued {
    /// What comes next.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Poll::Ready(dispatched) = self.dispatch.as_mut().poll(cx) {
            return Poll::Ready(match dispatched {
                Ok(streaming) => Next::Streams(streaming),
                Err(refusal) => Next::Refused(refusal),
            });
        }
        self.comments.poll_tick(cx).map(|_| Next::Comment(self.comment()))
    }

    /// How it is to be answered.
    #[must_use]
    pub fn reply(&self) -> &Reply {
        &self.reply
    }

    /// The gateway that it waits in.
    #[must_use]
    pub fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.gateway)
    }

    /// Where it stands.
    fn comment(&self) -> Bytes {
        let Some(standing) = self.passage.get().standing else {
            return Bytes::from_static(b": waiting\n\n");
        };
        let place = standing.ahead + 1;
        Bytes::from(match standing.expected {
            Some(wait) => format!(": queue position {place}, about {} s\n\n", wait.as_secs() + 1),
            None => format!(": queue position {place}\n\n"),
        })
    }
}
