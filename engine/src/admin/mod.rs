//! The admin listener: metrics, health, the actors live, limits. For those who run the gateway, never for
//! clients.
//!
//! Where a token is configured, everything but health needs it (`Authorization: Bearer …`); where none
//! is, nothing can be changed here.
//!
//! | file | what is in it |
//! |---|---|
//! | [`actors`] | `/admin/v1/actors…`: what each actor knows, once or every second |
//! | [`limits`] | `/admin/v1/{tenants,keys}/{id}/{limits,budget}` |
//! | [`fault`] | what an operator is told when something cannot be done |

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::secret::Secret;
use utoipa::OpenApi;

use self::fault::Fault;
use crate::{api::health, gateway::Gateway, telemetry};

pub(crate) mod actors;
mod fault;
mod limits;

#[derive(Clone)]
struct Admin {
    gateway: Arc<Gateway>,
    token: Option<Arc<Secret>>,
    metrics: PrometheusHandle,
}

/// The description of the admin API.
#[derive(OpenApi)]
#[openapi(
    info(title = "Neuronetz, admin API", description = "For those who run the gateway."),
    paths(
        actors::list,
        actors::one,
        actors::events,
        limits::show,
        limits::set,
        limits::budget,
        limits::set_budget,
        limits::correct,
    ),
    components(schemas(
        actors::TenantState,
        actors::UpstreamState,
        actors::AuditState,
        actors::CatalogState,
    ))
)]
struct Description;

/// The routes of the admin listener.
pub(crate) fn router(
    gateway: Arc<Gateway>,
    token: Option<Secret>,
    metrics: PrometheusHandle,
) -> Router {
    let admin = Admin { gateway, token: token.map(Arc::new), metrics };
    let guarded = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/admin/v1/openapi.json", get(|| async { Json(Description::openapi()) }))
        .route("/admin/v1/actors", get(actors::list))
        .route("/admin/v1/actors/stream", get(actors::events))
        .route("/admin/v1/actors/{kind}/{id}", get(actors::one))
        .route("/admin/v1/{scope}/{id}/limits", get(limits::show).put(limits::set))
        .route("/admin/v1/{scope}/{id}/budget", get(limits::budget).put(limits::set_budget))
        .route("/admin/v1/{scope}/{id}/budget/{action}", post(limits::correct))
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
    telemetry::publish(&admin.gateway.handles);
    admin.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], admin.metrics.render())
}

async fn authenticate(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    match &admin.token {
        None if changes => Fault::NoToken.into_response(),
        Some(token) if !bearer(request.headers()).is_some_and(|said| token.matches(said)) => {
            Fault::Unauthorized.into_response()
        }
        None | Some(_) => next.run(request).await,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}
