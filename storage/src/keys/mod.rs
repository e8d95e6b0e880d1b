//! API keys: hashes, never secrets.

#[cfg(test)]
mod contract;
mod postgres;
mod row;
mod sqlite;

use async_trait::async_trait;
use identity::models::ModelRule;
use jiff::Timestamp;
use protocol::{
    id::{KeyId, TenantId},
    secret::Secret,
};

use crate::{Revision, error::Result, limits::Limits, tenants::Tenant};

/// Whether a key may be used. Expiry is a date of its own and not a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// It may.
    Active,
    /// It was withdrawn, for good.
    Revoked,
}

/// A key as it is stored, without its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is called; not unique.
    pub name: String,
    /// Its public prefix, unique.
    pub prefix: String,
    /// Whether it may be used: `Revoked` as soon as a revocation of it exists.
    pub status: KeyStatus,
    /// Its own word on models, where it has one.
    pub models: Option<ModelRule>,
    /// Its limits.
    pub limits: Limits,
    /// Whether its prompts are kept.
    pub log_prompts: bool,
    /// When it stops being valid, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The key that takes its place, where it was rotated.
    pub rotated_to: Option<KeyId>,
    /// How often it was changed, with its limits and its budget.
    pub revision: Revision,
}

/// A key to be made.
pub struct NewKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is called.
    pub name: String,
    /// Its public prefix.
    pub prefix: String,
    /// The Argon2id hash of the whole key, as a PHC string.
    pub hash: Secret,
    /// Its own word on models.
    pub models: Option<ModelRule>,
    /// Its limits.
    pub limits: Limits,
    /// Whether its prompts are kept.
    pub log_prompts: bool,
    /// When it stops being valid.
    pub expires_at: Option<Timestamp>,
    /// Now.
    pub at: Timestamp,
}

/// What to change of a key; `None` leaves it, `Some(None)` takes it away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// A new name.
    pub name: Option<String>,
    /// A new word on models.
    pub models: Option<Option<ModelRule>>,
    /// New limits, all of them.
    pub limits: Option<Limits>,
    /// Whether its prompts are kept.
    pub log_prompts: Option<bool>,
    /// A new end.
    pub expires_at: Option<Option<Timestamp>>,
    /// Change it only where it still is of this revision; `None`: whatever it is.
    pub expected: Option<Revision>,
}

/// All that authentication needs, read in one query.
pub struct Credential {
    /// The key.
    pub key: Key,
    /// Its tenant.
    pub tenant: Tenant,
    /// The Argon2id hash of the whole key, as a PHC string.
    pub hash: Secret,
}

/// The keys.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Makes one. [`crate::Error::Conflict`] where the prefix is taken, [`crate::Error::NotFound`]
    /// where the tenant is not there.
    async fn create(&self, new: NewKey) -> Result<Key>;
    /// All of them, or a tenant's, oldest first.
    async fn list(&self, tenant: Option<TenantId>) -> Result<Vec<Key>>;
    /// The one of that id.
    async fn by_id(&self, id: KeyId) -> Result<Option<Key>>;
    /// The one of that public prefix.
    async fn by_prefix(&self, prefix: &str) -> Result<Option<Key>>;
    /// What authentication needs to know of the key with that prefix.
    async fn credential(&self, prefix: &str) -> Result<Option<Credential>>;
    /// The public prefixes of all keys that are not revoked.
    async fn prefixes(&self) -> Result<Vec<String>>;
    /// Changes one and returns it as it is now. [`crate::Error::NotFound`], [`crate::Error::Stale`].
    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key>;
    /// Replaces the hash where it still is `old`; false where it was not.
    async fn rehash(&self, id: KeyId, old: &Secret, new: &Secret) -> Result<bool>;
    /// Makes the new key and lets the old one end at `old_ends_at` (or when it would have anyway,
    /// whichever is earlier), together or not at all. [`crate::Error::NotFound`] where the old key
    /// is not there or is revoked, [`crate::Error::Stale`] where it is of another revision than expected.
    async fn rotate(
        &self,
        old: KeyId,
        new: NewKey,
        old_ends_at: Timestamp,
        expected: Option<Revision>,
    ) -> Result<Key>;
}
