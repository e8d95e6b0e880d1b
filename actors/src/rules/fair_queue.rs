//! Who is next, fair over tenants.
//!
//! Each tenant has a line of its own. The lines take turns (deficit round-robin with a cost of one a
//! request): in its turn a line gives up as many requests as its weight says, then goes to the back.
//! So a tenant with a thousand requests waiting delays another's single request by no more than one
//! turn, and not by a thousand. Within a line, first come is first served.
//!
//! Lines are bounded, one by one and together; who waits too long, or leaves, frees the place.
//!
//! Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", IEEE/ACM Transactions
//! on Networking 4(3), 1996.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use super::moment::Moment;

/// How many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// In the line of one tenant.
    pub per_tenant_max: usize,
    /// In all lines together.
    pub all_max: usize,
}

/// Requests that wait. `Tenant` is whose line it is, `Waiter` what is called when its turn comes.
#[derive(Debug)]
pub struct FairQueue<Tenant, Waiter> {
    settings: Settings,
    lines: HashMap<Tenant, Line<Waiter>>,
    /// The tenants in the order of their turns, each once; every one of them has somebody waiting.
    turns: VecDeque<Tenant>,
    waiting: usize,
    next: u64,
}

/// A place in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place<Tenant> {
    tenant: Tenant,
    number: u64,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// In the tenant's own line.
    Tenant,
    /// In all lines together.
    All,
}

#[derive(Debug)]
struct Line<Waiter> {
    weight: u32,
    /// What is left of its turn.
    credit: u32,
    waiters: VecDeque<Waiting<Waiter>>,
}

#[derive(Debug)]
struct Waiting<Waiter> {
    number: u64,
    deadline: Moment,
    waiter: Waiter,
}

// === impl FairQueue ===

impl<Tenant: Copy + Eq + Hash, Waiter> FairQueue<Tenant, Waiter> {
    /// Nobody waits yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, lines: HashMap::new(), turns: VecDeque::new(), waiting: 0, next: 0 }
    }

    /// How many wait, in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// How many of a tenant wait.
    #[must_use]
    pub fn len_of(&self, tenant: Tenant) -> usize {
        self.lines.get(&tenant).map_or(0, |line| line.waiters.len())
    }

    /// How many wait, by tenant.
    pub fn lens(&self) -> impl Iterator<Item = (Tenant, usize)> + '_ {
        self.lines.iter().map(|(tenant, line)| (*tenant, line.waiters.len()))
    }

    /// Joins the line of a tenant. `weight`, at least 1, is how many it may send in a turn, from its
    /// next turn on.
    ///
    /// # Errors
    /// [`Full`], with the waiter.
    pub fn join(
        &mut self,
        tenant: Tenant,
        weight: u32,
        deadline: Moment,
        waiter: Waiter,
    ) -> Result<Place<Tenant>, (Full, Waiter)> {
        if self.waiting >= self.settings.all_max {
            return Err((Full::All, waiter));
        }
        if self.len_of(tenant) >= self.settings.per_tenant_max {
            return Err((Full::Tenant, waiter));
        }
        let weight = weight.max(1);
        let turns = &mut self.turns;
        let line = self.lines.entry(tenant).or_insert_with(|| {
            turns.push_back(tenant);
            Line { weight, credit: weight, waiters: VecDeque::new() }
        });
        line.weight = weight;
        let number = self.next;
        self.next += 1;
        self.waiting += 1;
        line.waiters.push_back(Waiting { number, deadline, waiter });
        Ok(Place { tenant, number })
    }

    /// The tenant whose turn it is, if anybody waits.
    #[must_use]
    pub fn next_tenant(&self) -> Option<Tenant> {
        self.turns.front().copied()
    }

    /// The one whose turn it is, if anybody waits.
    pub fn call(&mut self) -> Option<(Tenant, Waiter)> {
        let tenant = *self.turns.front()?;
        let line = self.lines.get_mut(&tenant)?;
        let called = line.waiters.pop_front()?;
        self.waiting -= 1;
        line.credit -= 1;
        if line.waiters.is_empty() {
            self.close(tenant);
        } else if line.credit == 0 {
            line.credit = line.weight;
            self.turns.rotate_left(1);
        }
        Some((tenant, called.waiter))
    }

    /// Leaves the line; `None` where the turn has come already.
    pub fn leave(&mut self, place: Place<Tenant>) -> Option<Waiter> {
        let line = self.lines.get_mut(&place.tenant)?;
        let at = line.waiters.binary_search_by_key(&place.number, |waiting| waiting.number).ok()?;
        let left = line.waiters.remove(at)?;
        self.waiting -= 1;
        if line.waiters.is_empty() {
            self.close(place.tenant);
        }
        Some(left.waiter)
    }

    /// All whose deadline has come leave.
    pub fn expire(&mut self, now: Moment) -> Vec<Waiter> {
        let mut expired = Vec::new();
        for line in self.lines.values_mut() {
            let (late, waiting) =
                std::mem::take(&mut line.waiters).into_iter().partition(|one| one.deadline <= now);
            line.waiters = waiting;
            let late: VecDeque<Waiting<Waiter>> = late;
            expired.extend(late);
        }
        self.waiting -= expired.len();
        let lines = &mut self.lines;
        lines.retain(|_, line| !line.waiters.is_empty());
        self.turns.retain(|tenant| lines.contains_key(tenant));
        expired.sort_by_key(|waiting| waiting.number);
        expired.into_iter().map(|waiting| waiting.waiter).collect()
    }

    /// The next deadline of all.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let waiters = self.lines.values().flat_map(|line| &line.waiters);
        waiters.map(|waiting| waiting.deadline).min()
    }

    /// How many will be called before a place, if nobody joins or leaves; `None` where its turn has
    /// come already.
    #[must_use]
    pub fn ahead(&self, place: Place<Tenant>) -> Option<usize> {
        let own = self.lines.get(&place.tenant)?;
        let before =
            own.waiters.binary_search_by_key(&place.number, |waiting| waiting.number).ok()?;
        let turn = self.turns.iter().position(|tenant| *tenant == place.tenant)?;
        // Turns that the own line needs after the one that it is in, or that comes next.
        let more_turns = before
            .checked_sub(own.credit as usize)
            .map_or(0, |beyond| 1 + beyond / own.weight as usize);
        let others = self.turns.iter().enumerate().filter(|(_, tenant)| **tenant != place.tenant);
        let ahead_of_it = others.filter_map(|(at, tenant)| {
            let line = self.lines.get(tenant)?;
            // Those before it in the round have one turn more; the first is in the middle of its.
            let turns = more_turns + usize::from(at < turn);
            let most = match turns {
                0 => 0,
                turns => line.credit as usize + (turns - 1) * line.weight as usize,
            };
            Some(most.min(line.waiters.len()))
        });
        Some(before + ahead_of_it.sum::<usize>())
    }

    fn close(&mut self, tenant: Tenant) {
        self.lines.remove(&tenant);
        if let Some(at) = self.turns.iter().position(|other| *other == tenant) {
            self.turns.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOMY: Settings = Settings { per_tenant_max: 2_000, all_max: 10_000 };

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn join(queue: &mut FairQueue<u8, u32>, tenant: u8, weight: u32, waiter: u32) -> Place<u8> {
        queue.join(tenant, weight, at(1_000), waiter).unwrap()
    }

    fn called(queue: &mut FairQueue<u8, u32>, count: usize) -> Vec<u32> {
        (0..count).map_while(|_| queue.call().map(|(_, waiter)| waiter)).collect()
    }

    #[test]
    fn a_greedy_tenant_delays_another_by_one_turn() {
        let mut queue = FairQueue::new(ROOMY);
        for number in 0..1_000 {
            join(&mut queue, 1, 1, number);
        }
        let place = join(&mut queue, 2, 1, 9_999);
        assert_eq!(queue.ahead(place), Some(1));
        assert_eq!(called(&mut queue, 3), [0, 9_999, 1]);
    }

    #[test]
    fn a_line_sends_as_many_in_its_turn_as_its_weight_says() {
        let mut queue = FairQueue::new(ROOMY);
        for number in 0..4 {
            join(&mut queue, 1, 3, number);
            join(&mut queue, 2, 1, 10 + number);
        }
        assert_eq!(called(&mut queue, 9), [0, 1, 2, 10, 3, 11, 12, 13]);
        assert!(queue.is_empty() && queue.next_deadline().is_none());
    }

    #[test]
    fn lines_are_bounded_one_by_one_and_together() {
        let mut queue = FairQueue::new(Settings { per_tenant_max: 2, all_max: 3 });
        join(&mut queue, 1, 1, 0);
        join(&mut queue, 1, 1, 1);
        assert_eq!(queue.join(1, 1, at(0), 2), Err((Full::Tenant, 2)));
        join(&mut queue, 2, 0, 3);
        assert_eq!(queue.join(3, 1, at(0), 4), Err((Full::All, 4)));
        assert_eq!((queue.len(), queue.len_of(1), queue.len_of(3)), (3, 2, 0));
    }

    #[test]
    fn who_leaves_frees_the_place_and_is_never_called() {
        let mut queue = FairQueue::new(ROOMY);
        let first = join(&mut queue, 1, 1, 0);
        let second = join(&mut queue, 1, 1, 1);
        let only = join(&mut queue, 2, 1, 2);
        assert_eq!(queue.leave(first), Some(0));
        assert_eq!((queue.leave(first), queue.ahead(first)), (None, None));
        assert_eq!(queue.leave(only), Some(2));
        assert_eq!((queue.leave(only), queue.ahead(only)), (None, None));
        assert_eq!(queue.ahead(second), Some(0));
        assert_eq!(called(&mut queue, 5), [1]);
    }

    #[test]
    fn who_waits_too_long_leaves() {
        let mut queue = FairQueue::new(ROOMY);
        for (tenant, deadline, waiter) in [(1, 50, 0), (1, 20, 1), (2, 20, 2), (3, 90, 3)] {
            let _ = queue.join(tenant, 1, at(deadline), waiter);
        }
        assert_eq!(queue.next_deadline(), Some(at(20)));
        assert_eq!(queue.expire(at(19)), Vec::<u32>::new());
        assert_eq!(queue.expire(at(20)), [1, 2]);
        assert_eq!((queue.len(), queue.next_deadline()), (2, Some(at(50))));
        assert_eq!(called(&mut queue, 5), [0, 3]);
    }

    #[derive(Clone, Debug)]
    enum Move {
        Join(u8, u32, u64),
        Call,
        Leave(usize),
        Expire(u64),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            5 => (0..5_u8, 0..4_u32, 0..100_u64).prop_map(|(t, w, d)| Move::Join(t, w, d)),
            3 => Just(Move::Call),
            1 => (0..40_usize).prop_map(Move::Leave),
            1 => (0..100_u64).prop_map(Move::Expire),
        ];
        prop::collection::vec(one, 1..200)
    }

    proptest! {
        /// Everyone who joined is called, leaves or expires, once; a line keeps its order; and how
        /// many are ahead is how many are called before.
        #[test]
        fn nobody_is_lost_and_what_is_told_is_true(moves in moves()) {
            let mut queue = FairQueue::new(Settings { per_tenant_max: 12, all_max: 30 });
            let mut places: Vec<(Place<u8>, u32)> = Vec::new();
            let (mut joined, mut gone) = (0_u32, Vec::new());
            for step in moves {
                match step {
                    Move::Join(tenant, weight, deadline) => {
                        if let Ok(place) = queue.join(tenant, weight, at(deadline), joined) {
                            places.push((place, joined));
                            joined += 1;
                        }
                    }
                    Move::Call => gone.extend(queue.call().map(|(_, waiter)| waiter)),
                    Move::Leave(which) if !places.is_empty() => {
                        let (place, waiter) = places[which % places.len()];
                        let left = queue.leave(place);
                        prop_assert_eq!(left.is_some(), !gone.contains(&waiter));
                        gone.extend(left);
                    }
                    Move::Leave(_) => {}
                    Move::Expire(now) => gone.extend(queue.expire(at(now))),
                }
                prop_assert_eq!(queue.len() + gone.len(), joined as usize);
            }
            let ahead: Vec<_> = places
                .iter()
                .filter_map(|(place, waiter)| Some((queue.ahead(*place)?, *waiter)))
                .collect();
            let mut last = Vec::new();
            while let Some((_, waiter)) = queue.call() {
                last.push(waiter);
            }
            for (ahead, waiter) in ahead {
                let called = last.iter().position(|called| *called == waiter);
                prop_assert_eq!(called, Some(ahead), "{:?} in {:?}", waiter, last);
            }
            for pair in places.windows(2) {
                let [(first, one), (second, two)] = pair else { continue };
                if first.tenant == second.tenant {
                    let of = |waiter: &u32| last.iter().position(|called| called == waiter);
                    prop_assert!(of(one).zip(of(two)).is_none_or(|(one, two)| one < two));
                }
            }
            gone.extend(last);
            gone.sort_unstable();
            prop_assert_eq!(gone, (0..joined).collect::<Vec<_>>());
        }

        /// Over any stretch in which two tenants always wait, each gets its share to within a turn.
        #[test]
        fn shares_follow_weights(one in 1..5_u32, two in 1..5_u32, calls in 1..60_usize) {
            let mut queue = FairQueue::new(ROOMY);
            for number in 0..400 {
                join(&mut queue, 1, one, number);
                join(&mut queue, 2, two, 1_000 + number);
            }
            let ones = called(&mut queue, calls).iter().filter(|waiter| **waiter < 1_000).count();
            let expected = calls as f64 * f64::from(one) / f64::from(one + two);
            let turn = f64::from(one.max(two));
            prop_assert!((ones as f64 - expected).abs() <= turn, "{} of {}", ones, expected);
        }
    }
}
