//! What becomes known of a request on its way to an upstream, wherever it is known.
//!
//! A request that waits for a slot may be answered already (its place is told meanwhile): then the way
//! goes on inside the answer's body, beside the record. Both see this.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actors::upstream::Standing;
use protocol::name::ModelName;
use tokio::time::Instant;

/// The way of one request to an upstream.
#[derive(Debug, Default)]
pub struct Passage(Mutex<Passed>);

/// How far it has come.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// The model that is asked.
    pub model: Option<ModelName>,
    /// The upstream that is asked.
    pub upstream: Option<String>,
    /// How long it waited for slots; what [`Passed::waits_since`] says comes on top.
    pub queued: Duration,
    /// How long upstreams took until the head of a reply.
    pub asked: Duration,
    /// Its place in the queue when it came there, the first one's being 1.
    pub place: Option<usize>,
    /// Since when it waits for a slot, if it does.
    pub waits_since: Option<Instant>,
    /// Where it stands in the queue, as was last said.
    pub standing: Option<Standing>,
}

// === impl Passed ===

impl Passed {
    /// How long it waited for slots until now.
    #[must_use]
    pub fn queued_so_far(&self) -> Duration {
        self.queued + self.waits_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

// === impl Passage ===

impl Passage {
    /// How far it has come.
    #[must_use]
    pub fn get(&self) -> Passed {
        self.lock().clone()
    }

    /// Takes note.
    pub fn note(&self, change: impl FnOnce(&mut Passed)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Passed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
