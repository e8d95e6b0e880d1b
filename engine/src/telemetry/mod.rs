//! What is counted and logged: the only place of this crate that speaks to those libraries.
//!
//! Names are in [`protocol::telemetry`]. Label values are bounded: of tenants and models the first so
//! many have series of their own ([`Series`]), the rest are words of enums.
#![expect(clippy::disallowed_macros, reason = "metrics are counted and described here")]

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use protocol::{
    cause::Cause,
    error::{Code, Side},
    telemetry::{self as names, Kind, METRICS, Metric},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

pub(crate) use self::series::{Ended, NOBODY, Series};
use crate::config;

mod series;

/// Bounds of whole requests and first bytes, in seconds: from a refusal to a cold 70B model.
const SECONDS: [f64; 16] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0,
    600.0,
];
/// Bounds of what should be quick, in seconds.
const SHORT_SECONDS: [f64; 13] = [
    0.000_001, 0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05,
    0.25, 1.0,
];
/// How often histograms are folded: at ten thousand requests a second that is some megabytes.
const FOLD_EVERY: Duration = Duration::from_secs(5);
/// Our own crates: their lines are ours, and hold no secret. Those of others could.
const OWN_CRATES: [&str; 5] = ["engine", "actors", "storage", "protocol", "identity"];

/// Why the gateway closed a connection by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Its client has all connections that one client may have.
    Address,
    /// No TLS in time.
    TlsHandshake,
    /// No whole head of a request in time.
    FirstRequest,
    /// No further request in time.
    Idle,
    /// It took nothing of what was to be written for too long.
    WriteTimeout,
    /// Too many frames without progress.
    Flood,
    /// The gateway drains.
    Drain,
}

/// Metrics are counted elsewhere already, or their bounds are none.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be counted here")]
pub struct NotInstalled;

/// Counts for the whole process from now on.
///
/// # Errors
/// Where something else counts already.
pub fn install() -> Result<PrometheusHandle, NotInstalled> {
    let mut builder = PrometheusBuilder::new();
    for (name, bounds) in [
        (names::REQUEST_DURATION_SECONDS, SECONDS.as_slice()),
        (names::FIRST_BYTE_SECONDS, SECONDS.as_slice()),
        (names::CANCEL_SECONDS, SHORT_SECONDS.as_slice()),
        (names::ACTOR_HANDLING_SECONDS, SHORT_SECONDS.as_slice()),
        (names::OVERHEAD_SECONDS, SHORT_SECONDS.as_slice()),
        (names::QUEUE_SECONDS, SECONDS.as_slice()),
    ] {
        let matcher = Matcher::Full(name.to_owned());
        builder = builder.set_buckets_for_metric(matcher, bounds).map_err(|_| NotInstalled)?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| NotInstalled)?;
    for Metric { name, kind, help } in METRICS {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, *help),
        }
    }
    Ok(handle)
}

/// Gathers what threads have counted and folds it into the buckets of histograms, again and again until it is
/// stopped: until then each value is kept by itself, and nobody need ever ask for the metrics. It also logs how
/// often something happened that goes on.
pub(crate) async fn fold(metrics: impl Fn(), stopped: CancellationToken) {
    while stopped.run_until_cancelled(sleep(FOLD_EVERY)).await.is_some() {
        metrics();
        actors::quiet::tell();
    }
}

/// Logs to stderr from now on; where something else logs already, it goes on.
pub fn log(settings: &config::Log) {
    let others = if settings.level == "error" { "error" } else { "warn" };
    let ours = OWN_CRATES.map(|name| format!(",{name}={}", settings.level)).concat();
    let builder = tracing_subscriber::fmt()
        // Where the database is slow, sqlx would warn of each statement.
        .with_env_filter(EnvFilter::new(format!("{others},sqlx=error{ours}")))
        .with_writer(std::io::stderr);
    let _ = if settings.json {
        builder.json().finish().try_init()
    } else {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        builder.with_ansi(terminal).finish().try_init()
    };
}

/// Publishes what is counted elsewhere: whoever reads the metrics calls this before.
pub(crate) fn publish(handles: &actors::Handles, series: &Series) {
    actors::measure::publish();
    series.gather();
    // So that what is not there now is said, too.
    gauge!(names::STREAMS_OPEN).increment(0.0);
    gauge!(names::CONNECTIONS_OPEN).increment(0.0);
    for (actor, count) in running(handles) {
        gauge!(names::ACTORS_RUNNING, "actor" => actor).set(count as f64);
    }
}

/// How many actors of each kind run.
pub(crate) fn running(handles: &actors::Handles) -> [(&'static str, usize); 6] {
    [
        ("root", 1),
        ("tenant", handles.admission.running()),
        ("upstream", handles.upstreams.views().len()),
        ("audit", 1),
        ("catalog", 1),
        ("sweeper", 1),
    ]
}

/// So many prompts could not be kept.
pub(crate) fn prompts_lost(count: usize) {
    if count > 0 {
        counter!(names::PROMPTS_LOST_TOTAL).increment(count as u64);
    }
}

/// A request waited for a slot.
pub(crate) fn queued(took: Duration) {
    histogram!(names::QUEUE_SECONDS).record(took);
}

/// A call of that upstream failed, and another one is tried.
pub(crate) fn retried(upstream: &str) {
    counter!(names::RETRIES_TOTAL, "upstream" => upstream.to_owned()).increment(1);
}

/// The word for a reply of an upstream that the gateway cannot translate: no sign that the server is sick.
pub(crate) const UNTRANSLATABLE: &str = "untranslatable";

/// A call of that upstream failed: a word for why.
pub(crate) fn upstream_fault(upstream: &str, kind: &'static str) {
    let upstream = upstream.to_owned();
    counter!(names::UPSTREAM_FAULTS_TOTAL, "upstream" => upstream, "kind" => kind).increment(1);
}

/// That upstream says why it does not do what the tenant asked.
pub(crate) fn caused(upstream: &str, tenant: &str, cause: Cause) {
    upstream_fault(upstream, cause.code().as_str());
    match cause.code().side() {
        Side::Client => tracing::debug!(%upstream, %tenant, %cause, "a model server refused"),
        Side::Gateway | Side::Upstream => {
            actors::quiet!(warn, "a model server cannot serve", upstream; %upstream, %tenant, %cause);
        }
    }
}

/// A stream has begun (1) or ended (-1).
pub(crate) fn streams_open(change: i8) {
    gauge!(names::STREAMS_OPEN).increment(f64::from(change));
}

/// The client of a stream had gone; so long after, the upstream's connection was closed.
pub(crate) fn cancelled(after: Duration) {
    histogram!(names::CANCEL_SECONDS).record(after);
}

/// A connection was opened (1) or closed (-1).
pub(crate) fn connections_open(change: i8) {
    gauge!(names::CONNECTIONS_OPEN).increment(f64::from(change));
}

/// The gateway closed a connection by itself.
pub(crate) fn connection_closed(why: Closed) {
    counter!(names::CONNECTIONS_CLOSED_TOTAL, "reason" => why.as_str()).increment(1);
}

/// A stream was given up, since its client took nothing of it for too long.
pub(crate) fn stream_stalled() {
    counter!(names::STREAMS_STALLED_TOTAL).increment(1);
}

/// A connection could not be accepted.
pub(crate) fn accept_failed() {
    counter!(names::ACCEPT_FAILURES_TOTAL).increment(1);
}

/// A key was compared with its stored hash.
pub(crate) fn key_verified(right: bool) {
    let result = if right { "right" } else { "wrong" };
    counter!(names::KEY_VERIFICATIONS_TOTAL, "result" => result).increment(1);
}

/// A key was refused without a comparison.
pub(crate) fn key_refused(why: &'static str) {
    counter!(names::KEY_VERIFICATIONS_TOTAL, "result" => why).increment(1);
}

/// A request was refused because a check could not be made.
pub(crate) fn failed_closed(code: Code) {
    counter!(names::FAIL_CLOSED_TOTAL, "reason" => code.as_str()).increment(1);
}

// === impl Closed ===

impl Closed {
    /// As the metrics call it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::TlsHandshake => "tls_handshake",
            Self::FirstRequest => "first_request",
            Self::Idle => "idle",
            Self::WriteTimeout => "write_timeout",
            Self::Flood => "flood",
            Self::Drain => "drain",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn histograms_are_folded_whether_or_not_anybody_asks_for_them() {
        let (folded, stopped) = (Cell::new(0), CancellationToken::new());
        let goes_on = fold(|| folded.set(folded.get() + 1), stopped.clone());
        let _ = timeout(Duration::from_secs(61), goes_on).await;
        assert_eq!(folded.get(), 12);
        stopped.cancel();
        let began = Instant::now();
        fold(|| folded.set(0), stopped).await;
        assert_eq!((folded.get(), began.elapsed()), (12, Duration::ZERO));
    }
}
