//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection stays on its thread, with its timers, its requests and the connections to upstreams that
//! these use: no chunk wakes another processor, and no lock or queue is shared on its way. Connections go
//! to the threads in turns, so that each has as many as the next one. What is not a connection (actors,
//! databases, the admin listener) runs on the runtime of the process, beside them.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use actors::tasks::Watched;
use tokio::runtime::{Builder, Handle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often each thread's clock goes off, for nothing. A timer that is due before all others makes tokio
/// write to the thread's own event descriptor, and read it again, once a request where there are few: with
/// a clock that goes off sooner than what requests wait for, none of theirs is ever the first.
const TICK: Duration = Duration::from_secs(1);

/// The threads. Dropped, they end, and what is still open on them is closed.
pub(crate) struct Workers {
    all: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    next: AtomicUsize,
    over: CancellationToken,
}

// === impl Workers ===

impl Workers {
    /// Starts so many; 0: one for each processor. A thread that ends by itself (its event loop failed) would
    /// leave its connections without service, so `watched` ends the process then.
    ///
    /// # Errors
    /// Where the system gives no thread, or no descriptor for its events.
    pub(crate) fn start(count: usize, watched: &Watched) -> io::Result<Self> {
        let count = if count == 0 { thread::available_parallelism()?.get() } else { count };
        let mut workers = Self {
            all: Vec::with_capacity(count),
            threads: Vec::with_capacity(count),
            next: AtomicUsize::new(0),
            over: CancellationToken::new(),
        };
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (over, alive) = (workers.over.clone(), watched.watch("a serving thread"));
            workers.all.push(runtime.handle().clone());
            let thread = thread::Builder::new().name(format!("serve-{number}"));
            workers.threads.push(thread.spawn(move || {
                // Reported before the runtime is dropped, which waits for the hashes on its threads.
                let _alive = alive;
                runtime.block_on(over.run_until_cancelled(tick()));
                // A hash that is being compared must not hold up the end.
                runtime.shutdown_background();
            })?);
        }
        Ok(workers)
    }

    /// Runs a connection on the thread whose turn it is, where `tracker` waits for it.
    pub(crate) fn spawn(
        &self,
        tracker: &TaskTracker,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(worker) = self.all.get(next % self.all.len().max(1)) {
            tracker.spawn_on(connection, worker);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.over.cancel();
        for thread in self.threads.drain(..) {
            // One that panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}

/// Lets the clock go off, for ever.
async fn tick() {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn each_thread_gets_as_many_as_the_next_and_ends_with_the_workers() {
        let ending = CancellationToken::new();
        let watched = Watched::new(TaskTracker::new(), ending.clone());
        let workers = Workers::start(3, &watched).unwrap();
        let (tracker, (tell, mut told)) = (TaskTracker::new(), mpsc::channel(9));
        for _ in 0..9 {
            let tell = tell.clone();
            workers.spawn(&tracker, async move {
                let _ = tell.try_send(thread::current().name().map(str::to_owned));
                std::future::pending::<()>().await;
            });
        }
        let mut names = BTreeMap::new();
        for _ in 0..9 {
            *names.entry(told.recv().await.unwrap().unwrap()).or_insert(0) += 1;
        }
        let even = ["serve-0", "serve-1", "serve-2"].map(|name| (name.to_owned(), 3));
        assert_eq!(names, BTreeMap::from(even));
        ending.cancel();
        drop((workers, tell));
        // What was open is gone, and with it what it held.
        assert!(told.recv().await.is_none());
        tracker.close();
        tracker.wait().await;
    }
}
