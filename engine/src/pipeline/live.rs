//! An answer on its way, shared by the body that the client reads and by the watch that ends it in time.
//!
//! hyper polls a body only while the client reads. A client that does not read must not keep the upstream's
//! connection, a slot, or a reservation. So time has an owner of its own: the watch is a task beside the
//! body. Where a limit of time is over, the key is revoked with `cut`, or the gateway stops, the watch drops
//! the upstream's half and settles the record, whether or not the client reads. What the client is still to be
//! told waits in the body.
//!
//! | what is waited for | for how long |
//! |---|---|
//! | the upstream's next bytes | `upstream.gap_timeout` |
//! | the client, which has bytes to take | `server.write_timeout` |
//! | the end of the stream | `upstream.total_timeout` |

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use protocol::{error::Code, outcome::Outcome, translate::Reply};
use tokio::time::{Instant, sleep_until};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    queued::{Dispatch, Waits},
    relay::{self, Flow},
    settled::Record,
};
use crate::{
    gateway::Gateway,
    http::{refusal, room::Held},
    phase::Phase,
};

/// The longest piece of a whole reply that goes out at once, in bytes: what is handed out no longer counts as
/// room that is taken.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// An answer that comes bit by bit. Dropped, it ends: the upstream's half is closed and the record is settled.
pub struct Live {
    shared: Arc<Shared>,
    /// What the watch waits for besides time, until it is started.
    start: Option<Start>,
    watch: Option<AbortOnDropHandle<()>>,
}

/// A part of the answer is missing, and the client must see that.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the answer is cut off")]
pub struct Aborted;

/// What the watch is started with.
enum Start {
    /// The reply has begun. The token is cancelled when the stream is to be cut.
    Begun(CancellationToken),
    /// The reply has not begun; how it is to be answered.
    Queued(Dispatch, Reply),
}

struct Shared {
    gateway: Arc<Gateway>,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    /// The record of the request, once it is known. Taken when the request is settled.
    record: Option<Box<Record>>,
    pace: Pace,
    /// The body waits for something that the watch may end.
    waker: Option<Waker>,
}

enum Stage {
    /// The request waits for its turn, or for the head of the reply.
    Queued(Waits),
    /// The reply flows.
    Flows(Box<Flow>),
    /// A whole reply is handed out piece by piece, with the room that it takes.
    Rest { body: Bytes, _room: Held },
    /// This is left to say.
    Last(Bytes),
    /// The client must see that something is missing.
    Broken,
}

/// Since when an answer waits, and for what.
pub(super) struct Pace {
    gap: Duration,
    unread: Duration,
    total: Instant,
    since: Instant,
    waits_for: WaitsFor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    Upstream,
    Client,
    /// The answer of the limits, which always comes.
    Limits,
}

/// Why an answer ends before its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct BrokenOff {
    pub(super) outcome: Outcome,
    pub(super) code: Code,
    /// Whether the upstream is to blame, which counts for its breaker.
    pub(super) is_upstreams: bool,
}

/// What is settled once the lock is released.
type Done = (Option<Box<Flow>>, Option<Box<Record>>);

// === impl Live ===

impl Live {
    /// A reply whose head has come.
    pub(super) fn begun(flow: Flow, cut: CancellationToken, gateway: &Arc<Gateway>) -> Self {
        Self::new(Stage::Flows(Box::new(flow)), Some(Start::Begun(cut)), gateway)
    }

    /// A request that waits for its reply inside the answer.
    pub(super) fn queued(
        dispatch: Dispatch,
        waits: Waits,
        reply: Reply,
        gateway: &Arc<Gateway>,
    ) -> Self {
        Self::new(Stage::Queued(waits), Some(Start::Queued(dispatch, reply)), gateway)
    }

    /// A whole reply, and the room that it takes until the client has read it.
    pub(super) fn whole(body: Bytes, room: Held, gateway: &Arc<Gateway>) -> Self {
        let cut = gateway.life.cutting().clone();
        let live = Self::new(Stage::Rest { body, _room: room }, Some(Start::Begun(cut)), gateway);
        live.shared.state.lock().pace.waits_for = WaitsFor::Client;
        live
    }

    fn new(stage: Stage, start: Option<Start>, gateway: &Arc<Gateway>) -> Self {
        let state = State { stage, record: None, pace: Pace::of(gateway), waker: None };
        let shared = Shared { gateway: Arc::clone(gateway), state: Mutex::new(state) };
        Self { shared: Arc::new(shared), start, watch: None }
    }

    /// How many bytes are left of the answer, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match &self.shared.state.lock().stage {
            Stage::Rest { body: rest, .. } => Some(rest.len() as u64),
            Stage::Queued(_) | Stage::Flows(_) | Stage::Last(_) | Stage::Broken => None,
        }
    }

    /// Ties the record to the answer, and starts the watch.
    pub(crate) fn attach(&mut self, record: Box<Record>) {
        {
            let mut state = self.shared.state.lock();
            // Of a reply that is whole, nothing more will be known: its record is settled now.
            if matches!(state.stage, Stage::Queued(_) | Stage::Flows(_)) {
                state.record = Some(record);
            }
        }
        let Some(start) = self.start.take() else { return };
        let shared = Arc::clone(&self.shared);
        let task = self.shared.gateway.streams.spawn(async move {
            let cut = match start {
                Start::Begun(cut) => cut,
                Start::Queued(dispatch, reply) => {
                    let dispatched = dispatch.await;
                    match shared.dispatched(dispatched, &reply) {
                        Some(cut) => cut,
                        None => shared.gateway.life.cutting().clone(),
                    }
                }
            };
            shared.watch(&cut).await;
        });
        self.watch = Some(AbortOnDropHandle::new(task));
    }

    /// The next bytes for the client, as soon as there are any; `None` at the end.
    pub(crate) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Aborted>>> {
        let mut state = self.shared.state.lock();
        let polled = state.poll(cx);
        let done = state.take_done();
        drop(state);
        settle(done);
        polled
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // First of all: the watch must not start over with what is taken away now.
        drop(self.watch.take());
        let mut state = self.shared.state.lock();
        let done = state.end();
        drop(state);
        settle(done);
    }
}

/// Outside of the lock: what is closed and written down here is nothing for others to wait for.
fn settle((mut flow, mut record): Done) {
    if let (Some(flow), Some(record)) = (&mut flow, &mut record) {
        flow.settle(record);
    }
    // The upstream first: nothing more is to be made of what is written down as over.
    drop(flow);
    drop(record);
}

// === impl Shared ===

impl Shared {
    /// The request has come through, or it has not. Says what cuts the stream that has begun.
    fn dispatched(
        self: &Arc<Self>,
        dispatched: Result<super::streaming::Streaming, refusal::Refusal>,
        reply: &Reply,
    ) -> Option<CancellationToken> {
        let mut state = self.state.lock();
        let State { stage, record, pace, waker } = &mut *state;
        let known = record.as_mut()?;
        let begun = match dispatched {
            Ok(streaming) => streaming.into_flow(&self.gateway, known),
            Err(refusal) => {
                known.refuse_late(&refusal);
                *stage = Stage::Last(refusal::event(&refusal, reply));
                None
            }
        };
        let cut = begun.map(|(flow, cut)| {
            *stage = Stage::Flows(Box::new(flow));
            *pace = Pace::of(&self.gateway);
            cut
        });
        let settled = if cut.is_none() { record.take() } else { None };
        if let Some(waker) = waker.take() {
            waker.wake();
        }
        drop(state);
        drop(settled);
        cut
    }

    /// Ends the answer when its time is over, or when it is cut.
    async fn watch(&self, cut: &CancellationToken) {
        loop {
            let due = self.state.lock().pace.due(Instant::now());
            let cut_off = tokio::select! {
                biased;
                () = cut.cancelled() => true,
                () = sleep_until(due) => false,
            };
            let mut state = self.state.lock();
            let why = if !cut_off {
                match state.pace.over(Instant::now()) {
                    Some(over) => over,
                    None => continue,
                }
            } else if self.gateway.life.phase() >= Phase::Cutting {
                let (outcome, code) = (Outcome::Stopped, Code::ShuttingDown);
                BrokenOff { outcome, code, is_upstreams: false }
            } else {
                let (outcome, code) = (Outcome::Refused, Code::KeyRevoked);
                BrokenOff { outcome, code, is_upstreams: false }
            };
            let done = state.break_off(why);
            drop(state);
            return settle(done);
        }
    }
}

// === impl State ===

impl State {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Aborted>>> {
        let polled = match &mut self.stage {
            Stage::Queued(waits) => waits.poll_comment(cx).map(|comment| Some(Ok(comment))),
            Stage::Flows(flow) => match flow.poll_next(cx, &mut self.pace) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(relay::Next::Bytes(bytes)) => {
                    self.pace.waits_for = WaitsFor::Client;
                    if let Some(record) = &mut self.record {
                        record.first_byte();
                    }
                    Poll::Ready(Some(Ok(bytes)))
                }
                Poll::Ready(relay::Next::Comment(bytes)) => Poll::Ready(Some(Ok(bytes))),
                Poll::Ready(relay::Next::Over) => Poll::Ready(None),
                Poll::Ready(relay::Next::Aborted) => Poll::Ready(Some(Err(Aborted))),
            },
            Stage::Rest { body: rest, .. } => {
                let piece = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
                self.pace.since = Instant::now();
                Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
            }
            Stage::Last(last) => {
                let last = std::mem::take(last);
                Poll::Ready((!last.is_empty()).then_some(Ok(last)))
            }
            Stage::Broken => Poll::Ready(Some(Err(Aborted))),
        };
        if let Stage::Rest { body: rest, .. } = &self.stage
            && rest.is_empty()
        {
            self.stage = Stage::Last(Bytes::new());
        }
        if polled.is_pending() {
            self.park(cx);
        }
        polled
    }

    /// The watch wakes this task when it ends the answer.
    fn park(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    /// What is to be settled because the upstream's half is over.
    fn take_done(&mut self) -> Done {
        let is_over = matches!(&self.stage, Stage::Flows(flow) if flow.is_over());
        if is_over { self.end() } else { (None, None) }
    }

    /// Ends what is under way, and takes it away.
    fn end(&mut self) -> Done {
        match std::mem::replace(&mut self.stage, Stage::Last(Bytes::new())) {
            Stage::Flows(flow) => (Some(flow), self.record.take()),
            Stage::Queued(_) => (None, self.record.take()),
            other => {
                self.stage = other;
                (None, None)
            }
        }
    }

    /// Ends the answer from outside: what the client is still to be told waits for it.
    fn break_off(&mut self, why: BrokenOff) -> Done {
        let left = match &mut self.stage {
            Stage::Flows(flow) => match flow.break_off(why) {
                relay::Next::Bytes(bytes) => Stage::Last(bytes),
                _ => Stage::Broken,
            },
            // Its length was announced, so that the client sees that the rest is missing.
            Stage::Rest { .. } => Stage::Broken,
            Stage::Queued(_) | Stage::Last(_) | Stage::Broken => return (None, None),
        };
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        match std::mem::replace(&mut self.stage, left) {
            Stage::Flows(flow) => (Some(flow), self.record.take()),
            _ => (None, None),
        }
    }
}

// === impl Pace ===

impl Pace {
    fn of(gateway: &Gateway) -> Self {
        let now = Instant::now();
        Self {
            gap: gateway.upstream.gap_timeout,
            unread: gateway.server.write_timeout,
            total: now + gateway.upstream.total_timeout,
            since: now,
            waits_for: WaitsFor::Upstream,
        }
    }

    /// Something has come from the upstream.
    pub(super) fn heard(&mut self) {
        (self.since, self.waits_for) = (Instant::now(), WaitsFor::Upstream);
    }

    /// The client has read all that there was.
    pub(super) fn waits_for_upstream(&mut self) {
        if self.waits_for != WaitsFor::Upstream {
            self.heard();
        }
    }

    /// The stream may have no more before the limits have answered.
    pub(super) fn waits_for_limits(&mut self) {
        self.waits_for = WaitsFor::Limits;
    }

    /// When it is to be looked at again. What is waited for may change meanwhile, so that it is never later than
    /// the shortest limit from now on.
    fn due(&self, now: Instant) -> Instant {
        let current = match self.waits_for {
            WaitsFor::Upstream => self.since + self.gap,
            WaitsFor::Client => self.since + self.unread,
            WaitsFor::Limits => self.total,
        };
        self.total.min(current).min(now + self.gap.min(self.unread))
    }

    /// Which limit is over. A client's pause is never the upstream's fault, and neither is a long reply.
    fn over(&self, now: Instant) -> Option<BrokenOff> {
        let waited = now.saturating_duration_since(self.since);
        let timed_out =
            |code, is_upstreams| Some(BrokenOff { outcome: Outcome::TimedOut, code, is_upstreams });
        match self.waits_for {
            WaitsFor::Client if waited >= self.unread => timed_out(Code::ReplyUnread, false),
            WaitsFor::Upstream if waited >= self.gap => timed_out(Code::UpstreamTimeout, true),
            _ if now >= self.total => timed_out(Code::UpstreamTimeout, false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(gap: u32, unread: u32, total: u32) -> Pace {
        let since = Instant::now();
        let (gap, unread) = (gap * SECOND, unread * SECOND);
        Pace { gap, unread, total: since + total * SECOND, since, waits_for: WaitsFor::Upstream }
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_limit_and_only_the_upstreams_is_its_fault() {
        let mut pace = pace(60, 30, 600);
        let over =
            |pace: &Pace| pace.over(Instant::now()).map(|over| (over.code, over.is_upstreams));
        tokio::time::advance(59 * SECOND).await;
        assert_eq!(over(&pace), None);
        tokio::time::advance(SECOND).await;
        assert_eq!(over(&pace), Some((Code::UpstreamTimeout, true)));
        pace.heard();
        pace.waits_for = WaitsFor::Client;
        tokio::time::advance(30 * SECOND).await;
        assert_eq!(over(&pace), Some((Code::ReplyUnread, false)));
        // The client reads on: the upstream's time begins now, and not when it last sent something.
        pace.waits_for_upstream();
        tokio::time::advance(59 * SECOND).await;
        assert_eq!(over(&pace), None);
        pace.waits_for_limits();
        tokio::time::advance(600 * SECOND).await;
        assert_eq!(over(&pace), Some((Code::UpstreamTimeout, false)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_looks_before_any_limit_that_may_begin_meanwhile() {
        for (gap, unread) in [(60, 30), (30, 60), (7, 7)] {
            let mut pace = pace(gap, unread, 600);
            let mut looks = 0;
            let began = Instant::now();
            pace.waits_for = WaitsFor::Client;
            while pace.over(Instant::now()).is_none() {
                tokio::time::sleep_until(pace.due(Instant::now())).await;
                looks += 1;
            }
            assert_eq!(began.elapsed(), unread * SECOND, "{gap} {unread}");
            assert!(looks <= 3, "{looks}");
        }
    }
}
