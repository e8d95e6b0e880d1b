//! State of the audit that survives a restart of its actor: waiting events and places.

use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use storage::audit::AuditEvent;
use tokio::{sync::Notify, time::Instant};

use super::{
    Message, Settings,
    folds::{Bucket, Folds},
    places::{Owner, Places},
};
use crate::{
    address::Address,
    measure::{self, Kind, Queued},
};

/// So many events are handled while the ring is locked: who records one waits no longer than that.
const LOCKED_FOR: usize = 250;

/// Waiting events and places. They survive a restart of the actor.
pub(crate) struct Ring {
    pub(super) address: Address<Message>,
    pub(super) places: Places,
    pub(super) folds: Folds,
    pub(super) events: Mutex<VecDeque<(AuditEvent, Owner)>>,
    /// Notified whenever events were stored.
    pub(super) stored_some: Notify,
    pub(super) stored: AtomicU64,
    pub(super) failing_since: Mutex<Option<Instant>>,
    pub(super) batch_events_max: usize,
    pub(super) samples: Mutex<Bucket>,
}

// === impl Ring ===

impl Ring {
    pub(super) fn new(settings: &Settings, address: Address<Message>) -> Self {
        let per_second = f64::from(settings.sampled_per_second);
        Self {
            address,
            places: Places::new(settings.places_max),
            folds: Folds::new(settings.unmetered_per_second),
            events: Mutex::default(),
            stored_some: Notify::new(),
            stored: AtomicU64::new(0),
            failing_since: Mutex::default(),
            batch_events_max: settings.batch_events_max.min(settings.places_max.div_ceil(2)),
            samples: Mutex::new(Bucket::new(per_second, per_second)),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<(AuditEvent, Owner)>> {
        self.events.lock()
    }

    pub(super) fn lock_samples(&self) -> MutexGuard<'_, Bucket> {
        self.samples.lock()
    }

    /// Puts events in, each with a place of its owner.
    pub(super) fn push(&self, events: impl IntoIterator<Item = (AuditEvent, Owner)>) {
        let (before, waiting) = {
            let mut waits = self.lock();
            let before = waits.len();
            waits.extend(events);
            (before, waits.len())
        };
        // The first starts the clock of a batch, the last makes it full.
        let full = self.batch_events_max;
        if (before == 0 && waiting > 0) || (before < full && waiting >= full) {
            self.address.cast(Message::Recorded(Queued::new(Kind::Audit)));
        }
    }

    /// Puts events in that stood for many requests; each holds a place of its tenant already.
    pub(super) fn write(&self, folded: Vec<AuditEvent>) {
        self.push(folded.into_iter().map(|event| {
            let owner = event.tenant;
            (event, owner)
        }));
    }

    /// The first events, as many as are stored together.
    pub(super) fn batch(&self) -> Vec<AuditEvent> {
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
    pub(super) fn stored(&self, count: usize) {
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
            self.places.give_back(stored.into_iter().map(|(_, owner)| owner));
            left -= some;
        }
        let waiting = self.lock().len();
        *self.failing_since.lock() = None;
        self.places.forget_refusals();
        measure::audit_stored(count, waiting);
        self.stored_some.notify_waiters();
    }

    pub(super) fn failed(&self) {
        let mut since = self.failing_since.lock();
        since.get_or_insert_with(Instant::now);
        measure::audit_failed();
    }
}
