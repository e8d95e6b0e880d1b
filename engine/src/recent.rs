//! One answer for all who ask within a second.
//!
//! What somebody outside is asked for (an upstream, the database, Redis) costs them as much each time, however
//! cheaply it can be asked of the gateway. So at most one question is under way, its answer is shared by all who
//! wait for it and by those who come within a second after it, and then it is asked anew. The question runs as
//! a task of its own: who leaves neither ends it nor makes the next one ask again.

use std::time::Duration;

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long an answer is good for.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The last answer, or the question that is under way.
pub(crate) struct Recent<T: Clone> {
    question: Mutex<Option<Question<T>>>,
    tasks: TaskTracker,
    stopped: CancellationToken,
}

/// Resolves to the answer and to when it came; `None` where the question ended without one.
type Question<T> = Shared<BoxFuture<'static, Option<(T, Instant)>>>;

// === impl Recent ===

impl<T: Clone + Send + Sync + 'static> Recent<T> {
    /// Questions run as `tasks`, and end when everything has `stopped`.
    pub(crate) fn new(tasks: TaskTracker, stopped: CancellationToken) -> Self {
        Self { question: Mutex::default(), tasks, stopped }
    }

    /// The answer, which is at most a second old. `ask` must end in bounded time.
    ///
    /// `None` where the gateway stops, or the question failed in a way that nobody foresaw.
    pub(crate) async fn get<F>(&self, ask: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        loop {
            let question = self.question.lock().get_or_insert_with(|| self.ask(ask())).clone();
            match question.clone().await {
                Some((answer, at)) if at.elapsed() < GOOD_FOR => return Some(answer),
                Some(_) => self.forget(&question),
                None => {
                    self.forget(&question);
                    return None;
                }
            }
        }
    }

    fn ask(&self, asked: impl Future<Output = T> + Send + 'static) -> Question<T> {
        let stopped = self.stopped.clone();
        let task = self.tasks.spawn(async move {
            let answer = stopped.run_until_cancelled_owned(asked).await?;
            Some((answer, Instant::now()))
        });
        task.map(|ended| ended.ok().flatten()).boxed().shared()
    }

    /// Unless somebody has asked anew already.
    fn forget(&self, question: &Question<T>) {
        self.question.lock().take_if(|kept| kept.ptr_eq(question));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    fn recent<T: Clone + Send + Sync + 'static>() -> Recent<T> {
        Recent::new(TaskTracker::new(), CancellationToken::new())
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_within_a_second_share_one_answer_and_nobody_gets_an_older_one() {
        let recent = recent();
        let asked = AtomicUsize::new(0);
        let ask = || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move { number }
        };
        let answers = join_all((0..1_000).map(|_| recent.get(ask))).await;
        assert!(answers.iter().all(|answer| *answer == Some(0)));
        tokio::time::advance(GOOD_FOR - Duration::from_millis(1)).await;
        assert_eq!(recent.get(ask).await, Some(0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(recent.get(ask).await, Some(1));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_neither_ends_the_question_nor_makes_others_ask_again() {
        let recent = recent();
        let asked = AtomicUsize::new(0);
        let answers = Arc::new(Semaphore::new(0));
        let ask = || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let answers = Arc::clone(&answers);
            async move { answers.acquire_owned().await.map(|_| number).ok() }
        };
        for _ in 0..100 {
            let left = tokio::time::timeout(Duration::from_secs(3), recent.get(ask)).await;
            assert!(left.is_err());
        }
        answers.add_permits(1);
        assert_eq!(recent.get(ask).await, Some(Some(0)));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_question_that_fails_is_asked_anew() {
        let recent = recent();
        let failed = recent.get(|| async { panic!("nobody foresaw this") });
        assert_eq!(failed.await, None::<u8>);
        assert_eq!(recent.get(|| async { 1 }).await, Some(1));
    }

    #[tokio::test]
    async fn the_end_of_the_gateway_is_waited_for_by_no_question() {
        let recent = recent::<()>();
        recent.stopped.cancel();
        assert_eq!(recent.get(std::future::pending).await, None);
    }
}
