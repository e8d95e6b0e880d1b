//! How the gateway is: `/healthz` says that the process answers, `/readyz` what it can do.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
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
    upstreams: Vec<UpstreamPart>,
}

#[derive(Serialize, ToSchema)]
struct AuditPart {
    status: &'static str,
    waiting: usize,
}

#[derive(Serialize, ToSchema)]
struct UpstreamPart {
    name: String,
    status: &'static str,
    models: usize,
}

/// The process answers.
#[must_use]
pub fn live() -> Live {
    Live { status: "ok" }
}

/// Asks each part how it is, within a second. Ready is who serves, reaches its database, can check
/// limits, and knows which models there are.
pub async fn ready(gateway: &Arc<Gateway>) -> Ready {
    let ping = tokio::time::timeout(ANSWER_TIMEOUT, gateway.storage.database.ping());
    let database = matches!(ping.await, Ok(Ok(())));
    let limits = match &gateway.redis {
        None => "local",
        Some(redis) if redis.ping().await.is_ok() => "ok",
        Some(_) => "unavailable",
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
    let ready = serving && database && catalog && limits != "unavailable";
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
            status: if audit.failing_since.is_some() { "failing" } else { "ok" },
            waiting: audit.waiting,
        },
        catalog: if catalog { "ok" } else { "unavailable" },
        upstreams,
    }
}
