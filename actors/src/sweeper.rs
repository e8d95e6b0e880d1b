//! Retention clocks: makes ready what the next months need, and removes what is old.
//!
//! What is removed is removed in batches, with a pause after each, so that nobody waits long for a lock.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::{audit::Audit, prompts::Prompts, tenants::Tenants};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::{
    measure::{Handling, Kind, Queued},
    outside::{self, Failure},
    ports::Clock,
};

/// How far ahead the audit is made ready: the month that is coming, whatever the day.
const AHEAD: SignedDuration = SignedDuration::from_hours(62 * 24);
/// Rows that are removed together.
const BATCH_MAX: u32 = 1_000;
/// The pause after such a batch.
const BATCH_PAUSE: Duration = Duration::from_millis(50);
/// How long one round may take. The next one goes on where it was stopped: batches are committed.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From one round over the audit to the next.
    pub interval: Duration,
    /// From one round over the prompts to the next: so much longer than it should may one be kept.
    pub interval_prompts: Duration,
    /// From a round that failed to the next.
    pub interval_failed: Duration,
    /// How long audit events are kept; `None` is for ever. A tenant's own word may be shorter.
    pub audit_retention: Option<Duration>,
}

pub(crate) struct Sweeper;

/// What a round is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Round {
    Audit,
    Prompts,
}

pub(crate) enum Message {
    /// It is time for a round.
    Tick(Round, Queued),
    /// A round has ended, with so many rows removed.
    Swept(Round, Result<u64, Failure<storage::Error>>, Queued),
}

/// What the actor needs to start, and to start again.
#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) settings: Settings,
    pub(crate) audit: Arc<dyn Audit>,
    pub(crate) tenants: Arc<dyn Tenants>,
    pub(crate) prompts: Arc<dyn Prompts>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: TaskTracker,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3600),
            interval_prompts: Duration::from_secs(30),
            interval_failed: Duration::from_secs(60),
            audit_retention: Some(Duration::from_secs(90 * 24 * 3600)),
        }
    }
}

// === impl Sweeper ===

impl Actor for Sweeper {
    type Msg = Message;
    type State = Arguments;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<Arguments, ActorProcessingErr> {
        let _ = myself.cast(tick(Round::Audit));
        let _ = myself.cast(tick(Round::Prompts));
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut Arguments,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin(Kind::Sweeper);
        match message {
            Message::Tick(round, queued) => {
                drop(queued);
                let arguments = state.clone();
                let sweep = async move {
                    match round {
                        Round::Audit => arguments.sweep_audit().await,
                        Round::Prompts => arguments.sweep_prompts().await,
                    }
                };
                outside::send(&state.tasks, ROUND_TIMEOUT, sweep, move |swept| {
                    let queued = Queued::new(Kind::Sweeper);
                    let _ = myself.cast(Message::Swept(round, swept, queued));
                });
            }
            Message::Swept(round, Ok(removed), queued) => {
                drop(queued);
                let (what, interval) = match round {
                    Round::Audit => ("audit events", state.settings.interval),
                    Round::Prompts => ("prompts", state.settings.interval_prompts),
                };
                if removed > 0 {
                    tracing::info!(removed, what, "what was old was removed");
                }
                myself.send_after(interval, move || tick(round));
            }
            Message::Swept(round, Err(error), queued) => {
                drop(queued);
                tracing::warn!(%error, "retention could not be kept; it is tried again");
                myself.send_after(state.settings.interval_failed, move || tick(round));
            }
        }
        Ok(())
    }
}

fn tick(round: Round) -> Message {
    Message::Tick(round, Queued::new(Kind::Sweeper))
}

// === impl Arguments ===

impl Arguments {
    async fn sweep_audit(&self) -> Result<u64, storage::Error> {
        let now = self.clock.now();
        let ahead = now.checked_add(AHEAD).unwrap_or(Timestamp::MAX);
        self.audit.prepare(now, ahead).await?;
        let mut removed = match before(now, self.settings.audit_retention) {
            Some(before) => self.audit.forget_before(before).await?,
            None => 0,
        };
        for tenant in self.tenants.list().await? {
            let Some(before) = before(now, tenant.audit_retention) else { continue };
            loop {
                let batch = self.audit.forget_of(tenant.id, before, BATCH_MAX).await?;
                removed += batch;
                if batch < u64::from(BATCH_MAX) {
                    break;
                }
                sleep(BATCH_PAUSE).await;
            }
        }
        Ok(removed)
    }

    async fn sweep_prompts(&self) -> Result<u64, storage::Error> {
        let mut removed = 0;
        loop {
            let batch = self.prompts.forget_expired(self.clock.now(), BATCH_MAX).await?;
            removed += batch;
            if batch < u64::from(BATCH_MAX) {
                return Ok(removed);
            }
            sleep(BATCH_PAUSE).await;
        }
    }
}

/// From when on nothing is removed; none where it is kept for ever, or for longer than there has been
/// time.
fn before(now: Timestamp, retention: Option<Duration>) -> Option<Timestamp> {
    now.checked_sub(retention?).ok()
}
