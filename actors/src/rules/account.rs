//! What one party (a tenant, or a key) may do: its windows and its slots together.

use std::time::Duration;

use identity::limits::Limits;

use super::{
    moment::Moment,
    slots::Slots,
    window::{Taken, Window},
};

/// The state of one party.
#[derive(Debug)]
pub struct Account {
    limits: Limits,
    /// Counts changes of limits: what was taken from a window that is gone is none of the new one's.
    version: u64,
    requests: Option<Window>,
    tokens: Option<Window>,
    slots: Slots,
}

/// What one request holds of an account.
#[derive(Debug)]
#[must_use = "what is held is given back with this"]
pub struct Held {
    version: u64,
    tokens: Option<Taken>,
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
}

/// A limit says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which one.
    pub what: What,
    /// Its value.
    pub limit: u64,
    /// How long it will say so, if nobody else asks; never otherwise, where more is asked for than
    /// there ever is. Of slots nobody can tell.
    pub wait: Wait,
}

/// How long a refusal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// So long.
    For(Duration),
    /// Until somebody else is done.
    Unknown,
    /// For ever: the limit itself is too low.
    Forever,
}

/// How a window stands, for whoever wants to pace itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// So much in any sixty seconds.
    pub limit: u64,
    /// So much is left.
    pub remaining: u64,
    /// In so long everything is there again, if nobody asks until then.
    pub reset: Duration,
}

/// How both windows stand; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Requests per minute.
    pub requests: Option<Gauge>,
    /// Tokens per minute.
    pub tokens: Option<Gauge>,
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
            limits,
            version: 0,
        }
    }

    /// From now on these are the limits.
    pub fn set_limits(&mut self, limits: Limits) {
        if self.limits == limits {
            return;
        }
        self.version += u64::from(self.limits.tpm.is_some() != limits.tpm.is_some());
        self.limits = limits;
        set(&mut self.requests, limits.rpm);
        set(&mut self.tokens, limits.tpm);
        self.slots.set_limit(limits.concurrency.unwrap_or(u64::MAX));
    }

    /// Whether a request of so many tokens may begin. Changes nothing.
    ///
    /// # Errors
    /// [`Refused`] by the first limit that says no.
    pub fn check(&mut self, tokens: u64, now: Moment) -> Result<(), Refused> {
        let windows =
            [(What::Requests, &mut self.requests, 1), (What::Tokens, &mut self.tokens, tokens)];
        for (what, window, amount) in windows {
            let Some(window) = window else { continue };
            window.check(amount, now).map_err(|refused| Refused {
                what,
                limit: window.limit(),
                wait: refused.at.map_or(Wait::Forever, |at| Wait::For(at.since(now))),
            })?;
        }
        if self.slots.remaining() > 0 {
            return Ok(());
        }
        let limit = self.limits.concurrency.unwrap_or(u64::MAX);
        let wait = if limit == 0 { Wait::Forever } else { Wait::Unknown };
        Err(Refused { what: What::Concurrency, limit, wait })
    }

    /// Takes what a request needs, which was checked just before.
    pub fn take(&mut self, tokens: u64, now: Moment) -> Held {
        if let Some(window) = &mut self.requests {
            // Nothing can have changed since the check; a window that says no is full, and full it is.
            let _ = window.take(1, now);
        }
        self.slots.take();
        let tokens = self.tokens.as_mut().and_then(|window| window.take(tokens, now).ok());
        Held { version: self.version, tokens }
    }

    /// A request is over, with so many tokens used.
    pub fn settle(&mut self, held: &Held, used: u64, now: Moment) {
        self.slots.give_back();
        if let (Some(window), Some(taken)) = (&mut self.tokens, held.tokens)
            && held.version == self.version
        {
            window.correct(taken, used, now);
        }
    }

    /// How the windows stand.
    pub fn gauges(&mut self, now: Moment) -> Gauges {
        Gauges {
            requests: self.requests.as_mut().map(|window| gauge(window, now)),
            tokens: self.tokens.as_mut().map(|window| gauge(window, now)),
        }
    }

    /// Whether forgetting it would change nothing: nothing is under way and nothing counts any more.
    pub fn is_idle(&mut self, now: Moment) -> bool {
        let windows = [&mut self.requests, &mut self.tokens];
        let is_full = |window: &mut Window| window.remaining(now) == window.limit();
        self.slots.taken() == 0 && windows.into_iter().flatten().all(is_full)
    }
}

// === impl Gauges ===

impl Gauges {
    /// Of each window the one that is nearer to its end.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let tighter = |one: Option<Gauge>, two: Option<Gauge>| match (one, two) {
            (Some(one), Some(two)) => Some(if two.remaining < one.remaining { two } else { one }),
            (one, two) => one.or(two),
        };
        Self {
            requests: tighter(self.requests, other.requests),
            tokens: tighter(self.tokens, other.tokens),
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
        reset: window.full_at(now).since(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn limits(rpm: Option<u64>, tpm: Option<u64>, concurrency: Option<u64>) -> Limits {
        Limits { rpm, tpm, concurrency, budget: None }
    }

    #[test]
    fn each_limit_says_no_in_its_own_name() {
        let mut account = Account::new(limits(Some(3), Some(100), Some(2)));
        let first = account.take(40, at(0));
        assert_eq!(account.check(61, at(0)).unwrap_err().what, What::Tokens);
        assert_eq!(account.check(101, at(0)).unwrap_err().wait, Wait::Forever);
        let second = account.take(60, at(0));
        let refused = account.check(0, at(0)).unwrap_err();
        assert_eq!((refused.what, refused.wait), (What::Concurrency, Wait::Unknown));
        account.settle(&first, 40, at(0));
        account.settle(&second, 0, at(0));
        let third = account.take(60, at(0));
        let refused = account.check(0, at(500)).unwrap_err();
        assert_eq!((refused.what, refused.limit), (What::Requests, 3));
        assert_eq!(refused.wait, Wait::For(Duration::from_secs(60)));
        account.settle(&third, 60, at(0));
    }

    #[test]
    fn without_limits_everything_is_let_in_and_still_counted() {
        let mut account = Account::new(Limits::default());
        let held: Vec<_> = (0..100).map(|_| account.take(1_000, at(0))).collect();
        assert!(account.check(u64::MAX, at(0)).is_ok());
        assert_eq!(account.gauges(at(0)), Gauges::default());
        account.set_limits(limits(None, None, Some(100)));
        assert!(account.check(0, at(0)).is_err());
        held.iter().for_each(|held| account.settle(held, 5, at(0)));
        assert!(account.check(0, at(0)).is_ok() && account.is_idle(at(0)));
    }

    #[test]
    fn what_was_taken_of_a_window_that_is_gone_is_not_given_back_to_another() {
        let mut account = Account::new(limits(None, Some(100), None));
        let old = account.take(50, at(0));
        account.set_limits(limits(None, None, None));
        account.set_limits(limits(None, Some(100), None));
        let new = account.take(50, at(0));
        account.settle(&old, 0, at(0));
        assert_eq!(account.gauges(at(0)).tokens.unwrap().remaining, 50);
        account.settle(&new, 10, at(0));
        assert_eq!(account.gauges(at(0)).tokens.unwrap().remaining, 90);
    }

    #[test]
    fn an_account_is_idle_when_nothing_of_it_counts_any_more() {
        let mut account = Account::new(limits(Some(2), Some(10), None));
        assert!(account.is_idle(at(0)));
        let held = account.take(5, at(0));
        assert!(!account.is_idle(at(100_000)));
        account.settle(&held, 5, at(100_000));
        assert!(account.is_idle(at(100_000)));
    }

    #[test]
    fn the_tighter_of_two_gauges_is_told() {
        let gauge = |remaining| Some(Gauge { limit: 9, remaining, reset: Duration::ZERO });
        let one = Gauges { requests: gauge(5), tokens: None };
        let two = Gauges { requests: gauge(2), tokens: gauge(7) };
        assert_eq!(one.tighter(two), two);
        assert_eq!(two.tighter(one), two);
        assert_eq!(one.tighter(Gauges::default()), one);
    }
}
