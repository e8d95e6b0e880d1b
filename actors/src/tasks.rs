//! Tasks that live as long as the process, and what happens when one of them ends before that.
//!
//! A task that panics, or returns, takes its promise with it and nobody notices: no connection is accepted
//! any more, or no revocation is heard. Such a task is therefore started here, under a name. When it ends
//! early, [`Watched::failed`] resolves with that name, and the process ends with a reason. Once the ordered
//! shutdown has begun, the end of a task is no failure.

use std::thread;

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts tasks that must not end early, and reports the first one that does.
#[derive(Clone)]
pub struct Watched {
    tasks: TaskTracker,
    /// Cancelled when the ordered shutdown begins.
    ending: CancellationToken,
    /// Why the process has to end. `None`: every task is alive.
    failed: watch::Sender<Option<String>>,
}

/// Proof that a task or a thread is alive. Dropped before the ordered shutdown, also by a panic, it reports
/// the failure.
pub struct Alive {
    name: &'static str,
    watched: Watched,
}

// === impl Watched ===

impl Watched {
    /// No tasks yet. They run on `tasks`; when `ending` is cancelled, they may end.
    #[must_use]
    pub fn new(tasks: TaskTracker, ending: CancellationToken) -> Self {
        Self { tasks, ending, failed: watch::Sender::new(None) }
    }

    /// Starts a task that must not end before the ordered shutdown begins. The name goes into the reason:
    /// "`name` ended early".
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self.watch(name);
        self.tasks.spawn(async move {
            let _alive = alive;
            task.await;
        });
    }

    /// The same for what is not a task, such as a thread: it keeps the value for as long as it lives.
    #[must_use]
    pub fn watch(&self, name: &'static str) -> Alive {
        Alive { name, watched: self.clone() }
    }

    /// Resolves when a task has ended early, with the reason to end the process. The first one counts.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The sender is a field of `self`, so that the channel cannot be closed.
            None => std::future::pending().await,
        }
    }

    fn report(&self, reason: String) {
        tracing::error!(reason, "a task that must not end has ended");
        self.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert(reason);
            is_first
        });
    }
}

// === impl Alive ===

impl Drop for Alive {
    fn drop(&mut self) {
        if self.watched.ending.is_cancelled() {
            return;
        }
        let how = if thread::panicking() { "ended early: it panicked" } else { "ended early" };
        self.watched.report(format!("{} {how}", self.name));
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::time::timeout;

    use super::*;

    fn watched() -> Watched {
        Watched::new(TaskTracker::new(), CancellationToken::new())
    }

    #[tokio::test]
    async fn a_task_that_returns_or_panics_is_reported_by_name() {
        let returned = watched();
        returned.spawn("the change listener", async {});
        assert_eq!(returned.failed().await, "the change listener ended early");
        let panicked = watched();
        panicked.spawn("the prompt writer", async {
            tokio::task::yield_now().await;
            panic!("a bug");
        });
        assert_eq!(panicked.failed().await, "the prompt writer ended early: it panicked");
    }

    #[tokio::test]
    async fn the_first_failure_is_the_reason_and_stays_it() {
        let watched = watched();
        drop(watched.watch("the accept loop"));
        drop(watched.watch("a serving thread"));
        for _ in 0..2 {
            assert_eq!(watched.failed().await, "the accept loop ended early");
        }
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_reported() {
        let watched = watched();
        let alive = watched.watch("a serving thread");
        let thread = thread::spawn(move || {
            let _alive = alive;
            panic!("a bug");
        });
        assert_eq!(watched.failed().await, "a serving thread ended early: it panicked");
        assert!(thread.join().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_lives_or_ends_in_the_ordered_shutdown_has_not_failed() {
        let watched = watched();
        let ending = watched.ending.clone();
        watched.spawn("the accept loop", async move { ending.cancelled().await });
        watched.spawn("the metrics fold", pending());
        assert!(timeout(Duration::from_secs(60), watched.failed()).await.is_err());
        watched.ending.cancel();
        drop(watched.watch("a serving thread"));
        assert!(timeout(Duration::from_secs(60), watched.failed()).await.is_err());
    }
}
