//! Every owner of changing state, and their supervision.
//!
//! ```text
//! root ── supervises; an actor that fails too often takes the process down, with a reason
//!  ├─ tenant     one per tenant that is active: its limits and those of its keys
//!  ├─ audit      what happened: a bounded ring, stored in batches
//!  ├─ catalog    which upstream serves which model
//!  ├─ upstream   one per model server: polls it, knows how it is
//!  └─ sweeper    retention clocks
//! ```
//!
//! An actor never awaits I/O in its handler: it sends the work out as a task and hears of the result
//! in a message. Callers see handles and never ractor; what must outlive a crash (what limits count,
//! events that wait, what is known of models) is kept beside the actor, so that a restarted one goes on
//! with it.

use std::{sync::Arc, time::Duration};

use ractor::Actor;
use storage::{
    audit::Audit, ledger::Ledger, prompts::Prompts, tenants::Tenants, upstreams::Upstream,
};
use tokio::{join, sync::watch, time::timeout};
use tokio_util::task::TaskTracker;

mod address;
pub mod admission;
pub mod audit;
pub mod catalog;
pub mod directory;
pub mod measure;
mod outside;
pub mod ports;
pub mod quiet;
mod restart;
mod root;
pub mod rules;
mod shared;
pub mod sweeper;
pub mod tasks;
pub mod tenant;
#[cfg(test)]
mod tests;
pub mod upstream;

/// How long an actor that has nothing to do may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What the actors need.
pub struct Arguments {
    /// Where what happened lasts.
    pub audit: Arc<dyn Audit>,
    /// Where it is written how much has been used.
    pub ledger: Arc<dyn Ledger>,
    /// The tenants, some of which have a word on how long what they did is kept.
    pub tenants: Arc<dyn Tenants>,
    /// What is kept of prompts.
    pub prompts: Arc<dyn Prompts>,
    /// Windows, slots and budgets that many replicas share; none: this process is alone.
    pub admission: Option<Arc<dyn storage::admission::Admission>>,
    /// How upstreams are asked.
    pub prober: Arc<dyn ports::Prober>,
    /// The clock on the wall.
    pub clock: Arc<dyn ports::Clock>,
    /// Settings of each kind of actor.
    pub settings: Settings,
    /// The upstreams to begin with.
    pub upstreams: Vec<Upstream>,
    /// Where work that awaits runs.
    pub tasks: TaskTracker,
}

/// Settings of each kind of actor.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Admission's.
    pub admission: admission::Settings,
    /// The audit's.
    pub audit: audit::Settings,
    /// The catalog's.
    pub catalog: catalog::Settings,
    /// The upstreams'.
    pub poll: upstream::Settings,
    /// The sweeper's.
    pub sweeper: sweeper::Settings,
}

/// The ways to the actors.
#[derive(Clone)]
pub struct Handles {
    /// Who is let in.
    pub admission: admission::Handle,
    /// What happened.
    pub audit: audit::Handle,
    /// Which upstream serves which model.
    pub catalog: catalog::Handle,
    /// The upstreams, and how they are.
    pub upstreams: directory::Directory,
}

/// The running actors.
pub struct System {
    /// The ways to them.
    pub handles: Handles,
    root: ractor::ActorRef<root::Message>,
    failed: watch::Receiver<Option<String>>,
}

/// How the actors ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Audit events that could not be stored in time, with those of requests that were not over.
    pub unstored: usize,
}

/// The actors could not be started.
#[derive(Debug, thiserror::Error)]
#[error("an actor could not be started: {0}")]
pub struct StartError(String);

/// Starts them all.
///
/// # Errors
/// [`StartError`] with the cause.
pub async fn start(arguments: Arguments) -> Result<System, StartError> {
    let (failed_sender, failed) = watch::channel(None);
    let (handles, children) = root::prepare(&arguments);
    let upstreams = arguments.upstreams.clone();
    let start = root::Arguments { arguments, children, failed: failed_sender };
    let (root, _task) = Actor::spawn(None, root::Root, start)
        .await
        .map_err(|error| StartError(error.to_string()))?;
    handles.upstreams.bind(root.clone());
    handles.admission.bind(root.clone());
    handles.upstreams.set(upstreams).await;
    Ok(System { handles, root, failed })
}

impl System {
    /// Resolves when an actor could not be kept alive, with the reason: time to end the process.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        // The root holds the sender. `stop` consumes the system, so nobody has stopped the root on purpose.
        reason.unwrap_or_else(|| "the root of the actors ended early".to_owned())
    }

    /// Stops from the leaves up: nothing polls or sweeps any more, then what happened is stored, and
    /// other replicas are told what is over.
    pub async fn stop(self, deadline: Duration) -> Stopped {
        let leaves = |reply| root::Message::StopLeaves { reply };
        let _ = self.root.call(leaves, Some(STOP_TIMEOUT)).await;
        let Handles { admission, audit, .. } = &self.handles;
        let (told, stored) =
            join!(timeout(deadline, admission.flush()), timeout(deadline, audit.drain()));
        if told.is_err() {
            tracing::warn!(
                "other replicas could not be told what is over; they notice by themselves"
            );
        }
        let unstored = if stored.is_ok() { 0 } else { audit.unstored() };
        self.root.stop_children(None);
        let _ = self.root.stop_and_wait(None, Some(STOP_TIMEOUT)).await;
        quiet::tell_all();
        Stopped { unstored }
    }
}
