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
//! | [`description`] | the OpenAPI documents of both listeners
//! | [`origin`] | whether a browser asks for a page that is not ours |
//! | [`fault`] | what an operator is told when something cannot be done |

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::secret::Secret;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::fault::Fault;
use crate::{api::health, config, gateway::Gateway, telemetry};

pub(crate) mod actors;
pub(crate) mod description;
mod fault;
mod limits;
mod origin;

#[derive(Clone)]
struct Admin {
    gateway: Arc<Gateway>,
    token: Option<Arc<Secret>>,
    /// `admin.hosts`
    hosts: Arc<[String]>,
    metrics: PrometheusHandle,
}

/// The routes of the admin listener.
pub(crate) fn router(
    gateway: Arc<Gateway>,
    settings: config::Admin,
    metrics: PrometheusHandle,
) -> Router {
    let (token, hosts) = (settings.token.map(Arc::new), settings.hosts.into());
    let admin = Admin { gateway, token, hosts, metrics };
    let (guarded, _) = guarded().split_for_parts();
    let (open, _) = open().split_for_parts();
    let wrong_method = || async { Fault::Method };
    // Nobody is told without the token what there is.
    let guarded = guarded
        .fallback(|| async { Fault::NoEndpoint })
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(admin.clone(), authenticate));
    open.method_not_allowed_fallback(wrong_method)
        .merge(guarded)
        .layer(middleware::from_fn_with_state(admin.clone(), origin::guard))
        .with_state(admin)
}

/// What needs the token, where there is one. What is routed is described, and the other way round.
fn guarded() -> OpenApiRouter<Admin> {
    OpenApiRouter::with_openapi(description::head())
        .routes(routes!(description::of_admin))
        .routes(routes!(description::of_data))
        .routes(routes!(metrics_text))
        .routes(routes!(actors::list))
        .routes(routes!(actors::events))
        .routes(routes!(actors::one))
        .routes(routes!(limits::show, limits::set))
        .routes(routes!(limits::budget, limits::set_budget))
        .routes(routes!(limits::correct))
}

/// What needs nothing.
fn open() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready))
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = health::Live)))]
async fn live() -> Json<health::Live> {
    Json(health::live())
}

/// What the gateway can do, part by part.
#[utoipa::path(
    get,
    path = "/readyz",
    responses((status = 200, body = health::Ready), (status = 503, body = health::Ready))
)]
async fn ready(State(admin): State<Admin>) -> Response {
    let ready = health::ready(&admin.gateway).await;
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

/// What is counted, as Prometheus reads it.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, content_type = "text/plain", body = String))
)]
async fn metrics_text(State(admin): State<Admin>) -> impl IntoResponse {
    telemetry::publish(&admin.gateway.handles, &admin.gateway.series);
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
