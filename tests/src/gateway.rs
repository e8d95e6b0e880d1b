//! A real gateway on port 0, in front of the scripted Ollama.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use engine::{
    clock::SystemClock,
    config::{Config, env::Environment},
    gateway::{self, Ended, Outside},
    phase::Phase,
};
use identity::{api_key::mint, hashing::Hashing, models::ModelRule, policy::Policy};
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::{id::TenantId, name::ModelName, secret::Secret};
use scripted_ollama::{Script, Scripted};
use storage::{
    Storage,
    audit::{AuditEvent, AuditQuery},
    keys::{Key, KeyChange, NewKey},
    limits::Limits,
    scratch::{Scratch, ScratchRedis, SlowWay},
    tenants::{NewTenant, Tenant, TenantChange},
    upstreams::{Upstream, UpstreamKind},
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    client::get,
    log,
    patience::{eventually, soon},
};

/// A model of the scripted Ollama.
pub const MODEL: &str = "llama3.2";

/// What is special about a gateway in a test.
#[derive(Default)]
pub struct Setup {
    /// Settings, as environment variables.
    pub env: Vec<(&'static str, String)>,
    /// On Postgres (of `TEST_POSTGRES_URL`) and not on SQLite.
    pub postgres: bool,
    /// On Postgres, reached over a way that can be made silent.
    pub slow_postgres: bool,
    /// On SQLite in this directory; default: in one of its own.
    pub directory: Option<PathBuf>,
    /// With a Redis of its own, so that replicas share their limits.
    pub redis: bool,
    /// Taken for a server of OpenAI's dialect, which the scripted Ollama speaks, too.
    pub openai: bool,
    /// What the scripted Ollama does.
    pub script: Script,
}

/// A gateway that serves.
pub struct Replica {
    /// The data listener.
    pub address: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The gateway itself, for its phase.
    pub gateway: Arc<gateway::Gateway>,
    stops: mpsc::Sender<()>,
    served: Option<JoinHandle<Ended>>,
}

/// A gateway that serves, with a tenant that may use every model.
pub struct TestGateway {
    /// The data listener.
    pub address: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The model server behind it.
    pub ollama: Scripted,
    /// Its database, through connections of its own: like another process.
    pub storage: Storage,
    /// A tenant with `allow_all_models`.
    pub tenant: Tenant,
    /// A key of that tenant.
    pub key: String,
    /// The gateway itself, for its phase.
    pub gateway: Arc<gateway::Gateway>,
    /// Its Redis, where it has one.
    pub redis: Option<ScratchRedis>,
    /// The way to its Postgres, where it can be made silent.
    pub way: Option<SlowWay>,
    env: Vec<(&'static str, String)>,
    running: Replica,
    _directory: tempfile::TempDir,
    scratch: Option<Scratch>,
}

impl TestGateway {
    /// A gateway with nothing special about it.
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// A gateway of that setup.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub async fn with(setup: Setup) -> Self {
        log::keep();
        let directory = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let ollama =
            Scripted::start(setup.script, loopback).await.unwrap_or_else(|e| panic!("{e}"));
        let scratch =
            if setup.postgres || setup.slow_postgres { Some(scratch().await) } else { None };
        let place = setup.directory.as_deref().unwrap_or(directory.path());
        let file = || format!("sqlite:{}", place.join("gateway.db").display());
        let url = scratch.as_ref().map_or_else(file, |scratch| scratch.url.clone());
        let (way, gateways_url) = match &scratch {
            Some(scratch) if setup.slow_postgres => {
                let (way, url) = scratch.by_way().await;
                (Some(way), url)
            }
            _ => (None, url.clone()),
        };
        let dialect = if setup.openai { "openai+" } else { "" };
        let mut env = vec![
            ("DATABASE_URL", gateways_url),
            ("NEURONETZ_LISTEN", loopback.to_string()),
            ("NEURONETZ_ADMIN_LISTEN", loopback.to_string()),
            ("NEURONETZ_UPSTREAMS", format!("ollama={dialect}http://{}", ollama.address())),
            ("NEURONETZ_KEYS_ARGON2_MEMORY_KIB", "64".to_owned()),
            ("NEURONETZ_KEYS_ARGON2_ITERATIONS", "1".to_owned()),
        ];
        env.retain(|(name, _)| setup.env.iter().all(|(other, _)| other != name));
        env.extend(setup.env);
        let redis = if setup.redis { Some(ScratchRedis::start().await) } else { None };
        env.extend(redis.iter().map(|redis| ("REDIS_URL", redis.url.clone())));
        let running = Replica::start(&env).await;
        let storage = open(&url).await;
        let tenant = make_tenant(&storage, "acme", Limits::default(), Policy::default()).await;
        let mut started = Self {
            address: running.address,
            admin: running.admin,
            ollama,
            storage,
            tenant,
            key: String::new(),
            gateway: Arc::clone(&running.gateway),
            redis,
            way,
            env,
            running,
            _directory: directory,
            scratch,
        };
        started.key = started.key(None).await.1;
        started
    }

    /// Another gateway on the same database, the same Redis and the same model server.
    pub async fn replica(&self) -> Replica {
        Replica::start(&self.env).await
    }

    /// Its Redis.
    ///
    /// # Panics
    /// Where it has none.
    pub fn redis(&mut self) -> &mut ScratchRedis {
        self.redis.as_mut().unwrap_or_else(|| panic!("it has no Redis"))
    }

    /// The settings of a gateway beside it, as environment variables.
    #[must_use]
    pub fn env(&self) -> &[(&'static str, String)] {
        &self.env
    }

    /// Gives the tenant other limits.
    ///
    /// # Panics
    /// Where that is not stored.
    pub async fn limit_tenant(&self, limits: Limits) {
        let change = TenantChange { limits: Some(limits), ..TenantChange::default() };
        let changed = self.storage.tenants.change(self.tenant.id, change).await;
        changed.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Makes a key of the tenant with limits of its own.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub async fn limited(&self, limits: Limits) -> (Key, String) {
        let (key, text) = self.key(None).await;
        let change = KeyChange { limits: Some(limits), ..KeyChange::default() };
        let key = self.storage.keys.change(key.id, change).await;
        (key.unwrap_or_else(|e| panic!("{e}")), text)
    }

    /// Makes a key of the tenant; `models`: its own word on models.
    pub async fn key(&self, models: Option<&[&str]>) -> (Key, String) {
        let rule = models.map(|models| {
            let names = models.iter().map(|model| ModelName::parse(model));
            ModelRule::Only(names.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}")))
        });
        self.key_until(rule, None).await
    }

    /// Makes another tenant that may use every model.
    pub async fn another_tenant(&self, name: &str, limits: Limits, policy: Policy) -> Tenant {
        make_tenant(&self.storage, name, limits, policy).await
    }

    /// Makes a key of another tenant.
    pub async fn key_of(&self, tenant: TenantId) -> String {
        self.make_key(tenant, None, None).await.1
    }

    /// Makes a key that ends some time.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub async fn key_until(
        &self,
        models: Option<ModelRule>,
        expires_at: Option<Timestamp>,
    ) -> (Key, String) {
        self.make_key(self.tenant.id, models, expires_at).await
    }

    async fn make_key(
        &self,
        tenant: TenantId,
        models: Option<ModelRule>,
        expires_at: Option<Timestamp>,
    ) -> (Key, String) {
        let minted = mint(|buffer| getrandom::fill(buffer).unwrap_or_else(|e| panic!("{e}")));
        let hashing = Hashing { memory_kib: 64, iterations: 1, lanes: 1 };
        let hash = hashing.hash(&minted.key, &[9; 16]).unwrap_or_else(|e| panic!("{e}"));
        let key = self
            .storage
            .keys
            .create(NewKey {
                tenant,
                name: "test".to_owned(),
                prefix: minted.prefix,
                hash,
                models,
                limits: Limits::default(),
                log_prompts: false,
                expires_at,
                at: Timestamp::now(),
            })
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        (key, minted.key.expose().to_owned())
    }

    /// Adds an upstream to the database, as another process would.
    ///
    /// # Panics
    /// Where it cannot be added.
    pub async fn add_upstream(&self, name: &str, address: SocketAddr) {
        self.add_upstream_of(UpstreamKind::Ollama, name, address).await;
    }

    /// The same, of that kind.
    ///
    /// # Panics
    /// Where it cannot be.
    pub async fn add_upstream_of(&self, kind: UpstreamKind, name: &str, address: SocketAddr) {
        let upstream = Upstream {
            name: name.to_owned(),
            url: format!("http://{address}"),
            kind,
            slots: None,
            keep_alive: true,
            created_at: Timestamp::now(),
        };
        self.storage.upstreams.add(upstream).await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Its Postgres.
    ///
    /// # Panics
    /// Where it is on SQLite.
    pub fn scratch(&self) -> &Scratch {
        self.scratch.as_ref().unwrap_or_else(|| panic!("it is on SQLite"))
    }

    /// Takes its Postgres away.
    ///
    /// # Panics
    /// Where it is not on Postgres.
    pub async fn lose_database(&self) {
        self.scratch().cut_off().await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Gives it back.
    ///
    /// # Panics
    /// Where it is not on Postgres.
    pub async fn find_database(&self) {
        self.scratch().restore().await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// What `/metrics` says of a line that begins so; 0 where it says nothing.
    ///
    /// # Panics
    /// Where it says what is no number.
    pub async fn metric(&self, line: &str) -> f64 {
        let text = get(self.admin, "/metrics", None).await.text();
        let found = text.lines().find_map(|said| said.strip_prefix(line));
        found.map_or(0.0, |value| value.trim().parse().unwrap_or_else(|e| panic!("{value}: {e}")))
    }

    /// The newest audit events of the tenant, once they stand for so many requests.
    pub async fn audited(&self, count: usize) -> Vec<AuditEvent> {
        eventually(&format!("{count} audit events"), || async {
            let query =
                AuditQuery { tenant: Some(self.tenant.id), limit: 10_000, ..AuditQuery::default() };
            let events = self.storage.audit.query(query).await.unwrap_or_default();
            let requests: usize = events.iter().map(|event| event.requests as usize).sum();
            (requests >= count).then_some(events)
        })
        .await
    }

    /// The one audit event there is.
    ///
    /// # Panics
    /// Where there are more.
    pub async fn audited_one(&self) -> AuditEvent {
        let mut events = self.audited(1).await;
        assert_eq!(events.len(), 1, "{events:#?}");
        events.remove(0)
    }

    /// Tells it to stop, as a signal would.
    pub async fn stop(&self) {
        self.running.stop().await;
    }

    /// Waits until it is in a phase, or a later one.
    pub async fn reaches(&self, phase: Phase) {
        eventually(&format!("{phase:?}"), || async {
            (self.gateway.phase() >= phase).then_some(())
        })
        .await;
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// Where it panicked.
    pub async fn ended(&mut self) -> Ended {
        self.running.ended().await
    }
}

impl Replica {
    async fn start(env: &[(&'static str, String)]) -> Self {
        let named = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let environment = Environment::of(named);
        let config = Config::load(None, &environment, |path| std::fs::read_to_string(path))
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let outside = Outside { clock: Arc::new(SystemClock), metrics: metrics() };
        let built = gateway::build(config, outside).await.unwrap_or_else(|e| panic!("{e}"));
        let address = built.data_address().unwrap_or_else(|e| panic!("{e}"));
        let admin = built.admin_address().unwrap_or_else(|e| panic!("{e}"));
        let gateway = built.gateway();
        let (stops, told) = mpsc::channel(4);
        let served = Some(spawn(built.serve(told)));
        Self { address, admin, gateway, stops, served }
    }

    /// Tells it to stop, as a signal would.
    pub async fn stop(&self) {
        let _ = self.stops.send(()).await;
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// Where it panicked.
    pub async fn ended(&mut self) -> Ended {
        let served = self.served.take().unwrap_or_else(|| panic!("it has ended before"));
        soon("the end of the gateway", served).await.unwrap_or_else(|e| panic!("{e}"))
    }
}

async fn make_tenant(storage: &Storage, name: &str, limits: Limits, policy: Policy) -> Tenant {
    let new = NewTenant {
        name: name.to_owned(),
        models: ModelRule::All,
        limits,
        policy,
        audit_retention: None,
        at: Timestamp::now(),
    };
    storage.tenants.create(new).await.unwrap_or_else(|e| panic!("{e}"))
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", log::keep().text());
            return;
        }
        let log = log::keep().text();
        assert!(!log.contains("UPSTREAM-WORDS"), "an upstream's words stand in the log:\n{log}");
        let secret = &self.key[self.key.len() - 20..];
        assert!(!log.contains(secret), "a key stands in the log:\n{log}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the harness waits for what it spawns, in `ended`")]
fn spawn(future: impl Future<Output = Ended> + Send + 'static) -> JoinHandle<Ended> {
    tokio::spawn(future)
}

async fn open(url: &str) -> Storage {
    storage::open(storage::Config {
        url: Secret::new(url.to_owned()),
        connections_max: 4,
        acquire_timeout: Duration::from_secs(10),
        deadlines: storage::Deadlines::default(),
    })
    .await
    .unwrap_or_else(|e| panic!("{e}"))
}

/// A database of its own on the server of `TEST_POSTGRES_URL`.
async fn scratch() -> Scratch {
    #[expect(
        clippy::disallowed_methods,
        reason = "where the test servers are is told by `make test`"
    )]
    let server = std::env::var("TEST_POSTGRES_URL")
        .unwrap_or_else(|_| panic!("TEST_POSTGRES_URL is not set: run `make test`"));
    Scratch::on(&server).await.unwrap_or_else(|e| panic!("{e}"))
}

/// The metrics of this process.
fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| engine::telemetry::install().unwrap_or_else(|e| panic!("{e}"))).clone()
}
