//! The soak: half of the full load for a long time, and then: has everything come back?
//!
//! 1. A gateway starts, with several hundred keys of twenty tenants, on SQLite.
//! 2. It is warmed up: each key is used, then users ask as fast as they are answered. That is the full
//!    rate.
//! 3. It is left alone until idle connections are let go: where memory and descriptors *begin*. Actors
//!    begin where there are no tenants' yet, before the first request.
//! 4. Users ask at half of the full rate, at a steady pace, for as long as was asked.
//! 5. It is left alone again, until idle actors are let go, too: where it *ends*.
//!
//! Judged is that it ends where it began: no descriptor and no actor more, and no memory beyond a margin.

mod report;
mod users;

use std::{
    collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc,
    time::Duration,
};

use clap::Args;
use identity::limits::Limits;
use rig::{
    out::note,
    seed::{CHEAP, Seeding},
};
use tokio::time::{Instant, sleep};

use crate::{
    sampling::{Look, Samples, look},
    started::{Gateway, Ollama, Programs, sqlite},
    table::{Verdict, step},
};
use report::Report;
use users::{Crowd, Tally};

/// Whom the gateway knows.
const TENANTS: usize = 20;
const KEYS: usize = 400;
/// Users at once: enough that at half of the full rate hardly anyone is late, however long streams are.
const USERS: usize = 128;
/// How long the limits of a tenant that asks for nothing are kept, and a connection that nobody uses.
const IDLE_AFTER: &str = "3s";
/// How long everything may take to come back: actors look once a minute whether they are idle.
const REST_MAX: Duration = Duration::from_secs(100);
/// How long nothing may have changed until it counts as rest.
const REST: Duration = Duration::from_secs(5);

/// How long to soak, and where to leave what was found.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    programs: Programs,
    /// For how long half of the full load is held.
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// Where the results go.
    #[arg(long)]
    results: PathBuf,
    /// Streams that are opened with the load and never closed, to see that the soak finds them.
    #[arg(long, default_value_t = 0)]
    leak: usize,
    /// Which commit the gateway is of.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The command that the reader would give.
    #[arg(long, default_value = "loadtest soak")]
    command: String,
}

/// Soaks, judges, writes down what was found.
pub(crate) async fn run(options: Options) -> Result<ExitCode, String> {
    step("starting");
    let scratch = &options.programs.scratch;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let ollama = Ollama::start(&options.programs, any).await?;
    let database = sqlite(scratch, "soak.db");
    // At its full cost Argon2's memory, 19 MiB a hash, would be most of what there is to see; the scenarios
    // `key-storm` and `wrong-key-flood` judge that.
    let seeding = Seeding::open(&database, CHEAP).await?;
    let mut tenants = Vec::with_capacity(TENANTS);
    for number in 0..TENANTS {
        tenants.push(seeding.tenant(&format!("tenant-{number}"), Limits::default()).await?);
    }
    let keys = seeding.keys(&tenants, "soak", KEYS, Limits::default()).await?;
    seeding.close().await;
    let gateway = Gateway::start(&options.programs, &settings(&database, &ollama)).await?;
    let crowd = Arc::new(Crowd::new(gateway.address, keys));
    let report = Box::pin(soak(&options, &gateway, &crowd)).await?;
    gateway.end().await;
    ollama.end().await?;

    step("has everything come back?");
    let mut verdict = Verdict::default();
    report.judge(&mut verdict);
    report.write(&options.results, &verdict)?;
    step(if verdict.is_wrong() { "WRONG: see above" } else { "all of it is so" });
    Ok(if verdict.is_wrong() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn settings(database: &str, ollama: &Ollama) -> BTreeMap<String, String> {
    [
        ("DATABASE_URL", database),
        ("NEURONETZ_UPSTREAMS", &format!("ollama=http://{}", ollama.address)),
        ("NEURONETZ_KEYS_ARGON2_MEMORY_KIB", &CHEAP.memory_kib.to_string()),
        ("NEURONETZ_KEYS_ARGON2_ITERATIONS", &CHEAP.iterations.to_string()),
        ("NEURONETZ_LIMITS_IDLE_AFTER", IDLE_AFTER),
        ("NEURONETZ_UPSTREAM_IDLE_TIMEOUT", IDLE_AFTER),
        // On a machine that is busy with something else the database may be slow to answer.
        ("NEURONETZ_DATABASE_ACQUIRE_TIMEOUT", "30s"),
        // One that reads, there from the beginning: more are opened when they are first needed, and stay.
        ("NEURONETZ_DATABASE_CONNECTIONS_MAX", "1"),
        ("NEURONETZ_SERVER_DRAIN_TIMEOUT", "1s"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Warms up, rests, holds half of the load, rests.
async fn soak(options: &Options, gateway: &Gateway, crowd: &Arc<Crowd>) -> Result<Report, String> {
    let seconds = Duration::from_secs(options.seconds);
    let started = look(gateway).await?;
    let counted = Arc::clone(crowd);
    let samples = Samples::begin(gateway, seconds, move || counted.answered());

    step("warming up");
    crowd.each_key_once().await;
    let warm_up = (seconds / 6).clamp(Duration::from_secs(5), Duration::from_secs(20));
    let before = crowd.answered();
    let begun = Instant::now();
    crowd.ask(USERS, None, warm_up).await;
    let full = (crowd.answered() - before) as f64 / begun.elapsed().as_secs_f64();
    note(&format!("  {full:.0} requests a second as fast as they are answered"));
    let began = rest(gateway, None).await?;

    let half = full / 2.0;
    step(&format!("{half:.0} requests a second for {} s", options.seconds));
    let leaked = crowd.leak(options.leak).await?;
    let load_begins = samples.now();
    let before = crowd.answered();
    crowd.ask(USERS, Some(half), seconds).await;
    let load_ends = samples.now();
    let reached = (crowd.answered() - before) as f64 / (load_ends - load_begins);

    step("leaving it alone");
    let ended = rest(gateway, Some((began.held.descriptors, started.actors))).await?;
    let samples = samples.end().await;
    drop(leaked);
    let tally: Tally = crowd.tally();
    Ok(Report {
        command: options.command.clone(),
        commit: options.commit.clone(),
        full,
        asked: half,
        reached,
        load: (load_begins, load_ends),
        started,
        began,
        ended,
        tally,
        samples,
    })
}

/// Waits until the gateway holds no more descriptors and actors than these, or, where that is not known,
/// until it opens and closes none any more.
async fn rest(gateway: &Gateway, wanted: Option<(usize, usize)>) -> Result<Look, String> {
    let deadline = Instant::now() + REST_MAX;
    let (mut last, mut since) = (look(gateway).await?, Instant::now());
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = look(gateway).await?;
        if now.held.descriptors != last.held.descriptors {
            since = Instant::now();
        }
        last = now;
        let is_back = wanted.is_none_or(|(descriptors, actors)| {
            now.held.descriptors <= descriptors && now.actors <= actors
        });
        if (is_back && since.elapsed() >= REST) || Instant::now() > deadline {
            return Ok(now);
        }
    }
}
