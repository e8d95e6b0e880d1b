//! What the gateway answers itself.
//!
//! | file | what is in it |
//! |---|---|
//! | [`description`] | the OpenAPI document of all of it
//! | [`health`] | `/healthz`, `/readyz` |
//! | [`models`] | `/api/tags`, `/v1/models`, `/v1/models/{id}`: the principal's effective models |
//! | [`server`] | `/api/ps`, `/api/version`: what the upstreams say, filtered |

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    gateway::Gateway,
    http::{
        body::ReplyBody,
        cors::{self, Preflight},
        refusal::Refusal,
        router::Endpoint,
    },
    pipeline::{authorized::Ask, received::Received, routed::Here},
    recent::Recent,
};

pub mod description;
pub mod health;
pub mod models;
pub mod server;

/// What every Ollama answers at its base address, by which clients see that one is there.
const GREETING: &str = "Ollama is running";

/// What others outside the gateway answered lately: asked for at most once a second, whoever asks.
pub(crate) struct Answers {
    parts: Recent<health::Parts>,
    loaded: Recent<server::Loaded>,
    version: Recent<server::Version>,
}

// === impl Answers ===

impl Answers {
    /// Questions run as `tasks`, and end when everything has `stopped`.
    pub(crate) fn new(tasks: &TaskTracker, stopped: &CancellationToken) -> Self {
        Self {
            parts: Recent::new(tasks.clone(), stopped.clone()),
            loaded: Recent::new(tasks.clone(), stopped.clone()),
            version: Recent::new(tasks.clone(), stopped.clone()),
        }
    }
}

/// Answers what needs no key: that the gateway is there, and how it is.
pub(crate) async fn open(
    received: &Received,
    gateway: &Arc<Gateway>,
) -> Option<Response<ReplyBody>> {
    match received.endpoint() {
        Endpoint::Greeting => Some(greeting()),
        Endpoint::Live => Some(json(StatusCode::OK, &health::live())),
        Endpoint::Ready => {
            let ready = health::ready(gateway).await.for_strangers();
            let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Some(json(status, &ready))
        }
        Endpoint::Keyed(_) | Endpoint::Model(_) | Endpoint::Blocked => None,
    }
}

/// Answers an admitted request that no upstream serves.
pub(crate) async fn answer(
    here: Here,
    gateway: &Arc<Gateway>,
) -> Result<Response<ReplyBody>, Refusal> {
    let Here { principal, ask } = here;
    match ask {
        Ask::Tags => Ok(whole(models::tags(&gateway.catalog(&principal)?))),
        Ask::OpenAiModels => Ok(whole(models::list(&gateway.catalog(&principal)?))),
        Ask::OpenAiModel(name) => Ok(whole(models::one(&gateway.catalog(&principal)?, &name)?)),
        Ask::Ps => Ok(whole(server::ps(gateway, &principal).await?)),
        Ask::Count(tokens) => {
            let mut response = whole(format!("{{\"input_tokens\":{tokens},\"estimated\":true}}"));
            response.headers_mut().insert("x-estimated", HeaderValue::from_static("true"));
            Ok(response)
        }
        Ask::Version => Ok(whole(server::version(gateway).await?)),
        Ask::Answered(reply) => Ok(whole(reply)),
        // Routed to an upstream before this is asked.
        Ask::Inference(_) => Err(Refusal::UpstreamReply),
    }
}

/// A JSON answer of ours.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<ReplyBody> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = whole(body);
    *response.status_mut() = status;
    response
}

fn whole(body: impl Into<Bytes>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(body.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn greeting() -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(Bytes::from_static(GREETING.as_bytes())));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Answers `OPTIONS`, whether or not a browser asks.
pub(crate) fn options(allowed: &'static str, preflight: Option<Preflight>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    cors::allow(allowed, preflight, response.headers_mut());
    response
}
