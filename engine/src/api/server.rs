//! `/api/ps` and `/api/version`: what the upstreams say, filtered.
//!
//! The upstreams are asked at most once a second, whoever asks the gateway.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use http::Method;
use identity::principal::Principal;
use protocol::{
    ollama::ps::{self, PsEntry},
    route::UpstreamKind,
};
use storage::upstreams::Upstream;
use tokio::time::timeout;

use crate::{
    clock::request_id,
    gateway::Gateway,
    http::refusal::Refusal,
    upstream::client::{Call, CallError},
};

/// How long an upstream may take to answer from memory, all in all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest version that is believed.
const VERSION_LENGTH_MAX: usize = 64;
/// Upstreams that are asked at once for their version.
const ASKED_MAX: usize = 8;

/// The models that are loaded, on all upstreams that answer; `None` where none does.
pub(super) type Loaded = Option<Arc<[PsEntry]>>;
/// The version as it is told; `None` where no upstream tells one.
pub(super) type Version = Option<Arc<str>>;

/// Whom questions of Ollama's own are for.
enum Asked {
    /// These; where none of them is up, nobody.
    These(Vec<Arc<Upstream>>),
    /// There is no Ollama: all that are up are servers of OpenAI's dialect.
    NoOllama,
}

/// Which of the principal's models are loaded.
pub(super) async fn ps(gateway: &Arc<Gateway>, principal: &Principal) -> Result<String, Refusal> {
    let effective = gateway.catalog(principal)?;
    let loaded = gateway.answers.loaded.get(|| loaded(Arc::clone(gateway))).await;
    let loaded = loaded.flatten().ok_or(CallError::ConnectTimeout)?;
    let theirs = loaded.iter().filter_map(|entry| {
        let model = effective.models().find(|model| model.name == entry.name)?;
        Some(entry.spelled(&model.listed))
    });
    let theirs: Vec<_> = theirs.collect();
    Ok(ps::render(theirs.iter().map(AsRef::as_ref)))
}

/// The version of the first upstream that tells one: clients decide by it what they may ask. Where no Ollama
/// is there to tell one, it is the gateway's own.
pub(super) async fn version(gateway: &Arc<Gateway>) -> Result<String, Refusal> {
    let version = gateway.answers.version.get(|| first_version(Arc::clone(gateway))).await;
    let version = version.flatten().ok_or(CallError::ConnectTimeout)?;
    Ok(format!("{{\"version\":\"{version}\"}}"))
}

async fn loaded(gateway: Arc<Gateway>) -> Loaded {
    let Asked::These(upstreams) = asked(&gateway) else { return Some(Arc::default()) };
    let asked = upstreams.iter().map(|upstream| get(&gateway, upstream, "/api/ps"));
    let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    let entries = answers.iter().filter_map(|body| ps::parse(body).ok()).flatten().collect();
    (!answers.is_empty()).then_some(entries)
}

async fn first_version(gateway: Arc<Gateway>) -> Version {
    let Asked::These(upstreams) = asked(&gateway) else {
        return Some(env!("CARGO_PKG_VERSION").into());
    };
    let said = stream::iter(upstreams).map(|upstream| version_of(&gateway, upstream));
    // In the order of the upstreams: one that hangs holds up the others for its time, not for each of theirs.
    let mut told = std::pin::pin!(said.buffered(ASKED_MAX).filter_map(std::future::ready));
    told.next().await
}

fn version_of(
    gateway: &Arc<Gateway>,
    upstream: Arc<Upstream>,
) -> impl Future<Output = Version> + Send + use<> {
    #[derive(serde::Deserialize)]
    struct Said {
        version: String,
    }
    let gateway = Arc::clone(gateway);
    async move {
        let body = get(&gateway, &upstream, "/api/version").await?;
        let Said { version } = serde_json::from_slice(&body).ok()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
        let is_fine = version.len() <= VERSION_LENGTH_MAX && version.bytes().all(plain);
        is_fine.then(|| version.into())
    }
}

/// Those that answered their last poll and whose breaker lets requests through.
fn asked(gateway: &Gateway) -> Asked {
    let views = gateway.handles.upstreams.views();
    let is_ollama = |kind| kind == UpstreamKind::Ollama;
    if views.iter().any(|view| view.up) && !views.iter().any(|view| is_ollama(view.upstream.kind)) {
        return Asked::NoOllama;
    }
    let open = views.into_iter().filter(|view| view.up && view.load.open_for().is_none());
    Asked::These(open.map(|view| view.upstream).filter(|one| is_ollama(one.kind)).collect())
}

/// What an upstream answers; `None` where it does not, which only the log says.
async fn get(gateway: &Gateway, upstream: &Upstream, path: &'static str) -> Option<Bytes> {
    let asked = async {
        let origin = gateway.client.origin(upstream).map_err(|_| Refusal::UpstreamReply)?;
        let call = Call {
            method: Method::GET,
            path,
            body: Bytes::new(),
            request: request_id(),
            first_byte: ANSWER_TIMEOUT,
            origin: &origin,
            keep_alive: upstream.keep_alive,
            credential: gateway.client.credential(&upstream.name),
        };
        let reply = gateway.client.call(&call).await?;
        if !reply.status.is_success() {
            return Err(Refusal::UpstreamStatus(reply.status.as_u16(), None));
        }
        Ok(reply.read(ANSWER_BYTES_MAX, ANSWER_TIMEOUT).await?)
    };
    let answered = timeout(ANSWER_TIMEOUT, asked).await;
    match answered.unwrap_or(Err(CallError::FirstByteTimeout.into())) {
        Ok(body) => Some(body),
        Err(cause) => {
            tracing::debug!(upstream = %upstream.name, path, %cause, "an upstream did not answer");
            None
        }
    }
}
