//! Sums of usage per tenant, key, model and UTC day. Written by [`crate::audit::Audit::append`].

#[cfg(test)]
mod contract;
mod postgres;
mod row;
mod sqlite;

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::id::{KeyId, TenantId};
use serde::Serialize;

use crate::error::Result;

/// By what to sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerBy {
    /// By tenant.
    Tenant,
    /// By key.
    Key,
    /// By model.
    Model,
    /// By UTC day.
    Day,
}

/// Which sums to read.
#[derive(Clone, Copy, Debug)]
pub struct LedgerQuery {
    /// By what.
    pub by: LedgerBy,
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only this key's.
    pub key: Option<KeyId>,
    /// Only days that end after this.
    pub since: Option<Timestamp>,
}

/// One sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerSum {
    /// What it is of: a tenant's name (its id where it was deleted), a key's prefix (likewise), a
    /// model's name (`-` where none was named), a day as `2026-11-23`.
    pub of: String,
    /// Requests.
    pub requests: u64,
    /// Prompt tokens.
    pub prompt: u64,
    /// Completion tokens.
    pub completion: u64,
    /// How many of the requests were counted by estimate.
    pub estimated: u64,
}

// === impl LedgerSum ===

impl LedgerSum {
    /// The tokens of several sums together, prompt and completion.
    #[must_use]
    pub fn tokens(sums: &[Self]) -> u64 {
        let each = sums.iter().map(|sum| sum.prompt.saturating_add(sum.completion));
        each.fold(0, u64::saturating_add)
    }
}

/// The ledger.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Reads sums, by what they are of.
    async fn sums(&self, query: LedgerQuery) -> Result<Vec<LedgerSum>>;
}
