//! What one party (a tenant, or a key) may do: its windows, its slots and its budget together.

use std::time::Duration;

use identity::limits::{LimitPeriod, Limits};
use jiff::Timestamp;
use storage::admission::{
    Counted, Gauge, Gauges, Limit, Need, Refusal, Standing, Unknown, Usage, Wait,
};

use super::{
    budget::{Budget, Reserved, follow},
    moment::Moment,
    slots::Slots,
    window::{Taken, Window},
};

#[cfg(test)]
mod tests;

/// The state of one party.
#[derive(Debug)]
pub struct Account {
    limits: Limits,
    requests: Option<Window>,
    tokens: Option<Window>,
    /// Without a limit of its own: that is compared here, since it may be only observed.
    slots: Slots,
    /// None where there is no budget, or nobody has said yet how much of it is used.
    budget: Option<Known>,
    /// Counts the windows and budgets there have been: what was taken from one that is gone is none
    /// of another's.
    version: u64,
    requests_version: u64,
    tokens_version: u64,
    budget_version: u64,
    latest: Timestamp,
}

/// A budget, with what it was read for.
#[derive(Debug)]
struct Known {
    budget: Budget,
    read_at: Option<Timestamp>,
}

/// Now, on both clocks: windows follow the one that never jumps, budgets the one on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the beginning of the process.
    pub moment: Moment,
    /// On the wall.
    pub wall: Timestamp,
}

/// What one request holds of an account.
#[derive(Debug)]
#[must_use = "what is held is given back with this"]
pub struct Held {
    requests: Option<(u64, Taken)>,
    tokens: Option<(u64, Taken)>,
    budget: Option<(u64, Reserved)>,
}

// === impl Account ===

impl Account {
    /// A party that has done nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            requests: limits.rpm.map(Window::new),
            tokens: limits.tpm.map(Window::new),
            slots: Slots::new(u64::MAX),
            budget: None,
            limits,
            version: 0,
            requests_version: 0,
            tokens_version: 0,
            budget_version: 0,
            latest: Timestamp::MIN,
        }
    }

    /// From now on these are the limits.
    pub fn set_limits(&mut self, limits: Limits) {
        if self.limits == limits {
            return;
        }
        if self.limits.rpm.is_some() != limits.rpm.is_some() {
            self.requests_version = self.next_version();
        }
        if self.limits.tpm.is_some() != limits.tpm.is_some() {
            self.tokens_version = self.next_version();
        }
        self.limits = limits;
        set(&mut self.requests, limits.rpm);
        set(&mut self.tokens, limits.tpm);
        match (&mut self.budget, limits.budget) {
            (Some(known), Some(limit)) => known.budget.set_limit(limit.tokens),
            _ => self.budget = None,
        }
    }

    /// Where it is not known how much of the budget is used: in which period, and what was counted.
    /// `key`: whose account this is, for the answer.
    pub fn unknown(&mut self, key: Option<protocol::id::KeyId>, now: Now) -> Option<Unknown> {
        let limit = self.limits.budget?;
        let start = self.start_of(limit.period, now);
        let read_at = limit.correction.read_at;
        let mut known = self.budget.as_mut().map(|known| (&mut known.budget, known.read_at));
        let is_known = known.as_mut().is_some_and(|(budget, last_read)| {
            budget.is_told(now.wall) && budget.period() == limit.period && *last_read >= read_at
        });
        if is_known {
            return None;
        }
        let counted = known.map(|(budget, _)| {
            (
                budget.is_stale(),
                Counted {
                    period: budget.period(),
                    start: budget.told_start(),
                    used: budget.counted(),
                },
            )
        });
        let is_this = |counted: &Counted| counted.period == limit.period && counted.start == start;
        let settled = match &counted {
            Some((true, counted)) if is_this(counted) => counted.used,
            _ => 0,
        };
        let counted = counted.and_then(|(is_stale, counted)| (!is_stale).then_some(counted));
        Some(Unknown { key, period: limit.period, start, read_at, counted, settled, memory: 0 })
    }

    /// So much of the budget has been used by requests that are over. What is under way of it goes on;
    /// what was counted since the ledger was asked is added. Word of another period says nothing.
    pub fn set_usage(&mut self, usage: Usage, now: Now) {
        let start = self.start_of(usage.period, now);
        let limit = self.limits.budget.filter(|limit| limit.period == usage.period);
        let Some(limit) = limit.filter(|_| usage.start == start) else { return };
        let Usage { period, used, counted, read_at, .. } = usage;
        match &mut self.budget {
            Some(known) => {
                let is_told = known.budget.is_told(now.wall);
                let is_same = known.budget.period() == period && known.budget.told_start() == start;
                if is_same && is_told && known.read_at >= read_at {
                    return;
                }
                let since =
                    if is_same { known.budget.counted().saturating_sub(counted) } else { 0 };
                known.budget.set_period(period, used.saturating_add(since), now.wall);
                known.read_at = read_at;
            }
            None => {
                self.budget_version = self.next_version();
                let budget = Budget::new(limit.tokens, period, used, now.wall);
                self.budget = Some(Known { budget, read_at });
            }
        }
    }

    /// Whether a request may begin. Changes nothing. Says which limits would have said no, were they
    /// not only observed.
    ///
    /// # Errors
    /// [`Refusal`] by the first limit that says no.
    pub fn check(&mut self, need: Need, now: Now) -> Result<Vec<Limit>, Refusal> {
        let mut observed = Vec::new();
        for (refusal, is_observed) in self.refusals(need, now) {
            if !is_observed {
                return Err(refusal);
            }
            observed.push(refusal.what);
        }
        Ok(observed)
    }

    fn refusals(&mut self, need: Need, now: Now) -> Vec<(Refusal, bool)> {
        let mut refusals = Vec::new();
        let observed = self.limits.observed;
        let windows = [
            (Limit::Requests, &mut self.requests, 1, observed.rpm),
            (Limit::Tokens, &mut self.tokens, need.tokens, observed.tpm),
        ];
        for (what, window, amount, is_observed) in windows {
            let Some(window) = window else { continue };
            if let Err(refused) = window.check(amount, now.moment) {
                let wait = refused.at.map_or(Wait::Forever, |at| Wait::For(at.since(now.moment)));
                refusals.push((Refusal { what, limit: window.limit(), wait }, is_observed));
            }
        }
        if let Some(Known { budget, .. }) = &mut self.budget
            && let Err(refused) = budget.check(need.tokens_max, now.wall)
        {
            let what = Limit::Budget(budget.period());
            let wait = refused.at.map_or(Wait::Forever, |at| Wait::For(until(at, now.wall)));
            refusals.push((Refusal { what, limit: budget.limit(), wait }, observed.budget));
        }
        if let Some(limit) = self.limits.concurrency
            && self.slots.taken() >= limit
        {
            let wait = if limit == 0 { Wait::Forever } else { Wait::Unknown };
            refusals
                .push((Refusal { what: Limit::Concurrency, limit, wait }, observed.concurrency));
        }
        refusals
    }

    /// Takes what a request needs, which was checked just before: nothing says no here.
    pub fn take(&mut self, need: Need, now: Now) -> Held {
        self.slots.take();
        let requests = self.requests.as_mut().map(|window| window.take_anyway(1, now.moment));
        let tokens = self.tokens.as_mut().map(|window| window.take_anyway(need.tokens, now.moment));
        let budget = self
            .budget
            .as_mut()
            .map(|known| known.budget.reserve_anyway(need.tokens_max, now.wall));
        Held {
            requests: requests.map(|taken| (self.requests_version, taken)),
            tokens: tokens.map(|taken| (self.tokens_version, taken)),
            budget: budget.map(|reserved| (self.budget_version, reserved)),
        }
    }

    /// Whether a request that is under way may have more of the budget. Changes nothing.
    pub fn has_more(&mut self, held: &Held, more: u64, now: Now) -> bool {
        match (&mut self.budget, &held.budget) {
            (Some(known), Some((version, reserved))) if *version == self.budget_version => {
                self.limits.observed.budget || known.budget.has_more(reserved, more, now.wall)
            }
            _ => true,
        }
    }

    /// Gives it more, which was checked just before.
    pub fn top_up(&mut self, held: &Held, more: u64, now: Now) {
        if let (Some(known), Some((version, reserved))) = (&mut self.budget, &held.budget)
            && *version == self.budget_version
        {
            known.budget.top_up(reserved, more, now.wall);
        }
    }

    /// A request is over, with so many tokens used.
    pub fn settle(&mut self, held: Held, used: u64, now: Now) {
        self.slots.give_back();
        if let (Some(window), Some((version, taken))) = (&mut self.tokens, held.tokens)
            && version == self.tokens_version
        {
            window.correct(taken, used, now.moment);
        }
        if let (Some(known), Some((version, reserved))) = (&mut self.budget, held.budget)
            && version == self.budget_version
        {
            known.budget.settle(reserved, used, now.wall);
        }
    }

    /// A request never was.
    pub fn cancel(&mut self, mut held: Held, now: Now) {
        if let (Some(window), Some((version, taken))) = (&mut self.requests, held.requests.take())
            && version == self.requests_version
        {
            window.correct(taken, 0, now.moment);
        }
        self.settle(held, 0, now);
    }

    /// How the limits stand.
    pub fn gauges(&mut self, now: Now) -> Gauges {
        // Of another kind of period nothing is known yet.
        let period = self.limits.budget.map(|limit| limit.period);
        let budget = self.budget.as_mut().map(|known| &mut known.budget);
        let budget = budget.filter(|budget| Some(budget.period()) == period);
        // Nor is it where the clock was ahead.
        let budget = budget.and_then(|budget| {
            budget.remaining(now.wall);
            (!budget.is_stale()).then_some(budget)
        });
        Gauges {
            requests: self.requests.as_mut().map(|window| gauge(window, now.moment)),
            tokens: self.tokens.as_mut().map(|window| gauge(window, now.moment)),
            budget: budget.map(|budget| Gauge {
                limit: budget.limit(),
                remaining: budget.remaining(now.wall),
                reset: budget.reset_at(now.wall).map(|at| until(at, now.wall)),
            }),
        }
    }

    /// The same, with how many requests are under way.
    pub fn standing(&mut self, now: Now) -> Standing {
        Standing { gauges: self.gauges(now), under_way: self.slots.taken() }
    }

    /// Whether forgetting it would change nothing: nothing is under way and nothing counts any more
    /// that could not be read again.
    pub fn is_idle(&mut self, now: Moment) -> bool {
        let windows = [&mut self.requests, &mut self.tokens];
        let is_full = |window: &mut Window| window.is_unused(now);
        self.slots.taken() == 0 && windows.into_iter().flatten().all(is_full)
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// When the period began, as rules see time.
    fn start_of(&mut self, period: LimitPeriod, now: Now) -> Option<Timestamp> {
        self.latest = follow(self.latest, now.wall);
        Budget::start_of(period, self.latest)
    }
}

fn set(window: &mut Option<Window>, limit: Option<u64>) {
    match (window.as_mut(), limit) {
        (Some(window), Some(limit)) => window.set_limit(limit),
        _ => *window = limit.map(Window::new),
    }
}

fn gauge(window: &mut Window, now: Moment) -> Gauge {
    Gauge {
        limit: window.limit(),
        remaining: window.remaining(now),
        reset: Some(window.full_at(now).since(now)),
    }
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}
