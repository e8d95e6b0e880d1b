//! How often a child may fail before its fault counts as permanent.

use std::time::Duration;

use ractor::ActorProcessingErr;
use tokio::time::Instant;

const RESTARTS_MAX: u32 = 5;
/// Longer than a window of requests counts what was taken: whoever begins anew after it lets nobody in
/// twice.
const WINDOW: Duration = Duration::from_secs(61);

/// The restarts that a child has left.
pub(crate) struct Restarts {
    window_start: Instant,
    spent: u32,
}

// === impl Restarts ===

impl Restarts {
    pub(crate) fn new() -> Self {
        Self { window_start: Instant::now(), spent: 0 }
    }

    /// Restarting what cannot live only hides the fault: past the limit, the cause is handed back,
    /// and the supervisor fails with it.
    pub(crate) fn spend(&mut self, cause: ActorProcessingErr) -> Result<(), ActorProcessingErr> {
        if self.are_past() {
            *self = Self::new();
        }
        self.spent += 1;
        if self.spent > RESTARTS_MAX {
            self.exhaust();
            return Err(cause);
        }
        Ok(())
    }

    /// There are none left, from now on for a while.
    pub(crate) fn exhaust(&mut self) {
        *self = Self { window_start: Instant::now(), spent: RESTARTS_MAX + 1 };
    }

    /// Whether there were too many.
    pub(crate) fn are_spent(&self) -> bool {
        self.spent > RESTARTS_MAX && !self.are_past()
    }

    /// Whether they no longer count.
    pub(crate) fn are_past(&self) -> bool {
        self.window_start.elapsed() > WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn restarts_are_limited_within_the_window() {
        let mut restarts = Restarts::new();
        for _ in 0..RESTARTS_MAX {
            assert!(restarts.spend("fault".into()).is_ok());
        }
        assert!(restarts.spend("fault".into()).is_err());
        tokio::time::advance(WINDOW + Duration::from_secs(1)).await;
        assert!(restarts.spend("fault".into()).is_ok());
    }
}
