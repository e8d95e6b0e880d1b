//! What a stream may use without asking for more.
//!
//! Under the policy `learned` only a part of what a reply can have is set aside of its budget. The next
//! part is asked for before the last one is used up, so that the stream does not stand still; where the
//! answer is late it does, and nothing is used that was not set aside.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actors::tenant::{Asking, Meter as SetAside};
use identity::policy::Exhausted;

/// The least that is asked for at once, in tokens.
const STEP_MIN: u64 = 32;

/// What a stream may use without asking for more.
pub(super) struct Meter {
    set_aside: SetAside,
    /// So many tokens are set aside for the reply.
    allowed: u64,
    /// So many are asked for at once.
    step: u64,
    asking: Option<Asking>,
    /// There is no more.
    is_exhausted: bool,
}

/// Whether a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoesOn {
    Yes,
    No,
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(set_aside: SetAside) -> Self {
        let allowed = set_aside.set_aside;
        let step = (allowed / 2).max(STEP_MIN);
        Self { set_aside, allowed, step, asking: None, is_exhausted: false }
    }

    /// Whether a stream that has had so many tokens may have another one.
    pub(super) fn poll(&mut self, produced: u64, cx: &mut Context<'_>) -> Poll<GoesOn> {
        loop {
            if let Some(asking) = &mut self.asking {
                match Pin::new(asking).poll(cx) {
                    Poll::Ready(given) => {
                        self.asking = None;
                        if given {
                            self.allowed = self.allowed.saturating_add(self.step);
                        } else {
                            self.is_exhausted = true;
                        }
                    }
                    Poll::Pending if produced >= self.allowed => return Poll::Pending,
                    Poll::Pending => return Poll::Ready(GoesOn::Yes),
                }
            }
            if self.is_exhausted {
                let stops = self.set_aside.exhausted == Exhausted::Stop;
                let is_over = produced >= self.allowed;
                return Poll::Ready(if stops && is_over { GoesOn::No } else { GoesOn::Yes });
            }
            if produced + self.step / 2 < self.allowed {
                return Poll::Ready(GoesOn::Yes);
            }
            self.asking = Some(self.set_aside.ask(self.step));
        }
    }
}
