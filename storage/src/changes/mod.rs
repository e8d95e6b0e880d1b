//! Word of what other processes changed, so that a running gateway sees it within a second.
//!
//! On Postgres triggers `NOTIFY` and a feed listens; on SQLite triggers write to a table `changes`
//! that a feed polls.

#[cfg(test)]
mod contract;
mod postgres;
mod sqlite;

use async_trait::async_trait;
use protocol::id::{KeyId, TenantId};

use crate::error::Result;

/// One thing that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A tenant, its model rule or its limits; or it was deleted.
    Tenant(TenantId),
    /// A key, its word on models or its limits; or it was made or deleted.
    Key(KeyId),
    /// A key was revoked; `cut`: also its streams in flight.
    Revoked {
        /// The key.
        key: KeyId,
        /// Whether streams in flight are to be cut as well.
        cut: bool,
    },
    /// The list of upstreams.
    Upstreams,
    /// Aliases or prices.
    Models,
    /// Nothing is known of what was missed: anything may have changed. A feed says so first, and
    /// again whenever it had lost its connection.
    Everything,
}

/// Where changes are heard.
#[async_trait]
pub trait Changes: Send + Sync {
    /// Opens a feed of what changes from now on.
    async fn feed(&self) -> Result<Box<dyn Feed>>;
}

/// A sequence of changes.
#[async_trait]
pub trait Feed: Send {
    /// Waits for the next changes; never an empty list. An error means that the feed is deaf until
    /// a later call succeeds, whose first change is then [`Change::Everything`]. Safe to drop.
    async fn next(&mut self) -> Result<Vec<Change>>;
}

/// Adds what is not there yet: a batch names each thing once.
fn merge(changes: &mut Vec<Change>, change: Change) {
    if !changes.contains(&change) {
        changes.push(change);
    }
}
