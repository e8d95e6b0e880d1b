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
    upstream::client::{Call, CallError},
};

/// How long an upstream may take to answer from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest version that is believed.
const VERSION_LENGTH_MAX: usize = 64;

/// Whom questions of Ollama's own are for.
enum Asked {
    /// These; where none of them is up, nobody.
    These(Vec<Arc<Upstream>>),
    /// There is no Ollama: all that are up are servers of OpenAI's dialect.
    NoOllama,
}

/// Which of the principal's models are loaded, on all upstreams that answer.
pub(super) async fn ps(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    request: RequestId,
) -> Result<String, Refusal> {
    let effective = gateway.catalog(principal)?;
    let Asked::These(upstreams) = asked(gateway) else { return Ok(ps::render([].into_iter())) };
    let asked = upstreams.iter().map(|upstream| get(gateway, upstream, "/api/ps", request));
    let answers = join_all(asked).await;
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

/// The version of the first upstream that tells one: clients decide by it what they may ask. Where no Ollama
/// is there to tell one, it is the gateway's own.
pub(super) async fn version(gateway: &Arc<Gateway>, request: RequestId) -> Result<String, Refusal> {
    #[derive(serde::Deserialize)]
    struct Said {
        version: String,
    }
    let Asked::These(upstreams) = asked(gateway) else {
        return Ok(format!("{{\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION")));
    };
    for upstream in upstreams {
        let Ok(body) = get(gateway, &upstream, "/api/version", request).await else { continue };
        let Ok(Said { version }) = serde_json::from_slice(&body) else { continue };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
        if version.len() <= VERSION_LENGTH_MAX && version.bytes().all(plain) {
            return Ok(format!("{{\"version\":\"{version}\"}}"));
        }
    }
    Err(CallError::ConnectTimeout.into())
}

fn asked(gateway: &Gateway) -> Asked {
    let mut up = gateway.upstreams_up();
    let is_any = !up.is_empty();
    up.retain(|upstream| upstream.kind == UpstreamKind::Ollama);
    let views = gateway.handles.upstreams.views();
    let is_ollama = views.iter().any(|view| view.upstream.kind == UpstreamKind::Ollama);
    if is_any && !is_ollama { Asked::NoOllama } else { Asked::These(up) }
}

async fn get(
    gateway: &Gateway,
    upstream: &Upstream,
    path: &'static str,
    request: RequestId,
) -> Result<Bytes, Refusal> {
    let origin = gateway.client.origin(upstream).map_err(|_| Refusal::UpstreamReply)?;
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
