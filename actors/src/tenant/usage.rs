//! How much of a budget is used, from the ledger.

use std::sync::Arc;

use identity::limits::Budget;
use jiff::Timestamp;
use protocol::id::TenantId;
use storage::{
    admission::{Unknown, Usage},
    ledger::{Ledger, LedgerBy, LedgerQuery, LedgerSum},
};

use crate::{audit, measure};

/// Reads it.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) tenant: TenantId,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) audit: audit::Handle,
}

// === impl Reader ===

impl Reader {
    /// How much of a budget is used. What was counted of it until now is compared with what is written,
    /// where both speak of requests that are over.
    pub(super) async fn read(&self, unknown: Unknown, budget: Budget) -> storage::Result<Usage> {
        // What is counted was recorded before: once that is stored, the ledger has it.
        self.audit.store_recorded().await;
        let Unknown { key, period, start, read_at, counted, settled, memory } = unknown;
        let sum = self.sum(&unknown, start).await?;
        let used = sum.saturating_sub(budget.correction.forgiven_since(start, None));
        let counted = counted.filter(|counted| counted.period == period);
        let mut of_now = settled;
        if let Some(counted) = counted {
            of_now = if counted.start == start { counted.used } else { 0 };
            let written = if counted.start == start {
                used
            } else {
                let before = self.sum(&unknown, counted.start).await?.saturating_sub(sum);
                before.saturating_sub(budget.correction.forgiven_since(counted.start, start))
            };
            self.compare(&unknown, counted.used, written);
        }
        Ok(Usage { key, period, start, used, counted: of_now, read_at, memory })
    }

    async fn sum(&self, unknown: &Unknown, since: Option<Timestamp>) -> storage::Result<u64> {
        let by = if unknown.key.is_some() { LedgerBy::Key } else { LedgerBy::Tenant };
        let query = LedgerQuery { by, tenant: Some(self.tenant), key: unknown.key, since };
        Ok(LedgerSum::tokens(&self.ledger.sums(query).await?))
    }

    fn compare(&self, unknown: &Unknown, counted: u64, written: u64) {
        let difference = counted.abs_diff(written);
        if difference == 0 {
            return;
        }
        let direction = if counted > written { "over" } else { "under" };
        measure::budget_drift(direction, difference);
        let (tenant, key) = (self.tenant, unknown.key.map(tracing::field::display));
        tracing::warn!(%tenant, key, counted, written, "the count of a budget differs from the ledger");
    }
}
