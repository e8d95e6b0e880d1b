//! What is remembered of keys that proved nobody, and of the addresses they came from.
//!
//! - **Wrong keys**, by keyed hash, for [`WRONG_FOR`]: the same wrong key again costs neither a query nor a
//!   comparison. Only a key that was compared with a stored hash is remembered, and only until anything
//!   changes in the database: a key that was made just now works at once.
//! - **Addresses**: each failure is a debt that time pays off, at the rate of `keys.failures_per_minute`, and
//!   no faster than [`SHARE`] times what the comparison took. Up to [`BURST`] an answer comes at once; beyond
//!   that it is held until the debt is down to [`BURST`] again. So the connections of an attacker wait for
//!   their answers and not for turns, and who has the right key at the same address finds a turn. At [`BURST`]
//!   and [`HELD`] together, keys that are not known are refused without any work.
//! - **Prefixes** with which somebody failed within [`RECENTLY`].

use std::{collections::HashMap, hash::Hash, net::IpAddr, time::Duration};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{Caller, Refused, cache::Tag, lottery::Class};

/// How long a wrong key is remembered.
const WRONG_FOR: Duration = Duration::from_secs(10);
/// Wrong keys that are remembered: some 100 bytes each.
const WRONG_MAX: usize = 8_192;
/// Failures of an address that are answered at once, as the time that pays them off: 20 at 600 a minute.
const BURST: Duration = Duration::from_secs(2);
/// How long the answer to a failure beyond them may be held.
const HELD: Duration = Duration::from_secs(60);
/// One address has the processor for one part in so many with comparisons that fail.
const SHARE: u32 = 2;
/// How long a refusal is held where its address has failed, so that it does not try again at once.
const REFUSED_HELD: Duration = Duration::from_secs(1);
/// Answers that are held at once, of all addresses. One more is given at once.
const HELD_MAX: usize = 1_024;
/// How long a failure counts against its address and its prefix.
const RECENTLY: Duration = Duration::from_secs(60);
/// Addresses, and prefixes, that are remembered in each of two generations: 1 MiB in all.
const RECENT_MAX: usize = 8_192;

/// The memory of failures.
pub(super) struct Strangers {
    wrong: Cache<Tag, Wrong>,
    addresses: Recent<Network>,
    prefixes: Recent<u64>,
    /// The debt of one failure. `None`: addresses are not limited.
    step: Option<Duration>,
    held: Semaphore,
}

#[derive(Clone, Copy)]
struct Wrong {
    at: Instant,
    /// The number of changes that had been heard before the key was compared.
    changes: u64,
}

/// An IPv4 address, or the /64 that one IPv6 subscriber has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u64),
}

/// What failed of late. Two generations, so that forgetting costs nothing: when the young one is full or old,
/// it becomes the old one, which is dropped.
struct Recent<Of>(Mutex<Generations<Of>>);

struct Generations<Of> {
    young: HashMap<Of, Failures, RandomState>,
    old: HashMap<Of, Failures, RandomState>,
    since: Instant,
}

#[derive(Clone, Copy)]
struct Failures {
    last: Instant,
    /// When the debt is paid off.
    paid_at: Instant,
}

// === impl Strangers ===

impl Strangers {
    /// `failures_per_minute` of one address; 0: no limit.
    pub(super) fn new(failures_per_minute: u32) -> Self {
        Self {
            wrong: Cache::new(WRONG_MAX),
            addresses: Recent::new(),
            prefixes: Recent::new(),
            step: Duration::from_secs(60).checked_div(failures_per_minute),
            held: Semaphore::new(HELD_MAX),
        }
    }

    /// Whether this key was wrong of late and nothing has changed since.
    pub(super) fn knows_wrong(&self, tag: &Tag, changes: u64) -> bool {
        let known = self.wrong.get(tag);
        known.is_some_and(|wrong| wrong.changes == changes && wrong.at.elapsed() < WRONG_FOR)
    }

    /// What is known of a caller at this address with a key of this prefix.
    pub(super) fn class(&self, from: IpAddr, prefix: u64) -> Class {
        let is_recent =
            |failures: Option<Failures>| failures.is_some_and(|one| one.last.elapsed() < RECENTLY);
        if self.step.is_some() && is_recent(self.addresses.get(Network::of(from))) {
            Class::Failing
        } else if is_recent(self.prefixes.get(prefix)) {
            Class::Pestered
        } else {
            Class::Clean
        }
    }

    /// A key was compared, which took so long, and is wrong. So many changes had been heard before.
    pub(super) fn compared_wrong(&self, caller: Caller, changes: u64, took: Duration) {
        self.wrong.insert(caller.tag, Wrong { at: Instant::now(), changes });
        self.prefixes.add(caller.prefix, Duration::ZERO, Duration::ZERO);
        self.failed(caller.from, took);
    }

    /// A key from this address proved nobody; to find out took so much of a processor.
    pub(super) fn failed(&self, from: IpAddr, took: Duration) {
        if let Some(step) = self.step {
            // More than is refused at: what was let in before is charged, too.
            let debt_max = Self::refused_at(step) + HELD;
            self.addresses.add(Network::of(from), step.max(took * SHARE), debt_max);
        }
    }

    /// Whether the address has failed too often for a key that is not known.
    pub(super) fn refuses(&self, from: IpAddr) -> bool {
        self.step.is_some_and(|step| self.debt(from) >= Self::refused_at(step))
    }

    /// Holds the answer to a failure until its address may have it. Safe to drop.
    pub(super) async fn hold(&self, from: IpAddr, refused: Refused) {
        let Some(step) = self.step else { return };
        let debt = self.debt(from);
        let wait = match refused {
            Refused::Wrong => debt.saturating_sub(BURST.max(step)).min(HELD),
            Refused::TooMany | Refused::TooManyFailures => debt.min(REFUSED_HELD),
            _ => return,
        };
        if wait.is_zero() {
            return;
        }
        if let Ok(_place) = self.held.try_acquire() {
            sleep(wait).await;
        }
    }

    /// At least one failure is always answered at once.
    fn refused_at(step: Duration) -> Duration {
        BURST.max(step) + HELD
    }

    fn debt(&self, from: IpAddr) -> Duration {
        let failures = self.addresses.get(Network::of(from));
        failures.map_or(Duration::ZERO, |one| one.paid_at.saturating_duration_since(Instant::now()))
    }
}

// === impl Network ===

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

// === impl Recent ===

impl<Of: Copy + Eq + Hash> Recent<Of> {
    fn new() -> Self {
        let (young, old) = (HashMap::default(), HashMap::default());
        Self(Mutex::new(Generations { young, old, since: Instant::now() }))
    }

    fn get(&self, of: Of) -> Option<Failures> {
        let generations = self.0.lock();
        generations.young.get(&of).or_else(|| generations.old.get(&of)).copied()
    }

    /// One failure more, which adds `step` to the debt, up to `debt_max`.
    fn add(&self, of: Of, step: Duration, debt_max: Duration) {
        let now = Instant::now();
        let mut generations = self.0.lock();
        let known = generations.young.get(&of).or_else(|| generations.old.get(&of));
        let owed = known.map_or(Duration::ZERO, |one| one.paid_at.saturating_duration_since(now));
        if generations.young.len() >= RECENT_MAX || now - generations.since >= RECENTLY {
            generations.old = std::mem::take(&mut generations.young);
            generations.since = now;
        }
        let failures = Failures { last: now, paid_at: now + (owed + step).min(debt_max) };
        generations.young.insert(of, failures);
    }
}
