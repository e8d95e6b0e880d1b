//! The places of the ring: each request holds one from its admission until its event is stored.
//!
//! A tenant gets a place while it holds fewer than [`SHARE`] times the places that are free. One tenant alone
//! therefore gets at most two thirds of all places, and many greedy ones together still leave some free, so
//! that nobody who holds none is shut out by those who hold many. The rule is exact: one lock, one number
//! for each tenant that holds any.

use foldhash::HashMap;
use parking_lot::{Mutex, MutexGuard};
use protocol::id::TenantId;
use tokio::sync::Notify;

/// So many times the free places may be held by one tenant.
const SHARE: usize = 2;

/// The tenant that holds a place; `None`: all unauthenticated callers together.
pub(super) type Owner = Option<TenantId>;

/// Counts who holds how many places.
pub(super) struct Places {
    max: usize,
    held: Mutex<Held>,
    /// Notified when all places are free.
    all_free: Notify,
}

struct Held {
    free: usize,
    /// Owners that hold none are not in it.
    by_owner: HashMap<Owner, usize>,
    /// We refused a place after the last successful append.
    has_refused: bool,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are held.
    Full,
    /// The tenant holds its share.
    Share,
}

// === impl NoPlace ===

impl NoPlace {
    /// The label of the metric.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Share => "share",
        }
    }
}

// === impl Places ===

impl Places {
    pub(super) fn new(max: usize) -> Self {
        let held = Held { free: max, by_owner: HashMap::default(), has_refused: false };
        Self { max, held: Mutex::new(held), all_free: Notify::new() }
    }

    /// Takes a place, which is to be given back.
    pub(super) fn take(&self, owner: Owner) -> Result<(), NoPlace> {
        let mut held = self.lock();
        if held.free == 0 {
            held.has_refused = true;
            return Err(NoPlace::Full);
        }
        let most = held.free.saturating_mul(SHARE);
        let of_owner = held.by_owner.entry(owner).or_default();
        if *of_owner >= most {
            held.has_refused = true;
            return Err(NoPlace::Share);
        }
        *of_owner += 1;
        held.free -= 1;
        Ok(())
    }

    /// Gives places back, one for each owner.
    pub(super) fn give_back(&self, owners: impl Iterator<Item = Owner>) {
        let mut held = self.lock();
        for owner in owners {
            held.free += 1;
            if let Some(of_owner) = held.by_owner.get_mut(&owner) {
                *of_owner -= 1;
                if *of_owner == 0 {
                    held.by_owner.remove(&owner);
                }
            }
        }
        let all_free = held.free == self.max;
        drop(held);
        if all_free {
            self.all_free.notify_waiters();
        }
    }

    /// Events were stored: what was refused before says nothing any more.
    pub(super) fn forget_refusals(&self) {
        self.lock().has_refused = false;
    }

    /// Tells if we refused a place after the last successful append.
    pub(super) fn has_refused(&self) -> bool {
        self.lock().has_refused
    }

    /// The places that nobody holds.
    pub(super) fn free(&self) -> usize {
        self.lock().free
    }

    /// The places that somebody holds.
    pub(super) fn held(&self) -> usize {
        self.max - self.free()
    }

    /// Tells if callers hold less than half of the places.
    pub(super) fn are_roomy(&self) -> bool {
        self.free() > self.max / 2
    }

    /// Resolves when all places are free at some moment after this call.
    pub(super) fn all_free(&self) -> impl Future<Output = ()> {
        self.all_free.notified()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn owner(number: u128) -> Owner {
        Some(TenantId(Uuid::from_u128(number)))
    }

    /// Takes places for an owner until there is none for it; returns how many.
    fn fill(places: &Places, owner: Owner) -> usize {
        (0..).take_while(|_| places.take(owner).is_ok()).count()
    }

    #[test]
    fn one_tenant_gets_two_thirds_and_the_next_ones_still_get_some() {
        let places = Places::new(90);
        assert_eq!(fill(&places, owner(1)), 60);
        assert_eq!(places.take(owner(1)), Err(NoPlace::Share));
        assert_eq!(fill(&places, owner(2)), 20);
        assert_eq!(fill(&places, owner(3)), 7);
        assert_eq!(places.take(owner(4)), Ok(()));
        places.give_back([owner(4)].into_iter());
        places.give_back((0..60).map(|_| owner(1)));
        assert!(places.take(owner(1)).is_ok());
    }

    #[test]
    fn what_is_tiny_is_of_use_to_one() {
        assert_eq!(fill(&Places::new(1), owner(1)), 1);
        let places = Places::new(2);
        assert_eq!(fill(&places, owner(1)), 2);
        assert_eq!(places.take(owner(2)), Err(NoPlace::Full));
    }

    proptest! {
        #[test]
        fn places_are_neither_lost_nor_made(
            max in 1_usize..50, steps in prop::collection::vec((0_u128..5, any::<bool>()), 0..200)
        ) {
            let places = Places::new(max);
            let mut held = [0_usize; 5];
            for (number, takes) in steps {
                let at = usize::try_from(number).unwrap();
                if takes {
                    let may = places.free() > 0 && held[at] < SHARE * places.free();
                    let took = places.take(owner(number)).is_ok();
                    prop_assert_eq!(took, may);
                    held[at] += usize::from(took);
                } else if held[at] > 0 {
                    places.give_back([owner(number)].into_iter());
                    held[at] -= 1;
                }
                prop_assert_eq!(places.held(), held.iter().sum::<usize>());
            }
        }
    }
}
