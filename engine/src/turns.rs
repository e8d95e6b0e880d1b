//! Turns at something scarce, shared out so that one owner cannot take all of them.
//!
//! There are `total` turns at once, of which one owner (a tenant, an address) holds `per_owner` at the most.
//! An owner waits for its own share first, and only then in the common queue: so no owner ever has more than
//! its share of that queue, and the queue, which is first in, first out, serves the owners in turns.
//!
//! Each owner may have `waiting_max` callers that wait; one more is refused at once.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns at something scarce.
pub(crate) struct Turns<Owner: Eq + Hash + Copy> {
    all: Arc<Semaphore>,
    per_owner: usize,
    waiting_max: usize,
    owners: Arc<Mutex<HashMap<Owner, Share>>>,
}

/// One turn. It ends when it is dropped.
pub(crate) struct Turn<Owner: Eq + Hash + Copy> {
    // Dropped in this order: the owner's share goes back last.
    _of_all: OwnedSemaphorePermit,
    _of_owner: OwnedSemaphorePermit,
    _caller: Caller<Owner>,
}

/// The owner has as many callers as may hold a turn or wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crowded;

/// What one owner holds. No longer kept than the owner has callers.
struct Share {
    turns: Arc<Semaphore>,
    callers: usize,
}

/// A caller of an owner, counted until it is dropped.
struct Caller<Owner: Eq + Hash + Copy> {
    owner: Owner,
    owners: Arc<Mutex<HashMap<Owner, Share>>>,
}

// === impl Turns ===

impl<Owner: Eq + Hash + Copy> Turns<Owner> {
    /// `total` turns at once, `per_owner` of them for one owner, who may have `waiting_max` callers more.
    pub(crate) fn new(total: usize, per_owner: usize, waiting_max: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(total)),
            per_owner,
            waiting_max,
            owners: Arc::default(),
        }
    }

    /// Waits for a turn of this owner. Safe to drop: a caller that leaves gives back what it had.
    ///
    /// # Errors
    /// [`Crowded`], at once.
    pub(crate) async fn take(&self, owner: Owner) -> Result<Turn<Owner>, Crowded> {
        let (caller, share) = self.join(owner)?;
        let of_owner = share.acquire_owned().await.map_err(|_| Crowded)?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.map_err(|_| Crowded)?;
        Ok(Turn { _of_all: of_all, _of_owner: of_owner, _caller: caller })
    }

    fn join(&self, owner: Owner) -> Result<(Caller<Owner>, Arc<Semaphore>), Crowded> {
        let mut owners = self.owners.lock();
        let share = owners.entry(owner).or_insert_with(|| Share {
            turns: Arc::new(Semaphore::new(self.per_owner)),
            callers: 0,
        });
        if share.callers >= self.per_owner + self.waiting_max {
            return Err(Crowded);
        }
        share.callers += 1;
        let turns = Arc::clone(&share.turns);
        Ok((Caller { owner, owners: Arc::clone(&self.owners) }, turns))
    }
}

impl<Owner: Eq + Hash + Copy> Drop for Caller<Owner> {
    fn drop(&mut self) {
        let mut owners = self.owners.lock();
        if let Some(share) = owners.get_mut(&self.owner) {
            share.callers -= 1;
            if share.callers == 0 {
                owners.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Poll};

    use super::*;

    async fn is_waiting<T>(turn: impl Future<Output = T>) -> bool {
        let mut turn = pin!(turn);
        std::future::poll_fn(|cx| Poll::Ready(turn.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn an_owner_with_a_crowd_takes_no_more_than_its_share() {
        let turns = Turns::new(3, 2, 1);
        let _held = (turns.take(1).await.ok(), turns.take(1).await.ok());
        assert!(is_waiting(turns.take(1)).await);
        assert!(turns.take(2).await.is_ok(), "another owner has its turn at once");
    }

    #[tokio::test]
    async fn beyond_the_waiting_room_a_caller_is_refused_at_once() {
        let turns = Turns::new(1, 1, 1);
        let held = turns.take(1).await.ok();
        let mut waiting = Box::pin(turns.take(1));
        assert!(is_waiting(&mut waiting).await);
        assert!(matches!(turns.take(1).await, Err(Crowded)));
        drop(held);
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn a_caller_that_leaves_gives_back_its_place_and_nothing_is_kept_of_it() {
        let turns = Turns::new(1, 1, 1);
        let held = turns.take(1).await.ok();
        assert!(is_waiting(turns.take(1)).await);
        assert!(is_waiting(turns.take(1)).await, "the first one left");
        drop(held);
        assert!(turns.owners.lock().is_empty());
        assert!(turns.take(2).await.is_ok());
    }
}
