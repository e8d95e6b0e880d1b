//! What becomes known of a request on its way to an upstream, wherever it is known.
//!
//! A request that waits for a slot may be answered already (its place is told meanwhile): then the way
//! goes on inside the answer's body, beside the record. Both see this.

use parking_lot::{Mutex, MutexGuard};
use std::time::Duration;

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
    /// Whether an upstream may have seen it.
    pub sent: bool,
    /// Since when an upstream may be at work on it; `None` where none is: it has not been sent, or the upstream
    /// that had it has failed or refused it.
    pub sent_at: Option<Instant>,
    /// How long it waited for slots before what it does now.
    pub queued: Duration,
    /// How long upstreams took until the head of a reply, before what it does now.
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

// === impl Passed ===

impl Passed {
    /// How long it waited for slots until now.
    #[must_use]
    pub fn queued_so_far(&self) -> Duration {
        match self.step {
            Step::Waits(since) => self.queued + since.elapsed(),
            Step::Moves | Step::Asks(_) => self.queued,
        }
    }

    /// How long upstreams took until now.
    #[must_use]
    pub fn asked_so_far(&self) -> Duration {
        match self.step {
            Step::Asks(since) => self.asked + since.elapsed(),
            Step::Moves | Step::Waits(_) => self.asked,
        }
    }
}

// === impl Passage ===

impl Passage {
    /// How far it has come.
    #[must_use]
    pub fn get(&self) -> Passed {
        self.lock().clone()
    }

    /// Reads a part of it.
    pub fn read<T>(&self, part: impl FnOnce(&Passed) -> T) -> T {
        part(&self.lock())
    }

    /// Takes note.
    pub fn note(&self, change: impl FnOnce(&mut Passed)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Passed> {
        self.0.lock()
    }
}
