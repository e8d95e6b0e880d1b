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
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use protocol::id::TenantId;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use storage::upstreams::Upstream as Record;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{
    catalog,
    directory::Views,
    measure::{Handling, Kind, Queued, jittered},
    outside::{self, Failure},
    ports::{DiscoveredModel, ProbeError, Prober},
    rules::{
        breaker::{self, Ended, Pass},
        lane::{self, Asked, Called, Lane},
        moment::Moment,
    },
};

mod load;
mod turn;

pub use self::{
    load::Load,
    turn::{Standing, Turn, Waiting},
};
pub use crate::rules::lane::NotNow;

/// The pause after the first failed poll; it doubles up to the interval.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long an actor may take to say what it knows.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Faults of one tenant alone may be the upstream's: a probe says more.
    Doubt(Queued),
    /// That probe has ended; whether it shows that the server is sick.
    Probed { is_sick: bool },
    /// The reply to a trial has begun.
    Begun { pass: Pass<TenantId>, queued: Queued },
    /// A turn is over.
    Ended { pass: Pass<TenantId>, ended: Ended, took: Duration, queued: Queued },
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
    /// Whether a probe is under way that faults of one tenant alone were reason for.
    probing: bool,
    /// The places of those who wait, as they were when they asked.
    places: HashMap<u64, usize>,
    /// Whether an [`Message::Expire`] is on its way.
    expires: bool,
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
        Ok(State { arguments, load, places, polling, failures, probing: false, expires })
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
            Message::Doubt(queued) => {
                drop(queued);
                state.probe(&myself);
            }
            Message::Probed { is_sick } => called = state.probed(is_sick, &mut lane, now),
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
        if lane.take_doubt() {
            state.probe(&myself);
        }
        state.watch_deadlines(&lane, now, &myself);
        let is_trial = lane.breaker() != breaker::View::Closed;
        load.publish(&lane);
        // Whoever has left drops its turn, which locks the lane.
        drop(lane);
        state.tell(called, is_trial, &myself);
        Ok(())
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
    fn tell(
        &mut self,
        called: Called<TenantId, Waiter>,
        is_trial: bool,
        myself: &ActorRef<Message>,
    ) {
        for (Waiter { reply, ticket }, pass) in called {
            let place = self.places.remove(&ticket);
            let load = || Arc::clone(&self.load);
            let _ = reply
                .send(pass.map(|pass| Turn::new(myself.clone(), load(), pass, is_trial, place)));
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
        let Arguments { record, settings, prober, tasks, .. } = &self.arguments;
        let (prober, record, myself) = (Arc::clone(prober), Arc::clone(record), myself.clone());
        let ask = async move { prober.models(&record).await };
        outside::send(tasks, settings.timeout, ask, move |polled| {
            let _ = myself.cast(Message::Polled(polled.map_err(|failure| match failure {
                Failure::Failed(error) => error,
                Failure::TimedOut(_) => ProbeError::TimedOut,
                Failure::Lost => ProbeError::Lost,
            })));
        });
    }

    /// Finds out whether the upstream is sick, where calls fail that one tenant alone may have broken. The
    /// breaker says when, at most once a second.
    fn probe(&mut self, myself: &ActorRef<Message>) {
        if self.probing {
            return;
        }
        self.probing = true;
        let Arguments { record, settings, prober, tasks, .. } = &self.arguments;
        let (prober, record, myself) = (Arc::clone(prober), Arc::clone(record), myself.clone());
        let ask = async move {
            match prober.models(&record).await {
                // A connection that was kept may have been closed just before: a new one says more.
                Err(ProbeError::Unreachable) => prober.models(&record).await,
                answered => answered,
            }
        };
        outside::send(tasks, settings.timeout, ask, move |probed| {
            let is_sick = match probed {
                Ok(_) | Err(Failure::Lost) => false,
                Err(Failure::Failed(error)) => error.is_sick(),
                Err(Failure::TimedOut(_)) => true,
            };
            let _ = myself.cast(Message::Probed { is_sick });
        });
    }

    /// A probe has ended. One that failed lets the faults count that one tenant alone has met.
    fn probed(
        &mut self,
        is_sick: bool,
        lane: &mut Lane<TenantId, Waiter>,
        now: Moment,
    ) -> Called<TenantId, Waiter> {
        self.probing = false;
        if is_sick { lane.probe_failed(now, fastrand::f64()) } else { Called::new() }
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
                let upstream = &record.name;
                crate::quiet!(warn, "an upstream does not say its models", upstream; %upstream, %error);
                views.update(&record.name, |view| {
                    // What this process lacks says nothing of the upstream.
                    view.up &= error == ProbeError::Ours;
                    view.last_error = Some(error);
                });
                let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                doubled.min(settings.interval)
            }
        }
    }
}
