//! A stream that is answered before its reply has begun: comments tell it its place while it waits for a
//! slot, and that it still goes on while the model is loaded, so that nothing between cuts what is idle.
//!
//! The head of the answer has gone out by then, so that what goes wrong later is an event of the stream.
//! That is why both are off unless somebody asks for them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use protocol::translate::Reply;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::{
    live::Live,
    passage::{Passage, Passed, Step},
    settled::Record,
    streaming::{Streaming, as_sse},
};
use crate::{
    config,
    gateway::Gateway,
    http::{body::ReplyBody, refusal::Refusal},
};

/// What is said where there is no more to say.
const WAITING: Bytes = Bytes::from_static(b": waiting\n\n");
/// What is said while the reply has not begun.
const LOADING: Bytes = Bytes::from_static(b": loading\n\n");

/// The way of a request to its upstream.
pub(super) type Dispatch = Pin<Box<dyn Future<Output = Result<Streaming, Refusal>> + Send>>;

/// How a stream that waits is told so.
pub(super) struct Told {
    /// How often while it waits for a slot; none: that is not told.
    queue: Option<Duration>,
    /// How often while its reply has not begun; none: that is not told.
    loading: Option<Duration>,
    /// The shorter of both.
    shortest: Duration,
    /// How it is to be answered.
    reply: Reply,
}

/// Comments for a request that waits inside its answer.
pub(super) struct Waits {
    passage: Arc<Passage>,
    told: Told,
    next: Pin<Box<Sleep>>,
}

/// Comments for a stream whose reply has a head and nothing more yet.
pub(super) struct Comments {
    every: Duration,
    next: Pin<Box<Sleep>>,
}

/// Waits for the upstream; who waits for longer than is told is answered meanwhile.
pub(super) async fn answer(
    mut dispatch: Dispatch,
    passage: Arc<Passage>,
    told: Told,
    gateway: &Arc<Gateway>,
    record: &mut Record,
) -> Result<Response<ReplyBody>, Refusal> {
    loop {
        let pause = told.pause(&passage.get());
        if pause.is_zero() {
            break;
        }
        if let Ok(streaming) = timeout(pause, &mut dispatch).await {
            return Ok(streaming?.into_response(gateway, record));
        }
    }
    let reply = told.reply.clone();
    // At once: the first comment is due.
    let waits = Waits { passage, told, next: Box::pin(sleep(Duration::ZERO)) };
    let live = Live::queued(dispatch, waits, reply, gateway);
    let mut response = Response::new(ReplyBody::live(live));
    as_sse(response.headers_mut());
    Ok(response)
}

// === impl Told ===

impl Told {
    /// As the settings have it; none where nothing is told.
    pub(super) fn new(settings: &config::Upstream, reply: Reply) -> Option<Self> {
        let (queue, loading) = (settings.queue_comments_every, settings.loading_comments_every);
        let shortest = queue.into_iter().chain(loading).min()?;
        Some(Self { queue, loading, shortest, reply })
    }

    /// How long it is until a comment is due, or until one may be.
    fn pause(&self, passed: &Passed) -> Duration {
        let due = |every: Option<Duration>, since: Instant| {
            every.map_or(self.shortest, |every| every.saturating_sub(since.elapsed()))
        };
        match passed.step {
            Step::Moves => self.shortest,
            Step::Waits(since) => due(self.queue, since),
            Step::Asks(since) => due(self.loading, since),
        }
    }

    /// How often comments come once the answer has begun.
    fn every(&self, passed: &Passed) -> Duration {
        let every = match passed.step {
            Step::Moves => None,
            Step::Waits(_) => self.queue,
            Step::Asks(_) => self.loading,
        };
        every.unwrap_or(self.shortest)
    }
}

// === impl Waits ===

impl Waits {
    /// The next comment, when it is due.
    pub(super) fn poll_comment(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        ready!(self.next.as_mut().poll(cx));
        let passed = self.passage.get();
        self.next.as_mut().reset(Instant::now() + self.told.every(&passed));
        Poll::Ready(comment(&passed))
    }
}

/// Where it stands.
fn comment(passed: &Passed) -> Bytes {
    let Some(standing) = passed.standing else {
        return if matches!(passed.step, Step::Asks(_)) { LOADING } else { WAITING };
    };
    let place = standing.ahead + 1;
    Bytes::from(match standing.expected {
        Some(wait) => format!(": queue position {place}, about {} s\n\n", wait.as_secs() + 1),
        None => format!(": queue position {place}\n\n"),
    })
}

// === impl Comments ===

impl Comments {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, next: Box::pin(sleep(every)) }
    }

    /// The next one, when it is due.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        ready!(self.next.as_mut().poll(cx));
        self.next.as_mut().reset(Instant::now() + self.every);
        Poll::Ready(LOADING)
    }
}
