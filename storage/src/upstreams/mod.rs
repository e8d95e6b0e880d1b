//! Model servers.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use crate::error::Result;

/// Which dialect a model server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamKind {
    /// Ollama's own API.
    Ollama,
}

/// A model server as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Its name, unique.
    pub name: String,
    /// `http://host:port` or `https://…`, without a path.
    pub url: String,
    /// Which dialect it speaks.
    pub kind: UpstreamKind,
    /// When it was added.
    pub created_at: Timestamp,
}

/// The upstreams.
#[async_trait]
pub trait Upstreams: Send + Sync {
    /// Adds one. [`crate::Error::Conflict`] where the name is taken.
    async fn add(&self, upstream: Upstream) -> Result<()>;
    /// All of them, by name.
    async fn list(&self) -> Result<Vec<Upstream>>;
    /// Removes one. [`crate::Error::NotFound`].
    async fn remove(&self, name: &str) -> Result<()>;
}
