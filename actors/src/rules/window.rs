//! So many in any sixty seconds.
//!
//! Time is cut into [`STEPS`] steps of half a second. What was taken in a step counts until the whole
//! step is sixty seconds old, so that in no span of sixty seconds, wherever it begins, more than the
//! limit is taken. The price of counting by steps: what was taken counts for up to half a second
//! longer than it must, which at a steady rate is 0.8 % of the limit.
//!
//! Where the clock was ahead, all that counts is taken anew at the moment that is now: it counts for longer
//! than a minute, and never for less.

use std::collections::VecDeque;

use super::moment::Moment;

/// The span that the limit is for, in milliseconds.
pub const SPAN_MS: u64 = 60_000;
/// Steps in the span.
pub const STEPS: u64 = 120;
/// One step, in milliseconds.
const STEP_MS: u64 = SPAN_MS / STEPS;

/// What was taken lately, and how much may be.
#[derive(Clone, Debug)]
pub struct Window {
    limit: u64,
    /// What was taken, by step, the oldest first; steps with nothing are left out.
    taken: VecDeque<(u64, u64)>,
    /// The sum of `taken`.
    used: u64,
    latest: Moment,
}

/// Where something was taken, so that it can be corrected later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what was taken can be corrected only with this"]
pub struct Taken {
    step: u64,
    amount: u64,
}

/// Nothing was taken: there was not enough left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When the same would be granted, if nobody else takes anything until then; never, where it is
    /// more than the limit.
    pub at: Option<Moment>,
}

// === impl Window ===

impl Window {
    /// A window in which nothing was taken yet.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit, taken: VecDeque::new(), used: 0, latest: Moment::default() }
    }

    /// Another limit, from now on. What was taken stays taken.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// How much may be taken in any sixty seconds.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How much may be taken now.
    pub fn remaining(&mut self, now: Moment) -> u64 {
        self.forget(now);
        self.limit.saturating_sub(self.used)
    }

    /// Whether nothing that was taken counts any more.
    pub fn is_unused(&mut self, now: Moment) -> bool {
        self.forget(now);
        self.used == 0
    }

    /// When everything may be taken again, if nobody takes anything until then.
    pub fn full_at(&mut self, now: Moment) -> Moment {
        let now = self.forget(now);
        self.taken.back().map_or(now, |(step, _)| forgotten_at(*step))
    }

    /// Whether an amount could be taken.
    ///
    /// # Errors
    /// As [`Window::take`].
    pub fn check(&mut self, amount: u64, now: Moment) -> Result<(), Refused> {
        if amount > self.remaining(now) {
            return Err(Refused { at: self.granted_at(amount) });
        }
        Ok(())
    }

    /// Takes an amount, or nothing at all.
    ///
    /// # Errors
    /// [`Refused`], with the moment at which it would be granted.
    pub fn take(&mut self, amount: u64, now: Moment) -> Result<Taken, Refused> {
        self.check(amount, now)?;
        Ok(self.take_anyway(amount, now))
    }

    /// Takes an amount, whether or not there is so much left.
    pub fn take_anyway(&mut self, amount: u64, now: Moment) -> Taken {
        let step = self.forget(now).millis() / STEP_MS;
        self.add(step, amount);
        Taken { step, amount }
    }

    /// Says what was really used of what was taken. What was too much is free at once; what was too
    /// little counts from now on, even beyond the limit, because it has been used.
    pub fn correct(&mut self, taken: Taken, used: u64, now: Moment) {
        let now = self.forget(now);
        match used.checked_sub(taken.amount) {
            Some(more) if more > 0 => self.add(now.millis() / STEP_MS, more),
            Some(_) => {}
            None => self.give_back(taken.step, taken.amount - used),
        }
    }

    /// Forgets what no longer counts; returns the moment that counts as now.
    fn forget(&mut self, now: Moment) -> Moment {
        if now < self.latest {
            self.come_back(now.millis() / STEP_MS);
        }
        self.latest = now;
        while let Some((step, amount)) = self.taken.front().copied()
            && forgotten_at(step) <= self.latest
        {
            self.used -= amount;
            self.taken.pop_front();
        }
        self.latest
    }

    /// The clock was ahead, and it is this step.
    fn come_back(&mut self, step: u64) {
        if self.taken.back().is_some_and(|(last, _)| *last > step) {
            self.taken.clear();
            self.taken.push_back((step, self.used));
        }
    }

    fn add(&mut self, step: u64, amount: u64) {
        if amount == 0 {
            return;
        }
        // A sum beyond all measure stays beyond all limits.
        let amount = amount.min(u64::MAX - self.used);
        self.used += amount;
        match self.taken.back_mut() {
            Some((last, taken)) if *last == step => *taken += amount,
            _ => self.taken.push_back((step, amount)),
        }
    }

    /// Gives back what was taken in a step, where that still counts.
    fn give_back(&mut self, step: u64, amount: u64) {
        let Ok(at) = self.taken.binary_search_by_key(&step, |(step, _)| *step) else { return };
        let taken = &mut self.taken[at].1;
        let amount = amount.min(*taken);
        *taken -= amount;
        self.used -= amount;
        if *taken == 0 {
            self.taken.remove(at);
        }
    }

    fn granted_at(&self, amount: u64) -> Option<Moment> {
        if amount > self.limit {
            return None;
        }
        let mut left = self.used;
        let enough = self.taken.iter().find(|(_, taken)| {
            left -= taken;
            left + amount <= self.limit
        });
        enough.map(|(step, _)| forgotten_at(*step))
    }
}

/// When nothing of a step counts any more: sixty seconds after its end.
fn forgotten_at(step: u64) -> Moment {
    Moment::from_millis((step + 1) * STEP_MS + SPAN_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn what_was_taken_counts_for_a_minute_and_a_step_at_most() {
        let mut window = Window::new(2);
        assert!(window.take(1, at(0)).is_ok() && window.take(1, at(400)).is_ok());
        let refused = window.take(1, at(500)).unwrap_err();
        assert_eq!(refused.at, Some(at(60_500)));
        assert!(window.take(1, at(60_499)).is_err());
        assert!(window.take(2, at(60_500)).is_ok());
    }

    #[test]
    fn more_than_the_limit_is_never_granted() {
        let mut window = Window::new(5);
        assert_eq!(window.take(6, at(0)), Err(Refused { at: None }));
        assert_eq!(Window::new(0).take(1, at(0)), Err(Refused { at: None }));
        assert!(Window::new(0).take(0, at(0)).is_ok());
    }

    #[test]
    fn a_correction_frees_what_was_too_much_and_counts_what_was_too_little() {
        let mut window = Window::new(100);
        let first = window.take(80, at(0)).unwrap();
        assert!(window.take(30, at(1_000)).is_err());
        window.correct(first, 10, at(1_000));
        assert_eq!(window.remaining(at(1_000)), 90);
        let second = window.take(20, at(2_000)).unwrap();
        window.correct(second, 120, at(3_000));
        assert_eq!(window.remaining(at(3_000)), 0);
        // The minute after its own beginning the reservation is gone, what came on top is not.
        assert_eq!(window.remaining(at(62_500)), 0);
        assert_eq!(window.remaining(at(63_500)), 100);
    }

    #[test]
    fn a_correction_of_what_no_longer_counts_gives_nothing_back() {
        let mut window = Window::new(10);
        let old = window.take(10, at(0)).unwrap();
        let _ = window.take(10, at(60_500)).unwrap();
        window.correct(old, 0, at(60_600));
        assert_eq!(window.remaining(at(60_600)), 0);
    }

    #[test]
    fn another_limit_counts_at_once() {
        let mut window = Window::new(1);
        let _ = window.take(1, at(0)).unwrap();
        window.set_limit(3);
        assert_eq!((window.limit(), window.remaining(at(1))), (3, 2));
        window.set_limit(0);
        assert_eq!(window.remaining(at(1)), 0);
        assert_eq!(window.full_at(at(1)), at(60_500));
        assert_eq!(window.full_at(at(70_000)), at(70_000));
    }

    #[test]
    fn no_amount_is_too_large_to_be_counted() {
        let mut window = Window::new(u64::MAX);
        let all = window.take(u64::MAX, at(0)).unwrap();
        window.correct(all, u64::MAX, at(0));
        let none = window.take(0, at(0)).unwrap();
        window.correct(none, 5, at(0));
        assert_eq!(window.remaining(at(0)), 0);
    }

    #[test]
    fn a_clock_that_was_ahead_freezes_nothing_and_forgets_nothing() {
        let mut window = Window::new(3);
        let hour = 3_600_000;
        let _ = (window.take(1, at(0)).unwrap(), window.take(1, at(hour)).unwrap());
        let _ = window.take(1, at(hour)).unwrap();
        // What was taken while it was ahead counts for a minute from now.
        assert_eq!(window.take(2, at(1_000)), Err(Refused { at: Some(at(61_500)) }));
        assert_eq!((window.remaining(at(61_499)), window.remaining(at(61_500))), (1, 3));
    }

    /// Arrivals: how long after the one before (now and then before it), and how much.
    fn arrivals() -> impl Strategy<Value = Vec<(i64, u64)>> {
        let gap = prop_oneof![
            4 => 0..2_000_i64,
            2 => Just(0),
            1 => 2_000..90_000_i64,
            1 => -5_000..0_i64,
            1 => -200_000..0_i64,
        ];
        prop::collection::vec((gap, 0..6_u64), 1..200)
    }

    proptest! {
        /// A log of all that was granted is the judge: in no span of sixty seconds more than the
        /// limit, no refusal while a log of sixty and a half has room, and what is promised is kept.
        #[test]
        fn no_minute_holds_more_than_the_limit(limit in 0..40_u64, arrivals in arrivals()) {
            let mut window = Window::new(limit);
            let mut granted: Vec<(u64, u64)> = Vec::new();
            let (mut clock, mut latest) = (10_000_i64, 0_u64);
            for (gap, amount) in arrivals {
                clock = (clock + gap).max(0);
                // Where the clock was ahead, what counts is taken now.
                let now = clock.unsigned_abs();
                if latest > now {
                    let counts = |t: u64| forgotten_at(t / STEP_MS) > at(latest);
                    granted.retain(|(t, n)| counts(*t) && *n > 0);
                    if granted.iter().any(|(t, _)| t / STEP_MS > now / STEP_MS) {
                        granted.iter_mut().for_each(|(t, _)| *t = now);
                    }
                }
                latest = now;
                let lately = |span: u64| -> u64 {
                    granted.iter().filter(|(t, _)| t + span > latest).map(|(_, n)| n).sum()
                };
                match window.take(amount, at(clock.unsigned_abs())) {
                    Ok(_) => {
                        prop_assert!(lately(SPAN_MS) + amount <= limit);
                        granted.push((latest, amount));
                    }
                    Err(refused) => {
                        prop_assert!(lately(SPAN_MS + STEP_MS) + amount > limit);
                        match refused.at {
                            None => prop_assert!(amount > limit),
                            Some(then) => {
                                let mut before = window.clone();
                                let just = Moment::from_millis(then.millis() - 1);
                                prop_assert!(before.take(amount, just).is_err());
                                prop_assert!(window.clone().take(amount, then).is_ok());
                            }
                        }
                    }
                }
            }
        }

        /// Corrections, too: the window is the sum of what its log says.
        #[test]
        fn the_window_is_the_sum_of_its_log(
            arrivals in prop::collection::vec((0..4_000_u64, 0..50_u64, 0..90_u64), 1..120),
        ) {
            let mut window = Window::new(1_000);
            let mut log: Vec<(u64, u64)> = Vec::new();
            let mut clock = 0;
            for (gap, amount, used) in arrivals {
                clock += gap;
                let Ok(taken) = window.take(amount, at(clock)) else { continue };
                log.push((clock / STEP_MS, amount.min(used)));
                window.correct(taken, used, at(clock));
                log.push((clock / STEP_MS, used.saturating_sub(amount)));
                let counts = |step: u64| forgotten_at(step) > at(clock);
                let sum: u64 = log.iter().filter(|(step, _)| counts(*step)).map(|(_, n)| n).sum();
                prop_assert_eq!(window.remaining(at(clock)), 1_000_u64.saturating_sub(sum));
            }
        }
    }
}
