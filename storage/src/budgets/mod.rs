//! What operators say of what was used of a budget.
//!
//! What was used stands in the ledger and is never changed. A reset says how much of it no longer
//! counts; a reconciliation says that what gateways have counted is to be read from it anew. Both are
//! words in the row of the limits, so that every gateway hears of them as of any other limit.

#[cfg(test)]
mod contract;
mod postgres;
mod row;
mod sqlite;

use async_trait::async_trait;
use protocol::id::{KeyId, TenantId};

use crate::{Revision, error::Result, limits::Correction};

/// Whose budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A tenant's.
    Tenant(TenantId),
    /// A key's.
    Key(KeyId),
}

/// The corrections.
#[async_trait]
pub trait Budgets: Send + Sync {
    /// Replaces what was said before. [`crate::Error::NotFound`] where there are no limits,
    /// [`crate::Error::Stale`] where the owner is of another revision than expected.
    async fn correct(
        &self,
        owner: Owner,
        correction: Correction,
        expected: Option<Revision>,
    ) -> Result<()>;
}
