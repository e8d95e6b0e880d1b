//! Who pays.

#[cfg(test)]
mod contract;
mod postgres;
pub(crate) mod row;
mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use identity::{models::ModelRule, policy::Policy};
use jiff::Timestamp;
use protocol::id::TenantId;

use crate::{Revision, error::Result, limits::Limits};

/// A tenant as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name, unique.
    pub name: String,
    /// Suspended: every request of its keys is refused.
    pub suspended: bool,
    /// Which models its keys may use, unless a key has its own word.
    pub models: ModelRule,
    /// Its limits.
    pub limits: Limits,
    /// How it is served.
    pub policy: Policy,
    /// How long what it did is kept, where that is shorter than for everybody. Whole seconds.
    pub audit_retention: Option<Duration>,
    /// When it was made.
    pub created_at: Timestamp,
    /// How often it was changed, with its limits and its budget.
    pub revision: Revision,
}

/// A tenant to be made.
#[derive(Clone, Debug)]
pub struct NewTenant {
    /// Its name.
    pub name: String,
    /// Which models its keys may use.
    pub models: ModelRule,
    /// Its limits.
    pub limits: Limits,
    /// How it is served.
    pub policy: Policy,
    /// How long what it did is kept, where that is shorter than for everybody. Whole seconds.
    pub audit_retention: Option<Duration>,
    /// Now.
    pub at: Timestamp,
}

/// What to change of a tenant; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct TenantChange {
    /// A new name.
    pub name: Option<String>,
    /// Suspend or resume.
    pub suspended: Option<bool>,
    /// A new model rule.
    pub models: Option<ModelRule>,
    /// New limits, all of them.
    pub limits: Option<Limits>,
    /// How it is served, all of it.
    pub policy: Option<Policy>,
    /// How long what it did is kept; `Some(None)`: as long as everybody's.
    pub audit_retention: Option<Option<Duration>>,
    /// Change it only where it still is of this revision; `None`: whatever it is.
    pub expected: Option<Revision>,
}

/// The tenants.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// Makes one. [`crate::Error::Conflict`] where the name is taken.
    async fn create(&self, new: NewTenant) -> Result<Tenant>;
    /// All of them, by name.
    async fn list(&self) -> Result<Vec<Tenant>>;
    /// The one of that id.
    async fn by_id(&self, id: TenantId) -> Result<Option<Tenant>>;
    /// The one of that name.
    async fn by_name(&self, name: &str) -> Result<Option<Tenant>>;
    /// Changes one and returns it as it is now. [`crate::Error::NotFound`], [`crate::Error::Conflict`],
    /// [`crate::Error::Stale`].
    async fn change(&self, id: TenantId, change: TenantChange) -> Result<Tenant>;
    /// Deletes one with its keys; what was audited and counted stays. [`crate::Error::NotFound`].
    async fn delete(&self, id: TenantId) -> Result<()>;
}
