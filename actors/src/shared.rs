//! The way to what is shared by all replicas, with a breaker before it: where nobody answers, the
//! answer is no at once, and not after a deadline for each who asks.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::id::TenantId;
use storage::admission::{Admission, Answer, Operation, Unavailable};
use tokio::time::Instant;

use crate::rules::{
    breaker::{self, Breaker, Ended},
    moment::Moment,
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
    probes: 1,
};

/// Windows, slots and budgets that many replicas share.
#[derive(Clone)]
pub(crate) struct Shared {
    admission: Arc<dyn Admission>,
    breaker: Arc<Mutex<Breaker>>,
    epoch: Instant,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// It was not even asked: nothing was done.
    NotAsked,
    /// Nobody knows what was done.
    Lost(Unavailable),
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
        let pass = self.lock().ask(self.now()).map_err(|_| NoAnswer::NotAsked)?;
        let answered = self.admission.exchange(tenant, batch).await;
        let ended = if answered.is_ok() { Ended::Well } else { Ended::Failed };
        self.lock().ended(pass, ended, self.now(), fastrand::f64());
        answered.map_err(NoAnswer::Lost)
    }

    fn now(&self) -> Moment {
        Moment::default().after(self.epoch.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
