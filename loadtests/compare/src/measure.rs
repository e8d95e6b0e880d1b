//! One cell: a scenario on a server, once.

use std::{net::SocketAddr, time::Duration};

use rig::process::Process;
use tokio::{process::Command, time::sleep};

use crate::{
    http,
    load::{Done, Plan, Warm},
    proc::{Group, Used},
    replies::Dialect,
    scenario::{Scenario, Shape, Size},
    servers::{Kind, PATIENCE, Place, Server},
    timing::Percentiles,
};

/// How long a server may finish what comes after a reply: the gateway's audit waits 200 ms for a
/// batch. It belongs to the request and is counted with it.
const AFTERWARDS: Duration = Duration::from_millis(400);

/// What one run of a scenario found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    /// Microseconds a request on a processor: of the server, the model server and the load.
    pub(crate) cpu_us: f64,
    pub(crate) upstream_us: f64,
    pub(crate) load_us: f64,
    pub(crate) first: Percentiles,
    pub(crate) total: Percentiles,
    pub(crate) peak_kib: u64,
    /// Calls of scripts in Redis a request, and all commands, those of scripts included.
    pub(crate) redis: Option<(f64, f64)>,
}

/// Who is looked at besides the server.
pub(crate) struct Witness {
    pub(crate) place: Place,
    pub(crate) upstream: Group,
    /// The Redis of a cluster.
    pub(crate) redis: Option<SocketAddr>,
}

/// What the clocks say.
struct Look {
    server: Used,
    upstream: Used,
    load: Used,
    redis: Option<(u64, u64)>,
}

/// The load, as another process.
pub(crate) struct Load {
    process: Process,
    group: Group,
}

// === impl Load ===

impl Load {
    /// Starts it with a plan and waits until everything is warm.
    pub(crate) async fn start(plan: &Plan, place: &Place) -> Result<(Self, Warm), String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        let mut process = Process::start("load", command.arg("load"), &place.directory, PATIENCE)?;
        process.tell(&serde_json::to_string(plan).map_err(|error| error.to_string())?).await?;
        let warm: Warm = serde_json::from_str(&process.line().await?)
            .map_err(|error| format!("the load says what is no JSON: {error}"))?;
        let group = Group::one(process.pid());
        Ok((Self { process, group }, warm))
    }

    /// Lets it do what counts.
    pub(crate) async fn go(&mut self) -> Result<Done, String> {
        self.process.tell("go").await?;
        serde_json::from_str(&self.process.line().await?)
            .map_err(|error| format!("the load says what is no JSON: {error}"))
    }

    /// Lets it end.
    pub(crate) async fn ended(mut self) {
        self.process.ended().await;
    }
}

// === impl Witness ===

impl Witness {
    /// Runs a scenario on a server.
    pub(crate) async fn cell(
        &self,
        server: &mut Server,
        scenario: &Scenario,
        size: Size,
    ) -> Result<Cell, String> {
        let plan = plan(server, scenario, size);
        let (mut load, warm) = Load::start(&plan, &self.place).await?;
        no_failures(warm.failures, warm.failure.as_deref())?;
        let wanted = scenario.shape.pieces_min();
        if warm.pieces < wanted || !warm.is_complete {
            let (pieces, end) = (warm.pieces, if warm.is_complete { "with" } else { "without" });
            return Err(format!("the first reply has {pieces} of {wanted} pieces, {end} its end"));
        }
        sleep(AFTERWARDS).await;
        let group = server.group();
        group.forget_peak();
        let before = self.look(&group, &load, server.kind).await?;
        let done = load.go().await?;
        no_failures(done.failures, done.failure.as_deref())?;
        sleep(AFTERWARDS).await;
        let after = self.look(&group, &load, server.kind).await?;
        let peak_kib = group.memory().peak_kib;
        load.ended().await;
        if done.requests != plan.requests || group.len() == 0 {
            return Err(format!("{} of {} requests were answered", done.requests, plan.requests));
        }
        server.answered += plan.warmup + plan.requests;
        let each = |after: &Used, before: &Used| {
            after.since(before) as f64 / 1_000.0 / done.requests as f64
        };
        let redis = after.redis.zip(before.redis).map(|(after, before)| {
            let each = |count: u64| count as f64 / done.requests as f64;
            (each(after.0 - before.0), each(after.1 - before.1))
        });
        Ok(Cell {
            requests: done.requests,
            per_second: done.requests as f64 / done.seconds.max(1e-9),
            cpu_us: each(&after.server, &before.server),
            upstream_us: each(&after.upstream, &before.upstream),
            load_us: each(&after.load, &before.load),
            first: done.first,
            total: done.total,
            peak_kib,
            redis,
        })
    }

    async fn look(&self, server: &Group, load: &Load, kind: Kind) -> Result<Look, String> {
        let redis = match self.redis {
            Some(address) if kind == Kind::Gateway => Some(http::redis_calls(address).await?),
            _ => None,
        };
        Ok(Look {
            server: server.used(),
            upstream: self.upstream.used(),
            load: load.group.used(),
            redis,
        })
    }
}

/// What the load does for a scenario.
fn plan(server: &Server, scenario: &Scenario, size: Size) -> Plan {
    let connections = scenario.connections;
    let (mut requests, mut warmup) = scenario.requests(size);
    if server.divisor > 1 {
        requests = (requests / server.divisor).max(2 * connections as u64);
        warmup = (warmup / server.divisor).max(connections as u64);
    }
    // Streams that begin together would all wait for the same tick.
    let spread_ms = if scenario.shape == Shape::Paced { 10 } else { 0 };
    let keys = if scenario.all_keys { &server.keys } else { &server.key };
    Plan {
        address: server.address,
        path: path(server.dialect(scenario.dialect)).to_owned(),
        headers: server.headers.clone(),
        body: scenario.shape.body(),
        keys: keys.clone(),
        connections,
        warmup,
        requests,
        spread_ms,
        hold: false,
    }
}

/// Where a dialect is spoken.
pub(crate) const fn path(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Native => "/api/chat",
        Dialect::OpenAi => "/v1/chat/completions",
    }
}

/// Numbers of requests that failed say nothing.
pub(crate) fn no_failures(failures: u64, first: Option<&str>) -> Result<(), String> {
    if failures == 0 {
        return Ok(());
    }
    Err(format!("{failures} requests failed; the first: {}", first.unwrap_or("nobody knows why")))
}
