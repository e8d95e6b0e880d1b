//! So many tokens in a period.
//!
//! A request reserves the most it may use before it begins, and settles what it used when it is over.
//! What is settled and what is reserved together never pass the limit, so neither do the requests
//! that were let in, as long as each keeps to its reservation.
//!
//! Periods are those of UTC: a day from midnight, a month from its first day, or all time. A request
//! belongs to the period in which it began, as in the ledger: what began yesterday is charged to
//! yesterday, whenever it ends. Time does not run backwards here for a clock that is behind by up to
//! [`LEAD`]: a moment before the last one is taken for the last one. Where the clock was further ahead, an
//! earlier period may come back. What was counted of it is still known, and what was counted meanwhile is
//! added to it; where it is not known any more, it has to be said again how much is used.

use foldhash::{HashMap, HashMapExt};
use identity::limits::LimitPeriod;
use jiff::{
    SignedDuration, Timestamp, ToSpan,
    civil::{DateTime, Time},
    tz::Offset,
};

use super::moment::LEAD;

#[cfg(test)]
mod tests;

/// The tally of one budget.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: u64,
    period: LimitPeriod,
    current: Span,
    /// Used by requests of the current period that are over.
    settled: u64,
    /// The period before the told one, with what has been used of it.
    past: Option<(Span, u64)>,
    /// The told period came back, and what was counted of it is not known any more.
    is_stale: bool,
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
            past: None,
            is_stale: false,
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
        self.latest = follow(self.latest, now);
        let told = (self.period == period && !self.is_stale).then_some((self.told, self.counted));
        self.period = period;
        self.begin(settled);
        if self.told != self.current || told.is_none() {
            self.past = told.filter(|(told, _)| told.start < self.current.start);
        }
        (self.told, self.counted, self.is_stale) = (self.current, settled, false);
    }

    /// Whether it was said how much is used of the period that is now, as far as that is still known.
    pub fn is_told(&mut self, now: Timestamp) -> bool {
        self.roll_over(now);
        self.told == self.current && !self.is_stale
    }

    /// Whether it has to be said again how much is used, because the clock was ahead.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// When the period began of which it was said how much is used; none for all time.
    #[must_use]
    pub fn told_start(&self) -> Option<Timestamp> {
        (self.period != LimitPeriod::Total).then_some(self.told.start)
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
        let counts = |under_way: &UnderWay| self.current.start <= under_way.began;
        (more <= remaining && !self.is_stale)
            || !self.under_way.get(&reserved.0).is_some_and(counts)
    }

    /// Sets more aside for a request that is under way, whether or not there is so much left.
    pub fn top_up(&mut self, reserved: &Reserved, more: u64, now: Timestamp) {
        self.roll_over(now);
        let Some(under_way) = self.under_way.get_mut(&reserved.0) else { return };
        under_way.tokens = under_way.tokens.saturating_add(more);
        if self.current.start <= under_way.began {
            self.reserved = self.reserved.saturating_add(more);
        }
    }

    /// A request is over: what it used takes the place of what was set aside, even where it is more.
    #[expect(clippy::needless_pass_by_value, reason = "a reservation is settled once")]
    pub fn settle(&mut self, reserved: Reserved, used: u64, now: Timestamp) {
        self.roll_over(now);
        let Reserved(number) = reserved;
        let Some(under_way) = self.under_way.remove(&number) else { return };
        let UnderWay { began, tokens } = under_way;
        // It may have begun while the clock was ahead: then it began after the end of what is current.
        let is_current = self.current.start <= began;
        if is_current {
            self.reserved = self.reserved.saturating_sub(tokens);
            self.settled = self.settled.saturating_add(used);
        }
        if self.told.holds(began) || (is_current && self.told == self.current) {
            self.counted = self.counted.saturating_add(used);
        } else if let Some((_, counted)) = self.past.as_mut().filter(|(past, _)| past.holds(began))
        {
            *counted = counted.saturating_add(used);
        }
    }

    fn roll_over(&mut self, now: Timestamp) {
        self.latest = follow(self.latest, now);
        if self.current.holds(self.latest) {
            return;
        }
        let next = Span::of(self.period, self.latest);
        if next.start < self.told.start {
            // The clock was ahead: what was counted meanwhile belongs to the period that comes back.
            let past = self.past.take().filter(|(past, _)| *past == next);
            self.is_stale |= past.is_none();
            self.counted = self.counted.saturating_add(past.map_or(0, |(_, counted)| counted));
            self.told = next;
        }
        self.begin(if self.told == next { self.counted } else { 0 });
    }

    /// The period that the latest moment is in begins, with so much used.
    fn begin(&mut self, settled: u64) {
        self.current = Span::of(self.period, self.latest);
        self.settled = settled;
        let current = self.current;
        let counts = self.under_way.values().filter(|under_way| current.start <= under_way.began);
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

/// The latest moment, where it is `now` by the clock.
pub(super) fn follow(latest: Timestamp, now: Timestamp) -> Timestamp {
    let lead = latest.duration_since(now);
    if lead > SignedDuration::try_from(LEAD).unwrap_or_default() { now } else { latest.max(now) }
}

fn utc(at: DateTime) -> Option<Timestamp> {
    Offset::UTC.to_timestamp(at).ok()
}
