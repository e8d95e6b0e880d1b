//! The way to what is shared by all replicas, with a breaker before it: where nobody answers, the
//! answer is no at once, and not after a deadline for each who asks.

use parking_lot::{Mutex, MutexGuard};
use std::{sync::Arc, time::Duration};

use protocol::id::TenantId;
use storage::admission::{Admission, Answer, Operation, Unavailable};
use tokio::time::Instant;

use crate::{
    outside::Failure,
    rules::{
        breaker::{self, Breaker, Ended, Pass},
        moment::Moment,
    },
};

/// When what is shared is asked no more. The pauses are short: whoever waits for it to come back is
/// refused meanwhile.
const BREAKER: breaker::Settings = breaker::Settings {
    span: Duration::from_secs(5),
    calls_min: 3,
    faults_percent: 50,
    unconnected_max: 3,
    pause_min: Duration::from_millis(200),
    pause_max: Duration::from_secs(1),
    trials: 1,
};

/// Windows, slots and budgets that many replicas share.
#[derive(Clone)]
pub(crate) struct Shared {
    admission: Arc<dyn Admission>,
    breaker: Arc<Mutex<Breaker<()>>>,
    epoch: Instant,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// It was not even asked: nothing was done.
    #[error("not asked")]
    NotAsked,
    /// Nobody knows what was done.
    #[error(transparent)]
    Lost(Unavailable),
}

/// One exchange that passed the breaker. The breaker hears of its end also where it panics or is
/// dropped: otherwise a probe would stay out for ever, and the breaker open.
struct Call<'a> {
    shared: &'a Shared,
    pass: Option<Pass<()>>,
    ended: Ended,
}

// === impl Call ===

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.shared.lock().ended(pass, self.ended, self.shared.now(), fastrand::f64());
        }
    }
}

// === impl NoAnswer ===

impl From<Failure<NoAnswer>> for NoAnswer {
    fn from(failure: Failure<NoAnswer>) -> Self {
        match failure {
            Failure::Failed(why) => why,
            Failure::TimedOut(_) | Failure::Lost => Self::Lost(Unavailable(failure.to_string())),
        }
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(admission: Arc<dyn Admission>, epoch: Instant) -> Self {
        Self { admission, breaker: Arc::new(Mutex::new(Breaker::new(BREAKER))), epoch }
    }

    /// Does operations on one tenant; see [`Admission::exchange`].
    pub(crate) async fn exchange(
        &self,
        tenant: TenantId,
        batch: &[Operation],
    ) -> Result<Vec<Answer>, NoAnswer> {
        let pass = self.lock().ask((), self.now()).map_err(|_| NoAnswer::NotAsked)?;
        let mut call = Call { shared: self, pass: Some(pass), ended: Ended::Failed };
        let answers = self.admission.exchange(tenant, batch).await.map_err(NoAnswer::Lost)?;
        call.ended = Ended::Well;
        Ok(answers)
    }

    fn now(&self) -> Moment {
        Moment::default().after(self.epoch.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Breaker<()>> {
        self.breaker.lock()
    }
}
