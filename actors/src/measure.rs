//! What is measured of every actor alike, and the randomness that spreads their clocks.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use metrics::{counter, gauge, histogram};
use protocol::telemetry as names;
use storage::admission::{Limit, Scope};
use tokio::time::Instant;

/// A kind of actor, as metrics and operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Root,
    Tenant,
    Upstream,
    Audit,
    Catalog,
    Sweeper,
}

/// The kinds whose mailboxes requests fill, with the messages that wait in all of them together.
static QUEUED: [(Kind, AtomicUsize); 3] = [
    (Kind::Tenant, AtomicUsize::new(0)),
    (Kind::Upstream, AtomicUsize::new(0)),
    (Kind::Audit, AtomicUsize::new(0)),
];

/// Goes along with a message: it waits in a mailbox until this is dropped.
#[derive(Debug)]
pub(crate) struct Queued(Kind);

/// Measures one message; told when it is dropped.
pub(crate) struct Handling {
    actor: Kind,
    begun: Instant,
}

// === impl Kind ===

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Tenant => "tenant",
            Self::Upstream => "upstream",
            Self::Audit => "audit",
            Self::Catalog => "catalog",
            Self::Sweeper => "sweeper",
        }
    }
}

// === impl Queued ===

impl Queued {
    pub(crate) fn new(kind: Kind) -> Self {
        let queued = Self(kind);
        if let Some(count) = queued.count() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        queued
    }

    fn count(&self) -> Option<&'static AtomicUsize> {
        QUEUED.iter().find(|(kind, _)| *kind == self.0).map(|(_, count)| count)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(count) = self.count() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How many messages of requests wait in the mailboxes of each kind of actor, in this process.
#[must_use]
pub fn mailboxes() -> Vec<(&'static str, usize)> {
    QUEUED.iter().map(|(kind, count)| (kind.as_str(), count.load(Ordering::Relaxed))).collect()
}

/// Publishes [`mailboxes`] as a metric: whoever reads the metrics calls this before.
pub fn publish_mailboxes() {
    for (actor, depth) in mailboxes() {
        gauge!(names::ACTOR_MAILBOX_DEPTH, "actor" => actor).set(depth as f64);
    }
}

// === impl Handling ===

impl Handling {
    /// A message of that kind of actor begins to be handled.
    pub(crate) fn begin(actor: Kind) -> Self {
        Self { actor, begun: Instant::now() }
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        histogram!(names::ACTOR_HANDLING_SECONDS, "actor" => self.actor.as_str())
            .record(self.begun.elapsed());
    }
}

/// An actor of that kind is started again.
pub(crate) fn restarted(actor: Kind) {
    counter!(names::ACTOR_RESTARTS_TOTAL, "actor" => actor.as_str()).increment(1);
}

/// A limit said no, or (`observe`) would have.
pub(crate) fn refusal(scope: Scope, limit: Limit, mode: &'static str) {
    counter!(
        names::LIMIT_REFUSALS_TOTAL,
        "scope" => scope.as_str(), "limit" => limit.as_str(), "mode" => mode
    )
    .increment(1);
}

/// The duration, up to a tenth shorter or longer, so that many clocks do not strike together.
pub(crate) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        for _ in 0..1_000 {
            let jittered = jittered(Duration::from_secs(100));
            assert!((90.0..=110.1).contains(&jittered.as_secs_f64()), "{jittered:?}");
        }
    }

    #[test]
    fn what_waits_is_counted_until_it_is_dropped() {
        let depth = || mailboxes().iter().find(|(kind, _)| *kind == "audit").map(|(_, n)| *n);
        let before = depth();
        let waits: Vec<_> = (0..3).map(|_| Queued::new(Kind::Audit)).collect();
        assert!(depth() >= before.map(|before| before + 3));
        drop(waits);
        drop(Queued::new(Kind::Sweeper));
    }
}
