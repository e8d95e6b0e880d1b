//! How many keys may be looked up and hashed at once, so that strangers cannot take all the room.
//!
//! A key that is not cached takes the one turn of its prefix first: so those with one prefix, however many,
//! have no more than one query and one comparison under way.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    Refused,
    lottery::{Class, Lottery, Turn},
};

/// Queries at once for prefixes that are known to exist.
const KNOWN_LOOKUPS_MAX: usize = 32;
/// Queries at once for prefixes that nobody has seen: made-up ones, and keys made this instant.
const UNKNOWN_LOOKUPS_MAX: usize = 2;
/// Callers that may wait in each lane.
const LOOKUPS_WAITING_MAX: usize = 1_024;
/// Callers with keys of one prefix that may wait for its one turn at a time.
const PER_PREFIX_MAX: usize = 64;
/// Callers in all that may wait for a comparison.
const VERIFICATIONS_WAITING_MAX: usize = 1_024;

/// The two lanes for lookups, and the room for comparisons.
pub(super) struct Gate {
    known: Lane,
    unknown: Lane,
    verifications: Lottery,
    prefixes: Arc<Prefixes>,
    patience: Duration,
}

/// The turn of a prefix; ends when it is dropped.
pub(super) struct PrefixTurn {
    _turn: Turn,
    _among: Among,
}

/// The right to compare one key; ends when it is dropped.
pub(super) struct Verification {
    _room: Turn,
    _prefix: PrefixTurn,
}

/// So many at once, so many waiting, in order of arrival.
struct Lane {
    at_once: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The prefixes whose keys are being compared right now: no more entries than callers.
#[derive(Default)]
struct Prefixes(Mutex<HashMap<String, Callers>>);

struct Callers {
    turns: Lottery,
    count: usize,
}

/// A caller among those of its prefix; leaves when it is dropped.
struct Among {
    prefix: String,
    prefixes: Arc<Prefixes>,
}

// === impl Gate ===

impl Gate {
    pub(super) fn new(verifications_max: usize, patience: Duration) -> Self {
        Self {
            known: Lane::new(KNOWN_LOOKUPS_MAX, LOOKUPS_WAITING_MAX),
            unknown: Lane::new(UNKNOWN_LOOKUPS_MAX, LOOKUPS_WAITING_MAX),
            verifications: Lottery::new(
                verifications_max,
                // Half of them stays free for those that nothing speaks against.
                (verifications_max / 2).max(1),
                VERIFICATIONS_WAITING_MAX,
            ),
            prefixes: Arc::default(),
            patience,
        }
    }

    /// Waits for the right to one query.
    pub(super) async fn lookup(&self, known: bool) -> Result<OwnedSemaphorePermit, Refused> {
        let lane = if known { &self.known } else { &self.unknown };
        lane.enter(self.patience).await
    }

    /// Waits for the turn of a prefix; those whose address fails of late come last.
    pub(super) async fn prefix(&self, prefix: &str, fails: bool) -> Result<PrefixTurn, Refused> {
        let class = if fails { Class::Failing } else { Class::Clean };
        let (among, turns) = Prefixes::join(&self.prefixes, prefix);
        let turn = turns.turn(class, self.patience).await.map_err(|_| Refused::TooMany)?;
        Ok(PrefixTurn { _turn: turn, _among: among })
    }

    /// Waits for the right to one comparison.
    pub(super) async fn verification(
        &self,
        prefix: PrefixTurn,
        class: Class,
    ) -> Result<Verification, Refused> {
        let room = self.verifications.turn(class, self.patience).await;
        // That strangers wait for each other is no failure of ours.
        let lost = if class == Class::Clean { Refused::Unavailable } else { Refused::TooMany };
        Ok(Verification { _room: room.map_err(|_| lost)?, _prefix: prefix })
    }
}

// === impl Lane ===

impl Lane {
    fn new(at_once: usize, waiting: usize) -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(at_once)),
            waiting: Arc::new(Semaphore::new(at_once + waiting)),
        }
    }

    async fn enter(&self, patience: Duration) -> Result<OwnedSemaphorePermit, Refused> {
        let _place = self.waiting.try_acquire().map_err(|_| Refused::Unavailable)?;
        timeout(patience, Arc::clone(&self.at_once).acquire_owned())
            .await
            .map_err(|_| Refused::Unavailable)?
            .map_err(|_| Refused::Unavailable)
    }
}

// === impl Prefixes ===

impl Prefixes {
    fn join(this: &Arc<Self>, prefix: &str) -> (Among, Lottery) {
        let mut prefixes = this.0.lock();
        let callers = prefixes
            .entry(prefix.to_owned())
            .or_insert_with(|| Callers { turns: Lottery::new(1, 1, PER_PREFIX_MAX), count: 0 });
        callers.count += 1;
        let among = Among { prefix: prefix.to_owned(), prefixes: Arc::clone(this) };
        (among, callers.turns.clone())
    }
}

impl Drop for Among {
    fn drop(&mut self) {
        let mut prefixes = self.prefixes.0.lock();
        if let Some(callers) = prefixes.get_mut(&self.prefix) {
            callers.count -= 1;
            if callers.count == 0 {
                prefixes.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate::new(2, Duration::from_millis(50))
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_prefixes_do_not_hold_up_known_ones() -> Result<(), Refused> {
        let gate = gate();
        let _first = gate.lookup(false).await?;
        let _second = gate.lookup(false).await?;
        assert_eq!(gate.lookup(false).await.err(), Some(Refused::Unavailable));
        assert!(gate.lookup(true).await.is_ok());
        Ok(())
    }

    async fn compared(gate: &Gate, prefix: &str, class: Class) -> Result<Verification, Refused> {
        let turn = gate.prefix(prefix, class == Class::Failing).await?;
        gate.verification(turn, class).await
    }

    #[tokio::test(start_paused = true)]
    async fn one_prefix_takes_one_place_at_a_time() -> Result<(), Refused> {
        let gate = gate();
        let held = compared(&gate, "nz_a", Class::Clean).await?;
        assert_eq!(gate.prefix("nz_a", false).await.err(), Some(Refused::TooMany));
        let other = compared(&gate, "nz_b", Class::Clean).await?;
        drop((held, other));
        assert!(compared(&gate, "nz_a", Class::Clean).await.is_ok());
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_failed_leave_a_turn_to_the_others() -> Result<(), Refused> {
        let gate = gate();
        let _held = compared(&gate, "nz_a", Class::Failing).await?;
        let more = compared(&gate, "nz_b", Class::Failing).await;
        assert_eq!(more.err(), Some(Refused::TooMany));
        let other = compared(&gate, "nz_c", Class::Clean).await?;
        assert_eq!(compared(&gate, "nz_d", Class::Clean).await.err(), Some(Refused::Unavailable));
        drop(other);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_remembered_of_a_prefix_that_nobody_tries_any_more() -> Result<(), Refused> {
        let gate = gate();
        for number in 0..100 {
            drop(compared(&gate, &format!("nz_{number}"), Class::Clean).await?);
        }
        let held = gate.prefix("nz_a", false).await?;
        assert_eq!(gate.prefix("nz_a", false).await.err(), Some(Refused::TooMany));
        drop(held);
        assert!(gate.prefixes.0.lock().is_empty());
        Ok(())
    }
}
