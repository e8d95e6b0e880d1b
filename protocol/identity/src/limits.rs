//! How much a principal may do.

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

// === impl LimitPeriod ===

impl LimitPeriod {
    /// The word that stands for it in the database, on the command line and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// The period of that word, if there is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "day" => Some(Self::Day),
            "month" => Some(Self::Month),
            "total" => Some(Self::Total),
            _ => None,
        }
    }
}
