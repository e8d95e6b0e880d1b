//! How busy an upstream is: its slots, its queue and its breaker, under a lock beside its actor.

#![expect(
    clippy::disallowed_types,
    reason = "a rule that panicked while it held the lane has left it in the middle of a change: no turn is given any more"
)]

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use metrics::Gauge;
use protocol::{id::TenantId, telemetry as names};
use tokio::time::Instant;

use super::{Arguments, Waiter};
use crate::{
    measure,
    rules::{
        breaker::{self, Ended, Pass},
        lane::Lane,
        moment::Moment,
    },
};

/// What [`Load::open_until`] says of a breaker that is closed.
const CLOSED: u64 = 0;

/// How busy an upstream is, and the way to it.
pub struct Load {
    epoch: Instant,
    pub(super) lane: Mutex<Lane<TenantId, Waiter>>,
    gauges: Gauges,
    /// Its actor is no more: nobody gets a turn here.
    pub(super) is_over: AtomicBool,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    /// As many as may be taken; the largest number where that is as many as come.
    slots: AtomicU64,
    /// The moment at which the breaker lets somebody through; [`CLOSED`] where it does.
    open_until: AtomicU64,
}

/// What is published of it.
struct Gauges {
    slots_taken: Gauge,
    queue_depth: Gauge,
    breaker: Gauge,
}

// === impl Load ===

impl Load {
    pub(super) fn new(arguments: &Arguments) -> Self {
        let Arguments { epoch, record, settings, .. } = arguments;
        let load = Self {
            epoch: *epoch,
            lane: Mutex::new(Lane::new(&settings.lane, record.slots)),
            gauges: Gauges::of(&record.name),
            is_over: AtomicBool::new(false),
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            slots: AtomicU64::new(u64::MAX),
            open_until: AtomicU64::new(CLOSED),
        };
        load.publish(&load.lane());
        load
    }

    /// A turn at once, where a slot is free for it.
    pub(super) fn take(&self, tenant: TenantId) -> Option<Pass<TenantId>> {
        // Where a rule has failed the actor says so.
        let mut lane = self.lane.lock().ok()?;
        if self.is_over.load(Ordering::Acquire) {
            return None;
        }
        let pass = lane.take(tenant, self.now())?;
        self.publish(&lane);
        Some(pass)
    }

    /// A turn is over. `None`: its end is the actor's to hear, since somebody waits for the slot. Else whether
    /// the actor is to probe the upstream.
    pub(super) fn ended(
        &self,
        pass: &Pass<TenantId>,
        ended: Ended,
        took: Duration,
    ) -> Option<bool> {
        // A rule that failed now would end the process.
        if thread::panicking() {
            return None;
        }
        let mut lane = self.lane.lock().ok()?;
        if lane.waiting() > 0 {
            return None;
        }
        let called = lane.ended(pass.again(), ended, took, self.now(), fastrand::f64());
        debug_assert!(called.is_empty(), "nobody waits");
        self.publish(&lane);
        Some(lane.take_doubt())
    }

    pub(super) fn lane(&self) -> MutexGuard<'_, Lane<TenantId, Waiter>> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how busy it is.
    pub(super) fn publish(&self, lane: &Lane<TenantId, Waiter>) {
        let count = usize::try_from(lane.taken()).unwrap_or(usize::MAX);
        self.taken.store(count, Ordering::Relaxed);
        self.waiting.store(lane.waiting(), Ordering::Relaxed);
        self.slots.store(lane.slots().unwrap_or(u64::MAX), Ordering::Relaxed);
        let (until, state) = match lane.breaker() {
            breaker::View::Closed => (CLOSED, 0),
            breaker::View::HalfOpen => (CLOSED, 1),
            breaker::View::Open { until } => (until.millis(), 2),
        };
        self.open_until.store(until, Ordering::Relaxed);
        self.gauges.slots_taken.set(count as f64);
        self.gauges.queue_depth.set(lane.waiting() as f64);
        self.gauges.breaker.set(f64::from(state));
    }

    /// Requests that have a slot or wait for one.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.taken.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed)
    }

    /// Whether somebody who asks now will not have to wait.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed) as u64;
        self.waiting.load(Ordering::Relaxed) == 0 && taken < self.slots.load(Ordering::Relaxed)
    }

    /// For how long nobody is let through; none where somebody is.
    #[must_use]
    pub fn open_for(&self) -> Option<Duration> {
        let until = Moment::from_millis(self.open_until.load(Ordering::Relaxed));
        let left = until.since(self.now());
        (!left.is_zero()).then_some(left)
    }

    pub(super) fn now(&self) -> Moment {
        Moment::default().after(self.epoch.elapsed())
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("requests", &self.requests()).finish_non_exhaustive()
    }
}

// === impl Gauges ===

impl Gauges {
    fn of(upstream: &str) -> Self {
        Self {
            slots_taken: measure::of_upstream(names::UPSTREAM_SLOTS_TAKEN, upstream),
            queue_depth: measure::of_upstream(names::QUEUE_DEPTH, upstream),
            breaker: measure::of_upstream(names::BREAKER_STATE, upstream),
        }
    }
}
