//! How long a connection may have no request: before its first one, between two, and while the gateway drains.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::seen::Seen;
use crate::telemetry::Closed;

/// While the gateway drains: how long a connection without a request may stay open to send what it has to say and
/// to hear what its client still asks for, from the last byte that the client took. A graceful HTTP/2 end needs
/// one round trip; a client that does not answer must not hold up the end of the process.
const DRAIN_QUIET: Duration = Duration::from_secs(1);
/// The longest time of that, whatever the client takes, sends or asks for: what it asks for now is refused.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// The limits of a connection that is served.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// From the connection's begin to the head of its first request.
    pub(super) first: Duration,
    /// From the end of a request to the head of the next one.
    pub(super) idle: Duration,
}

/// Watches how long a connection has had no request.
pub(super) struct Quiet {
    seen: Arc<Seen>,
    /// None: hyper looks after it, but for the drain.
    limits: Option<Limits>,
    is_draining: bool,
    /// When the connection is closed whatever happens: it drains, and had no request since.
    closes: Option<Instant>,
    /// Since when nothing has happened, and what had happened by then: requests begun, bytes written.
    since: Instant,
    until_then: (u64, usize),
    /// Goes off no later than the limit is reached, and may go off too early: so a request moves no timer.
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Quiet ===

impl Quiet {
    /// Watches from `since` on.
    pub(super) fn new(seen: Arc<Seen>, since: Instant, limits: Option<Limits>) -> Self {
        Self {
            seen,
            limits,
            is_draining: false,
            closes: None,
            since,
            until_then: (0, 0),
            timer: None,
        }
    }

    /// From now on the drain's limit holds.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.since = Instant::now();
        self.until_then = self.happened();
    }

    /// Ready once the connection has had no request for too long. To be asked whenever the connection was polled:
    /// the end of a request wakes the connection.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        let (limit, why) = match (self.is_draining, self.limits) {
            (true, _) => (DRAIN_QUIET, Closed::Drain),
            (false, None) => return Poll::Pending,
            (false, Some(limits)) if self.seen.begun() == 0 => (limits.first, Closed::FirstRequest),
            (false, Some(limits)) => (limits.idle, Closed::Idle),
        };
        if self.seen.open() > 0 && self.closes.is_none() {
            return Poll::Pending;
        }
        let happened = self.happened();
        if happened != self.until_then {
            self.until_then = happened;
            self.since = Instant::now();
        }
        if self.is_draining && self.closes.is_none() {
            self.closes = Some(Instant::now() + DRAIN_MAX);
        }
        let deadline =
            self.closes.map_or(self.since + limit, |closes| closes.min(self.since + limit));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(why);
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Whatever a client does besides requests (PING, SETTINGS) is none of it. Bytes count in the drain only: an
    /// answer to a PING is no sign of a request.
    fn happened(&self) -> (u64, usize) {
        let written = if self.is_draining { self.seen.written() } else { 0 };
        (self.seen.begun(), written)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    const LIMITS: Limits = Limits { first: Duration::from_secs(10), idle: Duration::from_secs(60) };

    fn quiet() -> (Arc<Seen>, Quiet) {
        let seen = Arc::new(Seen::default());
        (Arc::clone(&seen), Quiet::new(seen, Instant::now(), Some(LIMITS)))
    }

    async fn over(quiet: &mut Quiet) -> (Closed, Duration) {
        let began = Instant::now();
        let why = poll_fn(|cx| quiet.poll_over(cx)).await;
        // tokio's timers go off up to a millisecond late.
        (why, Duration::from_secs_f64(began.elapsed().as_secs_f64().round()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_has_less_time_than_the_next_ones() {
        let (_seen, mut quiet) = quiet();
        assert_eq!(over(&mut quiet).await, (Closed::FirstRequest, LIMITS.first));
        let (seen, mut quiet) = self::quiet();
        drop(seen.begin());
        assert_eq!(over(&mut quiet).await, (Closed::Idle, LIMITS.idle));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_idle_from_the_end_of_the_last_request_on() {
        let (seen, mut quiet) = quiet();
        for _ in 0..5 {
            // Asked before, so that its timer is set.
            let open = seen.begin();
            let asked = timeout(Duration::from_secs(100), over(&mut quiet)).await;
            assert!(asked.is_err(), "a request is open");
            drop(open);
            let asked = timeout(Duration::from_secs(59), over(&mut quiet)).await;
            assert!(asked.is_err(), "it is not idle for long enough");
        }
        assert_eq!(over(&mut quiet).await.0, Closed::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_requests_and_for_who_still_reads_and_no_longer() {
        let (seen, mut quiet) = quiet();
        let open = seen.begin();
        quiet.drain();
        assert!(timeout(Duration::from_secs(100), over(&mut quiet)).await.is_err());
        drop(open);
        for _ in 0..5 {
            seen.wrote(1);
            assert!(timeout(DRAIN_QUIET / 2, over(&mut quiet)).await.is_err());
        }
        assert_eq!(over(&mut quiet).await.0, Closed::Drain);
        // Whoever goes on asking and reading is not waited for either.
        let (seen, mut quiet) = self::quiet();
        quiet.drain();
        let mut every = tokio::time::interval(DRAIN_QUIET / 2);
        let began = Instant::now();
        let why = poll_fn(|cx| {
            while every.poll_tick(cx).is_ready() {
                seen.wrote(17);
                drop(seen.begin());
            }
            quiet.poll_over(cx)
        })
        .await;
        assert_eq!(why, Closed::Drain);
        assert!((DRAIN_MAX..DRAIN_MAX + DRAIN_QUIET).contains(&began.elapsed()));
        // hyper looks after the rest of an HTTP/1.1 connection.
        let mut quiet = Quiet::new(Arc::default(), Instant::now(), None);
        assert!(timeout(Duration::from_secs(100), over(&mut quiet)).await.is_err());
        quiet.drain();
        assert_eq!(over(&mut quiet).await, (Closed::Drain, DRAIN_QUIET));
    }
}
