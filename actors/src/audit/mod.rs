//! What happened: a bounded ring of events, stored in batches.
//!
//! A request takes a [`Place`] when it is admitted and keeps it until its event is stored: the ring
//! cannot overflow, and a database that is away first fills it and then stops admission. No tenant can hold
//! all places (`places.rs`), and requests that used no tokens are folded into counted events beyond a rate
//! (`folds.rs`). The ring lives beside the actor, so that a crash loses nothing; an append that is done twice
//! stores each event once (see `storage::audit::Audit::append`).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use protocol::id::TenantId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::audit::{Audit as Port, AuditEvent};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::{
    folds::{FOLD_FOR, Fold},
    places::{NoPlace, Owner},
};
use crate::{
    address::Address,
    measure::{self, Handling, Kind, Queued, jittered},
    outside::{self, Failure},
};

mod folds;
mod places;
mod ring;

pub(crate) use self::ring::Ring;

/// The pause after a failed append, growing up to the second number.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest time for one append. Storage gives up much earlier; this bound acts only if storage does not.
const APPEND_TIMEOUT: Duration = Duration::from_secs(60);

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
    /// Requests of one caller that used no tokens and are events of their own, per second, and five times as
    /// many at once. Those beyond are folded into events that say how many requests they stand for.
    pub unmetered_per_second: u32,
}

/// The one way to the audit.
#[derive(Clone)]
pub struct Handle {
    ring: Arc<Ring>,
}

/// The right to record one event. Dropped without it, the place is free again.
#[must_use = "a place that is dropped is given back"]
pub struct Place {
    /// `None` once an event has it.
    ring: Option<Arc<Ring>>,
    owner: Owner,
}

/// The ring is full, or the tenant holds its share of it.
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
    /// The audit refuses requests that it could not record. It refuses all of them while the ring is full, and
    /// those of a tenant that holds its share while storage fails. A refusal because a tenant holds its share of
    /// a healthy audit does not set this flag.
    pub is_refusing: bool,
}

pub(crate) struct Audit;

pub(crate) enum Message {
    /// Events have been recorded.
    Recorded(Queued),
    /// A first caller is over its rate, or near it.
    Folding(Queued),
    /// Events that count requests are to be stored.
    FoldsDue,
    /// The batch has waited long enough, or the pause is over.
    Due,
    /// An append has ended.
    Appended(Result<usize, Failure<storage::Error>>),
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
    /// A message [`Message::FoldsDue`] is on its way.
    folds_timed: bool,
    pause: Duration,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            places_max: 65_536,
            batch_events_max: 4_000,
            batch_wait: Duration::from_millis(200),
            sampled_per_second: 10,
            unmetered_per_second: 10,
        }
    }
}

// === impl Handle ===

impl Handle {
    pub(crate) fn new(settings: &Settings, address: Address<Message>) -> Self {
        Self { ring: Arc::new(Ring::new(settings, address)) }
    }

    pub(crate) fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring)
    }

    /// Takes a place for a request of a tenant.
    ///
    /// # Errors
    /// [`Saturated`], at once: nobody waits for a place.
    pub fn reserve(&self, tenant: TenantId) -> Result<Place, Saturated> {
        self.place(Some(tenant)).map_err(|_| Saturated)
    }

    fn place(&self, owner: Owner) -> Result<Place, NoPlace> {
        self.ring.places.take(owner)?;
        Ok(Place { ring: Some(Arc::clone(&self.ring)), owner })
    }

    /// Records how a request ended, whether or not it has a place; neither waits nor fails. What cannot
    /// be recorded is counted in a metric.
    pub fn record(&self, place: Option<Place>, event: AuditEvent) {
        let Some(tenant) = event.tenant else { return self.sample(event) };
        let Some(caller) = event.key.filter(|_| event.usage.total() == 0) else {
            return self.store(place, tenant, event);
        };
        let (fold, is_first) = self.ring.folds.add(caller, event);
        if is_first {
            self.ring.address.cast(Message::Folding(Queued::new(Kind::Audit)));
        }
        match fold {
            Fold::Alone(event) => self.store(place, tenant, event),
            Fold::Counted => measure::audit_folded(),
            Fold::Opens(event) => {
                let Some(place) = self.place_or_count(place, tenant) else { return };
                measure::audit_folded();
                match self.ring.folds.open(caller, event) {
                    Ok(true) => place.keep(),
                    Ok(false) => {}
                    Err(event) => place.record(*event),
                }
            }
        }
    }

    fn store(&self, place: Option<Place>, tenant: TenantId, event: AuditEvent) {
        if let Some(place) = self.place_or_count(place, tenant) {
            place.record(event);
        }
    }

    /// The place of an event of a tenant; where there is none, that is counted.
    fn place_or_count(&self, place: Option<Place>, tenant: TenantId) -> Option<Place> {
        let count = |why: &NoPlace| measure::audit_dropped(why.as_str());
        place.or_else(|| self.place(Some(tenant)).inspect_err(count).ok())
    }

    /// Records the request of a stranger: so many a second, and only while half of the ring is free. The
    /// others are counted.
    fn sample(&self, event: AuditEvent) {
        match self.reserve_sampled() {
            Some(place) => place.record(event),
            None => measure::audit_sampled_out(),
        }
    }

    pub(crate) fn reserve_sampled(&self) -> Option<Place> {
        let is_taken = self.ring.places.are_roomy() && self.ring.lock_samples().take();
        if is_taken { self.place(None).ok() } else { None }
    }

    /// Stores what waits; resolves when nothing does any more.
    pub async fn flush(&self) {
        loop {
            let stored = self.ring.stored_some.notified();
            if self.ring.lock().is_empty() {
                return;
            }
            self.ring.address.cast(Message::Flush);
            stored.await;
        }
    }

    /// Stores what waits, and all events whose places are held by requests that are not over yet. Nothing
    /// is folded any more. Resolves when every place is free.
    pub(crate) async fn drain(&self) {
        self.ring.write(self.ring.folds.close());
        loop {
            let all_free = self.ring.places.all_free();
            if self.ring.places.held() == 0 {
                return;
            }
            self.ring.address.cast(Message::Flush);
            all_free.await;
        }
    }

    /// Events that wait to be stored, and those that requests under way will still record.
    pub(crate) fn unstored(&self) -> usize {
        self.ring.places.held()
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
            self.ring.address.cast(Message::Flush);
            stored.await;
        }
    }

    #[cfg(test)]
    pub(crate) fn poison(&self) {
        self.ring.address.cast(Message::Poison);
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> View {
        let failing_since = *self.ring.failing_since.lock();
        let places = &self.ring.places;
        View {
            waiting: self.ring.lock().len(),
            stored: self.ring.stored.load(Ordering::Relaxed),
            failing_since,
            is_refusing: places.free() == 0 || (failing_since.is_some() && places.has_refused()),
        }
    }
}

// === impl Place ===

impl Place {
    /// Records an event; neither waits nor fails.
    pub fn record(mut self, event: AuditEvent) {
        if let Some(ring) = self.ring.take() {
            ring.push([(event, self.owner)]);
        }
    }

    /// The place stays taken, for an event that will be recorded later.
    fn keep(mut self) {
        self.ring = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(ring) = &self.ring {
            ring.places.give_back(std::iter::once(self.owner));
        }
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
        let (appending, timed, folds_timed) = (false, false, false);
        Ok(State { arguments, appending, timed, folds_timed, pause: PAUSE_MIN })
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
                // Callers that folded between two instances could not notify an actor.
                state.watch_folds(&myself);
            }
            Message::Folding(queued) => {
                drop(queued);
                state.watch_folds(&myself);
            }
            Message::FoldsDue => {
                state.folds_timed = false;
                state.arguments.ring.write(state.arguments.ring.folds.take());
                state.watch_folds(&myself);
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
                crate::quiet!(warn, "audit events cannot be stored; they are kept", ""; %error);
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

    fn watch_folds(&mut self, myself: &ActorRef<Message>) {
        if !self.folds_timed && self.arguments.ring.folds.has_callers() {
            self.folds_timed = true;
            myself.send_after(FOLD_FOR, || Message::FoldsDue);
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
        let append = async move { port.append(&batch).await.map(|()| batch.len()) };
        outside::send(&self.arguments.tasks, APPEND_TIMEOUT, append, move |appended| {
            let _ = myself.cast(Message::Appended(appended));
        });
    }
}
