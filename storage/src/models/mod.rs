//! Prices of models.

#[cfg(test)]
mod contract;
mod postgres;
mod row;
mod sqlite;

use async_trait::async_trait;
use protocol::name::ModelName;

use crate::error::Result;

/// What is known of a model beyond what upstreams say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name that clients ask for.
    pub name: ModelName,
    /// Price of a million prompt tokens, in nanodollars.
    pub prompt_price: Option<u64>,
    /// Price of a million completion tokens, in nanodollars.
    pub completion_price: Option<u64>,
}

/// The models.
#[async_trait]
pub trait Models: Send + Sync {
    /// Adds one or replaces what was known of it.
    async fn put(&self, model: Model) -> Result<()>;
    /// All of them, by name.
    async fn list(&self) -> Result<Vec<Model>>;
    /// Forgets one. [`crate::Error::NotFound`].
    async fn remove(&self, name: &ModelName) -> Result<()>;
}
