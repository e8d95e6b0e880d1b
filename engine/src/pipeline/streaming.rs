//! The sixth stage: the reply is on its way.
//!
//! Pass-through moves the upstream's bytes as they are; OpenAI's dialect is translated line by line.
//! Either way the body reads along only as far as it must (errors, and the last line), and nothing is
//! written down before the stream has ended.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use protocol::{
    error::Code,
    ndjson::Lines,
    ollama::{reply::tail, show, stream::NativeStream},
    openai::error::ollama_error,
    outcome::Outcome,
    route::Route,
    translate::{
        StreamFault,
        chat_reply::{ReplyMeta, chat_reply},
        chat_stream::{ChatStream, error_event},
    },
    usage::Usage,
};
use tokio::time::{Duration, Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    authorized::{BYTES_PER_TOKEN, Form, Inference},
    settled::Record,
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::{body::ReplyBody, refusal::Refusal},
    phase::Phase,
    telemetry,
    upstream::client::{Reply, ReplyStream, UnderWay},
};

/// A reply that is on its way.
pub struct Streaming(Kind);

enum Kind {
    Whole { body: Bytes, usage: Usage },
    Relayed(Box<Begun>),
}

/// A stream whose head has come.
struct Begun {
    source: Reply,
    form: Relayed,
    prompt: u64,
    under_way: UnderWay,
    cut: Cut,
}

/// A reply that is being relayed.
pub struct Relay {
    source: Option<ReplyStream>,
    form: Relayed,
    limits: TimeLimits,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    gateway: Arc<Gateway>,
    /// What the prompt is taken for, in tokens, until the upstream says.
    prompt: u64,
    end: Option<End>,
    _under_way: UnderWay,
    _cut: Cut,
}

/// How the bytes of a reply become those of the answer.
enum Relayed {
    Native(NativeStream),
    Chat { lines: Lines, chat: Box<ChatStream>, out: BytesMut },
}

/// Why a stream ended before its end.
#[derive(Clone, Copy)]
enum End {
    Complete,
    Broken(Outcome, Code),
}

/// The gap between chunks and the time for the whole stream, on one timer: moving it with every
/// chunk would cost more than looking again when it fires.
struct TimeLimits {
    timer: Pin<Box<Sleep>>,
    gap: Duration,
    heard: Instant,
    total: Instant,
}

// === impl Streaming ===

impl Streaming {
    /// A stream, from the reply whose head has come.
    #[must_use]
    pub(super) fn relayed(
        source: Reply,
        inference: Inference,
        under_way: UnderWay,
        cut: Cut,
    ) -> Self {
        let prompt = inference.prompt_estimate();
        let form = match inference.form {
            Form::Native => Relayed::Native(NativeStream::default()),
            Form::OpenAi { model, include_usage } => Relayed::Chat {
                lines: Lines::default(),
                chat: Box::new(ChatStream::new(meta(model), include_usage)),
                out: BytesMut::new(),
            },
        };
        Self(Kind::Relayed(Box::new(Begun { source, form, prompt, under_way, cut })))
    }

    /// A whole reply that has been read.
    ///
    /// # Errors
    /// [`Refusal::UpstreamReply`] where it is no reply.
    pub(super) fn whole(reply: &Bytes, inference: &Inference) -> Result<Self, Refusal> {
        let counted = |said| {
            let produced = if inference.generates() { reply.len() as u64 } else { 0 };
            or_estimate(Some(said), inference.prompt_estimate(), || {
                produced.div_ceil(BYTES_PER_TOKEN)
            })
        };
        let (body, usage) = match &inference.form {
            Form::OpenAi { model, .. } => {
                let (body, usage) =
                    chat_reply(reply, &meta(model.clone())).map_err(|_| Refusal::UpstreamReply)?;
                (Bytes::from(body), usage)
            }
            Form::Native if inference.route == Route::OllamaShow => {
                let body = show::filter(reply).map_err(|_| Refusal::UpstreamReply)?;
                (Bytes::from(body), Usage::default())
            }
            Form::Native => {
                let tail = tail(reply);
                if tail.error || !tail.is_json {
                    return Err(Refusal::UpstreamReply);
                }
                (reply.clone(), counted(usage(tail.prompt_eval_count, tail.eval_count)))
            }
        };
        Ok(Self(Kind::Whole { body, usage }))
    }

    /// The answer, and the record told of it.
    #[must_use]
    pub fn into_response(self, gateway: &Arc<Gateway>, record: &mut Record) -> Response<ReplyBody> {
        let Begun { source, form, prompt, under_way, cut } = match self.0 {
            Kind::Whole { body, usage } => {
                record.first_byte();
                record.complete(usage);
                let mut response = Response::new(ReplyBody::whole(body));
                content_type(&mut response, "application/json");
                return response;
            }
            Kind::Relayed(begun) => *begun,
        };
        let is_sse = matches!(form, Relayed::Chat { .. });
        telemetry::streams_open(1);
        let relay = Relay {
            source: Some(source.body),
            form,
            limits: TimeLimits::new(&gateway.upstream),
            cut: Box::pin(cut.token().cancelled_owned()),
            gateway: Arc::clone(gateway),
            prompt,
            end: None,
            _under_way: under_way,
            _cut: cut,
        };
        let mut response = Response::new(ReplyBody::relay(relay));
        if is_sse {
            content_type(&mut response, "text/event-stream");
            let headers = response.headers_mut();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        } else {
            content_type(&mut response, "application/x-ndjson");
        }
        response
    }
}

// === impl Relay ===

impl Relay {
    /// The next bytes for the client, as soon as there are any; `None` at the end.
    pub fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        record: Option<&mut Record>,
    ) -> Poll<Option<Bytes>> {
        let next = ready!(self.poll_next(cx));
        if let (Some(_), Some(record)) = (&next, record) {
            record.first_byte();
        }
        Poll::Ready(next)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let Some(source) = &mut self.source else { return Poll::Ready(None) };
            let (bytes, fault) = match source.poll_data(cx) {
                Poll::Pending => {
                    let end = ready!(self.poll_limits(cx));
                    return Poll::Ready(Some(self.break_off(end)));
                }
                Poll::Ready(Some(Ok(chunk))) => {
                    self.limits.heard = Instant::now();
                    self.form.take(chunk)
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "the upstream broke off");
                    (Bytes::new(), Some(StreamFault::BrokenOff))
                }
                Poll::Ready(None) => {
                    self.source = None;
                    let (bytes, fault) = self.form.end();
                    if fault.is_none() {
                        self.end = Some(End::Complete);
                    }
                    (bytes, fault)
                }
            };
            match fault {
                Some(fault) => {
                    tracing::warn!(?fault, "the upstream's stream failed");
                    let end = End::Broken(Outcome::UpstreamFailed, Code::UpstreamFailed);
                    let told = self.break_off(end);
                    return Poll::Ready(Some(joined(bytes, &told)));
                }
                None if !bytes.is_empty() => return Poll::Ready(Some(bytes)),
                None => {}
            }
        }
    }

    /// Resolves when a time limit is over or the stream is to be cut.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.cut.as_mut().poll(cx).is_ready() {
            let stopping = self.gateway.life.phase() >= Phase::Cutting;
            return Poll::Ready(if stopping {
                End::Broken(Outcome::Stopped, Code::ShuttingDown)
            } else {
                End::Broken(Outcome::Refused, Code::KeyRevoked)
            });
        }
        ready!(self.limits.poll(cx));
        Poll::Ready(End::Broken(Outcome::TimedOut, Code::UpstreamTimeout))
    }

    /// Ends the stream with a frame that says so: an end alone would pass for a success.
    fn break_off(&mut self, end: End) -> Bytes {
        self.source = None;
        self.end = Some(end);
        let End::Broken(_, code) = end else { return Bytes::new() };
        match &self.form {
            Relayed::Native(_) => Bytes::from(ollama_error(code.message()) + "\n"),
            Relayed::Chat { .. } => {
                let mut out = BytesMut::new();
                error_event(code, code.message(), &mut out);
                out.freeze()
            }
        }
    }

    /// The body is done with: tells the record what became of the stream.
    pub fn settle(&mut self, record: &mut Record) {
        let said = self.form.usage();
        let usage = or_estimate(said, self.prompt, || self.form.produced());
        match self.end {
            Some(End::Broken(outcome, code)) => record.break_off(outcome, Some(code), usage),
            Some(End::Complete) => record.complete(usage),
            // The client closed after the last line and before the upstream did.
            None if said.is_some() => record.complete(usage),
            None => record.break_off(Outcome::ClientLeft, None, usage),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        telemetry::streams_open(-1);
    }
}

// === impl Relayed ===

impl Relayed {
    fn take(&mut self, chunk: Bytes) -> (Bytes, Option<StreamFault>) {
        match self {
            Self::Native(native) => {
                let passed = native.push(chunk);
                (passed.bytes, passed.fault)
            }
            Self::Chat { lines, chat, out } => {
                lines.push(chunk);
                let fault = loop {
                    match lines.next_line() {
                        Ok(Some(line)) => {
                            if let Err(fault) = chat.line(&line, out) {
                                break Some(fault);
                            }
                        }
                        Ok(None) => break None,
                        Err(_) => break Some(StreamFault::TooLong),
                    }
                };
                (out.split().freeze(), fault)
            }
        }
    }

    fn end(&mut self) -> (Bytes, Option<StreamFault>) {
        match self {
            Self::Native(native) => {
                let passed = native.end();
                (passed.bytes, passed.fault)
            }
            Self::Chat { lines, chat, out } => {
                let last = lines.finish().map_or(Ok(()), |line| chat.line(&line, out));
                let fault = last.and_then(|()| chat.end(out)).err();
                (out.split().freeze(), fault)
            }
        }
    }

    /// What the upstream said of its usage, if it has.
    fn usage(&self) -> Option<Usage> {
        match self {
            Self::Native(native) => {
                let tail = native.tail();
                tail.done.then(|| usage(tail.prompt_eval_count, tail.eval_count))
            }
            Self::Chat { chat, .. } => chat.usage(),
        }
    }

    fn produced(&self) -> u64 {
        match self {
            Self::Native(native) => native.produced(),
            Self::Chat { chat, .. } => chat.produced(),
        }
    }
}

// === impl TimeLimits ===

impl TimeLimits {
    fn new(settings: &crate::config::Upstream) -> Self {
        let now = Instant::now();
        let total = now + settings.total_timeout;
        let first = total.min(now + settings.gap_timeout);
        Self { timer: Box::pin(sleep_until(first)), gap: settings.gap_timeout, heard: now, total }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let limit = self.total.min(self.heard + self.gap);
            if Instant::now() >= limit {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(limit);
        }
    }
}

fn usage(prompt: u64, completion: u64) -> Usage {
    Usage { prompt, completion, estimated: false }
}

/// What the upstream said, where it said anything at all, else what can be guessed. A request without
/// a word in it (one that only loads a model) cost nothing.
fn or_estimate(said: Option<Usage>, prompt: u64, produced: impl FnOnce() -> u64) -> Usage {
    match said {
        Some(said) if said.total() > 0 => said,
        Some(said) if prompt == 0 => said,
        _ => Usage { prompt, completion: produced(), estimated: true },
    }
}

fn meta(model: String) -> ReplyMeta {
    let id = uuid::Uuid::now_v7();
    let (seconds, _) = id.get_timestamp().map_or((0, 0), |at| at.to_unix());
    ReplyMeta {
        id: format!("chatcmpl-{}", id.as_simple()),
        created: i64::try_from(seconds).unwrap_or_default(),
        model,
    }
}

fn joined(first: Bytes, second: &[u8]) -> Bytes {
    let mut both = BytesMut::from(first);
    both.extend_from_slice(second);
    both.freeze()
}

fn content_type(response: &mut Response<ReplyBody>, value: &'static str) {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
}
