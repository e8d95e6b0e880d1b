//! Work that an actor sends out: it always answers.
//!
//! A handler must not await I/O, so an actor runs such work as a task and hears of the result in a
//! message. An actor that waits for a message that never comes hangs for ever. This module is the only
//! way to send work out: it answers exactly once, with the result, or when the deadline is over, or when
//! the task panics, is aborted, or is dropped with its runtime.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Why work that was sent out has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure<E> {
    /// The work itself failed.
    #[error(transparent)]
    Failed(E),
    /// The deadline is over. The work was stopped.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The task panicked, was aborted, or was dropped.
    #[error("the task ended without an answer")]
    Lost,
}

/// Owes an answer; gives [`Failure::Lost`] when it is dropped before.
struct Owed<T, E, A: FnOnce(Result<T, Failure<E>>)> {
    answer: Option<A>,
    _of: std::marker::PhantomData<fn(T, E)>,
}

/// Runs `work` as a task for at most `deadline`, and then calls `answer` exactly once.
///
/// `answer` runs on the task, also while a panic unwinds: it should only send a message. The work is
/// dropped before `answer` is called.
pub(crate) fn send<T, E>(
    tasks: &TaskTracker,
    deadline: Duration,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
    answer: impl FnOnce(Result<T, Failure<E>>) + Send + 'static,
) where
    T: Send + 'static,
    E: Send + 'static,
{
    let owed = Owed { answer: Some(answer), _of: std::marker::PhantomData };
    tasks.spawn(async move {
        let ended = timeout(deadline, work).await;
        owed.give(match ended {
            Ok(done) => done.map_err(Failure::Failed),
            Err(_) => Err(Failure::TimedOut(deadline)),
        });
    });
}

// === impl Owed ===

impl<T, E, A: FnOnce(Result<T, Failure<E>>)> Owed<T, E, A> {
    fn give(mut self, result: Result<T, Failure<E>>) {
        if let Some(answer) = self.answer.take() {
            answer(result);
        }
    }
}

impl<T, E, A: FnOnce(Result<T, Failure<E>>)> Drop for Owed<T, E, A> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer(Err(Failure::Lost));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::mpsc};

    use tokio::runtime::Builder;

    use super::*;

    type Answer = Result<u8, Failure<&'static str>>;

    /// All answers to that work, heard within 10 s.
    async fn answers(
        work: impl Future<Output = Result<u8, &'static str>> + Send + 'static,
    ) -> Vec<Answer> {
        let (sender, receiver) = mpsc::channel();
        let tasks = TaskTracker::new();
        send(&tasks, Duration::from_secs(10), work, move |answer| sender.send(answer).unwrap());
        tasks.close();
        tasks.wait().await;
        receiver.iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_of_the_work_is_answered_once() {
        assert_eq!(answers(async { Ok(7) }).await, [Ok(7)]);
        assert_eq!(answers(async { Err("no") }).await, [Err(Failure::Failed("no"))]);
        let late = Err(Failure::TimedOut(Duration::from_secs(10)));
        assert_eq!(answers(pending()).await, [late]);
        assert_eq!(answers(async { panic!("a fault") }).await, [Err(Failure::Lost)]);
    }

    #[test]
    fn a_task_that_is_dropped_with_its_runtime_is_answered() {
        let (sender, receiver) = mpsc::channel::<Answer>();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let tasks = TaskTracker::new();
        runtime.block_on(async {
            let answer = move |answer| sender.send(answer).unwrap();
            send(&tasks, Duration::from_secs(10), pending(), answer);
        });
        drop(runtime);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [Err(Failure::Lost)]);
    }
}
