//! The scenarios: users who do what `loadtests/scenarios/NAME/scenario.toml` says, and what is expected of
//! the gateway meanwhile. The users are goose's or locust's; what became of each request they write into a
//! file that is judged here.

mod config;
mod faults;
pub(crate) mod judge;
mod outcomes;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use identity::{hashing::Hashing, limits::Limits};
use rig::{out::say, proc::Stolen, seed::Seeding};
use tokio::{process::Command, time::timeout};

use crate::{
    keys, proc,
    started::{Gateway, Ollama, Programs},
    table::{Verdict, step},
};
use config::{Changes, KeyKind, Scenario};
use faults::{RedisServer, Span, Victims};

/// How long the generator may take beyond the time of the scenario: it makes its users first, of which
/// thousands take more than a minute, and waits for what they have begun.
const BESIDES: Duration = Duration::from_secs(300);
/// What a run ends with where nothing is wrong and not everything could be judged.
const UNJUDGED: u8 = 3;

/// Which scenario, on what.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder of the scenario.
    scenario: PathBuf,
    #[command(flatten)]
    programs: Programs,
    /// goose's program.
    #[arg(long, required_unless_present = "locust")]
    goose: Option<PathBuf>,
    /// locust's program, to let it ask instead of goose.
    #[arg(long)]
    locust: Option<PathBuf>,
    /// A Postgres with nothing in it, `postgres://…`
    #[arg(long)]
    postgres: String,
    /// A Redis, `redis://HOST:PORT`, and its process, which faults are done to.
    #[arg(long)]
    redis: String,
    #[arg(long)]
    redis_pid: i32,
    /// Another number of users in all.
    #[arg(long)]
    users: Option<usize>,
    /// Another time.
    #[arg(long)]
    seconds: Option<u64>,
    /// Another limit of requests per minute, where there is one.
    #[arg(long)]
    limit: Option<u64>,
    /// A file to which a line of what was found is added.
    #[arg(long)]
    summary: Option<PathBuf>,
}

/// What there is after users have asked.
struct Found {
    outcomes: Vec<outcomes::Outcome>,
    spans: Vec<Span>,
    peak_kib: u64,
    metrics: String,
    stolen: f64,
    cpu_seconds: f64,
    /// What the scripted Ollamas say that they have done.
    said: Vec<serde_json::Value>,
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs a scenario and judges it.
pub(crate) async fn run(options: Options) -> Result<ExitCode, String> {
    let mut scenario = Scenario::read(&options.scenario.join("scenario.toml"))?;
    let Options { users, seconds, limit, .. } = options;
    scenario.change(Changes { users, seconds, limit });
    if let (Some(why), true) = (&scenario.not_with_locust, options.locust.is_some()) {
        return Err(format!("not with locust: {why}"));
    }
    let name = options.scenario.file_name().unwrap_or_default().to_string_lossy().into_owned();
    step(&format!("{name}: {}", scenario.about));
    let found = Box::pin(put_under_load(&options, &scenario)).await?;
    for line in judge::times(&scenario, &found.outcomes) {
        say(&line);
    }

    step(&format!("{name}: did it keep its word?"));
    let mut verdict = Verdict::default();
    judge::users(&mut verdict, &scenario, &found.outcomes, &found.spans);
    let stolen = options.locust.is_none().then_some(found.stolen);
    judge::gateway(&mut verdict, &scenario, found.peak_kib, &found.metrics, stolen);
    database(&mut verdict, &options, &scenario, &found).await?;
    let requests = judge::sum(&found.metrics, "gateway_overhead_seconds_count");
    let cpu_ms = 1_000.0 * found.cpu_seconds / requests;
    let memory = found.peak_kib as f64 / 1024.0;
    verdict.remark("the most memory it had, in MiB", &format!("{memory:.1}"));
    verdict.remark("requests that came to a decision", &format!("{requests:.0}"));
    verdict.remark("CPU of the gateway for each, in ms", &format!("{cpu_ms:.3}"));
    verdict.remark("time of the machine that others took, in %", &format!("{:.1}", found.stolen));
    finish(&options, &name, &found, &verdict)
}

fn finish(
    options: &Options,
    name: &str,
    found: &Found,
    verdict: &Verdict,
) -> Result<ExitCode, String> {
    let wrong = verdict.lines.iter().filter(|line| line.is_ok == Some(false)).count();
    let (judgement, code) = if wrong > 0 {
        (format!("WRONG ({wrong})"), ExitCode::FAILURE)
    } else if verdict.lines.iter().any(|line| line.is_ok.is_none()) {
        ("not all judged".to_owned(), ExitCode::from(UNJUDGED))
    } else {
        ("ok".to_owned(), ExitCode::SUCCESS)
    };
    step(&format!("{name}: {judgement}"));
    if let Some(path) = &options.summary {
        let file = fs::File::options().create(true).append(true).open(path);
        let served = found.outcomes.iter().filter(|it| it.is_served()).count();
        let memory = found.peak_kib as f64 / 1024.0;
        let requests = found.outcomes.len();
        file.and_then(|mut file| {
            writeln!(file, "{name:<16} {requests:>9} {served:>9} {memory:>11.1}   {judgement}")
        })
        .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(code)
}

/// Starts everything, lets users ask, ends everything.
async fn put_under_load(options: &Options, scenario: &Scenario) -> Result<Found, String> {
    let scratch = &options.programs.scratch;
    let mut ollamas = Vec::new();
    for _ in 0..scenario.upstreams {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        ollamas.push(Ollama::start(&options.programs, any).await?);
    }
    make_keys(options, scenario).await?;
    let gateway = Gateway::start(&options.programs, &settings(options, scenario, &ollamas)).await?;
    let redis = options.redis.trim_start_matches("redis://").trim_end_matches('/');
    let redis = RedisServer {
        pid: options.redis_pid,
        address: redis.parse().map_err(|_| format!("{redis} is no address"))?,
        scratch: scratch.clone(),
    };
    let victims = Victims { programs: options.programs.clone(), ollamas, redis, second: None };
    let mut generator = generator(options, scenario, gateway.address)?;
    let stolen = Stolen::now();
    let mut child = generator.spawn().map_err(|error| format!("the generator: {error}"))?;
    let most = Duration::from_secs(scenario.seconds) + BESIDES;
    let waited = async {
        let ended = timeout(most, child.wait()).await.map_err(|_| "the generator does not end")?;
        ended.map_err(|error| error.to_string())
    };
    let (ended, suffered) = tokio::join!(waited, victims.suffer(&scenario.faults));
    let (mut victims, spans) = suffered?;
    // locust ends with 1 where a request failed, which is judged here.
    if !ended?.success() && options.locust.is_none() {
        return Err("the generator failed; see generator.log".to_owned());
    }
    let stolen = Stolen::now().since(stolen);
    let metrics = gateway.metrics().await?;
    let peak_kib = proc::peak_kib(gateway.process.pid())?;
    let cpu_seconds = proc::cpu_seconds(gateway.process.pid())?;
    gateway.end().await;
    let mut said = Vec::new();
    for ollama in victims.ollamas.drain(..) {
        said.push(serde_json::from_str(&ollama.end().await?).map_err(|error| error.to_string())?);
    }
    let outcomes = outcomes::read(&scratch.join("outcomes"))?;
    Ok(Found { outcomes, spans, peak_kib, metrics, stolen, cpu_seconds, said })
}

fn settings(
    options: &Options,
    scenario: &Scenario,
    ollamas: &[Ollama],
) -> BTreeMap<String, String> {
    let mut settings = scenario.gateway.clone();
    let upstreams: Vec<String> = ollamas
        .iter()
        .enumerate()
        .map(|(number, ollama)| format!("ollama-{number}=http://{}", ollama.address))
        .collect();
    settings.insert("NEURONETZ_UPSTREAMS".to_owned(), upstreams.join(","));
    settings.insert("DATABASE_URL".to_owned(), options.postgres.clone());
    settings.insert("REDIS_URL".to_owned(), options.redis.clone());
    settings
}

/// Makes the keys of the scenario, a file for each name, a key a line.
async fn make_keys(options: &Options, scenario: &Scenario) -> Result<(), String> {
    let directory = options.programs.scratch.join("keys");
    fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    let seeding = Seeding::open(&options.postgres, Hashing::OWASP).await?;
    let tenant = seeding.tenant("load", Limits::default()).await?;
    let mut real = Vec::new();
    // Lookalikes need what they look like.
    let mut all: Vec<_> = scenario.keys.iter().collect();
    all.sort_by_key(|(_, keys)| keys.kind != KeyKind::Real);
    for (name, keys) in all {
        let count = keys.count;
        let made: Vec<String> = match keys.kind {
            KeyKind::Real => {
                let limits = Limits { rpm: keys.rpm, ..Limits::default() };
                seeding.keys(&[tenant], name, count, limits).await?
            }
            KeyKind::Forged => (0..count).map(|_| keys::forged()).collect::<Result<_, _>>()?,
            KeyKind::Lookalike => {
                let of = real.iter().cycle().take(count);
                of.map(|key: &String| keys::lookalike(key)).collect::<Result<_, _>>()?
            }
            KeyKind::Garbage => (0..count).map(|_| keys::garbage()).collect(),
        };
        let path = directory.join(name);
        fs::write(&path, made.join("\n"))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if keys.kind == KeyKind::Real {
            real.extend(made);
        }
    }
    seeding.close().await;
    Ok(())
}

/// goose or locust, ready to be started.
fn generator(
    options: &Options,
    scenario: &Scenario,
    gateway: SocketAddr,
) -> Result<Command, String> {
    let scratch = &options.programs.scratch;
    let users = scenario.users.iter().map(|users| users.count).sum::<usize>().to_string();
    let (host, time) = (format!("http://{gateway}"), format!("{}s", scenario.seconds));
    let mut command = match (&options.locust, &options.goose) {
        (Some(locust), _) => {
            let mut command = Command::new(locust);
            command.args(["--locustfile", "loadtests/locustfile.py", "--headless"]);
            command.args(["--only-summary", "--stop-timeout", "60", "--spawn-rate", &users]);
            command
        }
        (None, Some(goose)) => {
            let mut command = Command::new(goose);
            command.args(["--no-telnet", "--no-websocket", "--no-reset-metrics"]);
            command.args(["--increase-rate", &users]);
            command
        }
        (None, None) => return Err("neither goose nor locust".to_owned()),
    };
    command.args(["--host", &host, "--users", &users, "--run-time", &time]);
    for users in &scenario.users {
        command.env(format!("LOADTEST_USERS_{}", users.name), users.count.to_string());
    }
    command.env("LOADTEST_SCENARIO", options.scenario.join("scenario.toml"));
    command.env("LOADTEST_KEYS", scratch.join("keys"));
    command.env("LOADTEST_OUTCOMES", scratch.join("outcomes"));
    let log = |name: &str| {
        let path = scratch.join(name);
        fs::File::create(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    command.stdout(log("generator.out")?).stderr(log("generator.log")?).kill_on_drop(true);
    Ok(command)
}

/// Judges what the database says. That audit and ledger agree is expected of every scenario.
async fn database(
    verdict: &mut Verdict,
    options: &Options,
    scenario: &Scenario,
    found: &Found,
) -> Result<(), String> {
    let tokens = "SELECT sum(prompt_tokens + completion_tokens) FROM gateway.";
    let agree = config::Sql {
        what: "tokens in the ledger, as in the audit".to_owned(),
        query: format!("{tokens}usage_ledger"),
        is: format!("{tokens}audit_events"),
    };
    for config::Sql { what, query, is } in std::iter::once(&agree).chain(&scenario.expect.sql) {
        let limit = scenario.limit().unwrap_or(0).to_string();
        let wanted = if is.starts_with("SELECT") {
            ask(&options.postgres, is).await?
        } else if let Some(field) = is.strip_prefix("ollama:") {
            found.said.iter().filter_map(|said| said[field].as_u64()).sum::<u64>().to_string()
        } else {
            is.replace("{limit}", &limit)
        };
        let value = ask(&options.postgres, query).await?;
        let shown = if value == wanted { value.clone() } else { format!("{value}, not {wanted}") };
        verdict.expect(value == wanted, what, shown);
    }
    Ok(())
}

async fn ask(url: &str, query: &str) -> Result<String, String> {
    let mut command = Command::new("psql");
    command.args([url, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-c", query]);
    let output = command.output().await.map_err(|error| format!("psql: {error}"))?;
    if !output.status.success() {
        return Err(format!("psql: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
