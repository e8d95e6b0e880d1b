//! How much a principal may do.

use jiff::Timestamp;
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
    /// Which of them only report.
    pub observed: Observed,
}

/// The limits that refuse nothing: they count and report, so that a new one is tried before it bites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Requests per minute.
    pub rpm: bool,
    /// Tokens per minute.
    pub tpm: bool,
    /// Requests at once.
    pub concurrency: bool,
    /// Tokens per period.
    pub budget: bool,
}

/// So many tokens per period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Tokens, prompt and completion together.
    pub tokens: u64,
    /// The period they are for.
    pub period: LimitPeriod,
    /// How what was used is to be counted.
    pub correction: Correction,
}

/// What an operator has said of what was used of a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Correction {
    /// So many of the tokens that were used before `reset_at`, in its period, do not count.
    pub forgiven: u64,
    /// When the budget was last reset.
    pub reset_at: Option<Timestamp>,
    /// What was counted before is not to be trusted: the ledger is read anew.
    pub read_at: Option<Timestamp>,
}

// === impl Correction ===

impl Correction {
    /// What was forgiven of a period from `start` (none: ever) to `end` (none: still).
    #[must_use]
    pub fn forgiven_since(self, start: Option<Timestamp>, end: Option<Timestamp>) -> u64 {
        let is_within = self.reset_at.is_some_and(|at| {
            start.is_none_or(|start| at >= start) && end.is_none_or(|end| at < end)
        });
        if is_within { self.forgiven } else { 0 }
    }
}

// === impl Budget ===

impl Budget {
    /// So many tokens per period, with nothing corrected.
    #[must_use]
    pub const fn new(tokens: u64, period: LimitPeriod) -> Self {
        let correction = Correction { forgiven: 0, reset_at: None, read_at: None };
        Self { tokens, period, correction }
    }
}

// === impl Observed ===

impl Observed {
    /// The words of those that are observed, as `rpm,tpm`.
    #[must_use]
    pub fn words(self) -> String {
        let Self { rpm, tpm, concurrency, budget } = self;
        let all = [(rpm, "rpm"), (tpm, "tpm"), (concurrency, "concurrency"), (budget, "budget")];
        let words: Vec<_> = all.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
        words.join(",")
    }

    /// Those of these words, if each is one.
    #[must_use]
    pub fn parse(words: &str) -> Option<Self> {
        let mut observed = Self::default();
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            *observed.of(word)? = true;
        }
        Some(observed)
    }

    /// The one of that word, to be changed.
    pub fn of(&mut self, word: &str) -> Option<&mut bool> {
        match word {
            "rpm" => Some(&mut self.rpm),
            "tpm" => Some(&mut self.tpm),
            "concurrency" => Some(&mut self.concurrency),
            "budget" => Some(&mut self.budget),
            _ => None,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgiven_counts_in_its_own_period() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        let (start, end) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
        let reset = |reset_at| Correction { forgiven: 7, reset_at, read_at: None };
        let forgiven = |correction: Correction| correction.forgiven_since(start, end);
        assert_eq!(forgiven(reset(at("2026-11-23T12:00:00Z"))), 7);
        assert_eq!(forgiven(reset(at("2026-10-31T23:59:59Z"))), 0);
        assert_eq!(forgiven(reset(end)), 0);
        assert_eq!(forgiven(reset(None)), 0);
        assert_eq!(reset(end).forgiven_since(None, None), 7);
    }

    #[test]
    fn every_word_reads_back() {
        for words in ["", "rpm", "rpm,tpm", "tpm,concurrency,budget", "rpm,tpm,concurrency,budget"]
        {
            assert_eq!(Observed::parse(words).map(Observed::words).as_deref(), Some(words));
        }
        assert_eq!(Observed::parse(" rpm , "), Observed::parse("rpm"));
        assert_eq!(Observed::parse("rpm,requests"), None);
        for period in [LimitPeriod::Day, LimitPeriod::Month, LimitPeriod::Total] {
            assert_eq!(LimitPeriod::parse(period.as_str()), Some(period));
        }
        assert_eq!(LimitPeriod::parse("week"), None);
    }
}
