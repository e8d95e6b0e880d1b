//! The fifth stage: it is known who answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use identity::principal::Principal;
use protocol::route::Route;
use storage::upstreams::Upstream;

use super::{
    authorized::{Ask, Inference},
    settled::Record,
    streaming::Streaming,
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::refusal::Refusal,
    keyring,
    phase::Phase,
    upstream::{
        client::{Call, CallError, ReadError, Reply, UnderWay},
        connect::Origin,
    },
};

/// How much, and how long, is read of an upstream's refusal.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Who answers.
pub enum Way {
    /// The gateway itself.
    Here(Here),
    /// An upstream.
    Upstream(Box<Routed>),
}

/// A request that the gateway answers itself.
pub struct Here {
    /// Who asks.
    pub principal: Arc<Principal>,
    /// What.
    pub ask: Ask,
}

/// A request with the upstreams that may answer it, best first.
pub struct Routed {
    inference: Inference,
    candidates: Vec<(Origin, Arc<Upstream>)>,
    cut: Cut,
}

// === impl Here ===

impl Here {
    pub(super) fn new(principal: Arc<Principal>, ask: Ask) -> Self {
        Self { principal, ask }
    }
}

// === impl Routed ===

impl Routed {
    pub(super) fn new(
        inference: Inference,
        candidates: Vec<(Origin, Arc<Upstream>)>,
        cut: Cut,
    ) -> Self {
        Self { inference, candidates, cut }
    }

    /// Calls the upstreams in turn until one takes the request; whoever took it keeps it.
    ///
    /// # Errors
    /// What the last one said; or that the request was cut meanwhile.
    pub async fn dispatch(
        self,
        gateway: &Arc<Gateway>,
        record: &mut Record,
    ) -> Result<Streaming, Refusal> {
        let Self { inference, candidates, cut } = self;
        let token = cut.token();
        let taken = tokio::select! {
            biased;
            taken = call_in_turn(inference, candidates, gateway, record) => taken?,
            () = token.cancelled() => return Err(if gateway.phase() >= Phase::Cutting {
                Refusal::Stopping
            } else {
                Refusal::Identity(keyring::Refused::Revoked)
            }),
        };
        Ok(match taken {
            Taken::Whole(streaming) => streaming,
            Taken::Stream(reply, inference, under_way) => {
                Streaming::relayed(reply, *inference, under_way, cut)
            }
        })
    }
}

/// What became of a call.
enum Taken {
    Whole(Streaming),
    Stream(Reply, Box<Inference>, UnderWay),
}

async fn call_in_turn(
    inference: Inference,
    candidates: Vec<(Origin, Arc<Upstream>)>,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<Taken, Refusal> {
    let mut last = Refusal::Call(CallError::ConnectTimeout);
    for (origin, upstream) in candidates {
        record.upstream(&upstream.name);
        let first_byte = first_byte(&inference, &upstream, gateway);
        let under_way = gateway.client.enter(&upstream.name);
        let call = Call {
            method: Method::POST,
            path: path(inference.route),
            body: Bytes::clone(&inference.body),
            request: record.id(),
            first_byte,
            origin: &origin,
        };
        match gateway.client.call(&call).await {
            Ok(reply) => {
                return accept(reply, inference, &upstream, under_way, gateway).await;
            }
            Err(error) if error.is_unsent() => {
                tracing::warn!(upstream = %upstream.name, %error, "trying another upstream");
                last = error.into();
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(last)
}

/// How long the first byte may take: a model that answered lately is loaded, another one may have
/// to be read from disk first.
fn first_byte(inference: &Inference, upstream: &Upstream, gateway: &Gateway) -> Duration {
    let settings = &gateway.upstream;
    // A whole reply has its first byte at its end.
    if inference.stream && gateway.client.is_warm(&upstream.name, inference.model.name.as_str()) {
        settings.first_byte_timeout
    } else {
        settings.cold_first_byte_timeout
    }
}

async fn accept(
    reply: Reply,
    inference: Inference,
    upstream: &Upstream,
    under_way: UnderWay,
    gateway: &Gateway,
) -> Result<Taken, Refusal> {
    let status = reply.status.as_u16();
    if !reply.status.is_success() {
        // Its words are read, so that the connection can serve on, and forgotten.
        let _ = reply.read(REFUSAL_BYTES_MAX, REFUSAL_TIME).await;
        return Err(Refusal::UpstreamStatus(status));
    }
    gateway.client.warmed(&upstream.name, inference.model.name.as_str());
    if inference.stream {
        return Ok(Taken::Stream(reply, Box::new(inference), under_way));
    }
    let settings = &gateway.upstream;
    let whole = reply.read(settings.reply_bytes_max, settings.gap_timeout);
    let whole = tokio::time::timeout(settings.total_timeout, whole)
        .await
        .map_err(|_| ReadError::Stalled)??;
    Ok(Taken::Whole(Streaming::whole(&whole, &inference)?))
}

fn path(route: Route) -> &'static str {
    match route {
        Route::OllamaGenerate => "/api/generate",
        Route::OllamaEmbed => "/api/embed",
        Route::OllamaEmbeddings => "/api/embeddings",
        Route::OllamaShow => "/api/show",
        Route::OllamaPs => "/api/ps",
        Route::OllamaVersion => "/api/version",
        Route::OllamaTags | Route::OpenAiModels | Route::OpenAiModel => "/api/tags",
        Route::OllamaChat | Route::OpenAiChat | Route::Blocked | Route::Unknown => "/api/chat",
    }
}
