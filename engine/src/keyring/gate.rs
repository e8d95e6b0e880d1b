//! How many keys may be looked up and hashed at once, so that strangers cannot take all the room.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::Refused;

/// Queries at once for prefixes that are known to exist.
const KNOWN_LOOKUPS_MAX: usize = 32;
/// Queries at once for prefixes that nobody has seen: made-up ones, and keys made this instant.
const UNKNOWN_LOOKUPS_MAX: usize = 2;
/// Callers that may wait in each lane.
const LOOKUPS_WAITING_MAX: usize = 1_024;
/// Callers with keys of one prefix that may wait for its one comparison at a time.
const PER_PREFIX_MAX: usize = 16;
/// Callers in all that may wait for a comparison.
const VERIFICATIONS_WAITING_MAX: usize = 1_024;

/// The two lanes for lookups, and the room for comparisons.
pub(super) struct Gate {
    known: Lane,
    unknown: Lane,
    verifications: Lane,
    prefixes: Arc<Prefixes>,
    patience: Duration,
}

/// The right to compare one key; ends when it is dropped.
pub(super) struct Verification {
    _turn: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
    _among: Among,
}

/// So many at once, so many waiting, in order of arrival.
struct Lane {
    at_once: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The prefixes whose keys are being compared right now: no more entries than callers.
#[derive(Default)]
struct Prefixes(Mutex<HashMap<String, Turns>>);

struct Turns {
    one: Arc<Semaphore>,
    callers: usize,
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
            verifications: Lane::new(verifications_max, VERIFICATIONS_WAITING_MAX),
            prefixes: Arc::default(),
            patience,
        }
    }

    /// Waits for the right to one query.
    pub(super) async fn lookup(&self, known: bool) -> Result<OwnedSemaphorePermit, Refused> {
        let lane = if known { &self.known } else { &self.unknown };
        lane.enter(self.patience).await
    }

    /// Waits for the right to one comparison: first among the keys of its prefix, then in all.
    pub(super) async fn verification(&self, prefix: &str) -> Result<Verification, Refused> {
        let (among, turn) = Prefixes::join(&self.prefixes, prefix)?;
        let turn = timeout(self.patience, turn.acquire_owned())
            .await
            .map_err(|_| Refused::TooMany)?
            .map_err(|_| Refused::Unavailable)?;
        let room = self.verifications.enter(self.patience).await?;
        Ok(Verification { _turn: turn, _room: room, _among: among })
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
    fn join(this: &Arc<Self>, prefix: &str) -> Result<(Among, Arc<Semaphore>), Refused> {
        let mut prefixes = this.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = prefixes
            .entry(prefix.to_owned())
            .or_insert_with(|| Turns { one: Arc::new(Semaphore::new(1)), callers: 0 });
        if turns.callers >= PER_PREFIX_MAX {
            return Err(Refused::TooMany);
        }
        turns.callers += 1;
        let among = Among { prefix: prefix.to_owned(), prefixes: Arc::clone(this) };
        Ok((among, Arc::clone(&turns.one)))
    }
}

impl Drop for Among {
    fn drop(&mut self) {
        let mut prefixes = self.prefixes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = prefixes.get_mut(&self.prefix) {
            turns.callers -= 1;
            if turns.callers == 0 {
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

    #[tokio::test(start_paused = true)]
    async fn one_prefix_takes_one_place_at_a_time() -> Result<(), Refused> {
        let gate = gate();
        let held = gate.verification("nz_a").await?;
        assert_eq!(gate.verification("nz_a").await.err(), Some(Refused::TooMany));
        let other = gate.verification("nz_b").await?;
        drop((held, other));
        assert!(gate.verification("nz_a").await.is_ok());
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_remembered_of_a_prefix_that_nobody_tries_any_more() -> Result<(), Refused> {
        let gate = gate();
        for number in 0..100 {
            drop(gate.verification(&format!("nz_{number}")).await?);
        }
        let held = gate.verification("nz_a").await?;
        assert_eq!(gate.verification("nz_a").await.err(), Some(Refused::TooMany));
        drop(held);
        assert!(gate.prefixes.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
        Ok(())
    }
}
