//! Connections that are kept for the next call.
//!
//! A connection belongs to one call at a time. When the reply has been read to its end it is put
//! back; the one that was put back last is taken first, so that what a burst left over grows old
//! and is closed. It is kept for the runtime that hears of its events: another thread's would wake that one
//! for every chunk.

use parking_lot::{Mutex, MutexGuard};
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use foldhash::HashMap;
use tokio::runtime::{self, Handle};

use super::{connect::Origin, connection::Connection};

/// The runtime that a connection belongs to; none outside of any.
type Home = Option<runtime::Id>;

type Kept = HashMap<Home, HashMap<Arc<Origin>, Vec<Idle>>>;

/// What is kept, per runtime and origin.
pub(super) struct Pool {
    idle: Mutex<Kept>,
    per_origin_max: usize,
    age_max: Duration,
}

/// A connection on loan. Dropped before it was given back, it is closed at once.
pub(super) struct Loan {
    connection: Connection,
    home: Home,
    origin: Arc<Origin>,
    pool: Weak<Pool>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

// === impl Pool ===

impl Pool {
    /// Keeps up to `per_origin_max` connections of each runtime to each origin, each for `age_max` without use.
    pub(super) fn new(per_origin_max: usize, age_max: Duration) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), per_origin_max, age_max })
    }

    /// A kept connection that is still open, if there is one.
    pub(super) fn take(self: &Arc<Self>, origin: &Arc<Origin>) -> Option<Loan> {
        let mut idle = self.lock();
        let kept = idle.get_mut(&home())?.get_mut(origin)?;
        while let Some(Idle { mut connection, since }) = kept.pop() {
            if since.elapsed() > self.age_max {
                // What lies below is older still.
                kept.clear();
                return None;
            }
            if connection.is_open() {
                return Some(self.lend(connection, Arc::clone(origin)));
            }
        }
        None
    }

    /// Wraps a new connection of this runtime's, so that it comes back here.
    pub(super) fn lend(self: &Arc<Self>, mut connection: Connection, origin: Arc<Origin>) -> Loan {
        connection.is_busy = true;
        Loan { connection, home: home(), origin, pool: Arc::downgrade(self) }
    }

    /// Closes what has grown old; told from time to time, so that idle hours keep nothing open.
    pub(super) fn prune(&self) {
        self.lock().retain(|_, origins| {
            origins.retain(|_, kept| {
                kept.retain_mut(|idle| {
                    idle.since.elapsed() <= self.age_max && idle.connection.is_open()
                });
                !kept.is_empty()
            });
            !origins.is_empty()
        });
    }

    /// Closes everything that is idle.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn put(&self, home: Home, origin: Arc<Origin>, connection: Connection) {
        let mut idle = self.lock();
        let kept = idle.entry(home).or_default().entry(origin).or_default();
        if kept.len() < self.per_origin_max {
            kept.push(Idle { connection, since: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.idle.lock()
    }
}

fn home() -> Home {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

// === impl Loan ===

impl Loan {
    /// The call is over. Where the connection serves on it is kept for another one.
    pub(super) fn end(mut self, keeps: bool) {
        self.connection.is_busy = false;
        if keeps && let Some(pool) = self.pool.upgrade() {
            pool.put(self.home, self.origin, self.connection);
        }
    }
}

impl Deref for Loan {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
