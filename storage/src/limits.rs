//! The limits of a tenant or a key, as they are stored.

use serde::Serialize;

/// Over which period a budget counts, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitPeriod {
    /// From midnight to midnight.
    Day,
    /// From the first of the month.
    Month,
    /// In all.
    Total,
}

/// Limits; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Requests per minute.
    pub rpm: Option<u64>,
    /// Tokens per minute.
    pub tpm: Option<u64>,
    /// Requests at once.
    pub concurrency: Option<u64>,
    /// Tokens per period.
    pub budget: Option<Budget>,
}

/// So many tokens per period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Tokens, prompt and completion together.
    pub tokens: u64,
    /// The period they are for.
    pub period: LimitPeriod,
}
