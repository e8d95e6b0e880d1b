//! The composition: storage, then actors, then listeners; built apart from being served.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use actors::{
    Handles, System,
    catalog::{Model, Snapshot, Unavailable},
    ports::Clock,
    tasks::Watched,
    tenant,
};
use identity::{authorize, principal::Principal};
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::{name::ModelName, secret::Secret};
use storage::{
    Storage,
    admission::{
        Admission,
        redis::{self, Redis},
    },
    upstreams::Upstream,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::retry::budget::TpsBudget;

use crate::{
    admin,
    aliases::Aliases,
    api, background, changes,
    config::{self, Config},
    cuts::Cuts,
    http::{
        arrival,
        listener::Listener,
        refusal::Refusal,
        room::Room,
        tls::{Certificate, TlsError},
        workers::Workers,
    },
    keyring::Keyring,
    phase::{Life, Phase},
    pipeline::{heavy::Heavy, rates::Rates},
    prompts::Prompts,
    telemetry::Series,
    upstream::{client::Client, images::Images, probe::Probe},
};

/// How long the start waits for the upstreams to name their models.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);
/// How long streams that are cut may take to say so.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the audit may take to store what waits, at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Over what time calls and retries are compared.
const RETRY_WINDOW: Duration = Duration::from_secs(10);
/// How long tasks of no account are waited for, at the end.
const TASKS_TIMEOUT: Duration = Duration::from_secs(1);

/// What every request needs.
pub struct Gateway {
    pub(crate) server: config::Server,
    pub(crate) upstream: config::Upstream,
    pub(crate) allow_cloud_models: bool,
    pub(crate) completion_tokens_default: u64,
    pub(crate) image_tokens_default: u64,
    /// The upstreams of the configuration.
    pub(crate) configured: Vec<Upstream>,
    pub(crate) storage: Storage,
    pub(crate) keyring: Keyring,
    pub(crate) handles: Handles,
    pub(crate) client: Arc<Client>,
    pub(crate) images: Images,
    pub(crate) bodies: arrival::Limits,
    /// Room for whole replies that are held.
    pub(crate) replies: Arc<Room>,
    /// Turns at working on large bodies.
    pub(crate) heavy: Heavy,
    /// How fast models are.
    pub(crate) rates: Rates,
    pub(crate) cuts: Arc<Cuts>,
    pub(crate) aliases: Aliases,
    /// What may be tried again, of all calls.
    pub(crate) retries: TpsBudget,
    pub(crate) prompts: Prompts,
    pub(crate) series: Series,
    pub(crate) answers: api::Answers,
    /// What replicas share; none: this one is alone.
    pub(crate) redis: Option<Arc<Redis>>,
    pub(crate) life: Life,
    pub(crate) clock: Arc<dyn Clock>,
    /// One task per connection; shutdown waits for them.
    pub(crate) connections: TaskTracker,
    /// One task per answer that comes bit by bit: it ends it in time. Shutdown waits for them.
    pub(crate) streams: TaskTracker,
}

/// What comes from outside, so that tests can bring their own.
pub struct Outside {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are read; the recorder is the process's.
    pub metrics: PrometheusHandle,
}

/// A gateway that is bound and not yet served.
pub struct Built {
    gateway: Arc<Gateway>,
    system: System,
    tasks: TaskTracker,
    watched: Watched,
    parts: background::Parts,
}

/// Why a gateway could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Storage.
    #[error("storage: {0}")]
    Storage(#[from] storage::Error),
    /// The schema is not up to date and may not be brought up to date by itself.
    #[error("the database is not migrated; run `neuronetz migrate` first")]
    NotMigrated,
    /// Redis.
    #[error("redis.url: {0}")]
    Redis(#[from] redis::UrlError),
    /// Actors.
    #[error("actors: {0}")]
    Actors(#[from] actors::StartError),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// An address.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The threads that serve connections.
    #[error("threads: {0}")]
    Threads(#[source] io::Error),
    /// The TLS library.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The operating system has no randomness, without which no secret is one.
    #[error("the operating system gives no randomness")]
    Randomness,
}

/// How a gateway ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// In order; so many audit events could not be stored.
    InOrder {
        /// Audit events lost, because the database could not be reached to the end.
        unstored: usize,
    },
    /// At once, because it was told a second time.
    AtOnce,
    /// By itself: a part of it could not be kept alive.
    Failed(String),
}

/// The models that a principal may use, of those there are.
pub struct Effective<'a> {
    snapshot: Arc<Snapshot>,
    aliases: BTreeMap<ModelName, Arc<[ModelName]>>,
    principal: &'a Principal,
}

// === impl Built ===

/// Builds everything and binds the listeners; nothing is accepted yet.
///
/// # Errors
/// [`BuildError`], with what to do about it.
pub async fn build(config: Config, outside: Outside) -> Result<Built, BuildError> {
    let storage = open_storage(&config.database).await?;
    build_on(storage, config, outside).await
}

/// The same on a database that is open and migrated.
pub(crate) async fn build_on(
    storage: Storage,
    config: Config,
    outside: Outside,
) -> Result<Built, BuildError> {
    let (tasks, life) = (TaskTracker::new(), Life::new());
    let watched = Watched::new(tasks.clone(), life.draining().clone());
    let client = Arc::new(Client::new(&config.upstream)?);
    let configured = configured(&config.upstream, outside.clock.as_ref());
    let stored = storage.upstreams.list().await?;
    let redis = open_redis(&config.redis)?;
    let system = actors::start(actors::Arguments {
        audit: Arc::clone(&storage.audit),
        ledger: Arc::clone(&storage.ledger),
        tenants: Arc::clone(&storage.tenants),
        prompts: Arc::clone(&storage.prompts),
        admission: redis.clone().map(|redis| redis as Arc<dyn Admission>),
        prober: Arc::new(Probe::new(Arc::clone(&client), config.catalog.allow_cloud_models)),
        clock: Arc::clone(&outside.clock),
        settings: settings(&config),
        upstreams: changes::merge(stored, &configured),
        tasks: tasks.clone(),
    })
    .await?;
    let cache_key = random_key()?;
    let clock = Arc::clone(&outside.clock);
    let keyring = Keyring::new(storage.clone(), clock, &config.keys, cache_key, tasks.clone());
    let certificate = config.server.tls.as_ref().map(certificate).transpose()?;
    let acceptor = certificate.as_ref().map(Certificate::acceptor).transpose()?;
    let server = config.server;
    let (data, admin) = listen(&server, &config.admin, acceptor).await?;
    let workers = Arc::new(Workers::start(server.threads, &watched).map_err(BuildError::Threads)?);
    let aliases = Aliases::default();
    aliases.set(storage.aliases.list().await?);
    let prompts = Prompts::new(&config.prompts, &storage, Arc::clone(&outside.clock), &watched);
    let gateway = Arc::new(Gateway {
        bodies: arrival::Limits::new(&server),
        replies: Room::new(server.replies_bytes_max, server.replies_bytes_per_tenant_max),
        heavy: Heavy::new(),
        rates: Rates::default(),
        aliases,
        retries: TpsBudget::new(
            RETRY_WINDOW,
            config.upstream.retries_per_second,
            config.upstream.retries_percent as f32 / 100.0,
        ),
        prompts,
        series: Series::new(&config.metrics),
        answers: api::Answers::new(&tasks, life.stopped()),
        redis,
        upstream: config.upstream,
        allow_cloud_models: config.catalog.allow_cloud_models,
        completion_tokens_default: config.limits.completion_tokens_default,
        image_tokens_default: config.limits.image_tokens_default,
        configured,
        storage,
        keyring,
        handles: system.handles.clone(),
        client,
        images: Images::new(config.images, tasks.clone())?,
        cuts: Cuts::new(life.cutting().clone()),
        life,
        clock: outside.clock,
        connections: TaskTracker::new(),
        streams: TaskTracker::new(),
        server,
    });
    let metrics = outside.metrics;
    let admin_router = admin::router(Arc::clone(&gateway), config.admin, metrics.clone());
    gateway.handles.upstreams.first_answers(FIRST_ANSWERS).await;
    let parts = background::Parts { data, workers, admin, admin_router, metrics, certificate };
    Ok(Built { gateway, system, tasks, watched, parts })
}

fn certificate(tls: &config::Tls) -> Result<Arc<Certificate>, TlsError> {
    Certificate::load(tls.certificate.clone(), tls.key.clone())
}

async fn listen(
    server: &config::Server,
    admin: &config::Admin,
    acceptor: Option<TlsAcceptor>,
) -> Result<(Listener, TcpListener), BuildError> {
    let data = Listener::bind(server, acceptor)
        .await
        .map_err(|error| BuildError::Listen(server.listen, error))?;
    let admin = TcpListener::bind(admin.listen)
        .await
        .map_err(|error| BuildError::Listen(admin.listen, error))?;
    Ok((data, admin))
}

fn random_key() -> Result<[u8; 32], BuildError> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|_| BuildError::Randomness)?;
    Ok(key)
}

impl Built {
    /// Where the data listener is bound.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn data_address(&self) -> io::Result<SocketAddr> {
        self.parts.data.address()
    }

    /// Where the admin listener is bound.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.parts.admin.local_addr()
    }

    /// The life of the gateway, to be watched.
    #[must_use]
    pub fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.gateway)
    }

    /// Serves until it is told to stop, and stops in order; told a second time, at once. Each
    /// message of `stops` is such a word; a closed channel is none.
    pub async fn serve(self, mut stops: mpsc::Receiver<()>) -> Ended {
        let Self { gateway, system, tasks, watched, parts } = self;
        let workers = Arc::clone(&parts.workers);
        background::start(&watched, &gateway, parts);
        let failed = tokio::select! {
            () = told(&mut stops) => None,
            reason = system.failed() => Some(reason),
            reason = watched.failed() => Some(reason),
        };
        let ended = tokio::select! {
            unstored = stop(&gateway, system, &tasks) => Ended::InOrder { unstored },
            () = told(&mut stops) => Ended::AtOnce,
        };
        gateway.life.enter(Phase::Stopped);
        // Their threads are waited for, which is nothing for this one to do.
        let _ = tokio::task::spawn_blocking(move || drop(workers)).await;
        match failed {
            Some(reason) => Ended::Failed(reason),
            None => ended,
        }
    }
}

async fn told(stops: &mut mpsc::Receiver<()>) {
    if stops.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// From the outside in: no new requests, the streams, the actors from the leaves up, the database.
async fn stop(gateway: &Gateway, system: System, tasks: &TaskTracker) -> usize {
    gateway.life.enter(Phase::Draining);
    gateway.connections.close();
    let open = gateway.connections.len();
    tracing::info!(open, "draining; a second signal stops at once");
    let drained = tokio::time::timeout(gateway.server.drain_timeout, gateway.connections.wait());
    if drained.await.is_err() {
        let open = gateway.connections.len();
        tracing::warn!(open, "the time to drain is over; cutting what is open");
    }
    gateway.life.enter(Phase::Cutting);
    gateway.streams.close();
    // What is cut is settled whether or not its client reads.
    let cut = async { tokio::join!(gateway.connections.wait(), gateway.streams.wait()) };
    let _ = tokio::time::timeout(CUT_TIMEOUT, cut).await;
    let unstored = system.stop(FLUSH_TIMEOUT).await.unstored;
    gateway.life.enter(Phase::Stopped);
    gateway.client.close_idle();
    gateway.prompts.close();
    tasks.close();
    let _ = tokio::time::timeout(TASKS_TIMEOUT, tasks.wait()).await;
    gateway.storage.database.close().await;
    if let Some(redis) = &gateway.redis {
        let _ = tokio::time::timeout(TASKS_TIMEOUT, redis.close()).await;
    }
    unstored
}

async fn open_storage(config: &config::Database) -> Result<Storage, BuildError> {
    let storage = storage::open(config.storage()).await?;
    if config.migrate {
        let applied = storage.database.migrate().await?;
        if !applied.is_empty() {
            tracing::info!(?applied, database = storage.database.kind(), "migrated");
        }
    } else if !storage.database.is_migrated().await? {
        return Err(BuildError::NotMigrated);
    }
    Ok(storage)
}

fn open_redis(config: &config::Redis) -> Result<Option<Arc<Redis>>, redis::UrlError> {
    let Some(url) = &config.url else { return Ok(None) };
    let settings = redis::Settings {
        url: Secret::new(url.expose().to_owned()),
        deadline: config.deadline,
        lives_for: tenant::LIVES_FOR,
    };
    Ok(Some(Arc::new(Redis::open(&settings)?)))
}

pub(crate) fn configured(settings: &config::Upstream, clock: &dyn Clock) -> Vec<Upstream> {
    let upstream = |one: &config::Configured| Upstream {
        name: one.name.clone(),
        url: one.url.clone(),
        kind: one.kind,
        slots: None,
        keep_alive: one.keep_alive,
        created_at: clock.now(),
    };
    settings.upstreams.iter().map(upstream).collect()
}

fn settings(config: &Config) -> actors::Settings {
    let Config { audit, catalog, .. } = config;
    let mut settings = actors::Settings::default();
    settings.admission.idle_after = config.limits.idle_after;
    settings.audit.places_max = audit.places_max;
    settings.audit.batch_events_max = audit.batch_events_max;
    settings.audit.batch_wait = audit.batch_wait;
    settings.audit.sampled_per_second = audit.unauthenticated_per_second;
    settings.audit.unmetered_per_second = audit.unmetered_per_second;
    settings.catalog.stale_after = catalog.stale_after;
    settings.poll.interval = catalog.poll_interval;
    settings.poll.lane = config.upstream.lane.clone();
    settings.sweeper.audit_retention = audit.retention;
    settings
}

// === impl Gateway ===

impl Gateway {
    /// The phase it is in.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.life.phase()
    }

    /// The models that this principal may use.
    pub(crate) fn catalog<'a>(
        &self,
        principal: &'a Principal,
    ) -> Result<Effective<'a>, Unavailable> {
        let snapshot = self.handles.catalog.current()?;
        let aliases = self.aliases.of(principal.tenant);
        Ok(Effective { snapshot, aliases, principal })
    }

    /// The models that a name means, where this principal may use them, in the order in which they
    /// are tried; at least one. Says whether the name is another one than theirs.
    pub(crate) fn resolve(
        &self,
        principal: &Principal,
        name: &ModelName,
    ) -> Result<(Vec<Arc<Model>>, bool), Refusal> {
        let Some(targets) = self.aliases.find(principal.tenant, name) else {
            return Ok((vec![self.permitted(principal, name)?], false));
        };
        let mut found = Vec::new();
        let mut refusal = Refusal::Denied(authorize::Denied::NotFound);
        for target in targets.iter().rev() {
            match self.permitted(principal, target) {
                Ok(model) => found.insert(0, model),
                Err(refused) => refusal = refused,
            }
        }
        if found.is_empty() { Err(refusal) } else { Ok((found, true)) }
    }

    /// The model of that name, where this principal may use it.
    fn permitted(&self, principal: &Principal, name: &ModelName) -> Result<Arc<Model>, Refusal> {
        let snapshot = self.handles.catalog.current();
        let found = snapshot.as_ref().ok().and_then(|snapshot| snapshot.find(name).cloned());
        // Where no cloud is allowed, nobody that has one is asked for its models of that name: a model that
        // is there runs on a server of its own. Who may not use it is told so, whether or not it is there.
        let is_here = self.allow_cloud_models || found.is_some();
        authorize::model(&principal.models, name, is_here)?;
        snapshot?;
        found.ok_or(Refusal::Denied(authorize::Denied::NotFound))
    }
}

// === impl Effective ===

impl Effective<'_> {
    /// By name, with the names that stand for them.
    pub(crate) fn named(&self) -> Vec<(&ModelName, &Arc<Model>)> {
        let mut named: BTreeMap<_, _> = self.models().map(|model| (&model.name, model)).collect();
        for (name, targets) in &self.aliases {
            let first =
                targets.iter().find_map(|target| self.models().find(|model| model.name == *target));
            match first {
                Some(model) => named.insert(name, model),
                None => named.remove(name),
            };
        }
        named.into_iter().collect()
    }

    /// By name.
    pub(crate) fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.snapshot.models().filter(|model| self.principal.models.allows(&model.name))
    }
}
