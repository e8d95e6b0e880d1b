//! The limits of a tenant or a key, as they are stored.

pub use identity::limits::{Budget, LimitPeriod, Limits};

use crate::{
    column::Count,
    error::{Error, Result},
};

/// The columns of `tenant_limits` and `key_limits`.
pub(crate) struct LimitColumns {
    pub(crate) rpm: Option<Count>,
    pub(crate) tpm: Option<Count>,
    pub(crate) concurrency: Option<Count>,
    pub(crate) budget_tokens: Option<Count>,
    pub(crate) budget_period: Option<String>,
}

/// Writes one row of limits whole. Asks for the table, its column of the id, and how the period is
/// cast. Bound are the id and then the columns in the order of [`LimitColumns`].
macro_rules! put_limits {
    ($table:literal, $id:literal, $period:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (",
            $id,
            ", rpm, tpm, concurrency, budget_tokens, budget_period)",
            " VALUES ($1, $2, $3, $4, $5, ",
            $period,
            ")",
            " ON CONFLICT (",
            $id,
            ") DO UPDATE SET rpm = excluded.rpm, tpm = excluded.tpm,",
            " concurrency = excluded.concurrency, budget_tokens = excluded.budget_tokens,",
            " budget_period = excluded.budget_period"
        )
    };
}
pub(crate) use put_limits;

// === impl LimitColumns ===

impl From<Limits> for LimitColumns {
    fn from(limits: Limits) -> Self {
        Self {
            rpm: limits.rpm.map(Count),
            tpm: limits.tpm.map(Count),
            concurrency: limits.concurrency.map(Count),
            budget_tokens: limits.budget.map(|budget| Count(budget.tokens)),
            budget_period: limits.budget.map(|budget| budget.period.as_str().to_owned()),
        }
    }
}

impl TryFrom<LimitColumns> for Limits {
    type Error = Error;

    fn try_from(columns: LimitColumns) -> Result<Self> {
        let budget = match (columns.budget_tokens, columns.budget_period) {
            (Some(tokens), Some(word)) => Some(Budget {
                tokens: tokens.0,
                period: LimitPeriod::parse(&word)
                    .ok_or_else(|| Error::unknown_word("budget_period"))?,
            }),
            _ => None,
        };
        Ok(Self {
            rpm: columns.rpm.map(|count| count.0),
            tpm: columns.tpm.map(|count| count.0),
            concurrency: columns.concurrency.map(|count| count.0),
            budget,
        })
    }
}
