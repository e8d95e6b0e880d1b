//! Whether an upstream is asked at all.
//!
//! ```text
//!            too many faults                     the pause is over
//!  Closed ────────────────────▶ Open ──────────────────────────────▶ HalfOpen
//!    ▲                           ▲                                       │
//!    │                           └───────── the server is sick ──────────┤
//!    └────────────────────────────── enough trials succeed ──────────────┘
//! ```
//!
//! Closed, calls pass and are counted over the last steps of time. Two things open it: a share of
//! faults among at least so many calls, or so many connections in a row that could not be made. Open,
//! nothing passes until a pause is over; each time it opens again without having been closed the pause
//! doubles, up to a limit, and each is stretched by a random part, so that many gateways do not come
//! back at once. Half open, a few calls are tried; so many of them have to succeed.
//!
//! # Faults that a request can provoke
//!
//! A model server answers 500 to many a bad request, and a prompt can crash its runner, or keep it busy
//! until a timeout. So a fault after the request was sent is only *suspected* to be the server's, and one
//! owner's suspected faults never open the breaker: of the owner with the most of them, no more count than
//! all other owners have together. The others' faults are at most doubled by it, whatever it sends. Half
//! open, one owner cannot open it again either, and cannot take all trials.
//!
//! Where one owner alone meets faults, the server may be dead all the same. The breaker then asks for a
//! probe ([`Breaker::take_doubt`]), a call of the gateway's own that no client can provoke to fail. Where
//! that fails, too, all faults count.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use super::moment::Moment;

#[cfg(test)]
mod tests;

/// Steps in which calls are counted.
const STEPS: u64 = 10;
/// So many suspected faults are reason enough for a probe, where they are a high share.
const DOUBTS_MIN: u64 = 3;
/// At least so long from one probe to the next.
const PROBE_GAP: Duration = Duration::from_secs(1);
/// A trial without an outcome keeps its place for so long.
const TRIAL_MAX: Duration = Duration::from_secs(10);

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
    /// Calls that are tried at once when a pause is over, and that have to succeed.
    pub trials: u32,
}

/// The breaker of one upstream. `Owner` is whose calls they are.
#[derive(Clone, Debug)]
pub struct Breaker<Owner> {
    settings: Settings,
    state: State<Owner>,
    /// Counts changes of state: a call that began in another one says nothing about this one.
    era: u64,
    /// The number of the next pass.
    next: u64,
    /// The pause before the next half-open state.
    pause: Duration,
    /// A probe is wanted.
    doubts: bool,
    /// The next probe is wanted at this moment at the earliest.
    probe_at: Moment,
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
pub struct Pass<Owner> {
    owner: Owner,
    era: u64,
    number: u64,
}

/// How a call ended, as the upstream's fault or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The upstream did its part.
    Well,
    /// The upstream failed in a way that no request can provoke.
    Failed,
    /// The upstream failed, and the request may have provoked it.
    Suspected,
    /// It could not even be reached.
    Unconnected,
    /// It says nothing of the upstream: the client left before there was anything to judge, or the
    /// gateway could not do its own part.
    Unknown,
}

/// The upstream is not to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is open until then.
    Until(Moment),
    /// As many calls as may be are being tried: the next outcome says more.
    Trials,
    /// The owner has as many trials under way as it may have. Others may get one.
    OwnTrials,
}

#[derive(Clone, Debug)]
enum State<Owner> {
    Closed(Counted<Owner>),
    Open { until: Moment },
    HalfOpen(HalfOpen<Owner>),
}

/// What was counted lately.
#[derive(Clone, Debug)]
struct Counted<Owner> {
    steps: VecDeque<Step<Owner>>,
    /// The sums of `steps`.
    calls: u64,
    faults: u64,
    suspected: HashMap<Owner, u64>,
    /// Connections in a row that could not be made.
    unconnected: u32,
}

#[derive(Clone, Debug)]
struct Step<Owner> {
    number: u64,
    /// All but the suspected ones.
    calls: u64,
    faults: u64,
    suspected: HashMap<Owner, u64>,
}

#[derive(Clone, Debug)]
struct HalfOpen<Owner> {
    /// Without an outcome yet.
    trials: Vec<Trial<Owner>>,
    well: Vec<u64>,
    /// An owner whose trial failed.
    suspected: Option<Owner>,
}

#[derive(Clone, Debug)]
struct Trial<Owner> {
    owner: Owner,
    number: u64,
    began: Moment,
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
            trials: 3,
        }
    }
}

// === impl Pass ===

impl<Owner: Copy> Pass<Owner> {
    /// The same pass, to say that its call has begun.
    pub(crate) fn again(&self) -> Self {
        Self { owner: self.owner, era: self.era, number: self.number }
    }
}

// === impl Refused ===

impl Refused {
    /// When it may be asked, at the earliest; `None` while calls are being tried.
    #[must_use]
    pub fn at(self) -> Option<Moment> {
        match self {
            Self::Until(at) => Some(at),
            Self::Trials | Self::OwnTrials => None,
        }
    }
}

// === impl Breaker ===

impl<Owner: Copy + Eq + Hash> Breaker<Owner> {
    /// A closed one.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let (pause, state) = (settings.pause_min, State::Closed(Counted::new()));
        let (doubts, probe_at) = (false, Moment::default());
        Self { settings, state, era: 0, next: 0, pause, doubts, probe_at }
    }

    /// How it is.
    #[must_use]
    pub fn view(&self) -> View {
        match self.state {
            State::Closed(_) => View::Closed,
            State::Open { until } => View::Open { until },
            State::HalfOpen(_) => View::HalfOpen,
        }
    }

    /// Asks for the right to make a call.
    ///
    /// # Errors
    /// [`Refused`] while it is open, and while calls are being tried.
    pub fn ask(&mut self, owner: Owner, now: Moment) -> Result<Pass<Owner>, Refused> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(Refused::Until(until));
            }
            let (trials, well) = (Vec::new(), Vec::new());
            self.enter(State::HalfOpen(HalfOpen { trials, well, suspected: None }));
        }
        let number = self.next + 1;
        if let State::HalfOpen(half_open) = &mut self.state {
            half_open.admit(Trial { owner, number, began: now }, self.settings.trials)?;
        }
        self.next = number;
        Ok(Pass { owner, era: self.era, number })
    }

    /// Hears that the reply to a call has begun. For a trial that is enough: a stream may take an
    /// hour, and nobody would be let through meanwhile.
    pub fn begun(&mut self, pass: &Pass<Owner>) {
        if pass.era != self.era {
            return;
        }
        if let State::HalfOpen(half_open) = &mut self.state
            && half_open.begun(pass.number) >= self.settings.trials as usize
        {
            self.pause = self.settings.pause_min;
            self.enter(State::Closed(Counted::new()));
        }
    }

    /// Hears how a call ended. `chance`, from 0 to 1, is drawn anew for each call: it stretches the
    /// pause, should this open the breaker, by up to a quarter.
    #[expect(clippy::needless_pass_by_value, reason = "a pass is good for one call")]
    pub fn ended(&mut self, pass: Pass<Owner>, ended: Ended, now: Moment, chance: f64) {
        if pass.era != self.era {
            return;
        }
        if let State::Closed(counted) = &mut self.state {
            let step_ms = u64::try_from(self.settings.span.as_millis()).unwrap_or(u64::MAX);
            let step = now.millis() / (step_ms / STEPS).max(1);
            if !counted.count(step, pass.owner, ended) {
                return;
            }
            if counted.opens(&self.settings) {
                self.open(now, chance);
            } else if counted.is_doubtful(&self.settings) {
                self.doubt(now);
            }
            return;
        }
        // Nothing passes while it is open: no call of that era can end.
        let State::HalfOpen(half_open) = &mut self.state else { return };
        match ended {
            Ended::Well => self.begun(&pass),
            Ended::Failed | Ended::Unconnected => self.open(now, chance),
            // Another call is tried in its place.
            Ended::Unknown => half_open.forget(pass.number),
            Ended::Suspected => {
                half_open.forget(pass.number);
                match half_open.suspected {
                    Some(other) if other != pass.owner => self.open(now, chance),
                    _ => {
                        half_open.suspected = Some(pass.owner);
                        self.doubt(now);
                    }
                }
            }
        }
    }

    /// Whether a probe is wanted: says so once, and not more often than once a second. See
    /// [`Breaker::probe_failed`].
    pub fn take_doubt(&mut self) -> bool {
        std::mem::take(&mut self.doubts)
    }

    /// Hears that a probe of the gateway's own failed, too. Faults that were only suspected count now.
    pub fn probe_failed(&mut self, now: Moment, chance: f64) {
        let confirms = match &self.state {
            State::Closed(counted) => counted.is_doubtful(&self.settings),
            State::Open { .. } => false,
            State::HalfOpen(half_open) => half_open.suspected.is_some(),
        };
        if confirms {
            self.open(now, chance);
        }
    }

    fn doubt(&mut self, now: Moment) {
        if now >= self.probe_at {
            self.doubts = true;
            self.probe_at = now.after(PROBE_GAP);
        }
    }

    fn open(&mut self, now: Moment, chance: f64) {
        let stretch = 1.0 + chance.clamp(0.0, 1.0) / 4.0;
        let until = now.after(self.pause.mul_f64(stretch));
        self.pause = self.pause.saturating_mul(2).min(self.settings.pause_max);
        self.enter(State::Open { until });
    }

    fn enter(&mut self, state: State<Owner>) {
        self.era += 1;
        self.state = state;
    }
}

// === impl Counted ===

impl<Owner: Copy + Eq + Hash> Counted<Owner> {
    fn new() -> Self {
        let (steps, suspected) = (VecDeque::new(), HashMap::new());
        Self { steps, calls: 0, faults: 0, suspected, unconnected: 0 }
    }

    /// Counts the end of a call. Returns whether it was a fault.
    fn count(&mut self, step: u64, owner: Owner, ended: Ended) -> bool {
        match ended {
            Ended::Unknown => return false,
            Ended::Unconnected => self.unconnected += 1,
            Ended::Well | Ended::Failed | Ended::Suspected => self.unconnected = 0,
        }
        self.forget_before(step);
        // A moment before the last one is taken for the last one.
        if self.steps.back().is_none_or(|last| last.number < step) {
            let suspected = HashMap::new();
            self.steps.push_back(Step { number: step, calls: 0, faults: 0, suspected });
        }
        let Some(last) = self.steps.back_mut() else { return false };
        if ended == Ended::Suspected {
            *last.suspected.entry(owner).or_default() += 1;
            *self.suspected.entry(owner).or_default() += 1;
            return true;
        }
        let fault = u64::from(ended != Ended::Well);
        (last.calls, last.faults) = (last.calls + 1, last.faults + fault);
        (self.calls, self.faults) = (self.calls + 1, self.faults + fault);
        fault > 0
    }

    fn forget_before(&mut self, step: u64) {
        while let Some(first) = self.steps.pop_front_if(|first| first.number + STEPS <= step) {
            self.calls -= first.calls;
            self.faults -= first.faults;
            for (owner, count) in first.suspected {
                if let Some(sum) = self.suspected.get_mut(&owner) {
                    *sum -= count;
                }
            }
            self.suspected.retain(|_, sum| *sum > 0);
        }
    }

    fn opens(&self, settings: &Settings) -> bool {
        let all: u64 = self.suspected.values().sum();
        let most = self.suspected.values().copied().max().unwrap_or(0);
        // Of the owner with the most no more than of all others together.
        let counting = all - most + most.min(all - most);
        self.is_high(counting, settings.calls_min, settings)
            || self.unconnected >= settings.unconnected_max
    }

    /// Whether it would be open if all suspected faults were the server's, and few calls were enough.
    fn is_doubtful(&self, settings: &Settings) -> bool {
        let all = self.suspected.values().sum();
        self.is_high(all, DOUBTS_MIN.min(settings.calls_min), settings)
    }

    /// Whether faults are a high share of calls, with so many of the suspected ones among both.
    fn is_high(&self, suspected: u64, calls_min: u64, settings: &Settings) -> bool {
        let (calls, faults) = (self.calls + suspected, self.faults + suspected);
        calls >= calls_min && faults > 0 && faults * 100 >= calls * settings.faults_percent
    }
}

// === impl HalfOpen ===

impl<Owner: Copy + Eq> HalfOpen<Owner> {
    /// Tries a call, where fewer than `most` are being tried. The last place is for another owner.
    fn admit(&mut self, trial: Trial<Owner>, most: u32) -> Result<(), Refused> {
        let most = most as usize;
        let lasts = |other: &&Trial<Owner>| trial.began < other.began.after(TRIAL_MAX);
        let of_owner = |other: &&Trial<Owner>| other.owner == trial.owner;
        if self.trials.iter().filter(lasts).count() >= most {
            return Err(Refused::Trials);
        }
        let own = self.trials.iter().filter(lasts).filter(of_owner).count();
        if own >= most.saturating_sub(1).max(1) {
            return Err(Refused::OwnTrials);
        }
        self.trials.push(trial);
        Ok(())
    }

    /// A trial went well. Returns how many have.
    fn begun(&mut self, number: u64) -> usize {
        self.trials.retain(|trial| trial.number != number);
        if !self.well.contains(&number) {
            self.well.push(number);
        }
        self.well.len()
    }

    /// A trial says nothing, or nothing any more.
    fn forget(&mut self, number: u64) {
        self.trials.retain(|trial| trial.number != number);
        self.well.retain(|other| *other != number);
    }
}
