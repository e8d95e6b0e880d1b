//! What is shared and quick: windows, slots and budgets of tenants and their keys.
//!
//! [`Admission`] takes batches of operations on one tenant and does each whole, in their order. What
//! stands behind it decides over tenant and key at once: a request is let in by both or by neither.
//!
//! | file | what is in it |
//! |---|---|
//! | `redis/` | the port on Redis or Valkey, for any number of replicas |
//! | `exchange.lua` | what Redis does with a batch |
//! | `contract/` | what everything that stands behind the port owes it |
//!
//! What stands behind it in process is a pure rule (`rules::book` of the crate `actors`), which the
//! actor of a tenant owns and runs without awaiting anything.

use std::time::Duration;

use async_trait::async_trait;
use identity::limits::{LimitPeriod, Limits};
use jiff::Timestamp;
use protocol::id::{KeyId, TenantId};

#[cfg(any(test, feature = "scratch"))]
#[expect(clippy::unwrap_used, clippy::panic, reason = "it is made of tests: a panic is their no")]
pub mod contract;
pub mod redis;

/// One request under way. Unique over all replicas, as long as each draws a replica number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The replica that let it in.
    pub replica: u64,
    /// Its number there.
    pub number: u64,
}

/// Whose limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The tenant's.
    Tenant,
    /// The key's.
    Key,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// The tokens that it is expected to use.
    pub tokens: u64,
    /// The most that it can use, as far as that can be known.
    pub tokens_max: u64,
}

/// A request that wants to begin.
#[derive(Clone, Copy, Debug)]
pub struct Admit {
    /// Its number.
    pub member: Member,
    /// With which key.
    pub key: KeyId,
    /// The limits of the tenant.
    pub tenant_limits: Limits,
    /// The limits of the key.
    pub key_limits: Limits,
    /// What it needs.
    pub need: Need,
}

/// How much of a budget has been used, as the ledger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Of the key's budget, or else of the tenant's.
    pub key: Option<KeyId>,
    /// In which kind of period.
    pub period: LimitPeriod,
    /// When the period began, none for all time. Another one has begun meanwhile: it says nothing.
    pub start: Option<Timestamp>,
    /// So many tokens, of requests that are over.
    pub used: u64,
    /// What had been counted when the ledger was asked: what was counted since is not in it.
    pub counted: u64,
    /// [`identity::limits::Correction::read_at`] of the limits that it was read for.
    pub read_at: Option<Timestamp>,
    /// [`Unknown::memory`] of the answer for which it was read. What is of another one says nothing.
    pub memory: u64,
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A request wants to begin: by tenant and key, or by neither.
    Admit(Admit),
    /// A request that is under way needs so many tokens more of its budgets.
    TopUp {
        /// Which.
        member: Member,
        /// So many.
        more: u64,
        /// The limits of the tenant, as they are now.
        tenant_limits: Limits,
        /// The limits of the key, as they are now.
        key_limits: Limits,
    },
    /// A request is over: what it used takes the place of what it held. Of one that is not there
    /// nothing is known, and nothing is done.
    Settle {
        /// Which.
        member: Member,
        /// Tokens.
        used: u64,
    },
    /// A request was perhaps let in, and nobody heard of it: it never was.
    Cancel {
        /// Which.
        member: Member,
    },
    /// These are still under way. Who is not named for too long is taken for dead.
    Beat {
        /// Which.
        members: Vec<Member>,
    },
    /// One that is under way after all: what it holds was forgotten.
    Register {
        /// Which.
        member: Member,
        /// What it holds, as [`Admitted::held`] said.
        held: String,
    },
    /// So much of a budget has been used.
    SetUsage(Usage),
    /// How the limits of a tenant and of some of its keys stand.
    Look {
        /// The limits of the tenant.
        tenant_limits: Limits,
        /// The keys, with their limits.
        keys: Vec<(KeyId, Limits)>,
    },
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request may begin.
    Admitted(Box<Admitted>),
    /// It may not.
    Refused(Box<Refused>),
    /// It is not known how much of these budgets is used: say so first ([`Operation::SetUsage`]).
    /// Nothing was decided.
    Unknown(Vec<Unknown>),
    /// It gets what it asks for, or not.
    ToppedUp(bool),
    /// Of these nothing is known.
    Missing(Vec<Member>),
    /// The tenant's, and those of the keys in their order.
    Looked(Vec<Standing>),
    /// It is done.
    Done,
}

/// A request may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// What it holds, for [`Operation::Register`]; empty where nobody else needs to know.
    pub held: String,
    /// How the limits stand now.
    pub gauges: Gauges,
    /// Limits that would have refused it, were they not only observed.
    pub observed: Vec<(Scope, Limit)>,
}

/// A limit said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whose.
    pub scope: Scope,
    /// Which, and for how long.
    pub by: Refusal,
    /// How the limits stand.
    pub gauges: Gauges,
}

/// A budget of which it is not known how much is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The key's budget, or else the tenant's.
    pub key: Option<KeyId>,
    /// In which kind of period.
    pub period: LimitPeriod,
    /// When the period began; none for all time.
    pub start: Option<Timestamp>,
    /// From when on nothing counts that was counted before.
    pub read_at: Option<Timestamp>,
    /// What was counted until now, where anything was.
    pub counted: Option<Counted>,
    /// Tokens of this period that were settled since it is not known how much is used.
    pub settled: u64,
    /// Which memory that is: another one since all that was counted was lost.
    pub memory: u64,
}

/// What was counted of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// In which kind of period.
    pub period: LimitPeriod,
    /// When that period began; none for all time.
    pub start: Option<Timestamp>,
    /// So many tokens.
    pub used: u64,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Requests at once.
    Concurrency,
    /// Tokens per period.
    Budget(LimitPeriod),
}

/// A limit says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which one.
    pub what: Limit,
    /// Its value.
    pub limit: u64,
    /// How long it will say so.
    pub wait: Wait,
}

/// How long a refusal holds, if nobody else asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// So long.
    For(Duration),
    /// Until somebody else is done.
    Unknown,
    /// For ever: the limit itself is too low.
    Forever,
}

/// How a limit stands, for whoever wants to pace itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// So much there is.
    pub limit: u64,
    /// So much is left.
    pub remaining: u64,
    /// In so long everything is there again, if nobody asks until then; none where it never is.
    pub reset: Option<Duration>,
}

/// How the limits stand; `None` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Requests per minute.
    pub requests: Option<Gauge>,
    /// Tokens per minute.
    pub tokens: Option<Gauge>,
    /// Tokens per period.
    pub budget: Option<Gauge>,
}

/// How the limits of one party stand, to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Windows and budget.
    pub gauges: Gauges,
    /// Requests under way, on all replicas.
    pub under_way: u64,
}

/// It cannot be decided: what is shared does not answer, or not in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limits cannot be checked: {0}")]
pub struct Unavailable(pub String);

/// Where windows, slots and budgets are kept.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Does operations on one tenant, in their order, and nothing of others in between; answers each.
    /// An error says nothing of what was done.
    async fn exchange(
        &self,
        tenant: TenantId,
        batch: &[Operation],
    ) -> Result<Vec<Answer>, Unavailable>;
}

// === impl Limit ===

impl Limit {
    /// The word that stands for it in metrics and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "rpm",
            Self::Tokens => "tpm",
            Self::Concurrency => "concurrency",
            Self::Budget(_) => "budget",
        }
    }
}

// === impl Scope ===

impl Scope {
    /// The word that stands for it in metrics and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
        }
    }
}

// === impl Gauges ===

impl Gauges {
    /// Of each limit the one that is nearer to its end.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let tighter = |one: Option<Gauge>, two: Option<Gauge>| match (one, two) {
            (Some(one), Some(two)) => Some(if two.remaining < one.remaining { two } else { one }),
            (one, two) => one.or(two),
        };
        Self {
            requests: tighter(self.requests, other.requests),
            tokens: tighter(self.tokens, other.tokens),
            budget: tighter(self.budget, other.budget),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_of_two_gauges_is_told() {
        let gauge = |remaining| Some(Gauge { limit: 9, remaining, reset: None });
        let one = Gauges { requests: gauge(5), ..Gauges::default() };
        let two = Gauges { requests: gauge(2), tokens: gauge(7), budget: None };
        assert_eq!(one.tighter(two), two);
        assert_eq!(two.tighter(one), two);
        assert_eq!(one.tighter(Gauges::default()), one);
    }

    #[test]
    fn each_limit_has_its_word() {
        let all = [Limit::Requests, Limit::Tokens, Limit::Concurrency];
        let words: Vec<_> = all.map(Limit::as_str).into();
        assert_eq!(words, ["rpm", "tpm", "concurrency"]);
        assert_eq!(Limit::Budget(LimitPeriod::Day).as_str(), "budget");
        assert_eq!((Scope::Tenant.as_str(), Scope::Key.as_str()), ("tenant", "key"));
    }
}
