//! The actors as the engine sees them, on a database and upstreams that do what a test says.

use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use identity::limits::{Budget, LimitPeriod, Limits};
use jiff::Timestamp;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use protocol::{
    id::{KeyId, RequestId, TenantId},
    name::ModelName,
    outcome::Outcome,
    route::Route,
    usage::Usage,
};
use storage::{
    Error,
    admission::{Admission, Limit, Scope, Wait},
    audit::{Audit, AuditEvent, AuditQuery},
    ledger::{Ledger, LedgerQuery, LedgerSum},
    prompts::{Prompt, Prompts},
    tenants::{NewTenant, Tenant, TenantChange, Tenants},
    upstreams::{Upstream, UpstreamKind},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    Arguments, Settings, Stopped, System,
    audit::Saturated,
    catalog::Unavailable,
    ports::{Clock, DiscoveredModel, ProbeError, Prober},
    start,
    tenant::{Ask, Denied},
};

mod admission;
mod agreement;
mod audit;
mod catalog;
mod crash;
mod floods;
mod outside;
mod redis;
mod shared;
mod sweeper;
mod upstream;

/// A fault of a port that its task does not survive.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Panics,
    Hangs,
}

impl Fault {
    const ALL: [Self; 2] = [Self::Panics, Self::Hangs];

    async fn strike(self) {
        match self {
            Self::Panics => panic!("a port fails"),
            Self::Hangs => std::future::pending().await,
        }
    }
}

/// A database of audit events that fails on request.
#[derive(Default)]
struct Database(Mutex<Stored>);

#[derive(Default)]
struct Stored {
    fault: Option<Fault>,
    batches: Vec<(Instant, Vec<u128>)>,
    /// How many requests the stored events stand for.
    requests: u64,
    is_away: bool,
    forgotten: Vec<Timestamp>,
    forgotten_of: Vec<(TenantId, Timestamp)>,
    left_of: u64,
    tenants: Vec<Tenant>,
    prompts_old: u64,
    prompts_swept: Vec<Timestamp>,
    prepared: usize,
    used: u64,
    /// In the first day, which ends some time after this; none: noon.
    used_before: u64,
    first_day: Option<Timestamp>,
    used_by_key: u64,
    asked: Vec<LedgerQuery>,
}

impl Database {
    fn with<T>(&self, change: impl FnOnce(&mut Stored) -> T) -> T {
        change(&mut self.0.lock())
    }

    /// From now on each call has that fault.
    fn fault(&self, fault: Option<Fault>) {
        self.with(|stored| stored.fault = fault);
    }

    async fn strike(&self) {
        if let Some(fault) = self.with(|stored| stored.fault) {
            fault.strike().await;
        }
    }

    fn away(&self, is_away: bool) {
        self.with(|stored| stored.is_away = is_away);
    }

    fn batches(&self) -> Vec<Vec<u128>> {
        self.with(|stored| stored.batches.iter().map(|(_, batch)| batch.clone()).collect())
    }

    /// All that is stored, in its order.
    fn events(&self) -> Vec<u128> {
        self.batches().concat()
    }
}

#[async_trait]
impl Audit for Database {
    async fn append(&self, events: &[AuditEvent]) -> storage::Result<()> {
        self.strike().await;
        self.with(|stored| {
            if stored.is_away {
                return Err(Error::Url);
            }
            let numbers = events.iter().map(|event| event.request.0.as_u128()).collect();
            stored.batches.push((Instant::now(), numbers));
            stored.requests += events.iter().map(|event| u64::from(event.requests)).sum::<u64>();
            Ok(())
        })
    }

    async fn query(&self, _query: AuditQuery) -> storage::Result<Vec<AuditEvent>> {
        Ok(Vec::new())
    }

    async fn prepare(&self, _from: Timestamp, _until: Timestamp) -> storage::Result<()> {
        self.strike().await;
        self.with(|stored| {
            stored.prepared += 1;
            if stored.is_away { Err(Error::Url) } else { Ok(()) }
        })
    }

    async fn forget_before(&self, at: Timestamp) -> storage::Result<u64> {
        self.with(|stored| stored.forgotten.push(at));
        Ok(0)
    }

    async fn forget_of(
        &self,
        tenant: TenantId,
        before: Timestamp,
        limit: u32,
    ) -> storage::Result<u64> {
        Ok(self.with(|stored| {
            stored.forgotten_of.push((tenant, before));
            let removed = stored.left_of.min(u64::from(limit));
            stored.left_of -= removed;
            removed
        }))
    }
}

#[async_trait]
impl Tenants for Database {
    async fn create(&self, _new: NewTenant) -> storage::Result<Tenant> {
        Err(Error::Url)
    }

    async fn list(&self) -> storage::Result<Vec<Tenant>> {
        Ok(self.with(|stored| stored.tenants.clone()))
    }

    async fn by_id(&self, _id: TenantId) -> storage::Result<Option<Tenant>> {
        Ok(None)
    }

    async fn by_name(&self, _name: &str) -> storage::Result<Option<Tenant>> {
        Ok(None)
    }

    async fn change(&self, _id: TenantId, _change: TenantChange) -> storage::Result<Tenant> {
        Err(Error::Url)
    }

    async fn delete(&self, _id: TenantId) -> storage::Result<()> {
        Err(Error::Url)
    }
}

#[async_trait]
impl Prompts for Database {
    async fn add(&self, _prompts: &[Prompt]) -> storage::Result<()> {
        Ok(())
    }

    async fn list(&self, _key: KeyId, _limit: u32) -> storage::Result<Vec<Prompt>> {
        Ok(Vec::new())
    }

    async fn forget_expired(&self, now: Timestamp, limit: u32) -> storage::Result<u64> {
        self.strike().await;
        Ok(self.with(|stored| {
            stored.prompts_swept.push(now);
            let removed = stored.prompts_old.min(u64::from(limit));
            stored.prompts_old -= removed;
            removed
        }))
    }
}

#[async_trait]
impl Ledger for Database {
    async fn sums(&self, query: LedgerQuery) -> storage::Result<Vec<LedgerSum>> {
        // What takes its time elsewhere does here, too.
        sleep(Duration::from_millis(5)).await;
        self.strike().await;
        self.with(|stored| {
            if stored.is_away {
                return Err(Error::Url);
            }
            stored.asked.push(query);
            let used = if query.key.is_some() { stored.used_by_key } else { stored.used };
            let first_day = stored.first_day.unwrap_or_else(noon);
            let today = query.since.is_none_or(|since| since <= first_day);
            let used = if today { used + stored.used_before } else { used };
            let of = String::new();
            Ok(vec![LedgerSum { of, requests: 1, prompt: used, completion: 0, estimated: 0 }])
        })
    }
}

/// Upstreams by name, with their models; who is not among them does not answer.
#[derive(Default)]
struct Servers {
    models: Mutex<BTreeMap<String, Vec<&'static str>>>,
    fault: Mutex<Option<Fault>>,
}

impl Servers {
    fn set(&self, name: &str, models: Option<&[&'static str]>) {
        let mut servers = self.models.lock();
        match models {
            Some(models) => drop(servers.insert(name.to_owned(), models.to_vec())),
            None => drop(servers.remove(name)),
        }
    }
}

#[async_trait]
impl Prober for Servers {
    async fn models(&self, upstream: &Upstream) -> Result<Vec<DiscoveredModel>, ProbeError> {
        let fault = *self.fault.lock();
        if let Some(fault) = fault {
            fault.strike().await;
        }
        let servers = self.models.lock();
        let models = servers.get(&upstream.name).ok_or(ProbeError::Unreachable)?;
        let discovered = |name: &&str| DiscoveredModel {
            name: ModelName::parse(name).unwrap(),
            reported: (*name).to_owned(),
            entry: "{}".into(),
            modified_at: None,
        };
        Ok(models.iter().map(discovered).collect())
    }
}

/// A key of a test.
fn key(number: u128) -> KeyId {
    KeyId(Uuid::from_u128(number))
}

/// When every test begins.
fn noon() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

/// A wall clock that goes as tokio's, from noon.
struct FromNoon(Instant);

impl Clock for FromNoon {
    fn now(&self) -> Timestamp {
        noon().checked_add(jiff::SignedDuration::try_from(self.0.elapsed()).unwrap()).unwrap()
    }
}

struct Stage {
    system: System,
    database: Arc<Database>,
    servers: Arc<Servers>,
    tasks: TaskTracker,
}

impl Stage {
    async fn new(settings: Settings, upstreams: &[&str]) -> Self {
        Self::sharing(settings, upstreams, None).await
    }

    async fn sharing(
        settings: Settings,
        upstreams: &[&str],
        admission: Option<Arc<dyn Admission>>,
    ) -> Self {
        let (database, servers) = (Arc::new(Database::default()), Arc::new(Servers::default()));
        for name in upstreams {
            servers.set(name, Some(&["llama3"]));
        }
        let tasks = TaskTracker::new();
        let system = start(Arguments {
            audit: database.clone(),
            ledger: database.clone(),
            tenants: database.clone(),
            prompts: database.clone(),
            admission,
            prober: servers.clone(),
            clock: Arc::new(FromNoon(Instant::now())),
            settings,
            upstreams: upstreams.iter().map(|name| upstream(name)).collect(),
            tasks: tasks.clone(),
        })
        .await
        .unwrap();
        Self { system, database, servers, tasks }
    }

    fn record(&self, number: u128) -> Result<(), Saturated> {
        self.system
            .handles
            .audit
            .reserve(TenantId(Uuid::nil()))
            .map(|place| place.record(event(number)))
    }

    fn models(&self) -> Result<Vec<String>, Unavailable> {
        let snapshot = self.system.handles.catalog.current()?;
        Ok(snapshot.models().map(|model| model.name.as_str().to_owned()).collect())
    }
}

fn upstream(name: &str) -> Upstream {
    let url = format!("http://{name}");
    Upstream {
        name: name.to_owned(),
        url,
        kind: UpstreamKind::Ollama,
        slots: None,
        keep_alive: true,
        created_at: noon(),
    }
}

fn event(number: u128) -> AuditEvent {
    AuditEvent {
        request: RequestId(Uuid::from_u128(number)),
        at: noon(),
        tenant: None,
        key: None,
        model: None,
        upstream: None,
        route: Route::OllamaChat,
        status: 200,
        outcome: Outcome::Completed,
        code: None,
        usage: Usage::default(),
        first_byte: None,
        total: Duration::ZERO,
        requests: 1,
    }
}

fn places(places_max: usize) -> Settings {
    let mut settings = Settings::default();
    settings.audit.places_max = places_max;
    settings
}

/// How often actors of that kind were started again, as the metrics say.
fn restarts_of(kind: &str) -> u64 {
    let recorder = DebuggingRecorder::new();
    let counted = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, crate::measure::publish);
    let mut all = counted.snapshot().into_vec().into_iter();
    let found = all.find(|(key, ..)| {
        key.key().name() == protocol::telemetry::ACTOR_RESTARTS_TOTAL
            && key.key().labels().any(|label| label.value() == kind)
    });
    match found {
        Some((.., DebugValue::Counter(count))) => count,
        other => panic!("{other:?}"),
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let held = timeout(Duration::from_secs(3_600), async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(held.await.is_ok(), "{what}");
}
