//! `/api/ps` and `/api/version`: what the upstreams say, filtered.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use identity::principal::Principal;
use protocol::{id::RequestId, ollama::ps, route::UpstreamKind};
use storage::upstreams::Upstream;
use tokio::time::Duration;

use crate::{
    gateway::Gateway,
    http::refusal::Refusal,
    upstream::{
        client::{Call, CallError},
        connect::Origin,
    },
};

/// How long an upstream may take to answer from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest version that is believed.
const VERSION_LENGTH_MAX: usize = 64;

/// Which of the principal's models are loaded, on all upstreams that answer.
pub(super) async fn ps(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    request: RequestId,
) -> Result<String, Refusal> {
    let upstreams = gateway.upstreams_up();
    let asked = upstreams.iter().map(|upstream| get(gateway, upstream, "/api/ps", request));
    let answers = join_all(asked).await;
    let effective = gateway.catalog(principal)?;
    let loaded: Vec<_> = answers
        .iter()
        .flatten()
        .filter_map(|body| ps::parse(body).ok())
        .flatten()
        .filter(|entry| effective.models().any(|model| model.name == entry.name))
        .collect();
    if answers.iter().all(Result::is_err) {
        return Err(CallError::ConnectTimeout.into());
    }
    Ok(ps::render(loaded.iter().map(|entry| entry.raw.get())))
}

/// The version of the first upstream that tells one: clients decide by it what they may ask.
pub(super) async fn version(gateway: &Arc<Gateway>, request: RequestId) -> Result<String, Refusal> {
    #[derive(serde::Deserialize)]
    struct Said {
        version: String,
    }
    for upstream in gateway.upstreams_up() {
        let Ok(body) = get(gateway, &upstream, "/api/version", request).await else { continue };
        let Ok(Said { version }) = serde_json::from_slice(&body) else { continue };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
        if version.len() <= VERSION_LENGTH_MAX && version.bytes().all(plain) {
            return Ok(format!("{{\"version\":\"{version}\"}}"));
        }
    }
    Err(CallError::ConnectTimeout.into())
}

async fn get(
    gateway: &Gateway,
    upstream: &Upstream,
    path: &'static str,
    request: RequestId,
) -> Result<Bytes, Refusal> {
    if upstream.kind != UpstreamKind::Ollama {
        return Err(Refusal::UpstreamReply);
    }
    let origin = Origin::parse(&upstream.url, upstream.kind).map_err(|_| Refusal::UpstreamReply)?;
    let call = Call {
        method: Method::GET,
        path,
        body: Bytes::new(),
        request,
        first_byte: ANSWER_TIMEOUT,
        origin: &origin,
        credential: gateway.client.credential(&upstream.name),
    };
    let reply = gateway.client.call(&call).await?;
    if !reply.status.is_success() {
        return Err(Refusal::UpstreamStatus(reply.status.as_u16()));
    }
    Ok(reply.read(ANSWER_BYTES_MAX, ANSWER_TIMEOUT).await?)
}
