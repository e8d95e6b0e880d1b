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
    translate::{self, ReplyMeta, long::LongReply, stream::Translation},
    usage::Usage,
};
use tokio_util::sync::CancellationToken;

use super::{
    authorized::{BYTES_PER_TOKEN, Inference, generates},
    live::Live,
    relay::{Flow, Relayed},
    settled::Record,
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::{
        body::ReplyBody,
        refusal::Refusal,
        room::{Held, NoRoom, SMALL_BYTES},
    },
    upstream::client::{Reply, ReplyStream},
};

/// What a stream of server-sent events is.
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// A reply that is on its way.
pub struct Streaming(Kind);

enum Kind {
    Whole(Whole),
    Relayed(Box<Begun>),
}

/// A whole reply, with the room that it takes.
pub(super) struct Whole {
    body: Bytes,
    usage: Usage,
    room: Held,
}

/// What has come of a long reply that is no stream, with the room that this takes.
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) source: ReplyStream,
    pub(super) room: Held,
}

/// How a whole reply is read.
#[derive(Clone)]
pub(super) struct Reading {
    route: Route,
    from: UpstreamKind,
    reply: translate::Reply,
    asked: String,
    prompt: u64,
    trusted_show: bool,
}

/// A stream whose head has come.
pub(super) struct Begun {
    pub(super) source: ReplyStream,
    pub(super) form: Relayed,
    pub(super) route: Route,
    pub(super) prompt: u64,
    /// The most tokens that its reply may have, where anything bounds them.
    pub(super) tokens_max: Option<u64>,
    /// The room of what has come already.
    pub(super) room: Option<Held>,
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
        let tokens_max = inference.enforced_max();
        let Inference { route, reply, asked, .. } = inference;
        let form = if !passes(&reply, from) {
            let translation = Translation::new(from, reply, meta(asked), prompt);
            Relayed::Translated(Box::new(translation.ok_or(Refusal::UpstreamReply)?))
        } else if reply.is_sse() {
            Relayed::Passed(Box::new(PassedStream::new(!reply.include_usage())))
        } else {
            Relayed::Native(NativeStream::default())
        };
        let (source, room) = (source.body, None);
        Ok(Self(Kind::Relayed(Box::new(Begun {
            source,
            form,
            route,
            prompt,
            tokens_max,
            room,
            turn,
            cut,
        }))))
    }

    /// A long whole reply, of which `part` has come.
    pub(super) fn long(
        Part { bytes, source, room }: Part,
        inference: &Inference,
        turn: Turn,
        cut: Cut,
    ) -> Self {
        let form = Relayed::Long(Box::new(LongReply::new(bytes, generates(inference.route))));
        let prompt = inference.prompt_estimate();
        let (route, tokens_max, room) = (inference.route, None, Some(room));
        Self(Kind::Relayed(Box::new(Begun {
            source,
            form,
            route,
            prompt,
            tokens_max,
            room,
            turn,
            cut,
        })))
    }

    /// A whole reply that was read.
    pub(super) fn whole(whole: Whole) -> Self {
        Self(Kind::Whole(whole))
    }

    /// The answer, and the record told of it.
    #[must_use]
    pub fn into_response(self, gateway: &Arc<Gateway>, record: &mut Record) -> Response<ReplyBody> {
        let begun = match self.0 {
            Kind::Whole(Whole { body, usage, room }) => {
                record.first_byte();
                record.complete(usage);
                let body = if body.len() <= SMALL_BYTES {
                    ReplyBody::whole(body)
                } else {
                    ReplyBody::live(Live::whole(body, room, gateway))
                };
                let mut response = Response::new(body);
                content_type(response.headers_mut(), "application/json");
                return response;
            }
            Kind::Relayed(begun) => *begun,
        };
        let cut = begun.cut.token();
        let flow = Flow::new(begun, gateway, record);
        let media_type = flow.media_type();
        let mut response = Response::new(ReplyBody::live(Live::begun(flow, cut, gateway)));
        if media_type == EVENT_STREAM {
            as_sse(response.headers_mut());
        } else {
            content_type(response.headers_mut(), media_type);
        }
        response
    }

    /// The flow alone, of a stream whose answer has begun already, and what cuts it.
    #[must_use]
    pub(super) fn into_flow(
        self,
        gateway: &Arc<Gateway>,
        record: &mut Record,
    ) -> Option<(Flow, CancellationToken)> {
        match self.0 {
            Kind::Whole { .. } => None,
            Kind::Relayed(begun) => {
                let cut = begun.cut.token();
                Some((Flow::new(*begun, gateway, record), cut))
            }
        }
    }
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(inference: &Inference, from: UpstreamKind) -> Self {
        Self {
            route: inference.route,
            from,
            reply: inference.reply.clone(),
            asked: inference.asked.clone(),
            prompt: inference.prompt_estimate(),
            trusted_show: inference.levers.trusted_show,
        }
    }

    /// Whether a long reply is relayed as it comes: it is the upstream's own bytes, and no error.
    pub(super) fn passes(&self) -> bool {
        self.route != Route::OllamaShow && passes(&self.reply, self.from)
    }

    /// Reads a whole reply of such an upstream. `room` holds as much as the reply is long.
    ///
    /// # Errors
    /// [`Refusal::UpstreamReply`] and [`Refusal::Untranslatable`] where it is no reply; where there is no room for
    /// what it becomes.
    pub(super) fn read(self, reply: &Bytes, mut room: Held) -> Result<Whole, Refusal> {
        let Self { route, from, prompt, .. } = self;
        let guessed = || {
            let produced = if generates(route) { reply.len() as u64 } else { 0 };
            produced.div_ceil(BYTES_PER_TOKEN)
        };
        let (body, usage) = if route == Route::OllamaShow {
            let body = if self.trusted_show {
                show::whole(reply).map(|()| reply.clone())
            } else {
                show::filter(reply).map(Bytes::from)
            };
            (body.map_err(|_| Refusal::UpstreamReply)?, Usage::default())
        } else if !passes(&self.reply, from) {
            // What is read of it and what is written stand beside each other for a moment.
            room.add(reply.len()).map_err(|NoRoom| Refusal::NoRoom("for a reply"))?;
            let meta = meta(self.asked);
            let (body, usage) = translate::whole::whole(reply, from, &self.reply, &meta, prompt)
                .map_err(Refusal::Untranslatable)?;
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
        room.resize(body.len()).map_err(|NoRoom| Refusal::NoRoom("for a reply"))?;
        Ok(Whole { body, usage, room })
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
    content_type(headers, EVENT_STREAM);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

fn content_type(headers: &mut HeaderMap, value: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
}
