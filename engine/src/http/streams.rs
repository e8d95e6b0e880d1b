//! An HTTP/2 stream whose client takes nothing ends by itself.
//!
//! hyper asks for the next part of a body only where the client's window has room. With none, nothing of ours is
//! asked, so that no timer of a body goes off. The task of the stream is ours, however: it is given up here once
//! a part was handed over and no other was asked for in time. That resets the stream, drops what waited for it and
//! settles its request; the connection and its other streams go on.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::TaskTracker;

use crate::telemetry;

/// Whether a stream waits for its client. Only the stream's own task writes it.
#[derive(Default)]
pub(super) struct Flow {
    /// How many parts of the answer were handed over.
    parts: AtomicU64,
    /// The last thing that was said to hyper was a part, and no other was asked for since.
    at_client: AtomicBool,
}

/// Runs the streams of an HTTP/2 connection where shutdown can wait for them.
#[derive(Clone)]
pub(super) struct Streams {
    tasks: TaskTracker,
    /// How long a client may take nothing of a stream.
    limit: Duration,
    /// That of the request that began last, until its stream is run: hyper does both in one step.
    next: Arc<Mutex<Option<Arc<Flow>>>>,
}

/// How long a stream has waited for its client.
struct Stall {
    flow: Arc<Flow>,
    limit: Duration,
    parts: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Flow ===

impl Flow {
    /// A part was handed over, or the head of the answer.
    pub(super) fn handed(&self) {
        self.parts.store(self.parts.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.at_client.store(true, Ordering::Relaxed);
    }

    /// Another part was asked for, and there is none yet, or none at all.
    pub(super) fn asked(&self) {
        self.at_client.store(false, Ordering::Relaxed);
    }
}

// === impl Streams ===

impl Streams {
    pub(super) fn new(tasks: TaskTracker, limit: Duration) -> Self {
        Self { tasks, limit, next: Arc::default() }
    }

    /// A request begins, whose stream is run next.
    pub(super) fn begin(&self) -> Arc<Flow> {
        let flow = Arc::new(Flow::default());
        *self.next.lock() = Some(Arc::clone(&flow));
        flow
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let stall = self.next.lock().take().map(|flow| Stall::new(flow, self.limit));
        self.tasks.spawn(paced(stream, stall));
    }
}

/// Runs a stream to its end, or until its client has taken nothing for too long.
async fn paced(stream: impl Future<Output = ()>, stall: Option<Stall>) {
    let mut stream = pin!(stream);
    let Some(mut stall) = stall else { return stream.await };
    std::future::poll_fn(|cx| match stream.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => stall.poll_over(cx),
    })
    .await;
}

// === impl Stall ===

impl Stall {
    fn new(flow: Arc<Flow>, limit: Duration) -> Self {
        Self { flow, limit, parts: 0, timer: None }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.flow.at_client.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let parts = self.flow.parts.load(Ordering::Relaxed);
        let deadline = || Instant::now() + self.limit;
        let timer = match &mut self.timer {
            Some(timer) if self.parts == parts => timer,
            Some(timer) => {
                timer.as_mut().reset(deadline());
                timer
            }
            None => self.timer.insert(Box::pin(sleep_until(deadline()))),
        };
        self.parts = parts;
        ready!(timer.as_mut().poll(cx));
        telemetry::stream_stalled();
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_given_up_only_while_it_waits_for_its_client() {
        let flow = Arc::new(Flow::default());
        let began = Instant::now();
        let parts = Arc::clone(&flow);
        let stream = async move {
            // A minute at the upstream, then slow parts that are taken, then nothing more is.
            sleep(2 * LIMIT).await;
            for _ in 0..10 {
                parts.handed();
                sleep(LIMIT / 2).await;
            }
            parts.asked();
            sleep(2 * LIMIT).await;
            parts.handed();
            std::future::pending::<()>().await;
        };
        paced(stream, Some(Stall::new(flow, LIMIT))).await;
        let took = began.elapsed().as_secs_f64().round();
        assert!((took - 10.0 * 30.0).abs() < 0.1, "{took}");
    }
}
