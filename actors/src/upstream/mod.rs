//! One model server: polls it, knows how it is, and says who may ask it now.
//!
//! Whoever wants to send it a request asks for a [`Turn`]: a slot of its own, which comes back when the
//! turn is dropped, with word of how the call ended. Where every slot is taken the asker waits in the
//! fair queue; dropping what it waits with frees its place. How busy it is, and whether its breaker is
//! open, is published, so that the choice among several needs no message. Neither does a turn where a slot is
//! free and the breaker closed, nor its end where nobody waits: slots, queue and breaker lie under a lock
//! beside the actor ([`Load`]), and go with it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use metrics::{Gauge, gauge};
use protocol::{id::TenantId, telemetry as names};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use storage::upstreams::Upstream as Record;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::{
    catalog,
    directory::Views,
    measure::{Handling, Kind, Queued, jittered},
    ports::{DiscoveredModel, ProbeError, Prober},
    rules::{
        breaker::{self, Ended, Pass},
        lane::{self, Asked, Called, Lane},
        moment::Moment,
    },
};

mod turn;

pub use self::turn::{Standing, Turn, Waiting};
pub use crate::rules::lane::NotNow;

/// The pause after the first failed poll; it doubles up to the interval.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long an actor may take to say what it knows.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// What [`Load::open_until`] says of a breaker that is closed.
const CLOSED: u64 = 0;

/// Settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From one poll to the next, give or take a tenth.
    pub interval: Duration,
    /// How long a poll may take.
    pub timeout: Duration,
    /// The way to it.
    pub lane: lane::Settings,
}

/// How busy an upstream is, and the way to it.
pub struct Load {
    epoch: Instant,
    lane: Mutex<Lane<TenantId, Waiter>>,
    gauges: Gauges,
    /// Its actor is no more: nobody gets a turn here.
    is_over: AtomicBool,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    /// As many as may be taken; the largest number where that is as many as come.
    slots: AtomicU64,
    /// The moment at which the breaker lets somebody through; [`CLOSED`] where it does.
    open_until: AtomicU64,
}

/// All that an upstream's actor knows, to be looked at.
#[derive(Clone, Debug)]
pub struct Look {
    /// Requests that have a slot.
    pub taken: u64,
    /// Requests that may have one; none: as many as come.
    pub slots: Option<u64>,
    /// Those who wait, by tenant.
    pub waiting: Vec<(TenantId, usize)>,
    /// How its breaker is.
    pub breaker: breaker::View,
    /// How long it stays open.
    pub open_for: Option<Duration>,
}

type Answer = Result<Turn, NotNow>;

pub(crate) struct Upstream;

#[derive(Debug)]
pub(crate) enum Message {
    /// It is time to poll.
    Poll,
    /// A poll has ended.
    Polled(Result<Vec<DiscoveredModel>, ProbeError>),
    /// Somebody wants a turn.
    Ask { tenant: TenantId, weight: u32, ticket: u64, reply: RpcReplyPort<Answer>, queued: Queued },
    /// Somebody waits no longer.
    Leave { ticket: u64, queued: Queued },
    /// The reply to a probe has begun.
    Begun { pass: Pass, queued: Queued },
    /// A turn is over.
    Ended { pass: Pass, ended: Ended, took: Duration, queued: Queued },
    /// Somebody may have waited too long.
    Expire,
    /// Another number of slots.
    SetSlots(Option<u64>),
    /// Where somebody stands.
    Stand { ticket: u64, reply: RpcReplyPort<Option<Standing>> },
    /// What there is to know.
    Look { reply: RpcReplyPort<Look> },
    #[cfg(test)]
    Poison,
}

/// What the actor needs to start, and to start again.
#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) record: Arc<Record>,
    pub(crate) settings: Settings,
    pub(crate) prober: Arc<dyn Prober>,
    pub(crate) catalog: catalog::Handle,
    pub(crate) views: Arc<Views>,
    pub(crate) tasks: TaskTracker,
    pub(crate) epoch: Instant,
}

pub(crate) struct State {
    arguments: Arguments,
    load: Arc<Load>,
    polling: bool,
    failures: u32,
    /// The places of those who wait, as they were when they asked.
    places: HashMap<u64, usize>,
    /// Whether an [`Message::Expire`] is on its way.
    expires: bool,
}

/// What is published of it.
struct Gauges {
    slots_taken: Gauge,
    queue_depth: Gauge,
    breaker: Gauge,
}

#[derive(Debug)]
struct Waiter {
    reply: RpcReplyPort<Answer>,
    ticket: u64,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            lane: lane::Settings::default(),
        }
    }
}

// === impl Load ===

impl Load {
    fn new(arguments: &Arguments) -> Self {
        let Arguments { epoch, record, settings, .. } = arguments;
        let load = Self {
            epoch: *epoch,
            lane: Mutex::new(Lane::new(&settings.lane, record.slots)),
            gauges: Gauges::of(&record.name),
            is_over: AtomicBool::new(false),
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            slots: AtomicU64::new(u64::MAX),
            open_until: AtomicU64::new(CLOSED),
        };
        load.publish(&load.lane());
        load
    }

    /// A turn at once, where a slot is free for it.
    fn take(&self) -> Option<Pass> {
        // Where a rule has failed the actor says so.
        let mut lane = self.lane.lock().ok()?;
        if self.is_over.load(Ordering::Acquire) {
            return None;
        }
        let pass = lane.take(self.now())?;
        self.publish(&lane);
        Some(pass)
    }

    /// A turn is over; false where its end is the actor's to hear: somebody waits for it.
    fn ended(&self, pass: &Pass, ended: Ended, took: Duration) -> bool {
        // A rule that failed now would end the process.
        if thread::panicking() {
            return false;
        }
        let Ok(mut lane) = self.lane.lock() else { return false };
        if lane.waiting() > 0 {
            return false;
        }
        let called = lane.ended(pass.again(), ended, took, self.now(), fastrand::f64());
        debug_assert!(called.is_empty(), "nobody waits");
        self.publish(&lane);
        true
    }

    fn lane(&self) -> MutexGuard<'_, Lane<TenantId, Waiter>> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how busy it is.
    fn publish(&self, lane: &Lane<TenantId, Waiter>) {
        let count = usize::try_from(lane.taken()).unwrap_or(usize::MAX);
        self.taken.store(count, Ordering::Relaxed);
        self.waiting.store(lane.waiting(), Ordering::Relaxed);
        self.slots.store(lane.slots().unwrap_or(u64::MAX), Ordering::Relaxed);
        let (until, state) = match lane.breaker() {
            breaker::View::Closed => (CLOSED, 0),
            breaker::View::HalfOpen => (CLOSED, 1),
            breaker::View::Open { until } => (until.millis(), 2),
        };
        self.open_until.store(until, Ordering::Relaxed);
        self.gauges.slots_taken.set(count as f64);
        self.gauges.queue_depth.set(lane.waiting() as f64);
        self.gauges.breaker.set(f64::from(state));
    }

    /// Requests that have a slot or wait for one.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.taken.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed)
    }

    /// Whether somebody who asks now will not have to wait.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed) as u64;
        self.waiting.load(Ordering::Relaxed) == 0 && taken < self.slots.load(Ordering::Relaxed)
    }

    /// For how long nobody is let through; none where somebody is.
    #[must_use]
    pub fn open_for(&self) -> Option<Duration> {
        let until = Moment::from_millis(self.open_until.load(Ordering::Relaxed));
        let left = until.since(self.now());
        (!left.is_zero()).then_some(left)
    }

    fn now(&self) -> Moment {
        Moment::default().after(self.epoch.elapsed())
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("requests", &self.requests()).finish_non_exhaustive()
    }
}

/// All that an actor knows, if it says.
pub(crate) async fn look(actor: &ActorRef<Message>) -> Option<Look> {
    let asked = actor.call(|reply| Message::Look { reply }, Some(LOOK_TIMEOUT)).await;
    asked.ok()?.success_or(()).ok()
}

// === impl Look ===

impl Look {
    fn of(lane: &Lane<TenantId, Waiter>, now: Moment) -> Self {
        let open_for = match lane.breaker() {
            breaker::View::Open { until } => Some(until.since(now)),
            breaker::View::Closed | breaker::View::HalfOpen => None,
        };
        Self {
            taken: lane.taken(),
            slots: lane.slots(),
            waiting: lane.waiting_of().collect(),
            breaker: lane.breaker(),
            open_for,
        }
    }
}

// === impl Upstream ===

impl Actor for Upstream {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let load = Arc::new(Load::new(&arguments));
        arguments.views.publish(&arguments.record, myself.clone(), Arc::clone(&load));
        let _ = myself.cast(Message::Poll);
        let (places, polling, failures, expires) = (HashMap::new(), false, 0, false);
        Ok(State { arguments, load, places, polling, failures, expires })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin(Kind::Upstream);
        let load = Arc::clone(&state.load);
        let Ok(mut lane) = load.lane.lock() else { return Err("a rule failed".into()) };
        let now = load.now();
        let mut called = Called::new();
        match message {
            Message::Poll => state.poll(&myself),
            Message::Polled(polled) => {
                state.polling = false;
                let pause = state.learn(polled);
                myself.send_after(jittered(pause), || Message::Poll);
            }
            Message::Ask { tenant, weight, ticket, reply, queued } => {
                drop(queued);
                match lane.ask(tenant, weight, ticket, Waiter { reply, ticket }, now) {
                    Asked::Granted(waiter, pass) => called.push((waiter, Ok(pass))),
                    Asked::Refused(waiter, why) => called.push((waiter, Err(why))),
                    Asked::Waits { ahead } => {
                        state.places.insert(ticket, ahead + 1);
                    }
                }
            }
            Message::Leave { ticket, queued } => {
                drop(queued);
                state.places.remove(&ticket);
                lane.leave(ticket);
            }
            Message::Begun { pass, queued } => {
                drop(queued);
                called = lane.begun(&pass, now);
            }
            Message::Ended { pass, ended, took, queued } => {
                drop(queued);
                called = lane.ended(pass, ended, took, now, fastrand::f64());
            }
            Message::Expire => {
                state.expires = false;
                called = lane.expire(now);
            }
            Message::SetSlots(slots) => {
                called = lane.set_slots(slots.or(state.arguments.settings.lane.slots), now);
            }
            Message::Stand { ticket, reply } => {
                let standing = |ahead| Standing { ahead, expected: lane.expected_wait(ahead) };
                let _ = reply.send(lane.ahead(ticket).map(standing));
            }
            Message::Look { reply } => {
                let _ = reply.send(Look::of(&lane, now));
            }
            #[cfg(test)]
            Message::Poison => return Err("poisoned".into()),
        }
        state.watch_deadlines(&lane, now, &myself);
        let is_probe = lane.breaker() != breaker::View::Closed;
        load.publish(&lane);
        // Whoever has left drops its turn, which locks the lane.
        drop(lane);
        state.tell(called, is_probe, &myself);
        Ok(())
    }
}

// === impl Gauges ===

impl Gauges {
    fn of(upstream: &str) -> Self {
        let name = || upstream.to_owned();
        Self {
            slots_taken: gauge!(names::UPSTREAM_SLOTS_TAKEN, "upstream" => name()),
            queue_depth: gauge!(names::QUEUE_DEPTH, "upstream" => name()),
            breaker: gauge!(names::BREAKER_STATE, "upstream" => name()),
        }
    }
}

// === impl State ===

impl Drop for State {
    /// What it knew goes with it: those who wait are told, and nobody gets a turn of it any more.
    fn drop(&mut self) {
        let Arguments { settings, record, .. } = &self.arguments;
        self.load.is_over.store(true, Ordering::Release);
        *self.load.lane() = Lane::new(&settings.lane, record.slots);
    }
}

impl State {
    /// Gives those who were called their turns. One that has left drops its own, which comes back as
    /// a turn that is over.
    fn tell(&mut self, called: Called<Waiter>, is_probe: bool, myself: &ActorRef<Message>) {
        for (Waiter { reply, ticket }, pass) in called {
            let place = self.places.remove(&ticket);
            let load = || Arc::clone(&self.load);
            let _ = reply
                .send(pass.map(|pass| Turn::new(myself.clone(), load(), pass, is_probe, place)));
        }
    }

    fn watch_deadlines(
        &mut self,
        lane: &Lane<TenantId, Waiter>,
        now: Moment,
        myself: &ActorRef<Message>,
    ) {
        if let Some(deadline) = lane.next_deadline()
            && !self.expires
        {
            self.expires = true;
            // A moment has whole milliseconds, and this must not come before its end.
            let wait = deadline.since(now) + Duration::from_millis(1);
            myself.send_after(wait, || Message::Expire);
        }
    }

    fn poll(&mut self, myself: &ActorRef<Message>) {
        if self.polling {
            return;
        }
        self.polling = true;
        let (arguments, myself) = (self.arguments.clone(), myself.clone());
        self.arguments.tasks.spawn(async move {
            let asked = arguments.prober.models(&arguments.record);
            let polled = timeout(arguments.settings.timeout, asked).await;
            let _ = myself.cast(Message::Polled(polled.unwrap_or(Err(ProbeError::TimedOut))));
        });
    }

    /// Passes on what was said, and says when to ask again.
    fn learn(&mut self, polled: Result<Vec<DiscoveredModel>, ProbeError>) -> Duration {
        let Arguments { record, settings, catalog, views, .. } = &self.arguments;
        match polled {
            Ok(models) => {
                self.failures = 0;
                let count = models.len();
                catalog.discovered(Arc::clone(record), models);
                views.update(&record.name, |view| {
                    view.up = true;
                    view.models = count;
                    view.last_answer = Some(Instant::now());
                    view.last_error = None;
                });
                settings.interval
            }
            Err(error) => {
                tracing::warn!(upstream = %record.name, %error, "an upstream does not say its models");
                views.update(&record.name, |view| {
                    view.up = false;
                    view.last_error = Some(error);
                });
                let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                doubled.min(settings.interval)
            }
        }
    }
}
