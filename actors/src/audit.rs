//! What happened: a bounded ring of events, stored in batches.
//!
//! A request takes a [`Place`] when it is admitted and keeps it until its event is stored: the ring
//! cannot overflow, and a database that is away first fills it and then stops admission. The ring
//! lives beside the actor, so that a crash loses nothing; an append that is done twice stores each
//! event once (see `storage::audit::Audit::append`).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{counter, gauge};
use protocol::telemetry as names;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::audit::{Audit as Port, AuditEvent};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use crate::{
    address::Address,
    measure::{Handling, Kind, Queued, jittered},
};

/// So many events are handled while the ring is locked: who records one waits no longer than that.
const LOCKED_FOR: usize = 250;
/// The pause after a failed append, growing up to the second number.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Requests under way and events that wait, together.
    pub places_max: usize,
    /// Events in one append; never more than half of the places, so that a small ring does not fill first.
    pub batch_events_max: usize,
    /// How long the first event of a batch waits for others.
    pub batch_wait: Duration,
    /// Refusals of strangers that are written down, per second.
    pub sampled_per_second: u32,
}

/// The one way to the audit.
#[derive(Clone)]
pub struct Handle {
    ring: Arc<Ring>,
    address: Address<Message>,
}

/// The right to record one event. Dropped without it, the place is free again.
#[must_use = "a place that is dropped is given back"]
pub struct Place {
    permit: OwnedSemaphorePermit,
    handle: Handle,
}

/// The ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit is full")]
pub struct Saturated;

/// How the audit is.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Events that wait to be stored.
    pub waiting: usize,
    /// Events stored since the start.
    pub stored: u64,
    /// Since when appends have failed, if they do.
    pub failing_since: Option<Instant>,
}

pub(crate) struct Audit;

pub(crate) enum Message {
    /// Events have been recorded.
    Recorded(Queued),
    /// The batch has waited long enough, or the pause is over.
    Due,
    /// An append has ended.
    Appended(Result<usize, storage::Error>),
    /// Store what waits, now.
    Flush,
    #[cfg(test)]
    Poison,
}

/// What the actor needs to start, and to start again.
#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) ring: Arc<Ring>,
    pub(crate) port: Arc<dyn Port>,
    pub(crate) settings: Settings,
    pub(crate) tasks: TaskTracker,
}

pub(crate) struct State {
    arguments: Arguments,
    appending: bool,
    /// A message [`Message::Due`] is on its way.
    timed: bool,
    pause: Duration,
}

/// What outlives the actor.
pub(crate) struct Ring {
    places: Arc<Semaphore>,
    places_max: usize,
    events: Mutex<VecDeque<(AuditEvent, OwnedSemaphorePermit)>>,
    /// Notified whenever events were stored.
    stored_some: Notify,
    stored: AtomicU64,
    failing_since: Mutex<Option<Instant>>,
    batch_events_max: usize,
    samples: Mutex<Samples>,
}

/// A token bucket.
struct Samples {
    per_second: f64,
    left: f64,
    filled: Instant,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            places_max: 65_536,
            batch_events_max: 4_000,
            batch_wait: Duration::from_millis(200),
            sampled_per_second: 10,
        }
    }
}

// === impl Handle ===

impl Handle {
    pub(crate) fn new(settings: &Settings, address: Address<Message>) -> Self {
        Self { ring: Arc::new(Ring::new(settings)), address }
    }

    pub(crate) fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Saturated`], at once: nobody waits for a place.
    pub fn reserve(&self) -> Result<Place, Saturated> {
        let permit = Arc::clone(&self.ring.places).try_acquire_owned().map_err(|_| Saturated)?;
        Ok(Place { permit, handle: self.clone() })
    }

    /// Takes a place for the refusal of a stranger: so many a second, and only while half of the
    /// ring is free. The others are counted.
    #[must_use]
    pub fn reserve_sampled(&self) -> Option<Place> {
        let roomy = self.ring.places.available_permits() > self.ring.places_max / 2;
        let place =
            (roomy && self.ring.lock_samples().take()).then(|| self.reserve().ok()).flatten();
        if place.is_none() {
            counter!(names::AUDIT_SAMPLED_OUT_TOTAL).increment(1);
        }
        place
    }

    /// Stores what waits; resolves when nothing does any more.
    pub async fn flush(&self) {
        loop {
            let stored = self.ring.stored_some.notified();
            if self.ring.lock().is_empty() {
                return;
            }
            self.address.cast(Message::Flush);
            stored.await;
        }
    }

    /// Resolves when all that was recorded before is stored.
    pub(crate) async fn store_recorded(&self) {
        let wanted = {
            let events = self.ring.lock();
            self.ring.stored.load(Ordering::Relaxed) + events.len() as u64
        };
        loop {
            let stored = self.ring.stored_some.notified();
            if self.ring.stored.load(Ordering::Relaxed) >= wanted {
                return;
            }
            self.address.cast(Message::Flush);
            stored.await;
        }
    }

    #[cfg(test)]
    pub(crate) fn poison(&self) {
        self.address.cast(Message::Poison);
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> View {
        View {
            waiting: self.ring.lock().len(),
            stored: self.ring.stored.load(Ordering::Relaxed),
            failing_since: *self.ring.failing_since.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

// === impl Place ===

impl Place {
    /// Records an event; neither waits nor fails.
    pub fn record(self, event: AuditEvent) {
        let Self { permit, handle } = self;
        let waiting = {
            let mut events = handle.ring.lock();
            events.push_back((event, permit));
            events.len()
        };
        // The first starts the clock of a batch, the last makes it full.
        if waiting == 1 || waiting == handle.ring.batch_events_max {
            handle.address.cast(Message::Recorded(Queued::new(Kind::Audit)));
        }
    }
}

// === impl Ring ===

impl Ring {
    fn new(settings: &Settings) -> Self {
        let per_second = f64::from(settings.sampled_per_second);
        Self {
            places: Arc::new(Semaphore::new(settings.places_max)),
            places_max: settings.places_max,
            events: Mutex::default(),
            stored_some: Notify::new(),
            stored: AtomicU64::new(0),
            failing_since: Mutex::default(),
            batch_events_max: settings.batch_events_max.min(settings.places_max.div_ceil(2)),
            samples: Mutex::new(Samples { per_second, left: per_second, filled: Instant::now() }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(AuditEvent, OwnedSemaphorePermit)>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_samples(&self) -> std::sync::MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first events, as many as are stored together.
    fn batch(&self) -> Vec<AuditEvent> {
        let mut batch = Vec::new();
        loop {
            let events = self.lock();
            let from = batch.len();
            let until = events.len().min(self.batch_events_max).min(from + LOCKED_FOR);
            if until == from {
                return batch;
            }
            batch.extend(events.range(from..until).map(|(event, _)| event.clone()));
        }
    }

    /// The first `count` events are stored: their places are free.
    fn stored(&self, count: usize) {
        let mut left = count;
        while left > 0 {
            let mut events = self.lock();
            let some = left.min(LOCKED_FOR).min(events.len());
            if some == 0 {
                break;
            }
            let stored: Vec<_> = events.drain(..some).collect();
            self.stored.fetch_add(some as u64, Ordering::Relaxed);
            drop(events);
            drop(stored);
            left -= some;
        }
        let waiting = self.lock().len();
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        counter!(names::AUDIT_STORED_TOTAL).increment(count as u64);
        gauge!(names::AUDIT_WAITING).set(waiting as f64);
        self.stored_some.notify_waiters();
    }

    fn failed(&self) {
        let mut since = self.failing_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now);
        counter!(names::AUDIT_FAILURES_TOTAL).increment(1);
    }
}

// === impl Samples ===

impl Samples {
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let since = now.duration_since(self.filled).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.per_second);
        self.filled = now;
        let taken = self.left >= 1.0;
        self.left -= f64::from(u8::from(taken));
        taken
    }
}

// === impl Audit ===

impl Actor for Audit {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        // An instance before this one may have left events behind.
        let _ = myself.cast(Message::Recorded(Queued::new(Kind::Audit)));
        Ok(State { arguments, appending: false, timed: false, pause: PAUSE_MIN })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin(Kind::Audit);
        match message {
            Message::Recorded(queued) => {
                drop(queued);
                state.batch_or_wait(&myself);
            }
            Message::Due => {
                state.timed = false;
                state.append(&myself);
            }
            Message::Flush => state.append(&myself),
            Message::Appended(Ok(count)) => {
                state.appending = false;
                state.pause = PAUSE_MIN;
                state.arguments.ring.stored(count);
                state.batch_or_wait(&myself);
            }
            Message::Appended(Err(error)) => {
                state.appending = false;
                state.arguments.ring.failed();
                tracing::warn!(%error, "audit events cannot be stored; they are kept");
                state.wait(&myself, jittered(state.pause));
                state.pause = (state.pause * 2).min(PAUSE_MAX);
            }
            #[cfg(test)]
            Message::Poison => return Err("poisoned".into()),
        }
        Ok(())
    }
}

// === impl State ===

impl State {
    fn batch_or_wait(&mut self, myself: &ActorRef<Message>) {
        let waiting = self.arguments.ring.lock().len();
        if waiting >= self.arguments.ring.batch_events_max {
            self.append(myself);
        } else if waiting > 0 {
            self.wait(myself, self.arguments.settings.batch_wait);
        }
    }

    fn wait(&mut self, myself: &ActorRef<Message>, duration: Duration) {
        if !self.timed {
            self.timed = true;
            myself.send_after(duration, || Message::Due);
        }
    }

    /// Sends a batch out; one at a time, so that events are stored in their order.
    fn append(&mut self, myself: &ActorRef<Message>) {
        if self.appending {
            return;
        }
        let batch = self.arguments.ring.batch();
        if batch.is_empty() {
            return;
        }
        self.appending = true;
        let (port, myself) = (Arc::clone(&self.arguments.port), myself.clone());
        self.arguments.tasks.spawn(async move {
            let appended = port.append(&batch).await.map(|()| batch.len());
            let _ = myself.cast(Message::Appended(appended));
        });
    }
}
