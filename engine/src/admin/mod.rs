//! The admin listener: metrics and health, for those who run the gateway. Never for clients.
//!
//! Where a token is configured, everything but health needs it (`Authorization: Bearer …`).

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::secret::Secret;

use crate::{api::health, gateway::Gateway};

#[derive(Clone)]
struct Admin {
    gateway: Arc<Gateway>,
    token: Option<Arc<Secret>>,
    metrics: PrometheusHandle,
}

/// The routes of the admin listener.
pub(crate) fn router(
    gateway: Arc<Gateway>,
    token: Option<Secret>,
    metrics: PrometheusHandle,
) -> Router {
    let admin = Admin { gateway, token: token.map(Arc::new), metrics };
    let guarded = Router::new()
        .route("/metrics", get(metrics_text))
        .layer(middleware::from_fn_with_state(admin.clone(), authenticate));
    Router::new()
        .route("/healthz", get(|| async { Json(health::live()) }))
        .route("/readyz", get(ready))
        .merge(guarded)
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    let ready = health::ready(&admin.gateway).await;
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

async fn metrics_text(State(admin): State<Admin>) -> impl IntoResponse {
    admin.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], admin.metrics.render())
}

async fn authenticate(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let allowed = match &admin.token {
        None => true,
        Some(token) => bearer(request.headers()).is_some_and(|said| token.matches(said)),
    };
    if allowed {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response()
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}
