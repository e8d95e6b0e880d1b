//! Names that stand for models: `gpt-4o-mini` for `llama3.2`, or `a` for `a` and else `b`.

#[cfg(test)]
mod contract;
mod postgres;
mod row;
mod sqlite;

use async_trait::async_trait;
use protocol::{id::TenantId, name::ModelName};

use crate::error::Result;

/// A name that stands for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// For whom; none: for everybody who has no alias of that name of their own.
    pub tenant: Option<TenantId>,
    /// The name that clients ask for.
    pub name: ModelName,
    /// The models that are meant, tried in this order; at least one.
    pub targets: Vec<ModelName>,
}

/// The aliases.
#[async_trait]
pub trait Aliases: Send + Sync {
    /// Adds one, or replaces the one of that name.
    async fn put(&self, alias: Alias) -> Result<()>;
    /// All of them: everybody's first, then by tenant; by name.
    async fn list(&self) -> Result<Vec<Alias>>;
    /// Removes one. [`crate::Error::NotFound`].
    async fn remove(&self, tenant: Option<TenantId>, name: &ModelName) -> Result<()>;
}
