//! What is started: model servers, the database with tenants and keys, the gateway; and what they say at the end.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use identity::{
    hashing::Hashing,
    limits::{Budget, Correction, LimitPeriod, Limits},
};
use protocol::{id::TenantId, secret::Secret};
use rig::seed::Seeding;
use storage::{
    audit::AuditQuery,
    ledger::{LedgerBy, LedgerQuery, LedgerSum},
    upstreams::UpstreamKind,
};
use tokio::time::{Instant, sleep};

use super::{
    Options,
    attackers::{self, Attack},
    config::{Kind, Scenario},
    honest,
    report::Stopped,
};
use crate::{
    scenario::judge::sum,
    started::{Gateway, Ollama, Programs, sqlite},
};

/// The tenant and model of the streams that are open when the gateway is told to stop.
pub(super) const STOPPED: &str = "stopped";
/// Keys of the honest tenant.
const HONEST_KEYS: usize = 10;
/// Requests a minute of who leaves the queue: enough for the few that are sent, and far from enough if those
/// that are left counted, too.
const QUEUE_RPM: u64 = 60;
/// Events that are read of the audit: more than a run makes, whatever the gateway folds.
const EVENTS_MAX: u32 = 1_000_000;
/// How long it may take until the last streams are open.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// Everything that runs.
pub(super) struct Stage {
    /// The model server for all, the one that speaks as llama.cpp does, the one with a single slot.
    servers: [Ollama; 3],
    pub(super) gateway: Gateway,
    /// Keys of the honest tenant: those that are used all the time, and those that are kept for later.
    pub(super) honest: Vec<String>,
    pub(super) new_keys: Vec<String>,
    /// The key of [`STOPPED`].
    pub(super) stopped: String,
    /// Of each kind that has one.
    keys: BTreeMap<Kind, Vec<String>>,
    /// The names of tenants.
    tenants: HashMap<TenantId, String>,
    database: String,
    log: PathBuf,
}

// === impl Stage ===

impl Stage {
    /// Starts everything.
    pub(super) async fn set(options: &Options, scenario: &Scenario) -> Result<Self, String> {
        let scratch = &options.programs.scratch;
        let servers = servers(&options.programs).await?;
        let database = options.postgres.clone().unwrap_or_else(|| sqlite(scratch, "hostile.db"));
        let seeding = Seeding::open(&database, Hashing::OWASP).await?;
        let (url, slots) = (format!("http://{}", servers[2].address), Some(1));
        seeding.upstream("one-slot", &url, UpstreamKind::Ollama, slots).await?;
        let honest_tenant = seeding.tenant(honest::NAME, Limits::default()).await?;
        let none = Limits::default();
        let honest = seeding.keys(&[honest_tenant], honest::NAME, HONEST_KEYS, none).await?;
        let seconds = (scenario.quiet_seconds + scenario.seconds) as f64;
        let new = (seconds / scenario.honest.new_key_every_s.max(0.1)).ceil() as usize + 1;
        let new_keys = seeding.keys(&[honest_tenant], "new", new, none).await?;
        let mut tenants = HashMap::from([(honest_tenant, honest::NAME.to_owned())]);
        let mut keys = BTreeMap::new();
        for kind in scenario.attackers.iter().map(|attackers| attackers.kind) {
            if kind.has_key() {
                let tenant = seeding.tenant(kind.name(), none).await?;
                tenants.insert(tenant, kind.name().to_owned());
                keys.insert(kind, keys_of(&seeding, tenant, kind, scenario).await?);
            }
        }
        let tenant = seeding.tenant(STOPPED, none).await?;
        tenants.insert(tenant, STOPPED.to_owned());
        let stopped = seeding.keys(&[tenant], STOPPED, 1, none).await?.pop().unwrap_or_default();
        seeding.close().await;
        let settings = settings(options, scenario, &database, &servers);
        let gateway = Gateway::start(&options.programs, &settings).await?;
        let log = scratch.join("gateway.log");
        Ok(Self { servers, gateway, honest, new_keys, stopped, keys, tenants, database, log })
    }

    /// The attackers, ready to begin.
    pub(super) fn attacks(&self, scenario: &Scenario) -> Vec<Arc<Attack>> {
        let to = self.gateway.address;
        let prefixes: Vec<String> = self.honest.iter().chain(&self.new_keys).cloned().collect();
        let numbered = (0..).zip(&scenario.attackers);
        numbered
            .map(|(number, of)| {
                let keys = self.keys.get(&of.kind).map(Vec::as_slice).unwrap_or_default();
                Arc::new(Attack::new(*of, to, number, keys, prefixes.clone()))
            })
            .collect()
    }

    /// How long the gateway's log is.
    pub(super) fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    /// Waits until so many streams are open; whether they are.
    pub(super) async fn streams_open(&self, wanted: u64) -> Result<bool, String> {
        let deadline = Instant::now() + OPEN_MAX;
        while sum(&self.gateway.metrics().await?, "gateway_streams_open") < wanted as f64 {
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(true)
    }

    /// Tells the gateway to stop, while so many streams are open; then everything else ends, too.
    pub(super) async fn end(self, streams: u64) -> Result<Stopped, String> {
        let begun = Instant::now();
        let by_itself = self.gateway.end().await;
        let took = begun.elapsed().as_secs_f64();
        let (ledger, audit) = books(&self.database, &self.tenants).await?;
        let (mut open, mut models, mut paths) = (0, BTreeMap::new(), BTreeMap::new());
        for server in self.servers {
            let said = server.end().await?;
            let said: Said = serde_json::from_str(&said).map_err(|error| error.to_string())?;
            open += said.open;
            models.extend(said.models);
            for (path, count) in said.paths {
                *paths.entry(path).or_insert(0) += count;
            }
        }
        Ok(Stopped { by_itself, took, streams, ledger, audit, open, models, paths })
    }
}

/// What a scripted Ollama says at its end, as far as it matters.
#[derive(serde::Deserialize)]
struct Said {
    open: u64,
    models: BTreeMap<String, OfModel>,
    paths: BTreeMap<String, u64>,
}

/// What it says of a model.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(super) struct OfModel {
    pub(super) answers: u64,
    pub(super) prompt_tokens: u64,
    pub(super) pieces: u64,
    pub(super) left_pieces: u64,
}

/// Rows that the audit has stored, as the metrics say.
pub(super) fn stored(metrics: &str) -> u64 {
    sum(metrics, "gateway_audit_stored_total") as u64
}

async fn servers(programs: &Programs) -> Result<[Ollama; 3], String> {
    let kinds = [
        Kind::NeverReadsH2,
        Kind::NeverReadsH1,
        Kind::FloodsH2,
        Kind::GiantBodies,
        Kind::SlowBodies,
        Kind::TemplateBombs,
        Kind::RefusedRpm,
        Kind::WrongPrefix,
        Kind::UnknownKeys,
        Kind::LeavesEarly,
        Kind::Causes500,
    ];
    let names = kinds.map(Kind::name);
    let all = names.into_iter().chain([honest::NAME, STOPPED]).collect::<Vec<_>>();
    let one = server(programs, "all", &all, false).await?;
    let llama = server(programs, "llama", &["bombs-llama"], true).await?;
    let slot = server(programs, "one-slot", &[Kind::LeavesQueue.name()], false).await?;
    Ok([one, llama, slot])
}

/// Starts a scripted Ollama with these models. What it is asked it forgets: bodies are large here.
async fn server(
    programs: &Programs,
    name: &str,
    models: &[&str],
    is_llama: bool,
) -> Result<Ollama, String> {
    let mut script = format!("log_requests = 0\nn_predict = {is_llama}\n");
    for model in models {
        // What OpenAI's dialect calls it is its name to the letter.
        let _ = write!(script, "\n[[models]]\nname = \"{model}\"\nid = \"{model}\"\n");
    }
    let path = programs.scratch.join(format!("{name}.toml"));
    fs::write(&path, script).map_err(|error| format!("{}: {error}", path.display()))?;
    Ollama::start_with(programs, SocketAddr::from(([127, 0, 0, 1], 0)), Some(&path)).await
}

/// The keys of a kind: one, but one for each bomb, so that none takes the budget of another.
async fn keys_of(
    seeding: &Seeding,
    tenant: TenantId,
    kind: Kind,
    scenario: &Scenario,
) -> Result<Vec<String>, String> {
    let mut limits = Limits::default();
    let mut count = 1;
    match kind {
        Kind::RefusedRpm => limits.rpm = Some(1),
        Kind::LeavesQueue => limits.rpm = Some(QUEUE_RPM),
        Kind::TemplateBombs => {
            let (tokens, period) = (scenario.expect.bomb_budget, LimitPeriod::Total);
            limits.budget = Some(Budget { tokens, period, correction: Correction::default() });
            count = attackers::BOMBS;
        }
        _ => {}
    }
    seeding.keys(&[tenant], kind.name(), count, limits).await
}

fn settings(
    options: &Options,
    scenario: &Scenario,
    database: &str,
    servers: &[Ollama; 3],
) -> BTreeMap<String, String> {
    let mut settings = scenario.gateway.clone();
    let upstreams =
        format!("all=http://{},llama=openai+http://{}", servers[0].address, servers[1].address);
    settings.insert("NEURONETZ_UPSTREAMS".to_owned(), upstreams);
    settings.insert("DATABASE_URL".to_owned(), database.to_owned());
    if let Some(redis) = &options.redis {
        settings.insert("REDIS_URL".to_owned(), redis.clone());
    }
    settings
}

/// The ledger by tenant, and the requests that the audit's events stand for, likewise; `-`: nobody was proven.
async fn books(
    url: &str,
    tenants: &HashMap<TenantId, String>,
) -> Result<(BTreeMap<String, LedgerSum>, BTreeMap<String, u64>), String> {
    let config = storage::Config {
        url: Secret::new(url.to_owned()),
        connections_max: 1,
        acquire_timeout: Duration::from_secs(10),
        deadlines: storage::Deadlines::default(),
    };
    let failed = |error: storage::Error| format!("ledger and audit: {error}");
    let storage = storage::open(config).await.map_err(failed)?;
    let query = LedgerQuery { by: LedgerBy::Tenant, tenant: None, key: None, since: None };
    let sums = storage.ledger.sums(query).await.map_err(failed)?;
    let query = AuditQuery { limit: EVENTS_MAX, ..AuditQuery::default() };
    let mut audit = BTreeMap::new();
    for event in storage.audit.query(query).await.map_err(failed)? {
        let name = event.tenant.and_then(|tenant| tenants.get(&tenant)).map_or("-", String::as_str);
        *audit.entry(name.to_owned()).or_insert(0) += u64::from(event.requests);
    }
    storage.database.close().await;
    Ok((sums.into_iter().map(|sum| (sum.of.clone(), sum)).collect(), audit))
}
