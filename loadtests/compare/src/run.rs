//! The run: what is started when, who takes turns with whom, what was found.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use identity::limits::Limits;
use rig::{
    out::{note, say},
    proc::Stolen,
    process::{Process, Signal},
};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    http,
    measure::{Cell, Witness},
    proc::Group as Processes,
    quiet::{self, Quiet},
    replies::Dialect,
    report::{Report, Row},
    scenario::{Group, Scenario, Size, is_wanted},
    servers::{
        Kind, PATIENCE, Place, Server,
        gateway::{self, Build, Databases, Population},
        nginx, peer,
    },
    started::{self, Started},
};

/// Connections of one of nginx's workers, and where thousands of streams are held.
const NGINX_CONNECTIONS: usize = 2_048;
const NGINX_CONNECTIONS_HELD: usize = 20_000;
/// How long the audit may take to store what is left.
const AUDIT_MAX: Duration = Duration::from_secs(10);

/// What to compare, and where to leave it.
#[derive(Args)]
pub(crate) struct Options {
    /// A build of the gateway, NAME=PATH; several stand side by side.
    #[arg(long = "gateway", required = true)]
    gateways: Vec<Build>,
    /// Only scenarios with this in their names; several with commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Less of everything, to see whether it works.
    #[arg(long)]
    quick: bool,
    /// Where the results go.
    #[arg(long, default_value = "loadtests/results")]
    results: PathBuf,
    /// A directory for what is thrown away; must be there. The numbers of the processes that are
    /// started stand in its file `pids`.
    #[arg(long)]
    scratch: PathBuf,
    /// A Postgres for the cluster, `postgres://…`; a database is made there for each gateway.
    #[arg(long, requires = "redis")]
    postgres: Option<String>,
    /// A Redis for the cluster, `redis://HOST:PORT`.
    #[arg(long, requires = "postgres")]
    redis: Option<String>,
    /// The directory of Portkey's gateway.
    #[arg(long)]
    portkey: Option<PathBuf>,
    /// LiteLLM's program.
    #[arg(long)]
    litellm: Option<PathBuf>,
    /// Which commit the gateway is of.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The command that the reader would give.
    #[arg(long, default_value = "compare run")]
    command: String,
}

/// The run, as far as it has come.
struct Run {
    options: Options,
    size: Size,
    witness: Witness,
    report: Report,
    /// Kept until the end, with the databases that are in them.
    scratches: Vec<storage::scratch::Scratch>,
}

/// Measures everything.
pub(crate) async fn run(options: Options) -> Result<(), String> {
    let (start, stolen) = (Instant::now(), Stolen::now());
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    let command = command.args(["upstream", "--listen", "127.0.0.1:0"]);
    let mut upstream = Process::start("upstream", command, &options.scratch, PATIENCE)?;
    let line = upstream.line().await?;
    let address = line.strip_prefix("http://").and_then(|address| address.parse().ok());
    let place = Place {
        directory: options.scratch.clone(),
        upstream: address.ok_or_else(|| format!("the upstream says {line:?}"))?,
    };
    let redis = options.redis.as_deref().map(redis_address).transpose()?;
    let witness = Witness { place, upstream: Processes::one(upstream.pid()), redis };
    let size = if options.quick { Size::QUICK } else { Size::FULL };
    let report = Report::new(&options.command, &options.commit, options.quick);
    let mut run = Run { options, size, witness, report, scratches: Vec::new() };
    for group in Group::ALL {
        Box::pin(run.group(group)).await?;
    }
    Box::pin(run.quiet()).await?;
    Box::pin(run.starts()).await?;
    upstream.end(Signal::TERM).await;
    run.report.seconds = start.elapsed().as_secs_f64();
    run.report.stolen_percent = Stolen::now().since(stolen);
    say(&run.report.text());
    run.report.write(&run.options.results)
}

fn redis_address(url: &str) -> Result<SocketAddr, String> {
    let rest = url.strip_prefix("redis://").unwrap_or(url);
    let address = rest.split('/').next().unwrap_or_default();
    address.parse().map_err(|_| format!("{url} is not redis://ADDRESS:PORT"))
}

// === impl Run ===

impl Run {
    /// Runs the scenarios of a group on servers that are started for it.
    async fn group(&mut self, group: Group) -> Result<(), String> {
        let mut scenarios = Scenario::all(self.size);
        scenarios.retain(|it| it.group == group && is_wanted(&self.options.only, &it.id));
        let why_not = match group {
            Group::Cluster if self.options.postgres.is_none() => "no Postgres and Redis",
            Group::Peers if self.options.portkey.is_none() && self.options.litellm.is_none() => {
                "no other gateway"
            }
            _ => "",
        };
        if scenarios.is_empty() || !why_not.is_empty() {
            if !scenarios.is_empty() && group == Group::Cluster {
                note(&format!("left out: {group:?}, there is {why_not}"));
            }
            return Ok(());
        }
        let mut servers = self.start(group).await?;
        // What is compared with each other takes turns: with others, servers; with keys, scenarios, too.
        let together = if group == Group::Keys { scenarios.len() } else { 1 };
        for scenarios in scenarios.chunks(together) {
            self.rounds(scenarios, &mut servers).await?;
        }
        for mut server in servers {
            is_audited(&server).await?;
            server.process.end(Signal::TERM).await;
        }
        Ok(())
    }

    async fn start(&mut self, group: Group) -> Result<Vec<Server>, String> {
        let place = self.witness.place.clone();
        let mut servers = vec![nginx::start(&place, NGINX_CONNECTIONS).await?];
        let one = Population::ONE;
        let populations = match group {
            Group::Keys => vec![Population { tenants: self.size.tenants, keys_each: 10, ..one }],
            Group::Limits => vec![one, Population { limits: Limits::default(), ..one }],
            Group::Plain | Group::Cluster | Group::Peers => vec![one],
        };
        for population in populations {
            for build in &self.options.gateways {
                let databases = Databases::sqlite(&place)?;
                servers.push(gateway::start(build, &place, &databases, population).await?);
            }
        }
        if group == Group::Cluster {
            for build in &self.options.gateways {
                let server = self.options.postgres.as_deref().unwrap_or_default();
                let scratch = storage::scratch::Scratch::on(server).await;
                let scratch = scratch.map_err(|error| format!("the Postgres: {error}"))?;
                let databases =
                    Databases { database: scratch.url.clone(), redis: self.options.redis.clone() };
                self.scratches.push(scratch);
                servers.push(gateway::start(build, &place, &databases, one).await?);
            }
        }
        if group == Group::Peers {
            servers.extend(self.start_peers(&place).await);
        }
        Ok(servers)
    }

    /// Other gateways; one that does not start is left out, which the report says.
    async fn start_peers(&mut self, place: &Place) -> Vec<Server> {
        let mut started = Vec::new();
        if let Some(directory) = &self.options.portkey {
            started.push(("Portkey", peer::portkey(directory, place).await));
        }
        if let Some(program) = &self.options.litellm {
            started.push(("LiteLLM", peer::litellm(program, place).await));
        }
        let mut servers = Vec::new();
        for (name, server) in started {
            match server {
                Ok(server) => servers.push(server),
                Err(error) => self.report.remarks.push(format!("{name} is left out: {error}")),
            }
        }
        servers
    }

    /// Runs scenarios in rounds: in each, every server has its turn, so that what happens to the
    /// machine happens to all of them.
    async fn rounds(&mut self, all: &[Scenario], servers: &mut [Server]) -> Result<(), String> {
        let Some(rounds) = all.first().map(|it| it.group.rounds(self.size)) else { return Ok(()) };
        let mut cells: Vec<Vec<Vec<Cell>>> = vec![vec![Vec::new(); servers.len()]; all.len()];
        for round in 1..=rounds {
            for (it, cells) in all.iter().zip(&mut cells) {
                for (server, cells) in servers.iter_mut().zip(cells) {
                    // Who failed once is not asked again.
                    if cells.len() + 1 == round {
                        cells.extend(self.turn(it, server, round).await?);
                    }
                }
            }
        }
        for (it, cells) in all.iter().zip(&cells) {
            let found = servers.iter().zip(cells);
            let found = found.filter(|(_, cells)| cells.len() == rounds);
            let rows = found.map(|(server, cells)| Row::of(it, server, cells)).collect();
            self.report.add(rows);
        }
        Ok(())
    }

    /// One turn of a server. Other gateways may not do what is asked, which the report says; nginx and
    /// ours must.
    async fn turn(
        &mut self,
        it: &Scenario,
        server: &mut Server,
        round: usize,
    ) -> Result<Option<Cell>, String> {
        let (id, name) = (&it.id, server.name.clone());
        match self.witness.cell(server, it, self.size).await {
            Ok(cell) => {
                let (cpu, rate) = (cell.cpu_us, cell.per_second);
                note(&format!("  {id}, round {round}: {name}: {cpu:.1} µs, {rate:.0}/s"));
                Ok(Some(cell))
            }
            Err(error) if server.kind == Kind::Peer => {
                note(&format!("  {id}: {name}: {error}"));
                self.report.remarks.push(format!("{name} does not do {id}: {error}"));
                Ok(None)
            }
            Err(error) => Err(format!("{id}, {name}: {error}")),
        }
    }

    async fn quiet(&mut self) -> Result<(), String> {
        let streams = self.size.held;
        if !is_wanted(&self.options.only, &format!("quiet/{streams}")) {
            return Ok(());
        }
        let place = self.witness.place.clone();
        let nginx = nginx::start(&place, NGINX_CONNECTIONS_HELD).await?;
        let found = quiet::measure(&self.witness, nginx, Dialect::Native, streams).await?;
        self.report.quiet.push(found);
        for build in &self.options.gateways {
            for dialect in [Dialect::Native, Dialect::OpenAi] {
                let databases = Databases::sqlite(&place)?;
                let server = gateway::start(build, &place, &databases, Population::ONE).await?;
                let found: Quiet = quiet::measure(&self.witness, server, dialect, streams).await?;
                self.report.quiet.push(found);
            }
        }
        Ok(())
    }

    async fn starts(&mut self) -> Result<(), String> {
        if !is_wanted(&self.options.only, "start") {
            return Ok(());
        }
        for build in &self.options.gateways {
            let found: Started =
                started::measure(build, &self.witness.place, self.size.starts).await?;
            self.report.started.push(found);
        }
        Ok(())
    }
}

/// Fails where a gateway has not written down every request: then it was not doing its work.
async fn is_audited(server: &Server) -> Result<(), String> {
    let Some(admin) = server.admin else { return Ok(()) };
    let deadline = Instant::now() + AUDIT_MAX;
    loop {
        let (_, metrics) = http::get(admin, "/metrics").await?;
        let Some(stored) = counter(&metrics, "gateway_audit_stored_total") else { return Ok(()) };
        if stored == server.answered {
            return Ok(());
        }
        if Instant::now() > deadline {
            let (name, answered) = (&server.name, server.answered);
            return Err(format!("{name} has written down {stored} of {answered} requests"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// A counter without labels.
fn counter(metrics: &str, name: &str) -> Option<u64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let metrics = "# TYPE a counter\na_total_more 3\na_total 12\n";
        assert_eq!((counter(metrics, "a_total"), counter(metrics, "b")), (Some(12), None));
    }

    #[test]
    fn the_address_of_a_redis_is_in_its_url() {
        assert_eq!(redis_address("redis://127.0.0.1:6379/0").unwrap().port(), 6379);
        assert!(redis_address("redis://").is_err());
    }
}
