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
    /// How long it waited for slots.
    pub queued: Duration,
    /// How long upstreams took until the head of a reply.
    pub asked: Duration,
    /// Its place in the queue when it came there, the first one's being 1.
    pub place: Option<usize>,
    /// What it does now.
    pub step: Step,
    /// Where it stands in the queue, as was last said.
    pub standing: Option<Standing>,
}

/// What a request does on its way.
#[derive(Clone, Copy, Debug, Default)]
pub enum Step {
    /// Nothing that takes long.
    #[default]
    Moves,
    /// It waits for a slot, since then.
    Waits(Instant),
    /// It has been sent, then, and the head of a reply has not come: the model may be loading.
    Asks(Instant),
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
