//! The machine's clock and randomness, brought in from the edge.

use actors::ports::Clock;
use jiff::Timestamp;
use protocol::id::RequestId;
use uuid::Uuid;

/// The machine's clock.
pub struct SystemClock;

/// The id of a new request.
#[must_use]
pub fn request_id() -> RequestId {
    RequestId(Uuid::now_v7())
}

// === impl SystemClock ===

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
