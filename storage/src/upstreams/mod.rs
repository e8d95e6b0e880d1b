//! Model servers.

#[cfg(test)]
mod contract;
mod postgres;
mod row;
mod sqlite;

use async_trait::async_trait;
use jiff::Timestamp;
pub use protocol::route::UpstreamKind;
use serde::Serialize;

use crate::error::Result;

/// A model server as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Its name, unique.
    pub name: String,
    /// `http://host:port` or `https://…`; with a path where it speaks OpenAI's dialect behind one.
    pub url: String,
    /// Which dialect it speaks.
    pub kind: UpstreamKind,
    /// Requests at once, at least 1; none: as many as come.
    pub slots: Option<u64>,
    /// Whether a connection serves further calls after its first. Without, an upstream that is not trusted cannot
    /// answer a call before it is made.
    pub keep_alive: bool,
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
    /// Changes how many requests one takes at once. [`crate::Error::NotFound`].
    async fn set_slots(&self, name: &str, slots: Option<u64>) -> Result<()>;
    /// Changes whether one's connections serve further calls. [`crate::Error::NotFound`].
    async fn set_keep_alive(&self, name: &str, keep_alive: bool) -> Result<()>;
    /// Removes one. [`crate::Error::NotFound`].
    async fn remove(&self, name: &str) -> Result<()>;
}
