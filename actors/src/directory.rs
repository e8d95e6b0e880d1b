//! The upstreams, how they are, and the choice among them.

use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protocol::{id::TenantId, telemetry as names};
use ractor::ActorRef;
use storage::upstreams::Upstream as Record;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    measure::{self, Kind, Queued},
    ports::ProbeError,
    root,
    upstream::{self, Load, Look, Waiting},
};

/// How long the list of upstreams may take to be changed.
const SET_TIMEOUT: Duration = Duration::from_secs(5);

/// How an upstream is.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// What is known of it from storage or configuration.
    pub upstream: Arc<Record>,
    /// Whether it answered its last poll.
    pub up: bool,
    /// How many models it has.
    pub models: usize,
    /// When it last answered.
    pub last_answer: Option<Instant>,
    /// What went wrong with the last poll.
    pub last_error: Option<ProbeError>,
    /// How busy it is.
    pub load: Arc<Load>,
    actor: ActorRef<upstream::Message>,
}

/// The upstreams, and how they are.
#[derive(Clone)]
pub struct Directory {
    views: Arc<Views>,
    root: Arc<OnceLock<ActorRef<root::Message>>>,
    tickets: Arc<AtomicU64>,
}

/// None of those that were asked for may be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoneOpen {
    /// When one may be, where that is known.
    pub after: Option<Duration>,
}

/// What outlives the actors.
#[derive(Default)]
pub(crate) struct Views {
    views: Mutex<BTreeMap<String, View>>,
    changed: Notify,
}

// === impl Directory ===

impl Directory {
    pub(crate) fn new(views: Arc<Views>) -> Self {
        Self { views, root: Arc::default(), tickets: Arc::default() }
    }

    pub(crate) fn bind(&self, root: ActorRef<root::Message>) {
        let _ = self.root.set(root);
    }

    /// How they are, by name.
    #[must_use]
    pub fn views(&self) -> Vec<View> {
        self.views.lock().values().cloned().collect()
    }

    /// Those that answered their last poll.
    #[must_use]
    pub fn up(&self) -> Vec<Arc<Record>> {
        let views = self.views.lock();
        views.values().filter(|view| view.up).map(|view| Arc::clone(&view.upstream)).collect()
    }

    /// Chooses one of `among` that was not `tried`, and asks it for a turn.
    ///
    /// Those that answered their last poll come before those that did not, and those with a free slot
    /// before those without. Of what is left two are drawn, and the one with fewer requests is taken:
    /// next to the best of all, without every replica running to the same one (Mitzenmacher, "The Power
    /// of Two Choices in Randomized Load Balancing", 2001).
    ///
    /// # Errors
    /// [`NoneOpen`].
    pub fn ask(
        &self,
        among: &[Arc<Record>],
        tried: &[Arc<Record>],
        tenant: TenantId,
        weight: u32,
    ) -> Result<(Arc<Record>, Waiting), NoneOpen> {
        let views = self.views.lock();
        let untried = among.iter().filter(|one| tried.iter().all(|other| other.name != one.name));
        let mut candidates: Vec<&View> =
            untried.filter_map(|upstream| views.get(&upstream.name)).collect();
        let after = candidates.iter().filter_map(|view| view.load.open_for()).min();
        candidates.retain(|view| view.load.open_for().is_none());
        prefer(&mut candidates, |view| view.up);
        prefer(&mut candidates, |view| view.load.has_room());
        let chosen = match candidates.as_slice() {
            [] => return Err(NoneOpen { after }),
            [one] => one,
            several => {
                let first = fastrand::usize(..several.len());
                let second = (first + fastrand::usize(1..several.len())) % several.len();
                let (one, two) = (several[first], several[second]);
                if two.load.requests() < one.load.requests() { two } else { one }
            }
        };
        let (upstream, load) = (Arc::clone(&chosen.upstream), Arc::clone(&chosen.load));
        let actor = chosen.actor.clone();
        // The actor takes what lies behind this lock while it holds the lane: never the other way round.
        drop(views);
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        Ok((upstream, Waiting::ask(actor, &load, ticket, (tenant, weight))))
    }

    /// All that the actor of an upstream knows, if it says.
    pub async fn look(&self, name: &str) -> Option<Look> {
        let actor = self.views.lock().get(name)?.actor.clone();
        upstream::look(&actor).await
    }

    #[cfg(test)]
    pub(crate) fn poison(&self, name: &str) {
        if let Some(view) = self.views.lock().get(name) {
            let _ = view.actor.cast(upstream::Message::Poison);
        }
    }

    /// From now on these are the upstreams: new ones are polled, others forgotten, changed ones
    /// begun anew.
    pub async fn set(&self, upstreams: Vec<Record>) {
        let Some(root) = self.root.get() else { return };
        let queued = Queued::new(Kind::Root);
        let message = |reply| root::Message::SetUpstreams { upstreams, reply, queued };
        if !matches!(root.call(message, Some(SET_TIMEOUT)).await, Ok(result) if result.is_success())
        {
            tracing::error!("the list of upstreams could not be changed");
        }
    }

    /// Waits until each has answered or failed once, for so long at most.
    pub async fn first_answers(&self, deadline: Duration) {
        let answered = |view: &View| view.last_answer.is_some() || view.last_error.is_some();
        let _ = timeout(deadline, async {
            loop {
                let changed = self.views.changed.notified();
                if self.views.lock().values().all(answered) {
                    return;
                }
                changed.await;
            }
        })
        .await;
    }
}

/// Keeps those of which something is true, if there are any.
fn prefer(candidates: &mut Vec<&View>, good: impl Fn(&View) -> bool) {
    if candidates.iter().any(|view| good(view)) {
        candidates.retain(|view| good(view));
    }
}

// === impl Views ===

impl Views {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, View>> {
        self.views.lock()
    }

    /// An actor has started, or started again.
    pub(crate) fn publish(
        &self,
        record: &Arc<Record>,
        actor: ActorRef<upstream::Message>,
        load: Arc<Load>,
    ) {
        let mut views = self.lock();
        let (upstream, name) = (Arc::clone(record), record.name.clone());
        match views.get_mut(&name) {
            Some(view) => {
                (view.upstream, view.actor, view.load) = (upstream, actor, load);
            }
            None => {
                let (up, models, last_answer, last_error) = (false, 0, None, None);
                let view =
                    View { name, upstream, up, models, last_answer, last_error, load, actor };
                views.insert(record.name.clone(), view);
            }
        }
        drop(views);
        self.changed.notify_waiters();
    }

    pub(crate) fn update(&self, name: &str, change: impl FnOnce(&mut View)) {
        let mut views = self.lock();
        if let Some(view) = views.get_mut(name) {
            change(view);
            measure::of_upstream(names::UPSTREAM_UP, name).set(f64::from(u8::from(view.up)));
        }
        drop(views);
        self.changed.notify_waiters();
    }

    pub(crate) fn remove(&self, name: &str) {
        self.lock().remove(name);
        measure::of_upstream(names::UPSTREAM_UP, name).set(0.0);
        self.changed.notify_waiters();
    }
}
