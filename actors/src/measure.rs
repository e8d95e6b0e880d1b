//! What is measured of every actor alike, and the randomness that spreads their clocks.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use metrics::{counter, histogram};
use protocol::telemetry as names;
use tokio::time::Instant;

/// Measures one message; told when it is dropped.
pub(crate) struct Handling {
    actor: &'static str,
    begun: Instant,
}

// === impl Handling ===

impl Handling {
    /// A message of that kind of actor begins to be handled.
    pub(crate) fn begin(actor: &'static str) -> Self {
        Self { actor, begun: Instant::now() }
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        histogram!(names::ACTOR_HANDLING_SECONDS, "actor" => self.actor)
            .record(self.begun.elapsed());
    }
}

/// An actor of that kind is started again.
pub(crate) fn restarted(actor: &'static str) {
    counter!(names::ACTOR_RESTARTS_TOTAL, "actor" => actor).increment(1);
}

/// The duration, up to a tenth shorter or longer, so that many clocks do not strike together.
pub(crate) fn jittered(duration: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 201;
    duration.mul_f64(0.9 + 0.001 * random as f64)
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
}
