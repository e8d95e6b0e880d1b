//! `neuronetz serve`

use std::sync::Arc;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{failure::Failure, output::Out};
use crate::{
    clock::SystemClock,
    config::Config,
    descriptors,
    gateway::{self, Built, Ended, Outside},
    telemetry,
};

/// Runs the gateway until it is told to stop.
pub(super) async fn run(mut config: Config, out: &mut Out<'_>) -> Result<(), Failure> {
    telemetry::log(&config.log);
    descriptors::raise(&mut config);
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let built = build(config).await?;
    let (data, admin) = (built.data_address()?, built.admin_address()?);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, "listening on {scheme}://{data}; admin on http://{admin}");
    if out.is_json() {
        let listening = format!("{scheme}://{data}");
        let admin = format!("http://{admin}");
        out.value(&serde_json::json!({ "listening": listening, "admin": admin }))?;
    }
    until_told(built).await
}

/// Builds a gateway that counts for the whole process.
pub(super) async fn build(config: Config) -> Result<Built, Failure> {
    let metrics = telemetry::install()
        .map_err(|_| Failure::Failed("metrics are counted elsewhere already".to_owned()))?;
    Ok(gateway::build(config, Outside { clock: Arc::new(SystemClock), metrics }).await?)
}

/// Serves until SIGTERM or SIGINT, and stops in order; a second one ends it at once.
pub(super) async fn until_told(built: Built) -> Result<(), Failure> {
    let (stop, stops) = mpsc::channel(2);
    let ended = tokio::select! {
        ended = built.serve(stops) => ended,
        failure = signals(stop) => return Err(failure),
    };
    match ended {
        Ended::InOrder { unstored: 0 } => {
            tracing::info!("stopped in order");
            Ok(())
        }
        Ended::InOrder { unstored } => Err(Failure::Failed(format!(
            "stopped, but {unstored} audit events could not be stored: the database was away"
        ))),
        Ended::AtOnce => Err(Failure::EndedAtOnce),
        Ended::Failed(reason) => Err(Failure::Failed(reason)),
    }
}

/// Passes signals on; returns only where they cannot be heard.
async fn signals(stop: mpsc::Sender<()>) -> Failure {
    let hear = |kind| signal(kind);
    let (mut term, mut int) = match (hear(SignalKind::terminate()), hear(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => return error.into(),
    };
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        // Two are heard; a third has nothing left to say.
        let _ = stop.try_send(());
    }
}
