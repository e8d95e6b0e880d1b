//! The metrics of the actors, and the randomness that spreads their clocks.
#![expect(
    clippy::disallowed_macros,
    reason = "the actors' metrics are counted here and nowhere else"
)]

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use metrics::{Gauge, counter, gauge, histogram};
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

/// What is measured of all actors of one kind together, in this process.
struct Measured {
    waiting: AtomicUsize,
    handled: AtomicU64,
    handling_nanos: AtomicU64,
    restarts: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Measures {
    /// The kind.
    pub kind: &'static str,
    /// Messages that wait in their mailboxes.
    pub waiting: usize,
    /// Messages that were handled.
    pub handled: u64,
    /// How long one took on average.
    pub handling_mean: Duration,
    /// How often one was started again.
    pub restarts: u64,
}

/// In the order of [`Kind`].
static MEASURED: [Measured; Kind::ALL.len()] = [const { Measured::new() }; Kind::ALL.len()];

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
    const ALL: [Self; 6] =
        [Self::Root, Self::Tenant, Self::Upstream, Self::Audit, Self::Catalog, Self::Sweeper];

    fn measured(self) -> Option<&'static Measured> {
        MEASURED.get(self as usize)
    }

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

// === impl Measured ===

impl Measured {
    const fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            handling_nanos: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
        }
    }

    fn at(&self, kind: Kind) -> Measures {
        let handled = self.handled.load(Ordering::Relaxed);
        let nanos = self.handling_nanos.load(Ordering::Relaxed);
        Measures {
            kind: kind.as_str(),
            waiting: self.waiting.load(Ordering::Relaxed),
            handled,
            handling_mean: Duration::from_nanos(nanos.checked_div(handled).unwrap_or(0)),
            restarts: self.restarts.load(Ordering::Relaxed),
        }
    }
}

// === impl Queued ===

impl Queued {
    pub(crate) fn new(kind: Kind) -> Self {
        if let Some(measured) = kind.measured() {
            measured.waiting.fetch_add(1, Ordering::Relaxed);
        }
        Self(kind)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(measured) = self.0.measured() {
            measured.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What is measured of each kind of actor, in this process.
#[must_use]
pub fn kinds() -> Vec<Measures> {
    Kind::ALL.iter().filter_map(|kind| Some(kind.measured()?.at(*kind))).collect()
}

/// Publishes [`kinds`] as metrics: whoever reads the metrics calls this before. What never happened
/// is said, too.
pub fn publish() {
    for Measures { kind: actor, waiting, restarts, .. } in kinds() {
        gauge!(names::ACTOR_MAILBOX_DEPTH, "actor" => actor).set(waiting as f64);
        counter!(names::ACTOR_RESTARTS_TOTAL, "actor" => actor).absolute(restarts);
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
        let took = self.begun.elapsed();
        histogram!(names::ACTOR_HANDLING_SECONDS, "actor" => self.actor.as_str()).record(took);
        if let Some(measured) = self.actor.measured() {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            measured.handled.fetch_add(1, Ordering::Relaxed);
            measured.handling_nanos.fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

/// An actor of that kind is started again.
pub(crate) fn restarted(actor: Kind) {
    if let Some(measured) = actor.measured() {
        measured.restarts.fetch_add(1, Ordering::Relaxed);
    }
}

/// A limit said no, or (`observe`) would have.
pub(crate) fn refusal(scope: Scope, limit: Limit, mode: &'static str) {
    counter!(
        names::LIMIT_REFUSALS_TOTAL,
        "scope" => scope.as_str(), "limit" => limit.as_str(), "mode" => mode
    )
    .increment(1);
}

/// The gauge of that name of one upstream, to be kept by its actor.
pub(crate) fn of_upstream(name: &'static str, upstream: &str) -> Gauge {
    gauge!(name, "upstream" => upstream.to_owned())
}

/// The usage of a budget that was counted differs from the ledger's by so many tokens, in that direction.
pub(crate) fn budget_drift(direction: &'static str, tokens: u64) {
    counter!(names::BUDGET_DRIFT_TOKENS_TOTAL, "direction" => direction).increment(tokens);
}

/// So many audit events were stored, and so many wait now.
pub(crate) fn audit_stored(count: usize, waiting: usize) {
    counter!(names::AUDIT_STORED_TOTAL).increment(count as u64);
    gauge!(names::AUDIT_WAITING).set(waiting as f64);
}

/// Storing a batch of audit events failed.
pub(crate) fn audit_failed() {
    counter!(names::AUDIT_FAILURES_TOTAL).increment(1);
}

/// A refusal was counted in a folded audit event, and has none of its own.
pub(crate) fn audit_folded() {
    counter!(names::AUDIT_FOLDED_TOTAL).increment(1);
}

/// An event was dropped: there was no place for it, for that reason.
pub(crate) fn audit_dropped(reason: &'static str) {
    counter!(names::AUDIT_DROPPED_TOTAL, "reason" => reason).increment(1);
}

/// The refusal of a caller without a valid key was not written down.
pub(crate) fn audit_sampled_out() {
    counter!(names::AUDIT_SAMPLED_OUT_TOTAL).increment(1);
}

/// The catalog has so many models.
pub(crate) fn catalog_models(count: usize) {
    gauge!(names::CATALOG_MODELS).set(count as f64);
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
        for kind in Kind::ALL {
            assert_eq!(kinds()[kind as usize].kind, kind.as_str());
            let depth = || kinds()[kind as usize].waiting;
            // Other tests of the process may have messages waiting, too.
            let waits: Vec<_> = (0..1_000).map(|_| Queued::new(kind)).collect();
            assert!(depth() >= 1_000);
            drop(waits);
            assert!(depth() < 1_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_handled_is_counted_with_its_time() {
        let begun = Handling::begin(Kind::Sweeper);
        let before = kinds()[Kind::Sweeper as usize];
        tokio::time::advance(Duration::from_secs(1_000)).await;
        drop(begun);
        let after = kinds()[Kind::Sweeper as usize];
        assert!(after.handled > before.handled);
        assert!(after.handling_mean > Duration::ZERO);
    }
}
