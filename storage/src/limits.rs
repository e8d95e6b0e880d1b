//! The limits of a tenant or a key, as they are stored.

pub use identity::limits::{Budget, Correction, LimitPeriod, Limits, Observed};

use crate::{
    column::{At, Count},
    error::{Error, Result},
};

/// The columns of `tenant_limits` and `key_limits`.
pub(crate) struct LimitColumns {
    pub(crate) rpm: Option<Count>,
    pub(crate) tpm: Option<Count>,
    pub(crate) concurrency: Option<Count>,
    pub(crate) budget_tokens: Option<Count>,
    pub(crate) budget_period: Option<String>,
    pub(crate) observed: Option<String>,
    /// What follows is read only: [`crate::budgets`] writes it.
    pub(crate) budget_forgiven: Option<Count>,
    pub(crate) budget_reset_at: Option<At>,
    pub(crate) budget_read_at: Option<At>,
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
            ", rpm, tpm, concurrency, budget_tokens, budget_period, observed)",
            " VALUES ($1, $2, $3, $4, $5, ",
            $period,
            ", $7)",
            " ON CONFLICT (",
            $id,
            ") DO UPDATE SET rpm = excluded.rpm, tpm = excluded.tpm,",
            " concurrency = excluded.concurrency, budget_tokens = excluded.budget_tokens,",
            " budget_period = excluded.budget_period, observed = excluded.observed"
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
            observed: Some(limits.observed.words()),
            budget_forgiven: None,
            budget_reset_at: None,
            budget_read_at: None,
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
                correction: Correction {
                    forgiven: columns.budget_forgiven.map_or(0, |count| count.0),
                    reset_at: columns.budget_reset_at.map(|at| at.0),
                    read_at: columns.budget_read_at.map(|at| at.0),
                },
            }),
            _ => None,
        };
        Ok(Self {
            rpm: columns.rpm.map(|count| count.0),
            tpm: columns.tpm.map(|count| count.0),
            concurrency: columns.concurrency.map(|count| count.0),
            budget,
            observed: Observed::parse(columns.observed.as_deref().unwrap_or_default())
                .ok_or_else(|| Error::unknown_word("observed"))?,
        })
    }
}
