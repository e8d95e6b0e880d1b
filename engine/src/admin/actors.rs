//! The actors, live: windows, slots, budgets, breakers and queues as JSON.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use actors::{measure, rules::breaker, tenant::Look};
use axum::{
    Json,
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use protocol::id::TenantId;
use serde::{Deserialize, Serialize};
use storage::admission::{Gauge, Standing};
use tokio::time::{MissedTickBehavior, interval};
use utoipa::{IntoParams, ToSchema};

use super::{
    Admin,
    fault::{Asked, Fault, Named},
};
use crate::{gateway::Gateway, telemetry};

/// From one event of the stream to the next.
const EVERY: Duration = Duration::from_secs(1);
/// Tenants that are shown at once.
const SHOWN_MAX: usize = 100;

/// All that the actors know.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Snapshot {
    /// When it was so, in UTC.
    #[schema(value_type = String)]
    pub(crate) at: Timestamp,
    /// What is measured of the actors, by their kind.
    pub(crate) kinds: BTreeMap<String, KindState>,
    /// How many tenants' actors run.
    pub(crate) tenants_running: usize,
    /// The tenants that are active; at most a hundred.
    pub(crate) tenants: Vec<TenantState>,
    /// The upstreams.
    pub(crate) upstreams: Vec<UpstreamState>,
    /// The audit.
    pub(crate) audit: AuditState,
    /// The catalog.
    pub(crate) catalog: CatalogState,
}

/// What is measured of all actors of one kind together.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct KindState {
    /// How many run.
    pub(crate) running: usize,
    /// Messages that wait in their mailboxes.
    pub(crate) waiting: usize,
    /// Messages that were handled since the start.
    pub(crate) handled: u64,
    /// Microseconds that one took, on average.
    pub(crate) handling_mean_us: f64,
    /// How often one failed and was started again.
    pub(crate) restarts: u64,
}

/// One tenant that is active.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TenantState {
    /// Its id.
    pub(crate) id: String,
    /// Its name, where the database says it.
    pub(crate) name: Option<String>,
    /// How its limits stand.
    #[serde(flatten)]
    pub(crate) limits: LimitsState,
    /// Requests that wait for word of the ledger, or of Redis.
    pub(crate) waiting: usize,
    /// Its keys that asked last; at most a hundred.
    pub(crate) keys: Vec<KeyState>,
}

/// One key that is active.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct KeyState {
    /// Its id.
    pub(crate) id: String,
    /// How its limits stand.
    #[serde(flatten)]
    pub(crate) limits: LimitsState,
}

/// How limits stand; null where there is none.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LimitsState {
    /// Requests per minute.
    pub(crate) requests: Option<GaugeState>,
    /// Tokens per minute.
    pub(crate) tokens: Option<GaugeState>,
    /// Tokens per period.
    pub(crate) budget: Option<GaugeState>,
    /// Requests under way, on all replicas.
    pub(crate) under_way: u64,
    /// How many may be.
    pub(crate) concurrency: Option<u64>,
}

/// How one limit stands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct GaugeState {
    /// So much there is.
    pub(crate) limit: u64,
    /// So much is left.
    pub(crate) remaining: u64,
    /// Milliseconds until everything is there again; null where it never is.
    pub(crate) reset_ms: Option<u64>,
}

/// One upstream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct UpstreamState {
    /// Its name.
    pub(crate) name: String,
    /// Whether it answered its last poll.
    pub(crate) up: bool,
    /// How many models it has.
    pub(crate) models: usize,
    /// Requests that have a slot.
    pub(crate) taken: u64,
    /// Requests that may have one; null: as many as come.
    pub(crate) slots: Option<u64>,
    /// Whether its connections serve further requests after their first.
    pub(crate) keep_alive: bool,
    /// Requests that wait for one, by tenant.
    pub(crate) waiting: BTreeMap<String, usize>,
    /// `closed`, `half_open` or `open`.
    pub(crate) breaker: String,
    /// Milliseconds for which it stays open.
    pub(crate) open_ms: Option<u64>,
}

/// The audit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct AuditState {
    /// Events that wait to be stored.
    pub(crate) waiting: usize,
    /// Events stored since the start.
    pub(crate) stored: u64,
    /// Whether storing fails.
    pub(crate) failing: bool,
}

/// The catalog.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct CatalogState {
    /// Models that are known; null where it is not known which there are.
    pub(crate) models: Option<usize>,
}

/// One actor.
#[derive(Serialize, ToSchema)]
pub(crate) struct ActorView {
    kind: &'static str,
    id: String,
    /// The tenant's name, where the database says it.
    name: Option<String>,
    /// What is measured of all of its kind together.
    of_its_kind: KindState,
}

/// Which actors the stream shows. Default: all.
#[derive(Deserialize, IntoParams)]
pub(crate) struct Only {
    /// This tenant alone, by name or id.
    tenant: Option<String>,
}

/// Which actors are running.
#[utoipa::path(get, path = "/admin/v1/actors", responses((status = 200, body = [ActorView])))]
pub(super) async fn list(State(admin): State<Admin>) -> Json<Vec<ActorView>> {
    let gateway = &admin.gateway;
    let mut names = Names::default();
    let kinds = kinds(gateway);
    let view = |kind: &'static str, id, name| {
        let of_its_kind = kinds.get(kind).copied().unwrap_or_default();
        ActorView { kind, id, name, of_its_kind }
    };
    let mut actors = vec![view("root", "root".to_owned(), None)];
    for tenant in gateway.handles.admission.tenants() {
        let name = names.of(gateway, tenant).await;
        actors.push(view("tenant", tenant.to_string(), name));
    }
    for upstream in gateway.handles.upstreams.views() {
        actors.push(view("upstream", upstream.name, None));
    }
    for kind in ["audit", "catalog", "sweeper"] {
        actors.push(view(kind, kind.to_owned(), None));
    }
    Json(actors)
}

/// What one actor knows.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ActorState {
    /// Of a tenant.
    Tenant(TenantState),
    /// Of an upstream.
    Upstream(UpstreamState),
    /// Of the audit.
    Audit(AuditState),
    /// Of the catalog.
    Catalog(CatalogState),
    /// Of one that has no more to say than its kind.
    Kind(KindState),
}

/// One actor: `tenant` by name or id (with its keys, which have no actors of their own), `upstream` by
/// name, and `root/root`, `audit/audit`, `catalog/catalog`, `sweeper/sweeper`.
#[utoipa::path(
    get,
    path = "/admin/v1/actors/{kind}/{id}",
    params(("kind" = String, Path), ("id" = String, Path)),
    responses(
        (status = 200, body = ActorState),
        (status = 404, description = "No such actor runs."),
    )
)]
pub(super) async fn one(
    State(admin): State<Admin>,
    Named((kind, id)): Named<(String, String)>,
) -> Result<Json<ActorState>, Fault> {
    let gateway = &admin.gateway;
    let none = || Fault::NotFound(format!("no actor of kind {kind:?} and id {id:?} runs"));
    Ok(Json(match kind.as_str() {
        "tenant" => {
            let (id, name) = tenant(gateway, &id).await.ok_or_else(none)?;
            let look = gateway.handles.admission.look(id).await.ok_or_else(none)?;
            ActorState::Tenant(TenantState::new(id, name, &look))
        }
        "upstream" => ActorState::Upstream(upstream(gateway, &id).await.ok_or_else(none)?),
        "audit" => ActorState::Audit(audit(gateway)),
        "catalog" => ActorState::Catalog(catalog(gateway)),
        "root" | "sweeper" => {
            ActorState::Kind(kinds(gateway).remove(kind.as_str()).ok_or_else(none)?)
        }
        _ => return Err(none()),
    }))
}

/// All of them, once a second, as server-sent events whose data is a `Snapshot`.
#[utoipa::path(
    get,
    path = "/admin/v1/actors/stream",
    params(Only),
    responses(
        (status = 200, content_type = "text/event-stream", body = Snapshot),
        (status = 404, description = "There is no such tenant."),
    )
)]
pub(super) async fn events(
    State(admin): State<Admin>,
    Asked(Only { tenant: only }): Asked<Only>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Fault> {
    let gateway = Arc::clone(&admin.gateway);
    let only = match only {
        None => None,
        Some(named) => {
            let found = tenant(&gateway, &named).await;
            Some(found.ok_or(Fault::NotFound(format!("there is no tenant {named}")))?.0)
        }
    };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A stream that is watched does not keep the gateway from stopping.
    let stopping = gateway.life.draining().clone();
    let snapshots = stream::unfold((ticks, Names::default()), move |(mut ticks, mut names)| {
        let gateway = Arc::clone(&gateway);
        async move {
            ticks.tick().await;
            let snapshot = snapshot(&gateway, only, &mut names).await;
            let event = Event::default().json_data(snapshot).unwrap_or_default();
            Some((Ok(event), (ticks, names)))
        }
    });
    let until = async move { stopping.cancelled().await };
    Ok(Sse::new(snapshots.take_until(until)).keep_alive(KeepAlive::default()))
}

async fn snapshot(gateway: &Gateway, only: Option<TenantId>, names: &mut Names) -> Snapshot {
    let admission = &gateway.handles.admission;
    let running = admission.tenants();
    let shown = running.iter().filter(|tenant| only.is_none_or(|only| only == **tenant));
    let mut tenants = Vec::new();
    for tenant in shown.take(SHOWN_MAX) {
        if let Some(look) = admission.look(*tenant).await {
            let name = names.of(gateway, *tenant).await;
            tenants.push(TenantState::new(*tenant, name, &look));
        }
    }
    let mut upstreams = Vec::new();
    for view in gateway.handles.upstreams.views() {
        upstreams.extend(upstream(gateway, &view.name).await);
    }
    Snapshot {
        at: gateway.clock.now(),
        kinds: kinds(gateway).into_iter().map(|(kind, state)| (kind.to_owned(), state)).collect(),
        tenants_running: running.len(),
        tenants,
        upstreams,
        audit: audit(gateway),
        catalog: catalog(gateway),
    }
}

/// What is measured of each kind of actor.
fn kinds(gateway: &Gateway) -> BTreeMap<&'static str, KindState> {
    let running = BTreeMap::from(telemetry::running(&gateway.handles));
    let state = |measures: measure::Measures| KindState {
        running: running.get(measures.kind).copied().unwrap_or_default(),
        waiting: measures.waiting,
        handled: measures.handled,
        handling_mean_us: measures.handling_mean.as_secs_f64() * 1e6,
        restarts: measures.restarts,
    };
    measure::kinds().into_iter().map(|measures| (measures.kind, state(measures))).collect()
}

/// A tenant by name or id.
async fn tenant(gateway: &Gateway, named: &str) -> Option<(TenantId, Option<String>)> {
    match gateway.storage.tenants.by_name(named).await {
        Ok(Some(tenant)) => Some((tenant.id, Some(tenant.name))),
        _ => {
            let id = named.parse().ok()?;
            Some((id, Names::default().of(gateway, id).await))
        }
    }
}

async fn upstream(gateway: &Gateway, name: &str) -> Option<UpstreamState> {
    let views = gateway.handles.upstreams.views();
    let view = views.into_iter().find(|view| view.name == name)?;
    let look = gateway.handles.upstreams.look(name).await?;
    Some(UpstreamState {
        name: view.name,
        up: view.up,
        models: view.models,
        taken: look.taken,
        slots: look.slots,
        keep_alive: view.upstream.keep_alive,
        waiting: look.waiting.iter().map(|(tenant, count)| (tenant.to_string(), *count)).collect(),
        breaker: match look.breaker {
            breaker::View::Closed => "closed",
            breaker::View::HalfOpen => "half_open",
            breaker::View::Open { .. } => "open",
        }
        .to_owned(),
        open_ms: look.open_for.map(millis),
    })
}

fn audit(gateway: &Gateway) -> AuditState {
    let view = gateway.handles.audit.state();
    let failing = view.failing_since.is_some();
    AuditState { waiting: view.waiting, stored: view.stored, failing }
}

fn catalog(gateway: &Gateway) -> CatalogState {
    let models = gateway.handles.catalog.current().ok().map(|known| known.models().count());
    CatalogState { models }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The names of tenants, as far as they were asked for.
#[derive(Default)]
struct Names(BTreeMap<TenantId, Option<String>>);

// === impl Names ===

impl Names {
    async fn of(&mut self, gateway: &Gateway, tenant: TenantId) -> Option<String> {
        if let Some(name) = self.0.get(&tenant) {
            return name.clone();
        }
        let found = gateway.storage.tenants.by_id(tenant).await.ok().flatten();
        let name = found.map(|tenant| tenant.name);
        self.0.insert(tenant, name.clone());
        name
    }
}

// === impl TenantState ===

impl TenantState {
    fn new(id: TenantId, name: Option<String>, look: &Look) -> Self {
        let keys = look.keys.iter().map(|(key, limits, standing)| KeyState {
            id: key.to_string(),
            limits: LimitsState::new(standing, limits.concurrency),
        });
        Self {
            id: id.to_string(),
            name,
            limits: LimitsState::new(&look.standing, look.limits.concurrency),
            waiting: look.waiting,
            keys: keys.collect(),
        }
    }
}

// === impl LimitsState ===

impl LimitsState {
    fn new(standing: &Standing, concurrency: Option<u64>) -> Self {
        let gauge = |gauge: Option<Gauge>| {
            gauge.map(|Gauge { limit, remaining, reset }| GaugeState {
                limit,
                remaining,
                reset_ms: reset.map(millis),
            })
        };
        let Standing { gauges, under_way } = *standing;
        Self {
            requests: gauge(gauges.requests),
            tokens: gauge(gauges.tokens),
            budget: gauge(gauges.budget),
            under_way,
            concurrency,
        }
    }
}
