//! What clients asked, kept for a while, of those keys that ask for it.

#[cfg(test)]
mod contract;
mod postgres;
mod row;
mod sqlite;

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::id::{KeyId, RequestId};

use crate::error::Result;

/// One request's body. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The request.
    pub request: RequestId,
    /// With which key.
    pub key: KeyId,
    /// When it came.
    pub at: Timestamp,
    /// When it is to be forgotten.
    pub expires_at: Timestamp,
    /// Whether `body` is encrypted.
    pub encrypted: bool,
    /// The body, or its beginning.
    pub body: Vec<u8>,
    /// The length in bytes of the whole body, where only its beginning is kept.
    pub cut_from: Option<u64>,
}

/// The prompts.
#[async_trait]
pub trait Prompts: Send + Sync {
    /// Keeps them. One whose request is kept already, or whose key is gone, is passed over.
    async fn add(&self, prompts: &[Prompt]) -> Result<()>;
    /// The newest ones of a key, at most `limit`.
    async fn list(&self, key: KeyId, limit: u32) -> Result<Vec<Prompt>>;
    /// Removes those whose time is over, at most `limit`; returns how many.
    async fn forget_expired(&self, now: Timestamp, limit: u32) -> Result<u64>;
}

impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prompt({}, {} bytes)", self.request, self.body.len())
    }
}
