//! Streams that are open and say nothing: what each costs in memory.

use std::time::Duration;

use rig::{out::note, process::Signal};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    load::Plan,
    measure::{self, Load, Witness},
    replies::Dialect,
    scenario::Shape,
    servers::{Kind, Server},
};

/// Requests before, so that what a server sets up once is there.
const BEFORE: u64 = 200;
/// How long memory may come to rest.
const REST: Duration = Duration::from_secs(1);

/// What open, quiet streams cost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Quiet {
    pub(crate) server: String,
    pub(crate) is_nginx: bool,
    pub(crate) translated: bool,
    pub(crate) streams: usize,
    /// KiB a stream.
    pub(crate) each_kib: f64,
    /// MiB before and with them.
    pub(crate) before_mib: f64,
    pub(crate) held_mib: f64,
    /// How long it took to open all of them.
    pub(crate) opened_s: f64,
}

/// Opens so many streams through a server that was started for it.
pub(crate) async fn measure(
    witness: &Witness,
    mut server: Server,
    dialect: Dialect,
    streams: usize,
) -> Result<Quiet, String> {
    let translated = server.dialect(dialect) == Dialect::OpenAi;
    note(&format!(
        "  quiet/{streams}: {}{}",
        server.name,
        if translated { ", translated" } else { "" }
    ));
    let plan = Plan {
        address: server.address,
        path: measure::path(server.dialect(dialect)).to_owned(),
        headers: server.headers.clone(),
        body: Shape::Whole.body(),
        keys: server.key.clone(),
        connections: 1,
        warmup: BEFORE,
        requests: 0,
        spread_ms: 0,
        hold: false,
    };
    let (load, warm) = Load::start(&plan, &witness.place).await?;
    measure::no_failures(warm.failures, warm.failure.as_deref())?;
    load.ended().await;
    sleep(REST).await;
    let group = server.group();
    let before = group.memory().now_kib;

    let plan = Plan { body: Shape::Held.body(), connections: streams, hold: true, ..plan };
    let start = Instant::now();
    let (mut load, warm) = Load::start(&plan, &witness.place).await?;
    measure::no_failures(warm.failures, warm.failure.as_deref())?;
    let opened_s = start.elapsed().as_secs_f64();
    sleep(REST).await;
    let held = group.memory().now_kib;
    let done = load.go().await?;
    measure::no_failures(done.failures, done.failure.as_deref())?;
    load.ended().await;
    let quiet = Quiet {
        is_nginx: server.kind == Kind::Nginx,
        server: server.name,
        translated,
        streams,
        each_kib: (held as f64 - before as f64) / streams as f64,
        before_mib: before as f64 / 1024.0,
        held_mib: held as f64 / 1024.0,
        opened_s,
    };
    server.process.end(Signal::TERM).await;
    Ok(quiet)
}
