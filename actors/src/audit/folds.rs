//! Requests of one caller that used no tokens: beyond a rate they are folded into one event per kind.
//!
//! A refused request costs its client nothing. An audit row for each would let one key fill the disk. So many
//! of them a second are therefore rows of their own; those beyond are counted in an event of their kind
//! (same route, status, outcome, code and model), which is stored when [`FOLD_FOR`] is over. Sums over the
//! audit stay exact, since such an event says how many requests it stands for.

use parking_lot::{Mutex, MutexGuard};
use std::time::Duration;

use foldhash::HashMap;
use protocol::id::KeyId;
use storage::audit::AuditEvent;
use tokio::time::Instant;

/// For how long requests are folded into one event.
pub(super) const FOLD_FOR: Duration = Duration::from_secs(5);
/// Seconds of the rate that a caller may use at once.
const BURST_SECONDS: f64 = 5.0;
/// Events of one caller that are open at once and name their model. Further kinds are folded without it.
const WITH_MODEL_MAX: usize = 32;
/// Events of one caller that are open at once. There are fewer kinds than this without a model; beyond,
/// requests are rows of their own.
const OPEN_MAX: usize = 256;

/// Counts of refused requests that wait to become one row per caller.
pub(super) struct Folds {
    per_second: f64,
    callers: Mutex<Callers>,
}

#[derive(Default)]
struct Callers {
    by_key: HashMap<KeyId, Caller>,
    /// The audit stops: nothing is folded any more.
    is_closed: bool,
}

struct Caller {
    rows: Bucket,
    /// Each of them holds a place of its tenant.
    open: Vec<AuditEvent>,
}

/// How the audit records a refused request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fold {
    /// It is a row of its own.
    Alone(AuditEvent),
    /// It was added to an open event.
    Counted,
    /// It opens an event, for which there has to be a place: see [`Folds::open`].
    Opens(AuditEvent),
}

/// A token bucket.
pub(super) struct Bucket {
    per_second: f64,
    most: f64,
    left: f64,
    filled: Instant,
}

// === impl Folds ===

impl Folds {
    pub(super) fn new(rows_per_second: u32) -> Self {
        Self { per_second: f64::from(rows_per_second), callers: Mutex::default() }
    }

    /// A request of a caller that used no tokens. The flag is true where this is the first caller of all:
    /// from then on [`Folds::take`] has to be called every [`FOLD_FOR`].
    pub(super) fn add(&self, caller: KeyId, mut event: AuditEvent) -> (Fold, bool) {
        let mut callers = self.lock();
        if callers.is_closed {
            return (Fold::Alone(event), false);
        }
        let is_first = callers.by_key.is_empty();
        let caller = callers.by_key.entry(caller).or_insert_with(|| Caller {
            rows: Bucket::new(self.per_second, self.per_second * BURST_SECONDS),
            open: Vec::new(),
        });
        if caller.rows.take() {
            return (Fold::Alone(event), is_first);
        }
        let fold = match caller.count(&mut event) {
            true => Fold::Counted,
            false if caller.open.len() >= OPEN_MAX => Fold::Alone(event),
            false => Fold::Opens(event),
        };
        (fold, is_first)
    }

    /// Opens an event that has a place. False, and the place is not needed, where another thread has opened
    /// the same one meanwhile.
    ///
    /// # Errors
    /// The event comes back where the caller has been forgotten, or nothing is folded any more.
    pub(super) fn open(
        &self,
        caller: KeyId,
        mut event: AuditEvent,
    ) -> Result<bool, Box<AuditEvent>> {
        let mut callers = self.lock();
        let Some(caller) = callers.by_key.get_mut(&caller) else { return Err(Box::new(event)) };
        if caller.count(&mut event) {
            return Ok(false);
        }
        caller.open.push(event);
        Ok(true)
    }

    /// Takes all open events, to be stored. Forgets the callers that have been silent.
    pub(super) fn take(&self) -> Vec<AuditEvent> {
        let mut callers = self.lock();
        let taken =
            callers.by_key.values_mut().flat_map(|one| std::mem::take(&mut one.open)).collect();
        callers.by_key.retain(|_, caller| !caller.rows.is_full());
        taken
    }

    /// From now on nothing is folded any more; what is open is handed over.
    pub(super) fn close(&self) -> Vec<AuditEvent> {
        let mut callers = self.lock();
        callers.is_closed = true;
        let by_key = std::mem::take(&mut callers.by_key);
        by_key.into_values().flat_map(|caller| caller.open).collect()
    }

    /// Tells if a caller still has counts that [`Folds::take`] must collect.
    pub(super) fn has_callers(&self) -> bool {
        !self.lock().by_key.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock()
    }
}

// === impl Caller ===

impl Caller {
    /// Counts a request in the open event of its kind; false where there is none.
    fn count(&mut self, event: &mut AuditEvent) -> bool {
        if self.add(event) {
            return true;
        }
        if event.model.is_none() || self.open.len() < WITH_MODEL_MAX {
            return false;
        }
        event.model = None;
        self.add(event)
    }

    fn add(&mut self, event: &AuditEvent) -> bool {
        let open = self.open.iter_mut().find(|open| {
            (open.code, open.route, open.status, open.outcome)
                == (event.code, event.route, event.status, event.outcome)
                && open.model == event.model
        });
        if let Some(open) = open {
            open.requests = open.requests.saturating_add(event.requests);
            return true;
        }
        false
    }
}

// === impl Bucket ===

impl Bucket {
    /// A full one.
    pub(super) fn new(per_second: f64, most: f64) -> Self {
        Self { per_second, most, left: most, filled: Instant::now() }
    }

    pub(super) fn take(&mut self) -> bool {
        self.fill();
        let taken = self.left >= 1.0;
        self.left -= f64::from(u8::from(taken));
        taken
    }

    fn is_full(&mut self) -> bool {
        self.fill();
        self.left >= self.most
    }

    fn fill(&mut self) {
        let now = Instant::now();
        let since = now.duration_since(self.filled).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.most);
        self.filled = now;
    }
}
