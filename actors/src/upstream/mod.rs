//! One model server: polls it, knows how it is, and says who may ask it now.
//!
//! Whoever wants to send it a request asks for a [`Turn`]: a slot of its own, which comes back when the
//! turn is dropped, with word of how the call ended. Where every slot is taken the asker waits in the
//! fair queue; dropping what it waits with frees its place. How busy it is, and whether its breaker is
//! open, is published, so that the choice among several needs no message.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
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

/// How busy an upstream is, as its actor last said.
#[derive(Debug)]
pub struct Load {
    epoch: Instant,
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
    lane: Lane<TenantId, Waiter>,
    load: Arc<Load>,
    gauges: Gauges,
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
    pub(crate) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            slots: AtomicU64::new(u64::MAX),
            open_until: AtomicU64::new(CLOSED),
        }
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

    pub(crate) fn now(&self) -> Moment {
        Moment::default().after(self.epoch.elapsed())
    }
}

/// All that an actor knows, if it says.
pub(crate) async fn look(actor: &ActorRef<Message>) -> Option<Look> {
    let asked = actor.call(|reply| Message::Look { reply }, Some(LOOK_TIMEOUT)).await;
    asked.ok()?.success_or(()).ok()
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
        let lane = Lane::new(&arguments.settings.lane, arguments.record.slots);
        let load = Arc::new(Load::new(arguments.epoch));
        arguments.views.publish(&arguments.record, myself.clone(), Arc::clone(&load));
        let _ = myself.cast(Message::Poll);
        let gauges = Gauges::of(&arguments.record.name);
        let state = State {
            arguments,
            lane,
            load,
            gauges,
            places: HashMap::new(),
            polling: false,
            failures: 0,
            expires: false,
        };
        state.publish();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin(Kind::Upstream);
        let now = state.load.now();
        match message {
            Message::Poll => state.poll(&myself),
            Message::Polled(polled) => {
                state.polling = false;
                let pause = state.learn(polled);
                myself.send_after(jittered(pause), || Message::Poll);
            }
            Message::Ask { tenant, weight, ticket, reply, queued } => {
                drop(queued);
                state.ask((tenant, weight, ticket), reply, now, &myself);
            }
            Message::Leave { ticket, queued } => {
                drop(queued);
                state.places.remove(&ticket);
                state.lane.leave(ticket);
            }
            Message::Begun { pass, queued } => {
                drop(queued);
                let called = state.lane.begun(&pass, now);
                state.tell(called, &myself);
            }
            Message::Ended { pass, ended, took, queued } => {
                drop(queued);
                let called = state.lane.ended(pass, ended, took, now, fastrand::f64());
                state.tell(called, &myself);
            }
            Message::Expire => {
                state.expires = false;
                let called = state.lane.expire(now);
                state.tell(called, &myself);
                state.watch_deadlines(now, &myself);
            }
            Message::SetSlots(slots) => {
                let slots = slots.or(state.arguments.settings.lane.slots);
                let called = state.lane.set_slots(slots, now);
                state.tell(called, &myself);
            }
            Message::Stand { ticket, reply } => {
                let ahead = state.lane.ahead(ticket);
                let _ = reply.send(ahead.map(|ahead| state.standing(ahead)));
            }
            Message::Look { reply } => {
                let _ = reply.send(state.look(now));
            }
            #[cfg(test)]
            Message::Poison => return Err("poisoned".into()),
        }
        state.publish();
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

impl State {
    fn ask(
        &mut self,
        (tenant, weight, ticket): (TenantId, u32, u64),
        reply: RpcReplyPort<Answer>,
        now: Moment,
        myself: &ActorRef<Message>,
    ) {
        let waiter = Waiter { reply, ticket };
        match self.lane.ask(tenant, weight, ticket, waiter, now) {
            Asked::Granted(waiter, pass) => self.tell(vec![(waiter, Ok(pass))], myself),
            Asked::Refused(waiter, why) => self.tell(vec![(waiter, Err(why))], myself),
            Asked::Waits { ahead } => {
                self.places.insert(ticket, ahead + 1);
                self.watch_deadlines(now, myself);
            }
        }
    }

    /// Gives those who were called their turns. One that has left drops its own, which comes back as
    /// a turn that is over.
    fn tell(&mut self, called: Called<Waiter>, myself: &ActorRef<Message>) {
        let is_probe = self.lane.breaker() != breaker::View::Closed;
        for (Waiter { reply, ticket }, pass) in called {
            let place = self.places.remove(&ticket);
            let turn = pass.map(|pass| Turn::new(myself.clone(), pass, is_probe, place));
            let _ = reply.send(turn);
        }
    }

    fn watch_deadlines(&mut self, now: Moment, myself: &ActorRef<Message>) {
        if let Some(deadline) = self.lane.next_deadline()
            && !self.expires
        {
            self.expires = true;
            // A moment has whole milliseconds, and this must not come before its end.
            let wait = deadline.since(now) + Duration::from_millis(1);
            myself.send_after(wait, || Message::Expire);
        }
    }

    fn standing(&self, ahead: usize) -> Standing {
        Standing { ahead, expected: self.lane.expected_wait(ahead) }
    }

    fn look(&self, now: Moment) -> Look {
        let open_for = match self.lane.breaker() {
            breaker::View::Open { until } => Some(until.since(now)),
            breaker::View::Closed | breaker::View::HalfOpen => None,
        };
        Look {
            taken: self.lane.taken(),
            slots: self.lane.slots(),
            waiting: self.lane.waiting_of().collect(),
            breaker: self.lane.breaker(),
            open_for,
        }
    }

    /// Says how busy it is.
    fn publish(&self) {
        let Load { taken, waiting, slots, open_until, .. } = &*self.load;
        let count = usize::try_from(self.lane.taken()).unwrap_or(usize::MAX);
        taken.store(count, Ordering::Relaxed);
        waiting.store(self.lane.waiting(), Ordering::Relaxed);
        slots.store(self.lane.slots().unwrap_or(u64::MAX), Ordering::Relaxed);
        let (until, state) = match self.lane.breaker() {
            breaker::View::Closed => (CLOSED, 0),
            breaker::View::HalfOpen => (CLOSED, 1),
            breaker::View::Open { until } => (until.millis(), 2),
        };
        open_until.store(until, Ordering::Relaxed);
        self.gauges.slots_taken.set(count as f64);
        self.gauges.queue_depth.set(self.lane.waiting() as f64);
        self.gauges.breaker.set(f64::from(state));
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
