//! Which upstream serves which model: found by asking them.
//!
//! Readers borrow a [`Snapshot`] and never wait. What is known of an upstream counts for a limited
//! time; when nothing counts any more, the answer is no.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use protocol::name::ModelName;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::upstreams::{Upstream, UpstreamKind};
use tokio::{sync::watch, time::Instant};

use crate::{
    address::Address,
    measure::{self, Handling, Kind, Queued},
    ports::DiscoveredModel,
};

/// Settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an upstream's list counts.
    pub stale_after: Duration,
}

/// The one way to the catalog.
#[derive(Clone)]
pub struct Handle {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    stale_after: Duration,
    address: Address<Message>,
}

/// It is not known which models there are: no upstream has ever said, or not for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not known which models there are")]
pub struct Unavailable;

/// The models at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    models: BTreeMap<ModelName, Arc<Model>>,
    sources: BTreeMap<String, Source>,
}

/// A model, and who serves it.
#[derive(Debug)]
pub struct Model {
    /// Its canonical name.
    pub name: ModelName,
    /// The upstreams that serve it.
    pub upstreams: Vec<Arc<Upstream>>,
    /// How each of them spells it.
    reported: Vec<Arc<str>>,
    /// Its name as clients are told it: as the upstream spells it whose entry this is.
    pub listed: Arc<str>,
    /// Its entry in the list of the first of them that speaks Ollama's API, else of the first, as JSON.
    pub entry: Arc<str>,
    /// When it was last changed there.
    pub modified_at: Option<Timestamp>,
}

/// What one upstream said.
#[derive(Clone, Debug)]
struct Source {
    upstream: Arc<Upstream>,
    models: Arc<[DiscoveredModel]>,
    heard: Instant,
}

pub(crate) struct Catalog;

pub(crate) enum Message {
    /// An upstream has said which models it has.
    Discovered { upstream: Arc<Upstream>, models: Vec<DiscoveredModel>, queued: Queued },
    /// An upstream is no longer one.
    Removed { name: String, queued: Queued },
    #[cfg(test)]
    Poison,
}

/// What the actor needs to start, and to start again: what was known goes on to count.
#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) snapshot: watch::Sender<Arc<Snapshot>>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { stale_after: Duration::from_secs(300) }
    }
}

// === impl Handle ===

impl Handle {
    pub(crate) fn new(
        settings: &Settings,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        address: Address<Message>,
    ) -> Self {
        Self { snapshot, stale_after: settings.stale_after, address }
    }

    /// The models that are known now.
    ///
    /// # Errors
    /// [`Unavailable`], where nothing that was said still counts.
    pub fn current(&self) -> Result<Arc<Snapshot>, Unavailable> {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let counts = |source: &Source| source.heard.elapsed() <= self.stale_after;
        if !snapshot.sources.values().any(counts) {
            return Err(Unavailable);
        }
        if snapshot.sources.values().all(counts) {
            return Ok(snapshot);
        }
        let fresh = snapshot.sources.iter().filter(|(_, source)| counts(source));
        Ok(Arc::new(Snapshot::new(
            fresh.map(|(name, source)| (name.clone(), source.clone())).collect(),
        )))
    }

    pub(crate) fn discovered(&self, upstream: Arc<Upstream>, models: Vec<DiscoveredModel>) {
        let queued = Queued::new(Kind::Catalog);
        self.address.cast(Message::Discovered { upstream, models, queued });
    }

    #[cfg(test)]
    pub(crate) fn poison(&self) {
        self.address.cast(Message::Poison);
    }

    pub(crate) fn removed(&self, name: String) {
        self.address.cast(Message::Removed { name, queued: Queued::new(Kind::Catalog) });
    }
}

// === impl Model ===

impl Model {
    /// Its name as an upstream spells it.
    #[must_use]
    pub fn reported(&self, upstream: &Upstream) -> &str {
        let at = self.upstreams.iter().position(|other| other.name == upstream.name);
        at.and_then(|at| self.reported.get(at)).map_or(self.name.as_str(), |name| name)
    }

    /// The model with those of its upstreams only; none where it has none of them.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&Upstream) -> bool) -> Option<Self> {
        let served = self.upstreams.iter().zip(&self.reported);
        let kept = served.filter(|(upstream, _)| keep(upstream));
        let (upstreams, reported): (Vec<_>, Vec<_>) =
            kept.map(|(upstream, name)| (Arc::clone(upstream), Arc::clone(name))).unzip();
        let (listed, entry) = (Arc::clone(&self.listed), Arc::clone(&self.entry));
        let (name, modified_at) = (self.name.clone(), self.modified_at);
        let only = Self { name, upstreams, reported, listed, entry, modified_at };
        (!only.upstreams.is_empty()).then_some(only)
    }
}

// === impl Snapshot ===

impl Snapshot {
    fn new(sources: BTreeMap<String, Source>) -> Self {
        let mut models: BTreeMap<ModelName, Model> = BTreeMap::new();
        for source in sources.values() {
            for found in source.models.iter() {
                let model = models.entry(found.name.clone()).or_insert_with(|| Model {
                    name: found.name.clone(),
                    upstreams: Vec::new(),
                    reported: Vec::new(),
                    listed: found.reported.as_str().into(),
                    entry: Arc::clone(&found.entry),
                    modified_at: found.modified_at,
                });
                let is_foreign = |other: &Arc<Upstream>| other.kind == UpstreamKind::OpenAi;
                if !is_foreign(&source.upstream) && model.upstreams.iter().all(is_foreign) {
                    // An Ollama server knows more of it.
                    model.listed = found.reported.as_str().into();
                    model.entry = Arc::clone(&found.entry);
                    model.modified_at = found.modified_at;
                }
                if model.upstreams.iter().all(|other| other.name != source.upstream.name) {
                    model.upstreams.push(Arc::clone(&source.upstream));
                    model.reported.push(found.reported.as_str().into());
                }
            }
        }
        let models = models.into_iter().map(|(name, model)| (name, Arc::new(model))).collect();
        Self { models, sources }
    }

    /// The model of that name.
    #[must_use]
    pub fn find(&self, name: &ModelName) -> Option<&Arc<Model>> {
        self.models.get(name)
    }

    /// All models, by name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }
}

// === impl Catalog ===

impl Actor for Catalog {
    type Msg = Message;
    type State = Arguments;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<Arguments, ActorProcessingErr> {
        Ok(arguments)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut Arguments,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin(Kind::Catalog);
        let mut sources = state.snapshot.borrow().sources.clone();
        match message {
            Message::Discovered { upstream, models, queued } => {
                drop(queued);
                let source = Source {
                    upstream: Arc::clone(&upstream),
                    models: models.into(),
                    heard: Instant::now(),
                };
                sources.insert(upstream.name.clone(), source);
            }
            Message::Removed { name, queued } => {
                drop(queued);
                sources.remove(&name);
            }
            #[cfg(test)]
            Message::Poison => return Err("poisoned".into()),
        }
        let snapshot = Snapshot::new(sources);
        measure::catalog_models(snapshot.models.len());
        state.snapshot.send_replace(Arc::new(snapshot));
        Ok(())
    }
}
