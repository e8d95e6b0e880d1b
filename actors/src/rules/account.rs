//! What one party (a tenant, or a key) may do: its windows, its slots and its budget together.

use std::time::Duration;

use identity::limits::{LimitPeriod, Limits};
use jiff::Timestamp;

use super::{
    budget::{Budget, Reserved},
    moment::Moment,
    slots::Slots,
    window::{Taken, Window},
};

/// The state of one party.
#[derive(Debug)]
pub struct Account {
    limits: Limits,
    requests: Option<Window>,
    tokens: Option<Window>,
    slots: Slots,
    /// None where there is no budget, or nobody has said yet how much of it is used.
    budget: Option<Budget>,
    /// Counts the windows and budgets there have been: what was taken from one that is gone is none
    /// of another's.
    version: u64,
    tokens_version: u64,
    budget_version: u64,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// The tokens that it is expected to use.
    pub tokens: u64,
    /// The most that it can use, as far as that can be known.
    pub tokens_max: u64,
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
    tokens: Option<(u64, Taken)>,
    budget: Option<(u64, Reserved)>,
}

/// Which limit says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
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
pub struct Refused {
    /// Which one.
    pub what: What,
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

// === impl Account ===

impl Account {
    /// A party that has done nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            requests: limits.rpm.map(Window::new),
            tokens: limits.tpm.map(Window::new),
            slots: Slots::new(limits.concurrency.unwrap_or(u64::MAX)),
            budget: None,
            limits,
            version: 0,
            tokens_version: 0,
            budget_version: 0,
        }
    }

    /// From now on these are the limits.
    pub fn set_limits(&mut self, limits: Limits) {
        if self.limits == limits {
            return;
        }
        if self.limits.tpm.is_some() != limits.tpm.is_some() {
            self.version += 1;
            self.tokens_version = self.version;
        }
        self.limits = limits;
        set(&mut self.requests, limits.rpm);
        set(&mut self.tokens, limits.tpm);
        self.slots.set_limit(limits.concurrency.unwrap_or(u64::MAX));
        match (&mut self.budget, limits.budget) {
            (Some(budget), Some(limit)) => budget.set_limit(limit.tokens),
            _ => self.budget = None,
        }
    }

    /// The period of the budget, where it is not known how much of it is used.
    #[must_use]
    pub fn lacks_usage_of(&self) -> Option<LimitPeriod> {
        let wanted = self.limits.budget?.period;
        let known = self.budget.as_ref().is_some_and(|budget| budget.period() == wanted);
        (!known).then_some(wanted)
    }

    /// So much of the budget has been used by requests that are over. What is under way of it goes on.
    pub fn set_usage(&mut self, period: LimitPeriod, settled: u64, now: Now) {
        let Some(limit) = self.limits.budget.filter(|limit| limit.period == period) else { return };
        match &mut self.budget {
            Some(budget) => budget.set_period(period, settled, now.wall),
            None => {
                self.version += 1;
                self.budget_version = self.version;
                self.budget = Some(Budget::new(limit.tokens, period, settled, now.wall));
            }
        }
    }

    /// Whether a request may begin. Changes nothing.
    ///
    /// # Errors
    /// [`Refused`] by the first limit that says no.
    pub fn check(&mut self, need: Need, now: Now) -> Result<(), Refused> {
        let windows = [
            (What::Requests, &mut self.requests, 1),
            (What::Tokens, &mut self.tokens, need.tokens),
        ];
        for (what, window, amount) in windows {
            let Some(window) = window else { continue };
            window.check(amount, now.moment).map_err(|refused| Refused {
                what,
                limit: window.limit(),
                wait: refused.at.map_or(Wait::Forever, |at| Wait::For(at.since(now.moment))),
            })?;
        }
        if let Some(budget) = &mut self.budget {
            budget.check(need.tokens_max, now.wall).map_err(|refused| Refused {
                what: What::Budget(budget.period()),
                limit: budget.limit(),
                wait: refused.at.map_or(Wait::Forever, |at| Wait::For(until(at, now.wall))),
            })?;
        }
        if self.slots.remaining() > 0 {
            return Ok(());
        }
        let limit = self.limits.concurrency.unwrap_or(u64::MAX);
        let wait = if limit == 0 { Wait::Forever } else { Wait::Unknown };
        Err(Refused { what: What::Concurrency, limit, wait })
    }

    /// Takes what a request needs, which was checked just before: nothing says no here.
    pub fn take(&mut self, need: Need, now: Now) -> Held {
        if let Some(window) = &mut self.requests {
            let _ = window.take(1, now.moment);
        }
        self.slots.take();
        let tokens =
            self.tokens.as_mut().and_then(|window| window.take(need.tokens, now.moment).ok());
        let budget =
            self.budget.as_mut().and_then(|budget| budget.reserve(need.tokens_max, now.wall).ok());
        Held {
            tokens: tokens.map(|taken| (self.tokens_version, taken)),
            budget: budget.map(|reserved| (self.budget_version, reserved)),
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
        if let (Some(budget), Some((version, reserved))) = (&mut self.budget, held.budget)
            && version == self.budget_version
        {
            budget.settle(reserved, used, now.wall);
        }
    }

    /// How the limits stand.
    pub fn gauges(&mut self, now: Now) -> Gauges {
        Gauges {
            requests: self.requests.as_mut().map(|window| gauge(window, now.moment)),
            tokens: self.tokens.as_mut().map(|window| gauge(window, now.moment)),
            budget: self.budget.as_mut().map(|budget| Gauge {
                limit: budget.limit(),
                remaining: budget.remaining(now.wall),
                reset: budget.reset_at(now.wall).map(|at| until(at, now.wall)),
            }),
        }
    }

    /// Whether forgetting it would change nothing: nothing is under way and nothing counts any more
    /// that could not be read again.
    pub fn is_idle(&mut self, now: Moment) -> bool {
        let windows = [&mut self.requests, &mut self.tokens];
        let is_full = |window: &mut Window| window.remaining(now) == window.limit();
        self.slots.taken() == 0 && windows.into_iter().flatten().all(is_full)
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

#[cfg(test)]
mod tests {
    use identity::limits::Budget as BudgetLimit;

    use super::*;

    fn at(millis: u64) -> Now {
        let noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let wall = noon.checked_add(Duration::from_millis(millis)).unwrap();
        Now { moment: Moment::from_millis(millis), wall }
    }

    fn need(tokens: u64) -> Need {
        Need { tokens, tokens_max: tokens }
    }

    fn limits(rpm: Option<u64>, tpm: Option<u64>, concurrency: Option<u64>) -> Limits {
        Limits { rpm, tpm, concurrency, budget: None }
    }

    fn daily(tokens: u64) -> Limits {
        let budget = Some(BudgetLimit { tokens, period: LimitPeriod::Day });
        Limits { budget, ..Limits::default() }
    }

    #[test]
    fn each_limit_says_no_in_its_own_name() {
        let mut account = Account::new(limits(Some(3), Some(100), Some(2)));
        let first = account.take(need(40), at(0));
        assert_eq!(account.check(need(61), at(0)).unwrap_err().what, What::Tokens);
        assert_eq!(account.check(need(101), at(0)).unwrap_err().wait, Wait::Forever);
        let second = account.take(need(60), at(0));
        let refused = account.check(need(0), at(0)).unwrap_err();
        assert_eq!((refused.what, refused.wait), (What::Concurrency, Wait::Unknown));
        account.settle(first, 40, at(0));
        account.settle(second, 0, at(0));
        let third = account.take(need(60), at(0));
        let refused = account.check(need(0), at(500)).unwrap_err();
        assert_eq!((refused.what, refused.limit), (What::Requests, 3));
        assert_eq!(refused.wait, Wait::For(Duration::from_secs(60)));
        account.settle(third, 60, at(0));
    }

    #[test]
    fn a_budget_says_no_until_its_period_is_over() {
        let mut account = Account::new(daily(100));
        assert_eq!(account.lacks_usage_of(), Some(LimitPeriod::Day));
        account.set_usage(LimitPeriod::Day, 40, at(0));
        assert_eq!(account.lacks_usage_of(), None);
        let held = account.take(need(50), at(0));
        let refused = account.check(need(11), at(0)).unwrap_err();
        assert_eq!((refused.what, refused.limit), (What::Budget(LimitPeriod::Day), 100));
        assert_eq!(refused.wait, Wait::For(Duration::from_secs(12 * 3_600)));
        assert_eq!(account.check(need(101), at(0)).unwrap_err().wait, Wait::Forever);
        account.settle(held, 20, at(0));
        let gauge = account.gauges(at(0)).budget.unwrap();
        assert_eq!((gauge.limit, gauge.remaining), (100, 40));
        assert_eq!(gauge.reset, Some(Duration::from_secs(12 * 3_600)));
    }

    #[test]
    fn another_period_has_to_be_told_its_usage_and_keeps_what_is_under_way() {
        let mut account = Account::new(daily(100));
        account.set_usage(LimitPeriod::Day, 0, at(0));
        let held = account.take(need(60), at(0));
        let monthly = BudgetLimit { tokens: 1_000, period: LimitPeriod::Month };
        account.set_limits(Limits { budget: Some(monthly), ..Limits::default() });
        assert_eq!(account.lacks_usage_of(), Some(LimitPeriod::Month));
        // Word of a period that is no longer asked for comes too late.
        account.set_usage(LimitPeriod::Day, 5, at(0));
        assert_eq!(account.lacks_usage_of(), Some(LimitPeriod::Month));
        account.set_usage(LimitPeriod::Month, 500, at(0));
        assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 440);
        account.settle(held, 60, at(0));
        assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 440);
    }

    #[test]
    fn without_limits_everything_is_let_in_and_still_counted() {
        let mut account = Account::new(Limits::default());
        let held: Vec<_> = (0..100).map(|_| account.take(need(1_000), at(0))).collect();
        assert!(account.check(need(u64::MAX), at(0)).is_ok());
        assert_eq!(account.gauges(at(0)), Gauges::default());
        account.set_limits(limits(None, None, Some(100)));
        assert!(account.check(need(0), at(0)).is_err());
        held.into_iter().for_each(|held| account.settle(held, 5, at(0)));
        assert!(account.check(need(0), at(0)).is_ok() && account.is_idle(at(0).moment));
    }

    #[test]
    fn what_was_taken_of_a_limit_that_is_gone_is_not_given_back_to_another() {
        let both = Limits { tpm: Some(100), ..daily(100) };
        let mut account = Account::new(both);
        account.set_usage(LimitPeriod::Day, 0, at(0));
        let old = account.take(need(50), at(0));
        account.set_limits(Limits::default());
        account.set_limits(both);
        account.set_usage(LimitPeriod::Day, 0, at(0));
        let new = account.take(need(50), at(0));
        account.settle(old, 0, at(0));
        let gauges = account.gauges(at(0));
        assert_eq!((gauges.tokens.unwrap().remaining, gauges.budget.unwrap().remaining), (50, 50));
        account.settle(new, 10, at(0));
        let gauges = account.gauges(at(0));
        assert_eq!((gauges.tokens.unwrap().remaining, gauges.budget.unwrap().remaining), (90, 90));
    }

    #[test]
    fn an_account_is_idle_when_nothing_of_it_counts_any_more() {
        let mut account = Account::new(limits(Some(2), Some(10), None));
        assert!(account.is_idle(at(0).moment));
        let held = account.take(need(5), at(0));
        assert!(!account.is_idle(at(100_000).moment));
        account.settle(held, 5, at(100_000));
        assert!(account.is_idle(at(100_000).moment));
    }

    #[test]
    fn the_tighter_of_two_gauges_is_told() {
        let gauge = |remaining| Some(Gauge { limit: 9, remaining, reset: None });
        let one = Gauges { requests: gauge(5), ..Gauges::default() };
        let two = Gauges { requests: gauge(2), tokens: gauge(7), budget: None };
        assert_eq!(one.tighter(two), two);
        assert_eq!(two.tighter(one), two);
        assert_eq!(one.tighter(Gauges::default()), one);
    }
}
