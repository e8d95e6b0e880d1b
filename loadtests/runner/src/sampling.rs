//! What the gateway holds, looked at again and again.

use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

use rig::{http, out::note};
use serde::Serialize;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    proc::{Held, held},
    started::{ANSWER_MAX, Gateway},
};

/// Samples that a picture needs.
const SAMPLES: u32 = 300;

/// What the gateway holds at a moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Look {
    /// As Linux counts it.
    #[serde(flatten)]
    pub(crate) held: Held,
    /// Actors that run, as the admin API lists them.
    pub(crate) actors: usize,
}

/// A look of many.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Since the first one, in seconds.
    pub(crate) at: f64,
    #[serde(flatten)]
    pub(crate) look: Look,
    /// Requests that were answered a second, since the last one.
    pub(crate) per_second: f64,
}

/// Looks that are being taken.
pub(crate) struct Samples {
    begun: Instant,
    taken: Arc<Mutex<Vec<Sample>>>,
    task: JoinHandle<()>,
    enough: CancellationToken,
}

/// What the gateway holds now.
pub(crate) async fn look(gateway: &Gateway) -> Result<Look, String> {
    look_at(gateway.process.pid(), gateway.admin).await
}

async fn look_at(pid: u32, admin: std::net::SocketAddr) -> Result<Look, String> {
    // Before it is asked: the question would be a descriptor of its own.
    let held = held(pid)?;
    let (status, body) = http::get(admin, "/admin/v1/actors", ANSWER_MAX).await?;
    if status != 200 {
        return Err(format!("/admin/v1/actors answers {status}"));
    }
    let actors: Vec<serde_json::Value> =
        serde_json::from_str(&body).map_err(|error| format!("/admin/v1/actors: {error}"))?;
    Ok(Look { held, actors: actors.len() })
}

// === impl Samples ===

impl Samples {
    /// Begins to take them, as often as a picture of so many seconds needs it. `answered_so_far` says how many
    /// requests were answered so far.
    pub(crate) fn begin(
        gateway: &Gateway,
        seconds: Duration,
        answered_so_far: impl Fn() -> u64 + Send + 'static,
    ) -> Self {
        let begun = Instant::now();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let enough = CancellationToken::new();
        let every = (seconds / SAMPLES).max(Duration::from_secs(1));
        let (pid, admin) = (gateway.process.pid(), gateway.admin);
        let (samples, stop) = (Arc::clone(&taken), enough.clone());
        let task = TaskTracker::new().spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let (mut answered, mut last) = (answered_so_far(), begun);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = stop.cancelled() => return,
                }
                let (so_far, now) = (answered_so_far(), Instant::now());
                let passed = (now - last).as_secs_f64().max(1e-3);
                let per_second = (so_far - answered) as f64 / passed;
                (answered, last) = (so_far, now);
                match look_at(pid, admin).await {
                    Ok(look) => samples.lock().push(Sample {
                        at: (now - begun).as_secs_f64(),
                        look,
                        per_second,
                    }),
                    Err(error) => note(&format!("  a sample is missing: {error}")),
                }
            }
        });
        Self { begun, taken, task, enough }
    }

    /// Seconds since the first one.
    pub(crate) fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Takes no more; those that were taken.
    pub(crate) async fn end(self) -> Vec<Sample> {
        self.enough.cancel();
        let _ = self.task.await;
        std::mem::take(&mut self.taken.lock())
    }
}
