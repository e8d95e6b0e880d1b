//! Log lines that a client or an upstream can cause again and again: told as changes of state.
//!
//! A line per refused request lets one client fill the disk with the log. A call site therefore logs with
//! `quiet!`: the first of its kind is told in full, those after it are counted (and logged at `debug`), and
//! [`tell`] says once in [`TELL_EVERY`] how many there were and, when none came for that long, that it is over.

use parking_lot::{Mutex, MutexGuard};
use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// From one line about something that goes on to the next, and how long none of it has to come until it is over.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Kinds that are told apart. Further ones are counted together, as `others`.
const KINDS_MAX: usize = 256;
const OTHERS: &str = "others";

/// What goes on in this process.
static GOES_ON: Mutex<Kinds> = Mutex::new(Kinds(BTreeMap::new()));

/// What happens again and again: something, and of whom or with which code.
struct Kinds(BTreeMap<(&'static str, Box<str>), Since>);

/// How often something happened.
struct Since {
    began: Instant,
    told: Instant,
    /// Since it was last told, without those that were told themselves.
    untold: u64,
    /// Since it began.
    all: u64,
}

/// What is to be told of one kind.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    what: &'static str,
    of: Box<str>,
    untold: u64,
    all: u64,
    lasted: Duration,
    is_over: bool,
}

/// Whether this is the first of its kind, which the caller tells in full at its level; those after it are for
/// the level `debug`. `of` is to have few values: a code, the name of an upstream.
#[must_use]
pub fn begins(what: &'static str, of: &str) -> bool {
    lock().count(what, of, Instant::now())
}

/// Logs at that level where it is the first of its kind, and at `debug` where it is not: see
/// [`begins`].
#[macro_export]
macro_rules! quiet {
    ($level:ident, $what:literal, $of:expr; $($fields:tt)*) => {
        if $crate::quiet::begins($what, $of) {
            tracing::$level!($($fields)*, $what);
        } else {
            tracing::debug!($($fields)*, $what);
        }
    };
}

/// Says how many there were of what goes on, and what is over. To be called every few seconds.
pub fn tell() {
    tell_at(Instant::now(), TELL_EVERY);
}

/// Says all that has not been told yet: the process ends.
pub fn tell_all() {
    tell_at(Instant::now(), Duration::ZERO);
}

fn tell_at(now: Instant, every: Duration) {
    let due = lock().due(now, every);
    for Told { what, of, untold, all, lasted, is_over } in due {
        let (of, lasted_s) = (&*of, lasted.as_secs());
        if is_over {
            tracing::info!(of, untold, all, lasted_s, "over: {what}");
        } else {
            tracing::warn!(of, untold, all, lasted_s, "goes on: {what}");
        }
    }
}

fn lock() -> MutexGuard<'static, Kinds> {
    GOES_ON.lock()
}

// === impl Kinds ===

impl Kinds {
    /// Counts one; true where it is the first of its kind.
    fn count(&mut self, what: &'static str, of: &str, now: Instant) -> bool {
        let mut kind = (what, Box::from(of));
        if self.0.len() >= KINDS_MAX && !self.0.contains_key(&kind) {
            kind = (OTHERS, Box::default());
        }
        let mut is_first = false;
        let since = self.0.entry(kind).or_insert_with(|| {
            is_first = true;
            Since { began: now, told: now, untold: 0, all: 0 }
        });
        since.all += 1;
        since.untold += u64::from(!is_first);
        is_first
    }

    /// What is to be told now. What is over is forgotten.
    fn due(&mut self, now: Instant, every: Duration) -> Vec<Told> {
        let mut due = Vec::new();
        self.0.retain(|(what, of), since| {
            if now.duration_since(since.told) < every {
                return true;
            }
            let is_over = since.untold == 0;
            // Something that happened once has been told in full.
            if !is_over || since.all > 1 {
                let lasted = now.duration_since(since.began);
                let (untold, all) = (since.untold, since.all);
                due.push(Told { what, of: of.clone(), untold, all, lasted, is_over });
            }
            (since.told, since.untold) = (now, 0);
            !is_over
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_is_told_and_the_others_once_a_minute_until_it_is_over() {
        let (mut kinds, began) = (Kinds(BTreeMap::new()), Instant::now());
        assert!(kinds.count("refused", "overloaded", began));
        for _ in 0..999 {
            assert!(!kinds.count("refused", "overloaded", began));
        }
        assert!(kinds.count("refused", "other", began), "kinds are told apart");
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(kinds.due(at(59), EVERY), []);
        let told = kinds.due(at(60), EVERY);
        assert_eq!(told.len(), 1, "what happened once has been told: {told:?}");
        assert_eq!((told[0].untold, told[0].all, told[0].is_over), (999, 1_000, false));
        assert!(!kinds.count("refused", "overloaded", at(61)));
        assert_eq!(kinds.due(at(120), EVERY)[0].untold, 1);
        let over = kinds.due(at(180), EVERY);
        assert_eq!((over[0].all, over[0].is_over), (1_001, true));
        assert_eq!(over[0].lasted, Duration::from_secs(180));
        assert!(kinds.0.is_empty());
        assert!(kinds.count("refused", "overloaded", at(181)), "it begins anew");
    }

    #[test]
    fn so_many_kinds_are_told_apart_and_no_more() {
        let (mut kinds, now) = (Kinds(BTreeMap::new()), Instant::now());
        for number in 0..10_000 {
            let _ = kinds.count("refused", &number.to_string(), now);
        }
        assert_eq!(kinds.0.len(), KINDS_MAX + 1);
        let all: u64 = kinds.0.values().map(|since| since.all).sum();
        assert_eq!(all, 10_000);
    }
}
