//! What one party (a tenant, or a key) may do: its windows, its slots and its budget together.

use std::time::Duration;

use identity::limits::{LimitPeriod, Limits};
use jiff::Timestamp;
use storage::admission::{
    Counted, Gauge, Gauges, Limit, Need, Refusal, Standing, Unknown, Usage, Wait,
};

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
    start: Option<Timestamp>,
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
        let known = self.budget.as_ref();
        let is_known = known.is_some_and(|known| {
            known.budget.period() == limit.period
                && known.start == start
                && known.read_at >= read_at
        });
        (!is_known).then(|| Unknown {
            key,
            period: limit.period,
            start,
            read_at,
            counted: known.map(|known| Counted {
                period: known.budget.period(),
                start: known.start,
                used: known.budget.counted(),
            }),
        })
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
                let is_same = known.budget.period() == period && known.start == start;
                if is_same && known.read_at >= read_at {
                    return;
                }
                let since =
                    if is_same { known.budget.counted().saturating_sub(counted) } else { 0 };
                known.budget.set_period(period, used.saturating_add(since), now.wall);
                (known.start, known.read_at) = (start, read_at);
            }
            None => {
                self.budget_version = self.next_version();
                let budget = Budget::new(limit.tokens, period, used, now.wall);
                self.budget = Some(Known { budget, start, read_at });
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
        Gauges {
            requests: self.requests.as_mut().map(|window| gauge(window, now.moment)),
            tokens: self.tokens.as_mut().map(|window| gauge(window, now.moment)),
            budget: self.budget.as_mut().map(|Known { budget, .. }| Gauge {
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

    /// When the period began, as rules see time: it does not run backwards.
    fn start_of(&mut self, period: LimitPeriod, now: Now) -> Option<Timestamp> {
        self.latest = self.latest.max(now.wall);
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

#[cfg(test)]
mod tests {
    use identity::limits::{Budget as BudgetLimit, Correction, Observed};
    use storage::admission::Limit;

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
        Limits { rpm, tpm, concurrency, ..Limits::default() }
    }

    fn budget(tokens: u64, period: LimitPeriod) -> Limits {
        Limits { budget: Some(BudgetLimit::new(tokens, period)), ..Limits::default() }
    }

    /// What the ledger says when it is asked.
    fn learn(account: &mut Account, used: u64, now: Now) {
        let unknown = account.unknown(None, now).unwrap();
        let counted = unknown.counted.map_or(0, |counted| counted.used);
        let Unknown { key, period, start, read_at, .. } = unknown;
        account.set_usage(Usage { key, period, start, used, counted, read_at }, now);
        assert_eq!(account.unknown(None, now), None);
    }

    #[test]
    fn each_limit_says_no_in_its_own_name() {
        let mut account = Account::new(limits(Some(3), Some(100), Some(2)));
        let first = account.take(need(40), at(0));
        assert_eq!(account.check(need(61), at(0)).unwrap_err().what, Limit::Tokens);
        assert_eq!(account.check(need(101), at(0)).unwrap_err().wait, Wait::Forever);
        let second = account.take(need(60), at(0));
        let refused = account.check(need(0), at(0)).unwrap_err();
        assert_eq!((refused.what, refused.wait), (Limit::Concurrency, Wait::Unknown));
        account.settle(first, 40, at(0));
        account.settle(second, 0, at(0));
        let third = account.take(need(60), at(0));
        let refused = account.check(need(0), at(500)).unwrap_err();
        assert_eq!((refused.what, refused.limit), (Limit::Requests, 3));
        assert_eq!(refused.wait, Wait::For(Duration::from_secs(60)));
        account.settle(third, 60, at(0));
        let mut shut = Account::new(limits(None, None, Some(0)));
        assert_eq!(shut.check(need(0), at(0)).unwrap_err().wait, Wait::Forever);
    }

    #[test]
    fn what_is_observed_says_so_and_refuses_nothing() {
        let mut account = Account::new(Limits {
            observed: Observed { rpm: true, tpm: true, concurrency: true, budget: true },
            budget: Some(BudgetLimit::new(5, LimitPeriod::Day)),
            ..limits(Some(1), Some(5), Some(1))
        });
        learn(&mut account, 0, at(0));
        assert_eq!(account.check(need(5), at(0)), Ok(vec![]));
        let first = account.take(need(5), at(0));
        let all =
            [Limit::Requests, Limit::Tokens, Limit::Budget(LimitPeriod::Day), Limit::Concurrency];
        assert_eq!(account.check(need(5), at(0)), Ok(all.to_vec()));
        let second = account.take(need(5), at(0));
        assert!(account.has_more(&second, 1_000, at(0)));
        let gauges = account.gauges(at(0));
        for gauge in [gauges.requests, gauges.tokens, gauges.budget] {
            assert_eq!(gauge.unwrap().remaining, 0);
        }
        account.settle(first, 1, at(0));
        account.settle(second, 1, at(0));
        assert_eq!(account.check(need(3), at(0)), Ok(vec![Limit::Requests]));
    }

    #[test]
    fn a_budget_says_no_until_its_period_is_over() {
        let mut account = Account::new(budget(100, LimitPeriod::Day));
        learn(&mut account, 40, at(0));
        let held = account.take(need(50), at(0));
        let refused = account.check(need(11), at(0)).unwrap_err();
        assert_eq!((refused.what, refused.limit), (Limit::Budget(LimitPeriod::Day), 100));
        assert_eq!(refused.wait, Wait::For(Duration::from_secs(12 * 3_600)));
        assert_eq!(account.check(need(101), at(0)).unwrap_err().wait, Wait::Forever);
        account.settle(held, 20, at(0));
        let gauge = account.gauges(at(0)).budget.unwrap();
        assert_eq!((gauge.limit, gauge.remaining), (100, 40));
        assert_eq!(gauge.reset, Some(Duration::from_secs(12 * 3_600)));
    }

    #[test]
    fn a_new_day_is_read_from_the_ledger_and_the_old_one_told() {
        let mut account = Account::new(budget(100, LimitPeriod::Day));
        learn(&mut account, 40, at(0));
        let old = account.take(need(60), at(0));
        let tomorrow = at(86_400_000);
        let unknown = account.unknown(None, tomorrow).unwrap();
        let counted = unknown.counted.unwrap();
        assert_eq!(
            (counted.used, counted.start),
            (40, Some("2026-11-23T00:00:00Z".parse().unwrap()))
        );
        assert_eq!(unknown.start, Some("2026-11-24T00:00:00Z".parse().unwrap()));
        // Word of yesterday comes too late.
        let usage = Usage {
            key: None,
            period: LimitPeriod::Day,
            start: counted.start,
            used: 7,
            counted: 0,
            read_at: None,
        };
        account.set_usage(usage, tomorrow);
        assert!(account.unknown(None, tomorrow).is_some());
        learn(&mut account, 3, tomorrow);
        assert_eq!(account.gauges(tomorrow).budget.unwrap().remaining, 97);
        account.settle(old, 60, tomorrow);
        assert_eq!(account.gauges(tomorrow).budget.unwrap().remaining, 97);
        // A clock that is set back does not bring yesterday back.
        assert_eq!(account.unknown(None, at(0)), None);
    }

    #[test]
    fn another_period_has_to_be_told_its_usage_and_keeps_what_is_under_way() {
        let mut account = Account::new(budget(100, LimitPeriod::Day));
        learn(&mut account, 0, at(0));
        let held = account.take(need(60), at(0));
        account.set_limits(budget(1_000, LimitPeriod::Month));
        learn(&mut account, 500, at(0));
        assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 440);
        account.settle(held, 60, at(0));
        assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 440);
    }

    #[test]
    fn what_is_counted_while_the_ledger_is_read_is_not_lost() {
        let mut account = Account::new(budget(100, LimitPeriod::Day));
        learn(&mut account, 10, at(0));
        let (one, two) = (account.take(need(20), at(0)), account.take(need(20), at(0)));
        account.settle(one, 20, at(0));
        let mut corrected = BudgetLimit::new(100, LimitPeriod::Day);
        corrected.correction = Correction { read_at: Some(at(5).wall), ..Correction::default() };
        account.set_limits(Limits { budget: Some(corrected), ..Limits::default() });
        let unknown = account.unknown(None, at(5)).unwrap();
        assert_eq!(unknown.counted.unwrap().used, 30);
        account.settle(two, 20, at(5));
        let Unknown { key, period, start, read_at, .. } = unknown;
        let usage = Usage { key, period, start, used: 25, counted: 30, read_at };
        account.set_usage(usage, at(5));
        assert_eq!(account.gauges(at(5)).budget.unwrap().remaining, 55);
        // A second word for the same question changes nothing.
        account.set_usage(Usage { used: 99, ..usage }, at(5));
        assert_eq!(account.gauges(at(5)).budget.unwrap().remaining, 55);
    }

    #[test]
    fn a_request_that_never_was_gives_everything_back() {
        let both = Limits { rpm: Some(1), tpm: Some(10), ..budget(10, LimitPeriod::Total) };
        let mut account = Account::new(both);
        learn(&mut account, 0, at(0));
        let held = account.take(need(10), at(0));
        assert!(account.check(need(0), at(0)).is_err());
        account.cancel(held, at(0));
        assert_eq!(account.check(need(10), at(0)), Ok(vec![]));
        assert_eq!(account.standing(at(0)).under_way, 0);
    }

    #[test]
    fn more_is_given_where_there_is_more() {
        let mut account = Account::new(budget(100, LimitPeriod::Day));
        learn(&mut account, 0, at(0));
        let held = account.take(need(60), at(0));
        assert!(account.has_more(&held, 40, at(0)) && !account.has_more(&held, 41, at(0)));
        account.top_up(&held, 40, at(0));
        assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 0);
        account.settle(held, 70, at(0));
        let free = Account::new(Limits::default()).take(need(1), at(0));
        assert!(account.has_more(&free, u64::MAX, at(0)));
        account.top_up(&free, 5, at(0));
        assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 30);
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
        let all = Limits { rpm: Some(9), tpm: Some(100), ..budget(100, LimitPeriod::Day) };
        let mut account = Account::new(all);
        learn(&mut account, 0, at(0));
        let (old, other) = (account.take(need(50), at(0)), account.take(need(50), at(0)));
        account.set_limits(Limits::default());
        account.set_limits(all);
        learn(&mut account, 0, at(0));
        let new = account.take(need(50), at(0));
        assert!(account.has_more(&old, 1_000, at(0)));
        account.top_up(&old, 1_000, at(0));
        account.settle(old, 0, at(0));
        account.cancel(other, at(0));
        let gauges = account.gauges(at(0));
        assert_eq!((gauges.tokens.unwrap().remaining, gauges.budget.unwrap().remaining), (50, 50));
        assert_eq!(gauges.requests.unwrap().remaining, 8);
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
}
