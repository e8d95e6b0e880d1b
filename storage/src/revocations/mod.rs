//! The withdrawal of keys.
//!
//! A row in `revocations` revokes its key, whoever wrote it: on Postgres an outside console may
//! insert into `gateway.revocations (key_id)` and every replica hears of it.

#[cfg(test)]
mod contract;
mod postgres;
mod row;
mod sqlite;

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::id::KeyId;

use crate::error::Result;

/// One withdrawal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The key.
    pub key: KeyId,
    /// When.
    pub at: Timestamp,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Whether streams in flight are to be cut as well.
    pub cut: bool,
}

/// The revocations.
#[async_trait]
pub trait Revocations: Send + Sync {
    /// Revokes a key; doing so again keeps the first row, to which it can only add the cut.
    /// [`crate::Error::NotFound`].
    async fn revoke(&self, revocation: Revocation) -> Result<()>;
    /// The newest ones first, at most `limit`.
    async fn list(&self, limit: u32) -> Result<Vec<Revocation>>;
    /// The keys whose streams in flight are to be cut as well, for whoever may have missed it.
    async fn cut_keys(&self) -> Result<Vec<KeyId>>;
}
