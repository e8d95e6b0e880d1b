//! Turns that are given by lot.
//!
//! A queue in order of arrival belongs to whoever fills it. Here the next turn is drawn at random among those
//! that wait, and where the waiting room is full a newcomer takes the place of one drawn at random: each
//! attempt has the same chance, and an attacker gains no more than its share of the attempts.
//!
//! The class goes before the lot. Callers with failures behind them wait until nobody else does, and have a
//! part of the turns only, so that the rest is always free for the others.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

/// What is known of a caller. The order is that in which turns are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Neither its address nor its prefix has failed of late.
    Clean,
    /// Others have failed with its prefix.
    Pestered,
    /// Its address has failed of late.
    Failing,
}

/// So many turns at once, so many callers that wait.
#[derive(Clone)]
pub(super) struct Lottery(Arc<Mutex<State>>);

/// One turn. It ends when it is dropped.
pub(super) struct Turn {
    /// `None`: it was never given to anybody.
    of: Option<Lottery>,
    class: Class,
}

/// No turn was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The waiting room was full, and the lot took the caller's place.
    Place,
    /// It took too long.
    Patience,
}

struct State {
    free: usize,
    /// How many of those that are free may be given to others than [`Class::Clean`].
    free_for_others: usize,
    waiting: Vec<Waiting>,
    waiting_max: usize,
    /// The number of the next caller that waits.
    next: u64,
}

struct Waiting {
    number: u64,
    class: Class,
    turn: oneshot::Sender<Turn>,
}

/// A place in the waiting room; left when it is dropped.
struct Place<'a> {
    lottery: &'a Lottery,
    number: u64,
}

// === impl Lottery ===

impl Lottery {
    /// `turns` at once, `for_others` of them for callers that are not clean; `waiting_max` may wait.
    pub(super) fn new(turns: usize, for_others: usize, waiting_max: usize) -> Self {
        let waiting = Vec::new();
        let state =
            State { free: turns, free_for_others: for_others, waiting, waiting_max, next: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Waits for a turn. Safe to drop: a caller that leaves gives back what it had.
    pub(super) async fn turn(&self, class: Class, patience: Duration) -> Result<Turn, Lost> {
        let (number, drawn) = {
            let mut state = self.0.lock();
            if state.take(class) {
                return Ok(Turn { of: Some(self.clone()), class });
            }
            state.wait(class)?
        };
        let _place = Place { lottery: self, number };
        let drawn = timeout(patience, drawn).await.map_err(|_| Lost::Patience)?;
        drawn.map_err(|_| Lost::Place)
    }

    /// Gives what is free to those that wait.
    fn draw(&self) {
        loop {
            let Some(Waiting { class, turn, .. }) = self.0.lock().draw() else { return };
            let given = turn.send(Turn { of: Some(self.clone()), class });
            // The caller has left meanwhile: the turn is taken back without its `Drop`, which would draw.
            if let Err(mut turn) = given {
                turn.of = None;
                self.0.lock().give_back(class);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lottery) = self.of.take() {
            lottery.0.lock().give_back(self.class);
            lottery.draw();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.lottery.0.lock().waiting.retain(|one| one.number != self.number);
    }
}

// === impl State ===

impl State {
    fn may(&self, class: Class) -> bool {
        self.free > 0 && (class == Class::Clean || self.free_for_others > 0)
    }

    /// Takes a turn if there is one. Those that wait cannot have it: it would have been given to them.
    fn take(&mut self, class: Class) -> bool {
        if !self.may(class) {
            return false;
        }
        self.free -= 1;
        if class != Class::Clean {
            self.free_for_others -= 1;
        }
        true
    }

    fn give_back(&mut self, class: Class) {
        self.free += 1;
        if class != Class::Clean {
            self.free_for_others += 1;
        }
    }

    /// Takes a place in the waiting room. Where it is full, one of the worst class goes, by lot; it is the
    /// newcomer where all the others are of a better class.
    fn wait(&mut self, class: Class) -> Result<(u64, oneshot::Receiver<Turn>), Lost> {
        if self.waiting.len() >= self.waiting_max {
            let worst = self.waiting.iter().map(|one| one.class).max().ok_or(Lost::Place)?;
            if worst < class {
                return Err(Lost::Place);
            }
            // Its sender is dropped with it, which tells the caller.
            self.remove(worst);
        }
        let (turn, drawn) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        self.waiting.push(Waiting { number, class, turn });
        Ok((number, drawn))
    }

    /// The next one that may have a turn, which is taken for it.
    fn draw(&mut self) -> Option<Waiting> {
        let best =
            self.waiting.iter().map(|one| one.class).filter(|class| self.may(*class)).min()?;
        let drawn = self.remove(best)?;
        self.take(best);
        Some(drawn)
    }

    /// Removes one of that class, by lot.
    fn remove(&mut self, class: Class) -> Option<Waiting> {
        let count = self.waiting.iter().filter(|one| one.class == class).count();
        let lot = random_below(count);
        let mut of_class = self.waiting.iter().enumerate().filter(|(_, one)| one.class == class);
        let (index, _) = of_class.nth(lot)?;
        Some(self.waiting.swap_remove(index))
    }
}

/// A number below `count`, or 0. Where the system gives no randomness, the first one is drawn.
fn random_below(count: usize) -> usize {
    let mut bytes = [0; 8];
    let _ = getrandom::fill(&mut bytes);
    let drawn = u64::from_le_bytes(bytes).checked_rem(count as u64).unwrap_or(0);
    usize::try_from(drawn).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use futures_util::{
        FutureExt as _,
        future::{BoxFuture, join_all},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    type Waiter<'a> = BoxFuture<'a, Result<Turn, Lost>>;

    /// A caller that waits.
    fn waiting(lottery: &Lottery, class: Class) -> Waiter<'_> {
        let mut caller = lottery.turn(class, PATIENCE).boxed();
        assert!((&mut caller).now_or_never().is_none(), "it waits");
        caller
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_of_a_crowd_is_soon_drawn_as_often_as_any_other() {
        let mut draws = 0;
        for _ in 0..200 {
            let lottery = Lottery::new(1, 1, 64);
            let held = lottery.turn(Class::Failing, PATIENCE).await.unwrap();
            let crowd: Vec<_> = (0..15).map(|_| waiting(&lottery, Class::Failing)).collect();
            let mut last = waiting(&lottery, Class::Failing);
            drop(held);
            draws += u32::from((&mut last).now_or_never().is_some());
            drop(crowd);
        }
        // 12.5 are expected; in order of arrival there would be none.
        assert!((2..40).contains(&draws), "{draws} of 200");
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_full_room_a_newcomer_takes_a_place_and_the_clean_keep_theirs() {
        let lottery = Lottery::new(1, 1, 3);
        let held = lottery.turn(Class::Failing, PATIENCE).await.unwrap();
        let mut crowd: Vec<_> = (0..3).map(|_| waiting(&lottery, Class::Failing)).collect();
        let clean: Vec<_> = (0..3).map(|_| waiting(&lottery, Class::Clean)).collect();
        for lost in &mut crowd {
            assert_eq!(lost.await.err(), Some(Lost::Place));
        }
        assert_eq!(lottery.turn(Class::Pestered, PATIENCE).await.err(), Some(Lost::Place));
        drop(held);
        let all = join_all(clean.into_iter().map(async |one| one.await.is_ok())).await;
        assert_eq!(all, [true; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_turns_stays_free_for_the_clean_and_they_go_first() {
        let lottery = Lottery::new(3, 1, 64);
        let failing = lottery.turn(Class::Failing, PATIENCE).await.unwrap();
        let mut more = waiting(&lottery, Class::Failing);
        let mut pestered = waiting(&lottery, Class::Pestered);
        let clean = lottery.turn(Class::Clean, PATIENCE).now_or_never().unwrap().unwrap();
        let _other = lottery.turn(Class::Clean, PATIENCE).now_or_never().unwrap().unwrap();
        drop(clean);
        assert!(
            (&mut pestered).now_or_never().is_none(),
            "the turn of a clean one is none of theirs"
        );
        drop(failing);
        let turn = (&mut pestered).now_or_never().unwrap().unwrap();
        assert!((&mut more).now_or_never().is_none());
        drop(turn);
        assert!(more.now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_or_loses_patience_leaves_nothing_behind() {
        let lottery = Lottery::new(1, 1, 2);
        let held = lottery.turn(Class::Clean, PATIENCE).await.unwrap();
        drop(waiting(&lottery, Class::Clean));
        assert_eq!(lottery.turn(Class::Clean, PATIENCE).await.err(), Some(Lost::Patience));
        assert!(lottery.0.lock().waiting.is_empty());
        // One that was drawn and never looked gives its turn back.
        let drawn = waiting(&lottery, Class::Clean);
        drop(held);
        drop(drawn);
        assert!(lottery.turn(Class::Clean, PATIENCE).now_or_never().unwrap().is_ok());
        let state = lottery.0.lock();
        assert_eq!((state.free, state.free_for_others), (1, 1));
    }
}
