//! The tasks that run as long as the gateway, each watched: one that ends early ends the process.

use std::{sync::Arc, time::Duration};

use actors::tasks::Watched;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::{
    changes,
    gateway::Gateway,
    http::{listener::Listener, tls::Certificate, workers::Workers},
    telemetry,
};

/// What the tasks own.
pub(crate) struct Parts {
    /// The data listener.
    pub(crate) data: Listener,
    /// The threads that serve its connections.
    pub(crate) workers: Arc<Workers>,
    /// The admin listener.
    pub(crate) admin: TcpListener,
    /// What it answers.
    pub(crate) admin_router: axum::Router,
    /// Where metrics are folded.
    pub(crate) metrics: PrometheusHandle,
    /// The certificate of the data listener. `None`: it speaks no TLS.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// Starts them all.
pub(crate) fn start(watched: &Watched, gateway: &Arc<Gateway>, parts: Parts) {
    let stopped = gateway.life.stopped();
    let accept = parts.data.accept(Arc::clone(gateway), parts.workers);
    watched.spawn("the accept loop", accept);
    changes::start(watched, gateway);
    watched.spawn("the pruning of connections", prune(Arc::clone(gateway)));
    let (counting, metrics) = (Arc::clone(gateway), parts.metrics);
    let fold = move || {
        counting.series.gather();
        metrics.run_upkeep();
    };
    watched.spawn("the metrics fold", telemetry::fold(fold, stopped.clone()));
    if let Some(certificate) = parts.certificate {
        watched.spawn("the certificate follower", certificate.follow(stopped.clone()));
    }
    let served = axum::serve(parts.admin, parts.admin_router)
        .with_graceful_shutdown(stopped.clone().cancelled_owned());
    watched.spawn("the admin listener", async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "the admin listener failed");
        }
    });
}

/// Closes connections to upstreams that have been idle for too long.
async fn prune(gateway: Arc<Gateway>) {
    let stopped = gateway.life.stopped().clone();
    let every = gateway.upstream.idle_timeout.max(Duration::from_secs(1));
    while stopped.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        gateway.client.prune();
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use protocol::id::{KeyId, RequestId, TenantId};
    use storage::{
        Storage,
        changes::{Change, Changes, Feed},
        prompts::{Prompt, Prompts},
    };
    use tokio::{sync::mpsc, time::timeout};
    use uuid::Uuid;

    use super::*;
    use crate::{
        clock::SystemClock,
        config::{Config, env::Environment},
        gateway::{Built, Ended, Outside, build_on},
    };

    /// A port with a bug.
    struct Panics;

    #[async_trait]
    impl Changes for Panics {
        async fn feed(&self) -> storage::Result<Box<dyn Feed>> {
            Ok(Box::new(Self))
        }
    }

    #[async_trait]
    impl Feed for Panics {
        async fn next(&mut self) -> storage::Result<Vec<Change>> {
            panic!("a bug in the feed");
        }
    }

    #[async_trait]
    impl Prompts for Panics {
        async fn add(&self, _: &[Prompt]) -> storage::Result<()> {
            panic!("a bug in the log of prompts");
        }
        async fn list(&self, _: KeyId, _: u32) -> storage::Result<Vec<Prompt>> {
            Ok(Vec::new())
        }
        async fn forget_expired(&self, _: jiff::Timestamp, _: u32) -> storage::Result<u64> {
            Ok(0)
        }
    }

    /// A gateway on a database of its own, with something wrong with its ports.
    async fn gateway(break_it: impl FnOnce(&mut Storage)) -> Built {
        let config = storage::Config {
            url: protocol::secret::Secret::new("sqlite::memory:".to_owned()),
            connections_max: 1,
            acquire_timeout: Duration::from_secs(20),
            deadlines: storage::Deadlines::default(),
        };
        let mut storage = storage::open(config).await.unwrap();
        storage.database.migrate().await.unwrap();
        break_it(&mut storage);
        let settings = [
            ("NEURONETZ_LISTEN", "127.0.0.1:0"),
            ("NEURONETZ_ADMIN_LISTEN", "127.0.0.1:0"),
            ("NEURONETZ_UPSTREAMS", "ollama=http://127.0.0.1:1"),
            ("NEURONETZ_SERVER_DRAIN_TIMEOUT", "0s"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = Environment::of(settings);
        let config = Config::load(None, &environment, |path| std::fs::read_to_string(path));
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let outside = Outside { clock: Arc::new(SystemClock), metrics };
        build_on(storage, config.unwrap_or_else(|e| panic!("{e}")), outside).await.unwrap()
    }

    async fn ended(built: Built) -> Ended {
        let (_stops, told) = mpsc::channel(1);
        timeout(Duration::from_secs(60), built.serve(told)).await.unwrap()
    }

    fn failed(name: &str) -> Ended {
        Ended::Failed(format!("{name} ended early: it panicked"))
    }

    #[tokio::test]
    async fn a_change_listener_that_panics_ends_the_gateway_and_nobody_counts_as_heard() {
        let built = gateway(|storage| storage.changes = Arc::new(Panics)).await;
        let gateway = built.gateway();
        assert_eq!(ended(built).await, failed("the change listener"));
        assert!(!gateway.keyring.hears_changes());
    }

    #[tokio::test]
    async fn a_prompt_writer_that_panics_ends_the_gateway() {
        let built = gateway(|storage| storage.prompts = Arc::new(Panics)).await;
        let (request, key) = (RequestId(Uuid::from_u128(1)), KeyId(Uuid::from_u128(2)));
        let who = (TenantId(Uuid::from_u128(3)), key);
        assert!(built.gateway().prompts.try_keep(request, who, &bytes::Bytes::from_static(b"{}")));
        assert_eq!(ended(built).await, failed("the prompt writer"));
    }

    #[tokio::test]
    async fn a_gateway_that_is_told_to_stop_has_not_failed() {
        let built = gateway(|_| ()).await;
        let (stops, told) = mpsc::channel(1);
        stops.send(()).await.unwrap();
        let ended = timeout(Duration::from_secs(60), built.serve(told)).await.unwrap();
        assert_eq!(ended, Ended::InOrder { unstored: 0 });
    }
}
