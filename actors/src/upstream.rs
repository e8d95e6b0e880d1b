//! One model server: polls it, and knows how it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use metrics::gauge;
use protocol::telemetry as names;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::upstreams::Upstream as Record;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    catalog,
    measure::{Handling, jittered},
    ports::{DiscoveredModel, ProbeError, Prober},
    root,
};

/// The pause after the first failed poll; it doubles up to the interval.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long the list of upstreams may take to be changed.
const SET_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From one poll to the next, give or take a tenth.
    pub interval: Duration,
    /// How long a poll may take.
    pub timeout: Duration,
}

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
}

/// The upstreams, and how they are.
#[derive(Clone)]
pub struct Directory {
    views: Arc<Views>,
    root: Arc<OnceLock<ActorRef<root::Message>>>,
}

/// What outlives the actors.
#[derive(Default)]
pub(crate) struct Views {
    views: Mutex<BTreeMap<String, View>>,
    changed: Notify,
}

pub(crate) struct Upstream;

pub(crate) enum Message {
    /// It is time to poll.
    Poll,
    /// A poll has ended.
    Polled(Result<Vec<DiscoveredModel>, ProbeError>),
}

/// What the actor needs to start, and to start again.
#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) record: Arc<Record>,
    pub(crate) settings: Settings,
    pub(crate) prober: Arc<dyn Prober>,
    pub(crate) catalog: catalog::Handle,
    pub(crate) views: Arc<Views>,
    pub(crate) tasks: TaskTracker,
}

pub(crate) struct State {
    arguments: Arguments,
    polling: bool,
    failures: u32,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), timeout: Duration::from_secs(10) }
    }
}

// === impl Directory ===

impl Directory {
    pub(crate) fn new(views: Arc<Views>) -> Self {
        Self { views, root: Arc::default() }
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

    /// From now on these are the upstreams: new ones are polled, others forgotten, changed ones
    /// begun anew.
    pub async fn set(&self, upstreams: Vec<Record>) {
        let Some(root) = self.root.get() else { return };
        let message = |reply| root::Message::SetUpstreams { upstreams, reply };
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

// === impl Views ===

impl Views {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, View>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, record: &Arc<Record>, change: impl FnOnce(&mut View)) {
        let mut views = self.lock();
        let view = views.entry(record.name.clone()).or_insert_with(|| View {
            name: record.name.clone(),
            upstream: Arc::clone(record),
            up: false,
            models: 0,
            last_answer: None,
            last_error: None,
        });
        view.upstream = Arc::clone(record);
        change(view);
        gauge!(names::UPSTREAM_UP, "upstream" => view.name.clone())
            .set(f64::from(u8::from(view.up)));
        drop(views);
        self.changed.notify_waiters();
    }

    pub(crate) fn remove(&self, name: &str) {
        self.lock().remove(name);
        gauge!(names::UPSTREAM_UP, "upstream" => name.to_owned()).set(0.0);
        self.changed.notify_waiters();
    }
}

// === impl Upstream ===

impl Actor for Upstream {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        arguments.views.update(&arguments.record, |_| {});
        let _ = myself.cast(Message::Poll);
        Ok(State { arguments, polling: false, failures: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin("upstream");
        match message {
            Message::Poll => state.poll(&myself),
            Message::Polled(polled) => {
                state.polling = false;
                let pause = state.learn(polled);
                myself.send_after(jittered(pause), || Message::Poll);
            }
        }
        Ok(())
    }
}

// === impl State ===

impl State {
    fn poll(&mut self, myself: &ActorRef<Message>) {
        if self.polling {
            return;
        }
        self.polling = true;
        let (arguments, myself) = (self.arguments.clone(), myself.clone());
        self.arguments.tasks.spawn(async move {
            let asked = arguments.prober.models(&arguments.record);
            let polled = timeout(arguments.settings.timeout, asked).await;
            let _ = myself.cast(Message::Polled(polled.unwrap_or(Err(ProbeError::TimedOut))));
        });
    }

    /// Passes on what was said, and says when to ask again.
    fn learn(&mut self, polled: Result<Vec<DiscoveredModel>, ProbeError>) -> Duration {
        let Arguments { record, settings, catalog, views, .. } = &self.arguments;
        match polled {
            Ok(models) => {
                self.failures = 0;
                let count = models.len();
                catalog.discovered(Arc::clone(record), models);
                views.update(record, |view| {
                    view.up = true;
                    view.models = count;
                    view.last_answer = Some(Instant::now());
                    view.last_error = None;
                });
                settings.interval
            }
            Err(error) => {
                tracing::warn!(upstream = %record.name, %error, "an upstream does not say its models");
                views.update(record, |view| {
                    view.up = false;
                    view.last_error = Some(error);
                });
                let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                doubled.min(settings.interval)
            }
        }
    }
}
