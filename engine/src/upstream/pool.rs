//! Connections that are kept for the next call.
//!
//! A connection belongs to one call at a time. When the reply has been read to its end it is put
//! back; the one that was put back last is taken first, so that what a burst left over grows old
//! and is closed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;

use super::connect::{Connection, Origin};

/// What is kept, per origin.
pub struct Pool {
    idle: Mutex<HashMap<Origin, Vec<Idle>>>,
    per_origin_max: usize,
    age_max: Duration,
}

/// A connection on loan. Dropped before it was given back, it is closed at once.
pub struct Loan {
    connection: Connection,
    origin: Origin,
    pool: Weak<Pool>,
}

/// A request that got no reply.
pub struct Unsent {
    /// The request itself, where it is certain that no byte of it was sent.
    pub request: Option<Request<Full<Bytes>>>,
    /// Why.
    pub error: hyper::Error,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

// === impl Pool ===

impl Pool {
    /// Keeps up to `per_origin_max` connections to each origin, each for `age_max` without use.
    #[must_use]
    pub fn new(per_origin_max: usize, age_max: Duration) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), per_origin_max, age_max })
    }

    /// A kept connection that is still open, if there is one.
    pub fn take(self: &Arc<Self>, origin: &Origin) -> Option<Loan> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(origin)?;
        while let Some(Idle { connection, since }) = kept.pop() {
            if since.elapsed() > self.age_max {
                // What lies below is older still.
                kept.clear();
                return None;
            }
            if !connection.sender.is_closed() {
                return Some(self.lend(connection, origin.clone()));
            }
        }
        None
    }

    /// Wraps a new connection, so that it comes back here.
    pub fn lend(self: &Arc<Self>, mut connection: Connection, origin: Origin) -> Loan {
        connection.idle = false;
        Loan { connection, origin, pool: Arc::downgrade(self) }
    }

    /// Closes what has grown old; told from time to time, so that idle hours keep nothing open.
    pub fn prune(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.retain(|idle| {
                idle.since.elapsed() <= self.age_max && !idle.connection.sender.is_closed()
            });
            !kept.is_empty()
        });
    }

    /// Closes everything that is idle.
    pub fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn put(&self, origin: Origin, mut connection: Connection) {
        connection.idle = true;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(origin).or_default();
        if kept.len() < self.per_origin_max {
            kept.push(Idle { connection, since: Instant::now() });
        }
    }
}

// === impl Loan ===

impl Loan {
    /// Sends a request and waits for the head of the reply.
    ///
    /// # Errors
    /// [`Unsent`], with the request where it may be sent through another connection.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Unsent> {
        let sender = &mut self.connection.sender;
        if let Err(error) = sender.ready().await {
            return Err(Unsent { request: Some(request), error });
        }
        sender.try_send_request(request).await.map_err(|mut unsent| Unsent {
            request: unsent.take_message(),
            error: unsent.into_error(),
        })
    }

    /// The reply has been read to its end: the connection may serve another call.
    pub fn give_back(self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.put(self.origin, self.connection);
        }
    }
}
