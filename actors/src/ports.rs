//! What actors need from outside; the engine implements it.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::name::ModelName;
use storage::upstreams::Upstream;

/// Asks upstreams which models they have.
#[async_trait]
pub trait Prober: Send + Sync {
    /// The models that this upstream has now.
    async fn models(&self, upstream: &Upstream) -> Result<Vec<DiscoveredModel>, ProbeError>;
}

/// The clock on the wall.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// A model that an upstream has.
#[derive(Clone, Debug)]
pub struct DiscoveredModel {
    /// Its canonical name.
    pub name: ModelName,
    /// Its name as the upstream spells it.
    pub reported: String,
    /// Its entry in the upstream's list, as JSON, byte for byte.
    pub entry: Arc<str>,
    /// When it was last changed.
    pub modified_at: Option<Timestamp>,
}

/// Why an upstream did not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// It cannot be reached.
    #[error("cannot be reached")]
    Unreachable,
    /// It did not answer in time.
    #[error("did not answer in time")]
    TimedOut,
    /// It answered with that status.
    #[error("answered with status {0}")]
    Status(u16),
    /// Its answer is no list of models.
    #[error("answered with something that is no list of models")]
    Unreadable,
    /// This process lacks what it needs to ask: descriptors, ports or memory.
    #[error("could not be asked: the gateway lacks descriptors, ports or memory")]
    Ours,
    /// The task that asked it ended without an answer: our own fault.
    #[error("could not be asked")]
    Lost,
}

// === impl ProbeError ===

impl ProbeError {
    /// Whether it shows that the server is sick.
    #[must_use]
    pub const fn is_sick(self) -> bool {
        match self {
            Self::Unreachable | Self::TimedOut | Self::Status(500 | 502..=504) => true,
            Self::Status(_) | Self::Unreadable | Self::Ours | Self::Lost => false,
        }
    }
}
