//! The actors, on a database and model servers that say yes to everything.

use std::{sync::Arc, time::Duration};

use actors::{
    Arguments, Settings, StartError, System,
    ports::{Clock, DiscoveredModel, ProbeError, Prober},
    start,
    tenant::Ask,
};
use async_trait::async_trait;
use identity::{limits::Limits, policy::Policy};
use jiff::Timestamp;
use protocol::{
    id::{KeyId, RequestId, TenantId},
    name::ModelName,
    outcome::Outcome,
    route::{Route, UpstreamKind},
    usage::Usage,
};
use storage::{
    Error, Result,
    admission::Admission,
    audit::{Audit, AuditEvent, AuditQuery},
    ledger::{Ledger, LedgerQuery, LedgerSum},
    prompts::{Prompt, Prompts},
    tenants::{NewTenant, Tenant, TenantChange, Tenants},
    upstreams::Upstream,
};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The model that every upstream has.
pub const MODEL: &str = "llama3.2";

/// A database that keeps nothing, and model servers of one model.
#[derive(Clone, Copy)]
struct Nowhere;

/// The machine's clock.
struct Wall;

/// Starts the actors.
///
/// # Errors
/// [`StartError`].
pub async fn started(
    admission: Option<Arc<dyn Admission>>,
    audit: Option<Arc<dyn Audit>>,
    upstreams: usize,
) -> std::result::Result<System, StartError> {
    let nowhere = Arc::new(Nowhere);
    start(Arguments {
        audit: audit.unwrap_or_else(|| nowhere.clone()),
        ledger: nowhere.clone(),
        tenants: nowhere.clone(),
        prompts: nowhere.clone(),
        admission,
        prober: nowhere,
        clock: Arc::new(Wall),
        settings: Settings::default(),
        upstreams: (0..upstreams).map(upstream).collect(),
        tasks: TaskTracker::new(),
    })
    .await
}

/// Limits of every kind that no benchmark comes near.
#[must_use]
pub fn limits() -> Limits {
    let (rpm, tpm) = (Some(1_000_000_000), Some(1_000_000_000_000));
    Limits { rpm, tpm, concurrency: Some(100_000), ..Limits::default() }
}

/// A request of that tenant.
#[must_use]
pub fn ask(tenant: TenantId) -> Ask {
    Ask {
        tenant,
        key: KeyId(Uuid::from_u128(1)),
        tenant_limits: limits(),
        key_limits: limits(),
        policy: Policy::default(),
        prompt: 10,
        prompt_max: 20,
        completion_max: 80,
        learns: None,
        replaces: None,
    }
}

/// What happened of a request that went well.
#[must_use]
pub fn event(request: RequestId, tenant: TenantId, at: Timestamp) -> AuditEvent {
    AuditEvent {
        request,
        at,
        tenant: Some(tenant),
        key: Some(KeyId(Uuid::from_u128(1))),
        model: ModelName::parse(MODEL).ok(),
        upstream: Some("upstream-0".to_owned()),
        route: Route::OpenAiChat,
        status: 200,
        outcome: Outcome::Completed,
        code: None,
        usage: Usage { prompt: 5, completion: 100, estimated: false },
        first_byte: Some(Duration::from_millis(3)),
        total: Duration::from_millis(900),
        requests: 1,
    }
}

fn upstream(number: usize) -> Upstream {
    Upstream {
        name: format!("upstream-{number}"),
        url: format!("http://127.0.0.1:{}", 11_434 + number),
        kind: UpstreamKind::Ollama,
        slots: None,
        keep_alive: true,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

// === impl Wall ===

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

// === impl Nowhere ===

#[async_trait]
impl Prober for Nowhere {
    async fn models(
        &self,
        _upstream: &Upstream,
    ) -> std::result::Result<Vec<DiscoveredModel>, ProbeError> {
        let name = ModelName::parse(MODEL).map_err(|_| ProbeError::Unreadable)?;
        let (reported, entry) = (MODEL.to_owned(), "{}".into());
        Ok(vec![DiscoveredModel { name, reported, entry, modified_at: None }])
    }
}

#[async_trait]
impl Audit for Nowhere {
    async fn append(&self, _events: &[AuditEvent]) -> Result<()> {
        Ok(())
    }

    async fn query(&self, _query: AuditQuery) -> Result<Vec<AuditEvent>> {
        Ok(Vec::new())
    }

    async fn prepare(&self, _from: Timestamp, _until: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn forget_before(&self, _at: Timestamp) -> Result<u64> {
        Ok(0)
    }

    async fn forget_of(&self, _of: TenantId, _before: Timestamp, _limit: u32) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl Ledger for Nowhere {
    async fn sums(&self, _query: LedgerQuery) -> Result<Vec<LedgerSum>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Prompts for Nowhere {
    async fn add(&self, _prompts: &[Prompt]) -> Result<()> {
        Ok(())
    }

    async fn list(&self, _key: KeyId, _limit: u32) -> Result<Vec<Prompt>> {
        Ok(Vec::new())
    }

    async fn forget_expired(&self, _now: Timestamp, _limit: u32) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl Tenants for Nowhere {
    async fn create(&self, _new: NewTenant) -> Result<Tenant> {
        Err(Error::Url)
    }

    async fn list(&self) -> Result<Vec<Tenant>> {
        Ok(Vec::new())
    }

    async fn by_id(&self, _id: TenantId) -> Result<Option<Tenant>> {
        Ok(None)
    }

    async fn by_name(&self, _name: &str) -> Result<Option<Tenant>> {
        Ok(None)
    }

    async fn change(&self, _id: TenantId, _change: TenantChange) -> Result<Tenant> {
        Err(Error::Url)
    }

    async fn delete(&self, _id: TenantId) -> Result<()> {
        Err(Error::Url)
    }
}
