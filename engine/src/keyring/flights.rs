//! Callers that bring the same key at the same time share one look at it.
//!
//! Without this a burst of requests with one key that is not in the cache yet would hash it once for
//! each, or be refused for wanting to.

use parking_lot::{Mutex, MutexGuard};
use std::{collections::HashMap, sync::Arc};

use identity::principal::Principal;
use tokio::sync::OnceCell;

use super::{Refused, cache::Tag};

type Outcome = Result<Arc<Principal>, Refused>;
type Cell = Arc<OnceCell<Outcome>>;

/// The looks that are under way: no more entries than callers.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Tag, Cell>>);

/// A caller among those of its key; takes the entry away when the look is over, or nobody is left.
struct Aboard<'a> {
    flights: &'a Flights,
    tag: Tag,
    cell: Cell,
}

// === impl Flights ===

impl Flights {
    /// The outcome of `look`, or of the one that is under way for the same key. Where its caller
    /// leaves, another one's begins.
    pub(super) async fn share(&self, tag: Tag, look: impl Future<Output = Outcome>) -> Outcome {
        let cell = Arc::clone(self.lock().entry(tag).or_default());
        let aboard = Aboard { flights: self, tag, cell };
        aboard.cell.get_or_init(|| look).await.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tag, Cell>> {
        self.0.lock()
    }
}

// === impl Aboard ===

impl Drop for Aboard<'_> {
    fn drop(&mut self) {
        let mut cells = self.flights.lock();
        // Whoever comes after the outcome looks anew: it may have changed.
        let is_over = self.cell.initialized() || Arc::strong_count(&self.cell) == 2;
        if is_over && cells.get(&self.tag).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            cells.remove(&self.tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;

    use super::*;

    const TAG: Tag = [7; 32];

    #[tokio::test]
    async fn callers_of_one_key_share_one_look_and_later_ones_look_anew() {
        let (flights, looks) = (Flights::default(), AtomicUsize::new(0));
        let look = async || {
            looks.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Err(Refused::Wrong)
        };
        let outcomes = join_all((0..50).map(|_| flights.share(TAG, look()))).await;
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().err() == Some(&Refused::Wrong)));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        let _ = flights.share(TAG, look()).await;
        assert_eq!(looks.load(Ordering::Relaxed), 2);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_leaves_hands_its_look_on() {
        let flights = Flights::default();
        let mut first = Box::pin(flights.share(TAG, pending()));
        let mut second = Box::pin(flights.share(TAG, async { Err(Refused::Wrong) }));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await.err(), Some(Refused::Wrong));
        assert!(flights.lock().is_empty());
        drop(flights.share(TAG, pending()));
        let mut left = Box::pin(flights.share(TAG, pending()));
        assert!(futures_util::poll!(&mut left).is_pending());
        drop(left);
        assert!(flights.lock().is_empty());
    }
}
