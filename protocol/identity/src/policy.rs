//! How a tenant is served, beyond how much.

use protocol::levers::Levers;
use serde::Serialize;

/// The largest weight.
pub const WEIGHT_MAX: u32 = 1_000;

/// How a tenant is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Its share where requests wait for an upstream, from 1 to [`WEIGHT_MAX`]: who has twice the
    /// weight of another gets twice as many turns.
    pub weight: u32,
    /// How much of a budget a request sets aside before it begins.
    pub reserve: Reserve,
    /// What becomes of a stream that needs more than is left.
    pub exhausted: Exhausted,
    /// What it may ask of model servers at the cost of others.
    #[serde(flatten)]
    pub levers: Levers,
}

/// How much of a budget a request sets aside before it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reserve {
    /// The most that it may use; the upstream is held to it.
    #[default]
    Strict,
    /// What requests of this key and model have used before; more is set aside while it streams.
    Learned,
}

/// What becomes of a stream under [`Reserve::Learned`] that needs more than is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Exhausted {
    /// It ends, as if it had reached its greatest length.
    #[default]
    Stop,
    /// It goes on to its end and is charged, beyond the budget.
    Finish,
}

// === impl Policy ===

impl Default for Policy {
    fn default() -> Self {
        Self {
            weight: 1,
            reserve: Reserve::Strict,
            exhausted: Exhausted::Stop,
            levers: Levers::default(),
        }
    }
}

// === impl Reserve ===

impl Reserve {
    /// The word that stands for it in the database, on the command line and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Learned => "learned",
        }
    }

    /// The one of that word, if there is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Strict, Self::Learned].into_iter().find(|one| one.as_str() == word)
    }
}

// === impl Exhausted ===

impl Exhausted {
    /// The word that stands for it in the database, on the command line and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Finish => "finish",
        }
    }

    /// The one of that word, if there is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Stop, Self::Finish].into_iter().find(|one| one.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back() {
        for reserve in [Reserve::Strict, Reserve::Learned] {
            assert_eq!(Reserve::parse(reserve.as_str()), Some(reserve));
        }
        for exhausted in [Exhausted::Stop, Exhausted::Finish] {
            assert_eq!(Exhausted::parse(exhausted.as_str()), Some(exhausted));
        }
        assert_eq!((Reserve::parse("lax"), Exhausted::parse("")), (None, None));
        assert_eq!(Policy::default().weight, 1);
    }
}
