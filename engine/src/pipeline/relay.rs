//! A reply on its way, byte by byte.
//!
//! Pass-through moves the upstream's bytes as they are; other dialects are translated line by line.
//! Either way the flow reads along only as far as it must (errors, and the last line), and nothing is
//! written down before the stream has ended. Time limits are not looked at here: [`super::live`] owns them.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use actors::{rules::breaker::Ended, upstream::Turn};
use bytes::{Bytes, BytesMut};
use protocol::{
    cause::Cause,
    error::Code,
    ollama::stream::NativeStream,
    openai::stream::PassedStream,
    outcome::Outcome,
    route::Route,
    translate::{Reply, StreamFault, failure, long::LongReply, stream::Translation},
    usage::Usage,
};

use super::{
    live::{BrokenOff, Pace},
    meter::{GoesOn, Meter},
    queued::Comments,
    settled::Record,
    streaming::{Begun, EVENT_STREAM, or_estimate},
};
use crate::{
    gateway::Gateway,
    http::room::Held,
    telemetry,
    upstream::{client::ReplyStream, connection::Broken},
};

/// How much is counted of what an upstream has sent and no client has read, in bytes: about as much as the
/// kernel holds of it.
const UNREAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A reply that is being relayed. Dropped, it closes the connection to the upstream unless that was read to
/// its end.
pub(super) struct Flow {
    /// The upstream's half; `None` once it is over.
    source: Option<ReplyStream>,
    form: Relayed,
    route: Route,
    /// What the prompt is taken for, in tokens, until the upstream says.
    prompt: u64,
    /// The most tokens that the reply may have, as far as the request or a budget bounds them.
    tokens_max: Option<u64>,
    /// What it may use without asking; `None`: all of it.
    meter: Option<Meter>,
    /// Until the first byte, where the settings ask for them.
    comments: Option<Comments>,
    end: Option<End>,
    /// It ended because it cannot be translated.
    is_untranslatable: bool,
    turn: Turn,
    _room: Option<Held>,
    _cut: crate::cuts::Cut,
}

/// What a flow has for the client.
pub(super) enum Next {
    /// Bytes of the reply.
    Bytes(Bytes),
    /// A comment; the reply has not begun.
    Comment(Bytes),
    /// There is no more.
    Over,
    /// There is no more, and the dialect has no word that says that something is missing: the client is to see a
    /// broken connection.
    Aborted,
}

/// How the bytes of a reply become those of the answer.
pub(super) enum Relayed {
    /// Ollama's lines, for a client that reads them.
    Native(NativeStream),
    /// OpenAI's events, for a client that reads them.
    Passed(Box<PassedStream>),
    /// From one dialect to another.
    Translated(Box<Translation>),
    /// A long whole reply, for a client that reads the upstream's dialect.
    Long(Box<LongReply>),
}

/// What comes of the upstream.
enum Source {
    Said(Option<Result<Bytes, Broken>>),
    /// It may not have more.
    Exhausted,
}

/// Why a stream ended before its end.
#[derive(Clone, Copy)]
pub(super) enum End {
    Complete,
    /// There was no more for it.
    Stopped(Usage),
    Broken(Outcome, Code),
    /// The upstream said why it does not go on.
    Refused(Cause),
}

// === impl Flow ===

impl Flow {
    pub(super) fn new(begun: Begun, gateway: &Arc<Gateway>, record: &mut Record) -> Self {
        let Begun { source, form, route, prompt, tokens_max, room, turn, cut } = begun;
        telemetry::streams_open(1);
        let every = gateway.upstream.loading_comments_every.filter(|_| form.is_sse());
        Self {
            source: Some(source),
            form,
            route,
            prompt,
            tokens_max,
            meter: record.take_meter().map(Meter::new),
            comments: every.map(Comments::new),
            end: None,
            is_untranslatable: false,
            turn,
            _room: room,
            _cut: cut,
        }
    }

    /// What the head of the answer says of its body.
    pub(super) fn media_type(&self) -> &'static str {
        self.form.media_type()
    }

    /// Whether the upstream's half is over: nothing but bytes that were handed out is left of it.
    pub(super) fn is_over(&self) -> bool {
        self.source.is_none()
    }

    /// What comes next for the client.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>, pace: &mut Pace) -> Poll<Next> {
        match (self.poll_bytes(cx, pace), &mut self.comments) {
            (Poll::Ready(next), _) => {
                self.comments = None;
                Poll::Ready(next)
            }
            (Poll::Pending, Some(comments)) => comments.poll_next(cx).map(Next::Comment),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, pace: &mut Pace) -> Poll<Next> {
        loop {
            if let Relayed::Long(long) = &mut self.form {
                let first = long.take_first();
                if !first.is_empty() {
                    return Poll::Ready(Next::Bytes(first));
                }
            }
            if self.source.is_none() {
                return Poll::Ready(Next::Over);
            }
            let (bytes, fault) = match std::task::ready!(self.poll_source(cx, pace)) {
                Source::Exhausted => return Poll::Ready(Next::Bytes(self.stop())),
                Source::Said(Some(Ok(chunk))) => {
                    pace.heard();
                    self.form.take(chunk)
                }
                Source::Said(Some(Err(error))) => {
                    tracing::debug!(%error, "the upstream broke off");
                    (Bytes::new(), Some(StreamFault::BrokenOff))
                }
                Source::Said(None) => {
                    self.source = None;
                    let (bytes, fault) = self.form.end();
                    if fault.is_none() {
                        self.end = Some(End::Complete);
                    }
                    (bytes, fault)
                }
            };
            if let Some(fault) = fault {
                if let Some(cause) = self.form.cause() {
                    return Poll::Ready(self.refused(cause, bytes));
                }
                let why = fault.to_string();
                actors::quiet!(warn, "the upstream's stream failed", &why; why);
                let (outcome, code) = (Outcome::UpstreamFailed, Code::UpstreamFailed);
                // What is untranslatable to us is no sign that the server is sick.
                let is_upstreams =
                    matches!(fault, StreamFault::BrokenOff | StreamFault::UpstreamError);
                self.is_untranslatable = !is_upstreams;
                self.source = None;
                let told = self.break_off(BrokenOff { outcome, code, is_upstreams });
                return Poll::Ready(match told {
                    Next::Bytes(told) => Next::Bytes(joined(bytes, &told)),
                    other => other,
                });
            }
            if self.is_beyond_its_most() {
                return Poll::Ready(Next::Bytes(joined(bytes, &self.stop())));
            }
            if !bytes.is_empty() {
                return Poll::Ready(Next::Bytes(bytes));
            }
        }
    }

    /// Whether the upstream has sent more pieces than the reply may have tokens, whatever it was told. Each piece
    /// has a token at least.
    fn is_beyond_its_most(&self) -> bool {
        self.source.is_some() && self.tokens_max.is_some_and(|most| self.form.produced() > most)
    }

    /// What the upstream says next, if the stream may have more.
    fn poll_source(&mut self, cx: &mut Context<'_>, pace: &mut Pace) -> Poll<Source> {
        if let Some(meter) = &mut self.meter {
            match meter.poll(self.form.produced(), cx) {
                Poll::Ready(GoesOn::Yes) => {}
                Poll::Ready(GoesOn::No) => return Poll::Ready(Source::Exhausted),
                Poll::Pending => {
                    pace.waits_for_limits();
                    return Poll::Pending;
                }
            }
        }
        match &mut self.source {
            Some(source) => {
                let said = source.poll_data(cx);
                if said.is_pending() {
                    pace.waits_for_upstream();
                }
                said.map(Source::Said)
            }
            None => Poll::Ready(Source::Said(None)),
        }
    }

    /// Ends the stream as if it had reached its greatest length: it may have no more.
    fn stop(&mut self) -> Bytes {
        self.source = None;
        let completion = self.form.produced();
        let usage = Usage { prompt: self.prompt, completion, estimated: true };
        self.end = Some(End::Stopped(usage));
        self.form.stop(usage)
    }

    /// Counts what the upstream has sent already and no client has read: it was made, and is charged.
    fn count_unread(&mut self) {
        let mut left = UNREAD_BYTES_MAX;
        let mut cx = Context::from_waker(Waker::noop());
        while let Some(source) = &mut self.source
            && let Poll::Ready(Some(Ok(chunk))) = source.poll_data(&mut cx)
        {
            left = left.saturating_sub(chunk.len());
            if self.form.take(chunk).1.is_some() || left == 0 {
                break;
            }
        }
        self.source = None;
    }

    /// Ends the stream with a frame that says so: an end alone would pass for a success.
    pub(super) fn break_off(&mut self, why: BrokenOff) -> Next {
        let BrokenOff { outcome, code, is_upstreams } = why;
        if is_upstreams {
            self.source = None;
        }
        self.count_unread();
        self.end = Some(End::Broken(outcome, code));
        if is_upstreams {
            self.turn.ended(Ended::Suspected);
        }
        match &self.form {
            Relayed::Long(_) => Next::Aborted,
            _ => Next::Bytes(self.form.fail(code, code.message(), None)),
        }
    }

    /// Ends the stream with a frame that says why: the upstream did. `bytes` came before.
    fn refused(&mut self, cause: Cause, bytes: Bytes) -> Next {
        self.source = None;
        self.end = Some(End::Refused(cause));
        if !cause.is_of_request() {
            self.turn.ended(Ended::Suspected);
        }
        let (message, param) = (cause.message(self.route), cause.param(self.route));
        match &self.form {
            Relayed::Long(_) => Next::Aborted,
            _ => Next::Bytes(joined(bytes, &self.form.fail(cause.code(), &message, param))),
        }
    }

    /// Tells the record what became of the stream.
    pub(super) fn settle(&mut self, record: &mut Record) {
        let was_said = self.form.usage().is_some();
        self.count_unread();
        if self.is_untranslatable {
            record.untranslatable();
        }
        let said = self.form.usage();
        let usage = or_estimate(said, self.prompt, || self.form.produced());
        match self.end {
            Some(End::Refused(cause)) => {
                // What was refused before anything was made of it cost nothing.
                let nothing = Usage { estimated: true, ..Usage::default() };
                record.caused(cause, if self.form.produced() == 0 { nothing } else { usage });
            }
            Some(End::Broken(outcome, code)) => record.break_off(outcome, Some(code), usage),
            Some(End::Complete) => {
                record.complete(usage);
                record.learn(usage.completion);
            }
            Some(End::Stopped(usage)) => record.complete(usage),
            // The client closed after the last line and before the upstream did.
            None if was_said => record.complete(usage),
            None => record.break_off(Outcome::ClientLeft, None, usage),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        telemetry::streams_open(-1);
    }
}

// === impl Relayed ===

impl Relayed {
    fn is_sse(&self) -> bool {
        match self {
            Self::Native(_) | Self::Long(_) => false,
            Self::Passed(_) => true,
            Self::Translated(translation) => translation.is_sse(),
        }
    }

    fn media_type(&self) -> &'static str {
        match self {
            Self::Long(_) => "application/json",
            _ if self.is_sse() => EVENT_STREAM,
            _ => "application/x-ndjson",
        }
    }

    fn take(&mut self, chunk: Bytes) -> (Bytes, Option<StreamFault>) {
        match self {
            Self::Native(native) => native.push(chunk).into(),
            Self::Long(long) => long.push(chunk).into(),
            Self::Passed(passed) => passed.push(chunk).into(),
            Self::Translated(translation) => translation.push(chunk),
        }
    }

    fn end(&mut self) -> (Bytes, Option<StreamFault>) {
        match self {
            Self::Native(native) => native.end().into(),
            Self::Long(long) => long.end().into(),
            Self::Passed(passed) => passed.end().into(),
            Self::Translated(translation) => translation.end(),
        }
    }

    /// What ends the stream as if it had reached its greatest length.
    fn stop(&mut self, usage: Usage) -> Bytes {
        match self {
            Self::Native(native) => native.stop(usage),
            Self::Passed(passed) => passed.stop(usage),
            Self::Translated(translation) => translation.stop(usage),
            // Its pieces are not counted, so that it is never stopped.
            Self::Long(_) => Bytes::new(),
        }
    }

    /// What tells the client that the stream is not whole.
    fn fail(&mut self, code: Code, message: &str, param: Option<&str>) -> Bytes {
        match self {
            Self::Native(_) => failure(&Reply::Native(Route::OllamaChat), code, message, param),
            Self::Passed(_) => failure(&Reply::Chat { include_usage: false }, code, message, param),
            Self::Translated(translation) => translation.fail(code, message, param),
            Self::Long(_) => Bytes::new(),
        }
    }

    /// Why the upstream does not go on, where it told an error of a known cause.
    fn cause(&self) -> Option<Cause> {
        match self {
            Self::Native(native) => native.cause(),
            Self::Passed(passed) => passed.cause(),
            Self::Translated(translation) => translation.cause(),
            Self::Long(_) => None,
        }
    }

    /// What the upstream said of its usage, if it has.
    fn usage(&self) -> Option<Usage> {
        match self {
            Self::Native(native) => {
                let tail = native.tail();
                tail.done.then(|| super::streaming::usage(tail.prompt_eval_count, tail.eval_count))
            }
            Self::Passed(passed) => passed.usage(),
            Self::Translated(translation) => translation.usage(),
            Self::Long(long) => long.usage(),
        }
    }

    fn produced(&self) -> u64 {
        match self {
            Self::Native(native) => native.produced(),
            Self::Passed(passed) => passed.produced(),
            Self::Translated(translation) => translation.produced(),
            Self::Long(long) => long.produced(),
        }
    }
}

fn joined(first: Bytes, second: &[u8]) -> Bytes {
    let mut both = BytesMut::from(first);
    both.extend_from_slice(second);
    both.freeze()
}
