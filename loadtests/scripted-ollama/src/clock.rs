//! The time that lines bear: fixed by the script, or the machine's when the server started plus
//! what has passed on the runtime's clock, so that paused time holds here too.

use std::fmt::Write;
use std::time::Duration;

use bytes::BytesMut;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Tells the time of a server.
#[derive(Debug)]
pub(crate) struct Clock {
    fixed: Option<Timestamp>,
    base: Timestamp,
    started: Instant,
}

// === impl Clock ===

impl Clock {
    pub(crate) fn new(fixed: Option<Timestamp>, base: Timestamp) -> Self {
        Self { fixed, base, started: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let passed = || SignedDuration::try_from(self.started.elapsed()).unwrap_or_default();
        let running = || self.base.checked_add(passed()).unwrap_or(Timestamp::MAX);
        self.fixed.unwrap_or_else(running)
    }

    /// The time so much later.
    pub(crate) fn after(&self, wait: Duration) -> Timestamp {
        let wait = SignedDuration::try_from(wait).unwrap_or_default();
        self.now().checked_add(wait).unwrap_or(Timestamp::MAX)
    }
}

/// RFC 3339 with as many digits as needed, as Go writes it.
pub(crate) fn write(out: &mut BytesMut, time: Timestamp) {
    let written = write!(out, "{time}");
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_passes_with_the_runtimes_clock_unless_it_is_fixed() {
        let base = Timestamp::constant(1_767_225_600, 0);
        let running = Clock::new(None, base);
        let fixed = Clock::new(Some(base), base);
        tokio::time::advance(Duration::from_millis(1_500)).await;

        let mut out = BytesMut::new();
        write(&mut out, running.now());
        assert_eq!(out, "2026-01-01T00:00:01.5Z");
        assert_eq!(fixed.now(), base);
    }
}
