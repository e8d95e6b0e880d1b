//! Retention clocks: makes ready what the next months need, and removes what is old.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::audit::Audit;
use tokio_util::task::TaskTracker;

use crate::{
    measure::{Handling, Kind},
    ports::Clock,
};

/// How far ahead the audit is made ready: the month that is coming, whatever the day.
const AHEAD: SignedDuration = SignedDuration::from_hours(62 * 24);

/// Settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From one round to the next.
    pub interval: Duration,
    /// From a round that failed to the next.
    pub interval_failed: Duration,
    /// How long audit events are kept; `None` is for ever.
    pub audit_retention: Option<Duration>,
}

pub(crate) struct Sweeper;

pub(crate) enum Message {
    /// It is time for a round.
    Tick,
    /// A round has ended, with so many events removed.
    Swept(Result<u64, storage::Error>),
}

/// What the actor needs to start, and to start again.
#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) settings: Settings,
    pub(crate) audit: Arc<dyn Audit>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: TaskTracker,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3600),
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
        let _ = myself.cast(Message::Tick);
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
            Message::Tick => {
                let (audit, now) = (Arc::clone(&state.audit), state.clock.now());
                let retention = state.settings.audit_retention;
                state.tasks.spawn(async move {
                    let swept = sweep(audit.as_ref(), now, retention).await;
                    let _ = myself.cast(Message::Swept(swept));
                });
            }
            Message::Swept(Ok(removed)) => {
                if removed > 0 {
                    tracing::info!(removed, "old audit events were removed");
                }
                myself.send_after(state.settings.interval, || Message::Tick);
            }
            Message::Swept(Err(error)) => {
                tracing::warn!(%error, "retention could not be kept; it is tried again");
                myself.send_after(state.settings.interval_failed, || Message::Tick);
            }
        }
        Ok(())
    }
}

async fn sweep(
    audit: &dyn Audit,
    now: Timestamp,
    retention: Option<Duration>,
) -> Result<u64, storage::Error> {
    let ahead = now.checked_add(AHEAD).unwrap_or(Timestamp::MAX);
    audit.prepare(now, ahead).await?;
    match retention.map(|retention| now.checked_sub(retention)) {
        Some(Ok(before)) => audit.forget_before(before).await,
        // Kept for ever, or for longer than there has been time.
        None | Some(Err(_)) => Ok(0),
    }
}
