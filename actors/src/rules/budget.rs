//! So many tokens in a period.
//!
//! A request reserves the most it may use before it begins, and settles what it used when it is over.
//! What is settled and what is reserved together never pass the limit, so neither do the requests
//! that were let in, as long as each keeps to its reservation.
//!
//! Periods are those of UTC: a day from midnight, a month from its first day, or all time. A request
//! belongs to the period in which it began, as in the ledger: what began yesterday is charged to
//! yesterday, whenever it ends. Time never runs backwards here: a moment before the last one is taken
//! for the last one.

use foldhash::{HashMap, HashMapExt};
use identity::limits::LimitPeriod;
use jiff::{
    Timestamp, ToSpan,
    civil::{DateTime, Time},
    tz::Offset,
};

/// The tally of one budget.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: u64,
    period: LimitPeriod,
    current: Span,
    /// Used by requests of the current period that are over.
    settled: u64,
    /// Set aside for those of the current period that are under way.
    reserved: u64,
    /// The period of which it was last said how much is used, and what has been used of that one since.
    told: Span,
    counted: u64,
    /// All that is under way, whichever period it belongs to.
    under_way: HashMap<u64, UnderWay>,
    next: u64,
    latest: Timestamp,
}

/// Tokens that are set aside for one request.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is reserved stays so until it is settled"]
pub struct Reserved(u64);

/// Nothing was reserved: there is not enough left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When the next period begins; never, where the budget is for all time or the request asks for
    /// more than the whole limit.
    pub at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    began: Timestamp,
    tokens: u64,
}

/// A period: from its beginning up to, and without, its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: Timestamp,
    end: Option<Timestamp>,
}

// === impl Budget ===

impl Budget {
    /// A budget of which so much has been used in the period that `now` is in.
    #[must_use]
    pub fn new(limit: u64, period: LimitPeriod, settled: u64, now: Timestamp) -> Self {
        let current = Span::of(period, now);
        Self {
            limit,
            period,
            current,
            settled,
            reserved: 0,
            told: current,
            counted: settled,
            under_way: HashMap::new(),
            next: 0,
            latest: now,
        }
    }

    /// Another limit, from now on.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Another kind of period, of which so much has been used already. What is under way goes on, and
    /// counts where it began in it.
    pub fn set_period(&mut self, period: LimitPeriod, settled: u64, now: Timestamp) {
        self.latest = self.latest.max(now);
        self.period = period;
        self.begin(settled);
        (self.told, self.counted) = (self.current, settled);
    }

    /// How many tokens there are in a period.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Which kind of period it is for.
    #[must_use]
    pub fn period(&self) -> LimitPeriod {
        self.period
    }

    /// What has been settled of the period of which it was last said how much is used, whether or not it
    /// is over: as the ledger, which writes a request into the period in which it began.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// When the period that a moment is in began; none for all time, which never did.
    #[must_use]
    pub fn start_of(period: LimitPeriod, at: Timestamp) -> Option<Timestamp> {
        (period != LimitPeriod::Total).then(|| Span::of(period, at).start)
    }

    /// When the next period begins, if ever.
    pub fn reset_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.roll_over(now);
        self.current.end
    }

    /// What may still be reserved.
    pub fn remaining(&mut self, now: Timestamp) -> u64 {
        self.roll_over(now);
        self.limit.saturating_sub(self.settled.saturating_add(self.reserved))
    }

    /// What has been used in this period by requests that are over.
    pub fn settled(&mut self, now: Timestamp) -> u64 {
        self.roll_over(now);
        self.settled
    }

    /// Whether tokens could be set aside.
    ///
    /// # Errors
    /// As [`Budget::reserve`].
    pub fn check(&mut self, tokens: u64, now: Timestamp) -> Result<(), Refused> {
        if tokens > self.remaining(now) { Err(self.refused(tokens)) } else { Ok(()) }
    }

    /// Sets tokens aside for a request that begins, or none at all.
    ///
    /// # Errors
    /// [`Refused`], with the beginning of the next period.
    pub fn reserve(&mut self, tokens: u64, now: Timestamp) -> Result<Reserved, Refused> {
        self.check(tokens, now)?;
        Ok(self.reserve_anyway(tokens, now))
    }

    /// Sets tokens aside for a request that begins, whether or not there are so many left.
    pub fn reserve_anyway(&mut self, tokens: u64, now: Timestamp) -> Reserved {
        self.roll_over(now);
        let number = self.next;
        self.next += 1;
        self.reserved = self.reserved.saturating_add(tokens);
        self.under_way.insert(number, UnderWay { began: self.latest, tokens });
        Reserved(number)
    }

    /// Whether more could be set aside for a request that is under way. Of a period that is over there
    /// is nothing left to decide: it gets what it asks for.
    pub fn has_more(&mut self, reserved: &Reserved, more: u64, now: Timestamp) -> bool {
        let remaining = self.remaining(now);
        let counts = |under_way: &UnderWay| self.current.holds(under_way.began);
        more <= remaining || !self.under_way.get(&reserved.0).is_some_and(counts)
    }

    /// Sets more aside for a request that is under way, whether or not there is so much left.
    pub fn top_up(&mut self, reserved: &Reserved, more: u64, now: Timestamp) {
        self.roll_over(now);
        let Some(under_way) = self.under_way.get_mut(&reserved.0) else { return };
        under_way.tokens = under_way.tokens.saturating_add(more);
        if self.current.holds(under_way.began) {
            self.reserved = self.reserved.saturating_add(more);
        }
    }

    /// A request is over: what it used takes the place of what was set aside, even where it is more.
    #[expect(clippy::needless_pass_by_value, reason = "a reservation is settled once")]
    pub fn settle(&mut self, reserved: Reserved, used: u64, now: Timestamp) {
        self.roll_over(now);
        let Reserved(number) = reserved;
        let Some(under_way) = self.under_way.remove(&number) else { return };
        if self.current.holds(under_way.began) {
            self.reserved = self.reserved.saturating_sub(under_way.tokens);
            self.settled = self.settled.saturating_add(used);
        }
        if self.told.holds(under_way.began) {
            self.counted = self.counted.saturating_add(used);
        }
    }

    fn roll_over(&mut self, now: Timestamp) {
        self.latest = self.latest.max(now);
        if !self.current.holds(self.latest) {
            self.begin(0);
        }
    }

    /// The period that the latest moment is in begins, with so much used.
    fn begin(&mut self, settled: u64) {
        self.current = Span::of(self.period, self.latest);
        self.settled = settled;
        let current = self.current;
        let counts = self.under_way.values().filter(|under_way| current.holds(under_way.began));
        self.reserved = counts.map(|under_way| under_way.tokens).sum();
    }

    fn refused(&self, tokens: u64) -> Refused {
        Refused { at: self.current.end.filter(|_| tokens <= self.limit) }
    }
}

// === impl Span ===

impl Span {
    /// The period that a moment is in.
    fn of(period: LimitPeriod, at: Timestamp) -> Self {
        let date = Offset::UTC.to_datetime(at).date();
        let (first, length) = match period {
            LimitPeriod::Day => (date, 1.day()),
            LimitPeriod::Month => (date.first_of_month(), 1.month()),
            LimitPeriod::Total => return Self { start: Timestamp::MIN, end: None },
        };
        let start = first.to_datetime(Time::midnight());
        let end = start.checked_add(length).ok().and_then(utc);
        Self { start: utc(start).unwrap_or(Timestamp::MIN), end }
    }

    fn holds(&self, at: Timestamp) -> bool {
        self.start <= at && self.end.is_none_or(|end| at < end)
    }
}

fn utc(at: DateTime) -> Option<Timestamp> {
    Offset::UTC.to_timestamp(at).ok()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn noon() -> Timestamp {
        at("2026-11-23T12:00:00Z")
    }

    #[test]
    fn what_is_set_aside_cannot_be_had_twice() {
        let mut budget = Budget::new(100, LimitPeriod::Day, 30, noon());
        let first = budget.reserve(50, noon()).unwrap();
        assert_eq!(budget.remaining(noon()), 20);
        let refused = budget.reserve(21, noon()).unwrap_err();
        assert_eq!(refused.at, Some(at("2026-11-24T00:00:00Z")));
        budget.settle(first, 5, noon());
        assert_eq!((budget.settled(noon()), budget.remaining(noon())), (35, 65));
        assert_eq!(budget.reserve(101, noon()), Err(Refused { at: None }));
    }

    #[test]
    fn more_than_was_set_aside_counts_all_the_same() {
        let mut budget = Budget::new(100, LimitPeriod::Total, 0, noon());
        let reserved = budget.reserve(10, noon()).unwrap();
        budget.settle(reserved, 250, noon());
        assert_eq!((budget.settled(noon()), budget.remaining(noon())), (250, 0));
        assert_eq!(budget.reserve(1, noon()), Err(Refused { at: None }));
        assert_eq!(budget.reset_at(noon()), None);
    }

    #[test]
    fn a_request_belongs_to_the_period_in_which_it_began() {
        let (before, after) = (at("2026-11-30T23:59:59Z"), at("2026-12-01T00:00:01Z"));
        for period in [LimitPeriod::Day, LimitPeriod::Month] {
            let mut budget = Budget::new(100, period, 40, before);
            let old = budget.reserve(60, before).unwrap();
            assert_eq!(budget.remaining(after), 100, "{period:?}");
            let new = budget.reserve(70, after).unwrap();
            // The old one may go on as long as it likes: its day is over.
            assert!(budget.has_more(&old, 1_000, after));
            budget.top_up(&old, 1_000, after);
            budget.settle(old, 60, after);
            assert_eq!((budget.settled(after), budget.remaining(after)), (0, 30));
            budget.settle(new, 10, after);
            assert_eq!(budget.remaining(after), 90);
        }
    }

    #[test]
    fn what_was_counted_of_a_day_is_told_after_its_end() {
        let (before, after) = (at("2026-11-30T23:59:59Z"), at("2026-12-01T00:00:01Z"));
        let mut budget = Budget::new(100, LimitPeriod::Day, 40, before);
        let (one, two) = (budget.reserve(20, before).unwrap(), budget.reserve(20, before).unwrap());
        budget.settle(one, 20, before);
        // Somebody looks, and the other one ends, after midnight.
        assert_eq!((budget.remaining(after), budget.counted()), (100, 60));
        budget.settle(two, 5, after);
        assert_eq!((budget.settled(after), budget.counted()), (0, 65));
        budget.set_period(LimitPeriod::Day, 3, after);
        assert_eq!(budget.counted(), 3);
    }

    #[test]
    fn periods_end_at_midnight_and_with_the_month() {
        for (period, now, end) in [
            (LimitPeriod::Day, "2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z"),
            (LimitPeriod::Month, "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            (LimitPeriod::Month, "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00Z"),
        ] {
            let mut budget = Budget::new(1, period, 0, at(now));
            assert_eq!(budget.reset_at(at(now)), Some(at(end)), "{now}");
            let _ = budget.reserve(1, at(now)).unwrap();
            assert_eq!((budget.remaining(at(now)), budget.remaining(at(end))), (0, 1));
        }
    }

    #[test]
    fn another_limit_or_period_counts_at_once() {
        let mut budget = Budget::new(100, LimitPeriod::Day, 80, noon());
        let reserved = budget.reserve(20, noon()).unwrap();
        budget.set_limit(150);
        assert_eq!((budget.limit(), budget.remaining(noon())), (150, 50));
        budget.set_limit(50);
        assert_eq!(budget.remaining(noon()), 0);
        budget.set_limit(1_000);
        budget.set_period(LimitPeriod::Month, 900, noon());
        assert_eq!(budget.remaining(noon()), 80);
        budget.settle(reserved, 20, noon());
        assert_eq!((budget.settled(noon()), budget.remaining(noon())), (920, 80));
    }

    #[test]
    fn what_is_only_observed_may_pass_the_limit() {
        let mut budget = Budget::new(10, LimitPeriod::Day, 0, noon());
        let reserved = budget.reserve_anyway(25, noon());
        assert_eq!((budget.remaining(noon()), budget.counted()), (0, 0));
        budget.settle(reserved, 30, noon());
        assert_eq!((budget.remaining(noon()), budget.counted()), (0, 30));
    }

    #[test]
    fn a_top_up_is_all_or_nothing() {
        let mut budget = Budget::new(100, LimitPeriod::Day, 0, noon());
        let reserved = budget.reserve(60, noon()).unwrap();
        assert!(!budget.has_more(&reserved, 41, noon()) && budget.has_more(&reserved, 40, noon()));
        budget.top_up(&reserved, 40, noon());
        assert_eq!(budget.remaining(noon()), 0);
        budget.settle(reserved, 100, noon());
        assert_eq!(budget.settled(noon()), 100);
        // A reservation of another budget is none of this one.
        assert!(budget.has_more(&Reserved(77), 1, noon()));
        budget.top_up(&Reserved(77), 1, noon());
        budget.settle(Reserved(77), 5, noon());
        assert_eq!(budget.settled(noon()), 100);
    }

    #[derive(Clone, Debug)]
    enum Move {
        Reserve(u64),
        TopUp(usize, u64),
        Settle(usize, u64),
        Pass(i64),
        Limit(u64),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            4 => (0..60_u64).prop_map(Move::Reserve),
            2 => (0..8_usize, 0..30_u64).prop_map(|(which, more)| Move::TopUp(which, more)),
            4 => (0..8_usize, 0..100_u64).prop_map(|(which, part)| Move::Settle(which, part)),
            2 => (-7_200..40_000_i64).prop_map(Move::Pass),
            1 => (0..300_u64).prop_map(Move::Limit),
        ];
        prop::collection::vec(one, 1..150)
    }

    proptest! {
        /// The judge keeps every request with its period: at any moment, what is settled and set
        /// aside of the current period never passes the limit, while nobody uses more than that.
        #[test]
        fn a_budget_is_never_passed(moves in moves()) {
            let mut budget = Budget::new(200, LimitPeriod::Day, 0, noon());
            let (mut limit, mut now, mut latest) = (200_u64, noon(), noon());
            // Each: began, set aside, used (once it is over).
            let mut all: Vec<(Timestamp, u64, Option<u64>)> = Vec::new();
            let mut open: Vec<(Reserved, usize)> = Vec::new();
            for step in moves {
                let day = |t: Timestamp| t.as_second().div_euclid(86_400);
                let spent = |all: &[(Timestamp, u64, Option<u64>)], latest: Timestamp| -> u64 {
                    let today = all.iter().filter(|(began, ..)| day(*began) == day(latest));
                    today.map(|(_, aside, used)| used.unwrap_or(*aside)).sum()
                };
                match step {
                    Move::Reserve(tokens) => match budget.reserve(tokens, now) {
                        Ok(reserved) => {
                            open.push((reserved, all.len()));
                            all.push((latest, tokens, None));
                            prop_assert!(tokens == 0 || spent(&all, latest) <= limit);
                        }
                        Err(_) => prop_assert!(spent(&all, latest) + tokens > limit),
                    },
                    Move::TopUp(which, more) if !open.is_empty() => {
                        let (reserved, number) = &open[which % open.len()];
                        let is_todays = day(all[*number].0) == day(latest);
                        if budget.has_more(reserved, more, now) {
                            budget.top_up(reserved, more, now);
                            all[*number].1 += more;
                            let kept = !is_todays || more == 0 || spent(&all, latest) <= limit;
                            prop_assert!(kept);
                        } else {
                            prop_assert!(is_todays && spent(&all, latest) + more > limit);
                        }
                    }
                    Move::Settle(which, part) if !open.is_empty() => {
                        let (reserved, number) = open.swap_remove(which % open.len());
                        let used = all[number].1 * part / 100;
                        all[number].2 = Some(used);
                        budget.settle(reserved, used, now);
                    }
                    Move::TopUp(..) | Move::Settle(..) => {}
                    Move::Pass(seconds) => {
                        now = now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
                        latest = latest.max(now);
                    }
                    Move::Limit(next) => {
                        limit = next;
                        budget.set_limit(limit);
                    }
                }
                prop_assert_eq!(budget.remaining(now), limit.saturating_sub(spent(&all, latest)));
            }
        }
    }
}
