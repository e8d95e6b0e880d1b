//! Everybody attacks at once, in every way that is known, beside a tenant that behaves well: does it notice?
//!
//! 1. The gateway starts in front of three scripted model servers: one for all, one that speaks as llama.cpp
//!    does, one with a single slot.
//! 2. The honest tenant asks at its steady rate, alone: what it sees is its quiet time.
//! 3. The gateway is left alone: where memory and descriptors *begin*.
//! 4. All attack, while the honest tenant asks as before.
//! 5. It is left alone again: where it *ends*.
//! 6. It is told to stop while streams are open that nobody reads.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | `scenario.toml` |
//! | [`honest`], [`attackers`] | who asks |
//! | [`wire`], [`h2`] | HTTP as cheaply as attackers speak it |
//! | [`tally`], [`metrics`] | counts, theirs and the gateway's |
//! | [`judge`], [`report`] | what was expected, what was found |
//! | [`stage`] | what is started for it |

mod attackers;
mod config;
mod h2;
mod honest;
mod judge;
mod metrics;
mod report;
mod stage;
mod tally;
mod wire;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use rig::{
    out::{note, say},
    proc::Stolen,
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    proc,
    sampling::{Look, Samples, look},
    started::{Gateway, Programs},
    table::{Verdict, step},
};
use attackers::Attack;
use config::Scenario;
use honest::Honest;
use report::{Report, Stopped};
use stage::Stage;

/// How long everything may take to come back.
const REST_MAX: Duration = Duration::from_secs(60);
/// How long nothing may have changed until it counts as rest.
const REST: Duration = Duration::from_secs(3);
/// Streams that nobody reads, on connections of four, and connections that ask for nothing, which are open when
/// the gateway is told to stop.
const HELD_AT_END: usize = 3;
const IDLE_AT_END: usize = 10;
/// What a run ends with where nothing is wrong and not everything could be judged.
const UNJUDGED: u8 = 3;

/// Which scenario, on what.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder of the scenario.
    scenario: PathBuf,
    #[command(flatten)]
    programs: Programs,
    /// A Postgres with nothing in it; absent: SQLite, in the scratch directory.
    #[arg(long)]
    postgres: Option<String>,
    /// A Redis; absent: the process counts alone.
    #[arg(long)]
    redis: Option<String>,
    /// How long the attack lasts, instead of what the scenario says.
    #[arg(long)]
    seconds: Option<u64>,
    /// Times, peaks and rates are told and not judged: on a debug build they say nothing.
    #[arg(long)]
    lenient: bool,
    /// Only these kinds of attackers, with commas between: to find which one it is.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the results go.
    #[arg(long)]
    results: PathBuf,
    /// A file to which a line of what was found is added.
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Which commit the gateway is of.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The command that the reader would give.
    #[arg(long, default_value = "loadtest hostile")]
    command: String,
}

/// Attacks, judges, writes down what was found.
pub(crate) async fn run(options: Options) -> Result<ExitCode, String> {
    let mut scenario = Scenario::read(&options.scenario.join("scenario.toml"))?;
    if let Some(seconds) = options.seconds {
        scenario.seconds = seconds;
        scenario.quiet_seconds = scenario.quiet_seconds.min(seconds.div_ceil(2));
    }
    if !options.only.is_empty() {
        let wanted = |name: &str| options.only.iter().any(|only| only == name);
        scenario.attackers.retain(|attackers| wanted(attackers.kind.name()));
    }
    step(&format!("hostile: {}", scenario.about));
    let stage = Stage::set(&options, &scenario).await?;
    let report = Box::pin(attack(&options, scenario, stage)).await?;

    step("hostile: did it keep its word?");
    let mut verdict = Verdict::default();
    report.judge(&mut verdict);
    report.write(&options.results, &verdict)?;
    report.summarize(options.summary.as_deref(), &verdict)?;
    let is_judged = verdict.lines.iter().all(|line| line.is_ok.is_some());
    step(match (verdict.is_wrong(), is_judged) {
        (true, _) => "WRONG: see above",
        (false, false) => "nothing is wrong, but not all could be judged",
        (false, true) => "all of it is so",
    });
    Ok(match (verdict.is_wrong(), is_judged) {
        (true, _) => ExitCode::FAILURE,
        (false, false) => ExitCode::from(UNJUDGED),
        (false, true) => ExitCode::SUCCESS,
    })
}

/// The quiet time, the attack, the rest, the stop.
async fn attack(options: &Options, scenario: Scenario, stage: Stage) -> Result<Report, String> {
    let gateway = &stage.gateway;
    let (quiet, long) =
        (Duration::from_secs(scenario.quiet_seconds), Duration::from_secs(scenario.seconds));
    let honest =
        Arc::new(Honest::new(gateway.address, stage.honest.clone(), stage.new_keys.clone()));
    let counted = Arc::clone(&honest);
    let samples = Samples::begin(gateway, quiet + long, move || counted.count());

    step(&format!("{} s of quiet", scenario.quiet_seconds));
    honest.each_key_once().await?;
    honest.ask(scenario.honest, quiet).await;
    let began = rest(gateway, None).await?;
    let rows_before = stage::stored(&gateway.metrics().await?);

    step(&format!("{} s of attack by {} kinds", scenario.seconds, scenario.attackers.len()));
    let attacks = stage.attacks(&scenario);
    for attack in &attacks {
        attack.prepare().await.map_err(|error| format!("attackers: {error}"))?;
    }
    let log_before = stage.log_bytes();
    let attack_begins = honest.now();
    let stolen = Stolen::now();
    let cpu = |pid| proc::cpu_seconds(pid).unwrap_or(0.0);
    let cpu_before = (cpu(gateway.process.pid()), cpu(std::process::id()));
    let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
    for attack in &attacks {
        attack.begin(&tasks, &over);
    }
    honest.ask(scenario.honest, long).await;
    let attack_ends = honest.now();
    over.cancel();
    tasks.close();
    tasks.wait().await;
    let stolen = Stolen::now().since(stolen);
    let cpu_seconds =
        (cpu(gateway.process.pid()) - cpu_before.0, cpu(std::process::id()) - cpu_before.1);
    let log_bytes = stage.log_bytes().saturating_sub(log_before);
    show(&attacks);

    step("leaving it alone");
    let ended = rest(gateway, Some((began, &scenario))).await?;
    let metrics = gateway.metrics().await?;
    let peak_kib = proc::peak_kib(gateway.process.pid())?;
    let samples = samples.end().await;

    step("telling it to stop, with streams open that nobody reads");
    let mut report = Report {
        command: options.command.clone(),
        commit: options.commit.clone(),
        is_lenient: options.lenient,
        attack: (attack_begins, attack_ends),
        began,
        ended,
        peak_kib,
        cpu_seconds,
        stolen,
        log_bytes,
        rows: stage::stored(&metrics).saturating_sub(rows_before),
        asked: honest.asked(),
        attackers: attacks.iter().map(|it| (it.of.kind, it.tally.counts())).collect(),
        metrics,
        stopped: Stopped::default(),
        samples,
        scenario,
    };
    report.stopped = Box::pin(stop(stage)).await?;
    Ok(report)
}

fn show(attacks: &[Arc<Attack>]) {
    for attack in attacks {
        let counts = attack.tally.counts();
        let name = attack.of.kind.name();
        say(&format!("  {name:<15} {:>6} sent; {}", counts.sent, counts.shown()));
    }
}

/// Waits until the gateway holds no more than before, or, where that is not known, until it opens and closes
/// no descriptors any more.
async fn rest(gateway: &Gateway, wanted: Option<(Look, &Scenario)>) -> Result<Look, String> {
    let deadline = Instant::now() + REST_MAX;
    let (mut last, mut since) = (None::<Look>, Instant::now());
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = match look(gateway).await {
            Ok(now) => now,
            // It may still be busy with what attackers have left behind.
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => continue,
        };
        if last.is_none_or(|last| now.held.descriptors != last.held.descriptors) {
            since = Instant::now();
        }
        last = Some(now);
        let is_back = wanted.is_none_or(|(began, scenario)| {
            judge::descriptors_are_back(scenario, began, now)
                && judge::memory_is_back(scenario, began, now)
        });
        if (is_back && since.elapsed() >= REST) || Instant::now() > deadline {
            return Ok(now);
        }
    }
}

/// Stops the gateway while connections are open that will not end by themselves.
async fn stop(stage: Stage) -> Result<Stopped, String> {
    let (to, key) = (stage.gateway.address, stage.stopped.clone());
    let from = std::net::Ipv4Addr::new(127, 0, 2, 1);
    let text = |error: std::io::Error| format!("connections that are held at the end: {error}");
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..HELD_AT_END {
        let opened = attackers::never_reading((from, to), (stage::STOPPED, &key), 50);
        held.push(opened.await.map_err(text)?);
    }
    for _ in 0..IDLE_AT_END {
        held.push(attackers::pinging((from, to)).await.map_err(text)?);
    }
    let streams = HELD_AT_END as u64 * u64::from(attackers::STREAMS);
    if !stage.streams_open(streams).await? {
        note("  the streams that are to be open at the end are not");
    }
    let stopped = stage.end(streams).await?;
    drop(held);
    Ok(stopped)
}
