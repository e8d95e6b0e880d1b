//! Whether an upstream is asked at all.
//!
//! ```text
//!            too many faults                     the pause is over
//!  Closed ────────────────────▶ Open ──────────────────────────────▶ HalfOpen
//!    ▲                           ▲                                       │
//!    │                           └───────── a probe fails ───────────────┤
//!    └────────────────────────────── every probe succeeds ───────────────┘
//! ```
//!
//! Closed, calls pass and are counted over the last steps of time. Two things open it: a share of
//! faults among at least so many calls, or so many connections in a row that could not be made. Open,
//! nothing passes until a pause is over; each time it opens again without having been closed the pause
//! doubles, up to a limit, and each is stretched by a random part, so that many gateways do not come
//! back at once. Half open, so many probes pass; all of them have to succeed.
//!
//! Only the upstream's own faults are told here (no connection, 5xx, no first byte in time, a broken
//! stream), never a client's.

use std::{collections::VecDeque, time::Duration};

use super::moment::Moment;

/// Steps in which calls are counted.
const STEPS: u64 = 10;

/// When it opens and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Over what time calls are counted.
    pub span: Duration,
    /// Below so many calls in that time the share of faults says nothing.
    pub calls_min: u64,
    /// The share of faults that opens it, in percent.
    pub faults_percent: u64,
    /// So many connections in a row that could not be made open it, too.
    pub unconnected_max: u32,
    /// The first pause.
    pub pause_min: Duration,
    /// The longest pause, without what is random in it.
    pub pause_max: Duration,
    /// Calls that are tried when a pause is over.
    pub probes: u32,
}

/// The breaker of one upstream.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// Counts changes of state: a call that began in another one says nothing about this one.
    era: u64,
    /// The number of the next pass.
    next: u64,
    /// The pause before the next half-open state.
    pause: Duration,
}

/// What others may know of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Calls pass.
    Closed,
    /// Nothing passes until then.
    Open {
        /// The end of the pause.
        until: Moment,
    },
    /// A few calls are tried.
    HalfOpen,
}

/// The right to make one call, to be told of its end.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "tell the breaker how the call ended"]
pub struct Pass {
    era: u64,
    number: u64,
}

/// How a call ended, as the upstream's fault or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The upstream did its part.
    Well,
    /// The upstream failed.
    Failed,
    /// It could not even be reached.
    Unconnected,
    /// Nobody knows: the client left before there was anything to judge.
    Unknown,
}

/// The upstream is not to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it may be, at the earliest; unknown while probes are under way.
    pub at: Option<Moment>,
}

#[derive(Clone, Debug)]
enum State {
    Closed { counted: VecDeque<Counted>, unconnected: u32 },
    Open { until: Moment },
    HalfOpen { out: u32, well: Vec<u64> },
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    step: u64,
    calls: u64,
    faults: u64,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            span: Duration::from_secs(30),
            calls_min: 20,
            faults_percent: 50,
            unconnected_max: 3,
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
            probes: 3,
        }
    }
}

// === impl Pass ===

impl Pass {
    /// The same pass, to say that its call has begun.
    pub(crate) fn again(&self) -> Self {
        Self { era: self.era, number: self.number }
    }
}

// === impl Breaker ===

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let pause = settings.pause_min;
        Self { settings, state: State::closed(), era: 0, next: 0, pause }
    }

    /// How it is.
    #[must_use]
    pub fn view(&self) -> View {
        match self.state {
            State::Closed { .. } => View::Closed,
            State::Open { until } => View::Open { until },
            State::HalfOpen { .. } => View::HalfOpen,
        }
    }

    /// Asks for the right to make a call.
    ///
    /// # Errors
    /// [`Refused`] while it is open, and while its probes are under way.
    pub fn ask(&mut self, now: Moment) -> Result<Pass, Refused> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(Refused { at: Some(until) });
            }
            self.enter(State::HalfOpen { out: 0, well: Vec::new() });
        }
        if let State::HalfOpen { out, .. } = &mut self.state {
            if *out >= self.settings.probes {
                return Err(Refused { at: None });
            }
            *out += 1;
        }
        self.next += 1;
        Ok(Pass { era: self.era, number: self.next })
    }

    /// Hears that the reply to a call has begun. For a probe that is enough: a stream may take an
    /// hour, and nobody would be let through meanwhile.
    pub fn begun(&mut self, pass: &Pass) {
        if pass.era != self.era {
            return;
        }
        if let State::HalfOpen { well, .. } = &mut self.state
            && !well.contains(&pass.number)
        {
            well.push(pass.number);
            if well.len() >= self.settings.probes as usize {
                self.pause = self.settings.pause_min;
                self.enter(State::closed());
            }
        }
    }

    /// Hears how a call ended. `chance`, from 0 to 1, is drawn anew for each call: it stretches the
    /// pause, should this open the breaker, by up to a quarter.
    #[expect(clippy::needless_pass_by_value, reason = "a pass is good for one call")]
    pub fn ended(&mut self, pass: Pass, ended: Ended, now: Moment, chance: f64) {
        if pass.era != self.era {
            return;
        }
        match &mut self.state {
            // Nothing passes while it is open: no call of that era can end.
            State::Closed { .. } | State::Open { .. } => self.count(ended, now, chance),
            State::HalfOpen { out, well } => match ended {
                Ended::Well => self.begun(&pass),
                Ended::Failed | Ended::Unconnected => self.open(now, chance),
                // Another call is tried in its place.
                Ended::Unknown => {
                    well.retain(|number| *number != pass.number);
                    *out -= 1;
                }
            },
        }
    }

    fn count(&mut self, ended: Ended, now: Moment, chance: f64) {
        let step_length = u64::try_from(self.settings.span.as_millis()).unwrap_or(u64::MAX) / STEPS;
        let step = now.millis() / step_length.max(1);
        let State::Closed { counted, unconnected } = &mut self.state else { return };
        let is_fault = match ended {
            Ended::Well => {
                *unconnected = 0;
                false
            }
            Ended::Failed => {
                *unconnected = 0;
                true
            }
            Ended::Unconnected => {
                *unconnected += 1;
                true
            }
            Ended::Unknown => return,
        };
        while counted.front().is_some_and(|first| first.step + STEPS <= step) {
            counted.pop_front();
        }
        match counted.back_mut() {
            // A moment before the last one is taken for the last one.
            Some(last) if last.step >= step => {
                last.calls += 1;
                last.faults += u64::from(is_fault);
            }
            _ => counted.push_back(Counted { step, calls: 1, faults: u64::from(is_fault) }),
        }
        let calls: u64 = counted.iter().map(|counted| counted.calls).sum();
        let faults: u64 = counted.iter().map(|counted| counted.faults).sum();
        let share_is_high = calls >= self.settings.calls_min
            && faults * 100 >= calls * self.settings.faults_percent;
        let unreachable = *unconnected >= self.settings.unconnected_max;
        if is_fault && (share_is_high || unreachable) {
            self.open(now, chance);
        }
    }

    fn open(&mut self, now: Moment, chance: f64) {
        let stretch = 1.0 + chance.clamp(0.0, 1.0) / 4.0;
        let until = now.after(self.pause.mul_f64(stretch));
        self.pause = self.pause.saturating_mul(2).min(self.settings.pause_max);
        self.enter(State::Open { until });
    }

    fn enter(&mut self, state: State) {
        self.era += 1;
        self.state = state;
    }
}

// === impl State ===

impl State {
    fn closed() -> Self {
        Self::Closed { counted: VecDeque::new(), unconnected: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn call(breaker: &mut Breaker, ended: Ended, now: u64) -> Result<(), Refused> {
        breaker.ask(at(now)).map(|pass| breaker.ended(pass, ended, at(now), 0.0))
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(Settings::default());
        (0..3).for_each(|_| call(&mut breaker, Ended::Unconnected, 0).unwrap());
        assert_eq!(breaker.view(), View::Open { until: at(1_000) });
        breaker
    }

    #[test]
    fn a_share_of_faults_opens_it_once_there_are_enough_calls() {
        let mut breaker = Breaker::new(Settings::default());
        for number in 0..19 {
            call(&mut breaker, Ended::Failed, number).unwrap();
        }
        assert_eq!(breaker.view(), View::Closed);
        call(&mut breaker, Ended::Failed, 19).unwrap();
        assert_eq!(breaker.view(), View::Open { until: at(1_019) });
        assert_eq!(breaker.ask(at(1_018)), Err(Refused { at: Some(at(1_019)) }));
    }

    #[test]
    fn half_of_the_calls_may_not_fail_and_fewer_may() {
        for (failing, view_is_closed) in [(9, true), (10, false)] {
            let mut breaker = Breaker::new(Settings::default());
            for number in 0..20 {
                let ended = if number >= 20 - failing { Ended::Failed } else { Ended::Well };
                call(&mut breaker, ended, 0).unwrap();
            }
            assert_eq!(breaker.view() == View::Closed, view_is_closed, "{failing} of 20");
        }
    }

    #[test]
    fn what_is_long_past_does_not_count() {
        let mut breaker = Breaker::new(Settings::default());
        (0..15).for_each(|_| call(&mut breaker, Ended::Failed, 0).unwrap());
        (0..15).for_each(|_| call(&mut breaker, Ended::Failed, 30_000).unwrap());
        assert_eq!(breaker.view(), View::Closed);
        // Nor does it help that time runs backwards.
        (0..5).for_each(|_| call(&mut breaker, Ended::Failed, 29_000).unwrap());
        assert!(matches!(breaker.view(), View::Open { .. }));
    }

    #[test]
    fn connections_that_fail_in_a_row_open_it_and_one_that_is_made_begins_anew() {
        for between in [Ended::Well, Ended::Failed] {
            let mut breaker = Breaker::new(Settings::default());
            for ended in [Ended::Unconnected, Ended::Unconnected, between, Ended::Unconnected] {
                call(&mut breaker, ended, 0).unwrap();
            }
            assert_eq!(breaker.view(), View::Closed);
        }
        opened();
    }

    #[test]
    fn probes_are_bounded_and_all_of_them_have_to_succeed() {
        let mut breaker = opened();
        let passes: Vec<_> = (0..3).map(|_| breaker.ask(at(1_000)).unwrap()).collect();
        assert_eq!(breaker.ask(at(1_000)), Err(Refused { at: None }));
        assert_eq!(breaker.view(), View::HalfOpen);
        for pass in passes {
            breaker.ended(pass, Ended::Well, at(1_100), 0.0);
        }
        assert_eq!(breaker.view(), View::Closed);
    }

    #[test]
    fn a_probe_that_fails_opens_it_for_twice_as_long_and_success_forgets_that() {
        let mut breaker = opened();
        let mut now = 1_000;
        for pause in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            call(&mut breaker, Ended::Failed, now).unwrap();
            assert_eq!(breaker.view(), View::Open { until: at(now + pause) });
            now += pause;
        }
        (0..3).for_each(|_| call(&mut breaker, Ended::Well, now).unwrap());
        (0..3).for_each(|_| call(&mut breaker, Ended::Unconnected, now).unwrap());
        assert_eq!(breaker.view(), View::Open { until: at(now + 1_000) });
    }

    #[test]
    fn a_probe_that_nobody_can_judge_is_made_again() {
        let mut breaker = opened();
        for _ in 0..10 {
            call(&mut breaker, Ended::Unknown, 1_000).unwrap();
        }
        assert_eq!(breaker.view(), View::HalfOpen);
        let mut closed = Breaker::new(Settings::default());
        (0..50).for_each(|_| call(&mut closed, Ended::Unknown, 0).unwrap());
        assert_eq!(closed.view(), View::Closed);
    }

    #[test]
    fn a_probe_whose_reply_has_begun_counts_once() {
        let mut breaker = opened();
        let passes: Vec<_> = (0..3).map(|_| breaker.ask(at(1_000)).unwrap()).collect();
        for _ in 0..3 {
            breaker.begun(&passes[0]);
        }
        breaker.begun(&passes[1]);
        assert_eq!(breaker.view(), View::HalfOpen);
        breaker.begun(&passes[2]);
        assert_eq!(breaker.view(), View::Closed);
        // Closed, it is the end that counts.
        breaker.begun(&passes[0]);
        for pass in passes {
            breaker.ended(pass, Ended::Failed, at(2_000), 0.0);
        }
        assert_eq!(breaker.view(), View::Closed);
    }

    #[test]
    fn a_probe_that_has_begun_and_broke_opens_it_again() {
        let mut breaker = opened();
        let passes: Vec<_> = (0..2).map(|_| breaker.ask(at(1_000)).unwrap()).collect();
        breaker.begun(&passes[0]);
        for pass in passes.into_iter().take(1) {
            breaker.ended(pass, Ended::Failed, at(1_500), 0.0);
        }
        assert_eq!(breaker.view(), View::Open { until: at(3_500) });
    }

    #[test]
    fn a_call_of_another_era_says_nothing() {
        let mut breaker = Breaker::new(Settings::default());
        let late = [breaker.ask(at(0)).unwrap(), breaker.ask(at(0)).unwrap()];
        (0..3).for_each(|_| call(&mut breaker, Ended::Unconnected, 0).unwrap());
        for pass in late {
            breaker.ended(pass, Ended::Well, at(10), 0.0);
        }
        assert_eq!(breaker.view(), View::Open { until: at(1_000) });
    }

    #[test]
    fn chance_stretches_a_pause_by_up_to_a_quarter() {
        for (chance, until) in [(0.0, 1_000), (0.5, 1_125), (1.0, 1_250), (7.0, 1_250)] {
            let mut breaker = Breaker::new(Settings { unconnected_max: 1, ..Settings::default() });
            let pass = breaker.ask(at(0)).unwrap();
            breaker.ended(pass, Ended::Unconnected, at(0), chance);
            assert_eq!(breaker.view(), View::Open { until: at(until) });
        }
    }

    proptest! {
        /// Whatever happens: open, nothing passes before its time, and half open no more than the
        /// probes; and it always comes back once calls succeed again.
        #[test]
        fn it_keeps_shut_and_comes_back(
            steps in prop::collection::vec((0..3_000_u64, 0..4_u8, any::<bool>()), 1..200),
        ) {
            let mut breaker = Breaker::new(Settings::default());
            let (mut now, mut held) = (0, Vec::new());
            for (gap, how, hold) in steps {
                now += gap;
                let before = breaker.view();
                match breaker.ask(at(now)) {
                    Ok(pass) => {
                        if let View::Open { until } = before {
                            prop_assert!(at(now) >= until);
                        }
                        held.push(pass);
                    }
                    Err(Refused { at: Some(until) }) => {
                        prop_assert_eq!(before, View::Open { until });
                        prop_assert!(at(now) < until);
                    }
                    Err(Refused { at: None }) => prop_assert_eq!(breaker.view(), View::HalfOpen),
                }
                if !hold && let Some(pass) = held.pop() {
                    let all = [Ended::Well, Ended::Failed, Ended::Unconnected, Ended::Unknown];
                    breaker.ended(pass, all[usize::from(how)], at(now), 0.3);
                }
            }
            for pass in held {
                breaker.ended(pass, Ended::Well, at(now), 0.3);
            }
            for _ in 0..10 {
                now += 80_000;
                let _ = call(&mut breaker, Ended::Well, now);
            }
            prop_assert_eq!(breaker.view(), View::Closed);
        }
    }
}
