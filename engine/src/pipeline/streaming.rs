//! The sixth stage: the reply has begun.
//!
//! It is whole already, or it is relayed as it comes ([`super::relay`]).

use std::sync::Arc;

use actors::upstream::Turn;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use protocol::{
    ollama::{reply::tail, show, stream::NativeStream},
    openai::stream::{PassedStream, said},
    route::{Route, UpstreamKind},
    translate::{self, ReplyMeta, stream::Translation},
    usage::Usage,
};

use super::{
    authorized::{BYTES_PER_TOKEN, Inference, generates},
    relay::{Relay, Relayed},
    settled::Record,
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::{body::ReplyBody, refusal::Refusal},
    upstream::client::Reply,
};

/// A reply that is on its way.
pub struct Streaming(Kind);

enum Kind {
    Whole { body: Bytes, usage: Usage },
    Relayed(Box<Begun>),
}

/// A stream whose head has come.
pub(super) struct Begun {
    pub(super) source: Reply,
    pub(super) form: Relayed,
    pub(super) prompt: u64,
    pub(super) turn: Turn,
    pub(super) cut: Cut,
}

// === impl Streaming ===

impl Streaming {
    /// A stream, from the reply of such an upstream whose head has come.
    ///
    /// # Errors
    /// [`Refusal::UpstreamReply`] where what was asked for is never a stream.
    pub(super) fn relayed(
        (source, from): (Reply, UpstreamKind),
        inference: Inference,
        turn: Turn,
        cut: Cut,
    ) -> Result<Self, Refusal> {
        let prompt = inference.prompt_estimate();
        let Inference { reply, asked, .. } = inference;
        let form = if !passes(&reply, from) {
            let translation = Translation::new(from, reply, meta(asked), prompt);
            Relayed::Translated(Box::new(translation.ok_or(Refusal::UpstreamReply)?))
        } else if reply.is_sse() {
            Relayed::Passed(Box::new(PassedStream::new(!reply.include_usage())))
        } else {
            Relayed::Native(NativeStream::default())
        };
        Ok(Self(Kind::Relayed(Box::new(Begun { source, form, prompt, turn, cut }))))
    }

    /// A whole reply of such an upstream that has been read.
    ///
    /// # Errors
    /// [`Refusal::UpstreamReply`] where it is no reply.
    pub(super) fn whole(
        reply: &Bytes,
        inference: &Inference,
        from: UpstreamKind,
    ) -> Result<Self, Refusal> {
        let prompt = inference.prompt_estimate();
        let guessed = || {
            let produced = if generates(inference.route) { reply.len() as u64 } else { 0 };
            produced.div_ceil(BYTES_PER_TOKEN)
        };
        let (body, usage) = if inference.route == Route::OllamaShow {
            let body = if inference.levers.trusted_show {
                show::whole(reply).map(|()| reply.clone())
            } else {
                show::filter(reply).map(Bytes::from)
            };
            (body.map_err(|_| Refusal::UpstreamReply)?, Usage::default())
        } else if !passes(&inference.reply, from) {
            let meta = meta(inference.asked.clone());
            let (body, usage) =
                translate::whole::whole(reply, from, &inference.reply, &meta, prompt)
                    .map_err(|_| Refusal::UpstreamReply)?;
            (Bytes::from(body), usage)
        } else {
            let said = match from {
                UpstreamKind::Ollama => {
                    let tail = tail(reply);
                    if tail.error || !tail.is_json {
                        return Err(Refusal::UpstreamReply);
                    }
                    Some(usage(tail.prompt_eval_count, tail.eval_count))
                }
                UpstreamKind::OpenAi => said(reply).map_err(|_| Refusal::UpstreamReply)?,
            };
            (reply.clone(), or_estimate(said, prompt, guessed))
        };
        Ok(Self(Kind::Whole { body, usage }))
    }

    /// The answer, and the record told of it.
    #[must_use]
    pub fn into_response(self, gateway: &Arc<Gateway>, record: &mut Record) -> Response<ReplyBody> {
        let begun = match self.0 {
            Kind::Whole { body, usage } => {
                record.first_byte();
                record.complete(usage);
                let mut response = Response::new(ReplyBody::whole(body));
                content_type(response.headers_mut(), "application/json");
                return response;
            }
            Kind::Relayed(begun) => *begun,
        };
        let relay = Relay::new(begun, gateway, record);
        let is_sse = relay.is_sse();
        let mut response = Response::new(ReplyBody::relay(relay));
        if is_sse {
            as_sse(response.headers_mut());
        } else {
            content_type(response.headers_mut(), "application/x-ndjson");
        }
        response
    }

    /// The relay alone, of a stream whose answer has begun already.
    #[must_use]
    pub fn into_relay(self, gateway: &Arc<Gateway>, record: &mut Record) -> Option<Relay> {
        match self.0 {
            Kind::Whole { .. } => None,
            Kind::Relayed(begun) => Some(Relay::new(*begun, gateway, record)),
        }
    }
}

pub(super) fn usage(prompt: u64, completion: u64) -> Usage {
    Usage { prompt, completion, estimated: false }
}

/// What the upstream said, where it said anything at all, else what can be guessed. A request without
/// a word in it (one that only loads a model) cost nothing.
pub(super) fn or_estimate(
    said: Option<Usage>,
    prompt: u64,
    produced: impl FnOnce() -> u64,
) -> Usage {
    match said {
        Some(said) if said.total() > 0 => said,
        Some(said) if prompt == 0 => said,
        _ => Usage { prompt, completion: produced(), estimated: true },
    }
}

/// Whether the upstream's own bytes are the reply: it speaks the client's dialect.
fn passes(reply: &translate::Reply, from: UpstreamKind) -> bool {
    use translate::Reply as Wanted;
    match (reply, from) {
        (Wanted::Native(_), UpstreamKind::Ollama)
        | (
            Wanted::Chat { .. } | Wanted::Completion { .. } | Wanted::Embedding { .. },
            UpstreamKind::OpenAi,
        ) => true,
        (Wanted::Native(_) | Wanted::Response(_) | Wanted::Message, UpstreamKind::OpenAi)
        | (_, UpstreamKind::Ollama) => false,
    }
}

fn meta(model: String) -> ReplyMeta {
    let id = uuid::Uuid::now_v7();
    let (seconds, _) = id.get_timestamp().map_or((0, 0), |at| at.to_unix());
    ReplyMeta {
        id: id.as_simple().to_string(),
        created: i64::try_from(seconds).unwrap_or_default(),
        model,
    }
}

/// What a stream of server-sent events says in its head.
pub(super) fn as_sse(headers: &mut HeaderMap) {
    content_type(headers, "text/event-stream");
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

fn content_type(headers: &mut HeaderMap, value: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
}
