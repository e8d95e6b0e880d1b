//! How the gateway is: `/healthz` says that the process answers, `/readyz` what it can do.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::{gateway::Gateway, phase::Phase};

/// How long a part may take to say how it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The process answers.
#[derive(Serialize, ToSchema)]
pub struct Live {
    status: &'static str,
}

/// What the gateway can do, part by part.
#[derive(Serialize, ToSchema)]
pub struct Ready {
    /// Whether it can serve.
    pub ready: bool,
    status: &'static str,
    database: &'static str,
    /// Whether limits can be checked: by Redis, or by this process alone.
    limits: &'static str,
    changes: &'static str,
    audit: AuditPart,
    catalog: &'static str,
    /// On the admin listener alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstreams: Option<Vec<UpstreamPart>>,
}

#[derive(Serialize, ToSchema)]
struct AuditPart {
    status: &'static str,
    /// On the admin listener alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<usize>,
}

#[derive(Serialize, ToSchema)]
struct UpstreamPart {
    name: String,
    status: &'static str,
    models: usize,
}

/// The parts that are asked outside of the process.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    database: bool,
    /// `None`: this process holds the limits alone.
    redis: Option<bool>,
}

/// The process answers.
#[must_use]
pub fn live() -> Live {
    Live { status: "ok" }
}

// === impl Ready ===

impl Ready {
    /// What those may know who need no key: which kind of part is away, and nothing about each.
    #[must_use]
    pub(crate) fn for_strangers(mut self) -> Self {
        (self.upstreams, self.audit.waiting) = (None, None);
        self
    }
}

// === impl Parts ===

impl Parts {
    /// Asks all of them at once, within a second.
    async fn ask(gateway: Arc<Gateway>) -> Self {
        let database = async {
            let ping = timeout(ANSWER_TIMEOUT, gateway.storage.database.ping());
            matches!(ping.await, Ok(Ok(())))
        };
        let redis = async {
            let redis = gateway.redis.as_ref()?;
            Some(matches!(timeout(ANSWER_TIMEOUT, redis.ping()).await, Ok(Ok(()))))
        };
        let (database, redis) = tokio::join!(database, redis);
        Self { database, redis }
    }
}

/// How each part is; those outside of the process are asked at most once a second. Ready is who serves, reaches
/// its database, can check limits, and knows which models there are.
pub async fn ready(gateway: &Arc<Gateway>) -> Ready {
    let asked = gateway.answers.parts.get(|| Parts::ask(Arc::clone(gateway))).await;
    let away = Parts { database: false, redis: gateway.redis.as_ref().map(|_| false) };
    let Parts { database, redis } = asked.unwrap_or(away);
    let limits = match redis {
        None => "local",
        Some(true) => "ok",
        Some(false) => "unavailable",
    };
    let catalog = gateway.handles.catalog.current().is_ok();
    let audit = gateway.handles.audit.state();
    let serving = gateway.life.phase() == Phase::Serving;
    let upstreams: Vec<_> = gateway
        .handles
        .upstreams
        .views()
        .into_iter()
        .map(|view| UpstreamPart {
            name: view.name,
            status: if view.up { "up" } else { "down" },
            models: view.models,
        })
        .collect();
    let ready = serving && database && catalog && limits != "unavailable" && !audit.is_refusing;
    Ready {
        ready,
        status: match (serving, ready) {
            (false, _) => "stopping",
            (true, false) => "not ready",
            (true, true) => "ok",
        },
        database: if database { "ok" } else { "unavailable" },
        limits,
        changes: if gateway.keyring.hears_changes() { "heard" } else { "deaf" },
        audit: AuditPart {
            status: match (audit.is_refusing, audit.failing_since) {
                (true, _) => "refusing",
                (false, Some(_)) => "failing",
                (false, None) => "ok",
            },
            waiting: Some(audit.waiting),
        },
        catalog: if catalog { "ok" } else { "unavailable" },
        upstreams: Some(upstreams),
    }
}
