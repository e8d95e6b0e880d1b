//! The life of a gateway, in phases.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where a gateway is in its life. It only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It accepts nothing new; what was begun may finish within the time for it.
    Draining,
    /// The time is over: what is still open is cut.
    Cutting,
    /// Everything has ended.
    Stopped,
}

/// Says in which phase the gateway is, and moves it on.
pub struct Life {
    phase: watch::Sender<Phase>,
    draining: CancellationToken,
    cutting: CancellationToken,
    stopped: CancellationToken,
}

// === impl Life ===

impl Life {
    /// A life that begins with serving.
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            draining: CancellationToken::new(),
            cutting: CancellationToken::new(),
            stopped: CancellationToken::new(),
        }
    }

    /// The phase it is in.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on to a later phase; an earlier one changes nothing.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let later = phase > *current;
            *current = phase.max(*current);
            later
        });
        if phase >= Phase::Draining {
            self.draining.cancel();
        }
        if phase >= Phase::Cutting {
            self.cutting.cancel();
        }
        if phase >= Phase::Stopped {
            self.stopped.cancel();
        }
    }

    /// Resolves when nothing new is accepted any more.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Resolves when what is open is cut.
    #[must_use]
    pub fn cutting(&self) -> &CancellationToken {
        &self.cutting
    }

    /// Resolves when everything has ended.
    #[must_use]
    pub fn stopped(&self) -> &CancellationToken {
        &self.stopped
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_only_moves_forward() {
        let life = Life::new();
        life.enter(Phase::Cutting);
        life.enter(Phase::Draining);
        assert_eq!(life.phase(), Phase::Cutting);
        assert!(life.draining().is_cancelled() && life.cutting().is_cancelled());
    }
}
