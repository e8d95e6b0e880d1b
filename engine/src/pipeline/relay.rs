//! A reply on its way, byte by byte.
//!
//! Pass-through moves the upstream's bytes as they are; OpenAI's dialect is translated line by line.
//! Either way the body reads along only as far as it must (errors, and the last line), and nothing is
//! written down before the stream has ended.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actors::{rules::breaker::Ended, upstream::Turn};
use bytes::{Bytes, BytesMut};
use protocol::{
    error::Code,
    ollama::stream::NativeStream,
    openai::stream::PassedStream,
    outcome::Outcome,
    route::Route,
    translate::{Reply, StreamFault, failure, stream::Translation},
    usage::Usage,
};
use tokio::time::{Duration, Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    meter::{GoesOn, Meter},
    queued::Comments,
    settled::Record,
    streaming::{Begun, or_estimate},
};
use crate::{
    gateway::Gateway,
    phase::Phase,
    telemetry,
    upstream::{client::ReplyStream, connection::Broken},
};

/// How often a stream is looked at that always has something to send.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A reply that is being relayed.
pub struct Relay {
    source: Option<ReplyStream>,
    form: Relayed,
    limits: TimeLimits,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    gateway: Arc<Gateway>,
    /// What the prompt is taken for, in tokens, until the upstream says.
    prompt: u64,
    /// What it may use without asking; none: all of it.
    meter: Option<Meter>,
    /// Until the first byte, where somebody wants them.
    comments: Option<Comments>,
    end: Option<End>,
    turn: Turn,
    _cut: crate::cuts::Cut,
}

/// How the bytes of a reply become those of the answer.
pub(super) enum Relayed {
    /// Ollama's lines, for a client that reads them.
    Native(NativeStream),
    /// OpenAI's events, for a client that reads them.
    Passed(Box<PassedStream>),
    /// From one dialect to another.
    Translated(Box<Translation>),
}

/// What comes of the upstream.
enum Source {
    Said(Option<Result<Bytes, Broken>>),
    /// It may not have more.
    Exhausted,
}

/// Why a stream ended before its end.
#[derive(Clone, Copy)]
enum End {
    Complete,
    /// There was no more for it.
    Stopped(Usage),
    Broken(Outcome, Code),
}

/// The gap between chunks and the time for the whole stream, on one timer: moving it with every
/// chunk would cost more than looking again when it fires.
struct TimeLimits {
    timer: Pin<Box<Sleep>>,
    gap: Duration,
    heard: Instant,
    /// Since when chunks have come without a look at the limits.
    unseen_since: Option<Instant>,
    total: Instant,
}

// === impl Relay ===

impl Relay {
    pub(super) fn new(begun: Begun, gateway: &Arc<Gateway>, record: &mut Record) -> Self {
        let Begun { source, form, prompt, turn, cut } = begun;
        telemetry::streams_open(1);
        let every = gateway.upstream.loading_comments_every.filter(|_| form.is_sse());
        Self {
            source: Some(source.body),
            form,
            limits: TimeLimits::new(gateway.upstream.gap_timeout, gateway.upstream.total_timeout),
            cut: Box::pin(cut.token().cancelled_owned()),
            gateway: Arc::clone(gateway),
            prompt,
            meter: record.take_meter().map(Meter::new),
            comments: every.map(Comments::new),
            end: None,
            turn,
            _cut: cut,
        }
    }

    /// Whether it is a stream of server-sent events.
    pub(super) fn is_sse(&self) -> bool {
        self.form.is_sse()
    }

    /// The next bytes for the client, as soon as there are any; `None` at the end.
    pub fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        record: Option<&mut Record>,
    ) -> Poll<Option<Bytes>> {
        let next = match (self.poll_next(cx), &mut self.comments) {
            (Poll::Ready(next), _) => next,
            (Poll::Pending, Some(comments)) => return comments.poll_next(cx).map(Some),
            (Poll::Pending, None) => return Poll::Pending,
        };
        self.comments = None;
        if let (Some(_), Some(record)) = (&next, record) {
            record.first_byte();
        }
        Poll::Ready(next)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if self.source.is_none() {
                return Poll::Ready(None);
            }
            // A source that always has something would never be seen to pause.
            if self.limits.is_due()
                && let Poll::Ready(end) = self.poll_limits(cx)
            {
                return Poll::Ready(Some(self.break_off(end)));
            }
            let (bytes, fault) = match self.poll_source(cx) {
                Poll::Pending => {
                    let end = ready!(self.poll_limits(cx));
                    return Poll::Ready(Some(self.break_off(end)));
                }
                Poll::Ready(Source::Exhausted) => return Poll::Ready(Some(self.stop())),
                Poll::Ready(Source::Said(Some(Ok(chunk)))) => {
                    self.limits.hear();
                    self.form.take(chunk)
                }
                Poll::Ready(Source::Said(Some(Err(error)))) => {
                    tracing::debug!(%error, "the upstream broke off");
                    (Bytes::new(), Some(StreamFault::BrokenOff))
                }
                Poll::Ready(Source::Said(None)) => {
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

    /// What the upstream says next, if the stream may have more.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Source> {
        if let Some(meter) = &mut self.meter {
            match meter.poll(self.form.produced(), cx) {
                Poll::Ready(GoesOn::Yes) => {}
                Poll::Ready(GoesOn::No) => return Poll::Ready(Source::Exhausted),
                Poll::Pending => {
                    // It is not the upstream that lets it wait.
                    self.limits.heard = Instant::now();
                    return Poll::Pending;
                }
            }
        }
        match &mut self.source {
            Some(source) => source.poll_data(cx).map(Source::Said),
            None => Poll::Ready(Source::Said(None)),
        }
    }

    /// Resolves when a time limit is over or the stream is to be cut.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.limits.unseen_since = None;
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

    /// Ends the stream as if it had reached its greatest length: its budget is used up.
    fn stop(&mut self) -> Bytes {
        self.source = None;
        let completion = self.form.produced();
        let usage = Usage { prompt: self.prompt, completion, estimated: true };
        self.end = Some(End::Stopped(usage));
        self.form.stop(usage)
    }

    /// Ends the stream with a frame that says so: an end alone would pass for a success.
    fn break_off(&mut self, end: End) -> Bytes {
        self.source = None;
        self.end = Some(end);
        let End::Broken(outcome, code) = end else { return Bytes::new() };
        if matches!(outcome, Outcome::UpstreamFailed | Outcome::TimedOut) {
            self.turn.ended(Ended::Failed);
        }
        self.form.fail(code)
    }

    /// The body is done with: tells the record what became of the stream.
    pub fn settle(&mut self, record: &mut Record) {
        let said = self.form.usage();
        let usage = or_estimate(said, self.prompt, || self.form.produced());
        match self.end {
            Some(End::Broken(outcome, code)) => record.break_off(outcome, Some(code), usage),
            Some(End::Complete) => {
                record.complete(usage);
                record.learn(usage.completion);
            }
            Some(End::Stopped(usage)) => record.complete(usage),
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
    fn is_sse(&self) -> bool {
        match self {
            Self::Native(_) => false,
            Self::Passed(_) => true,
            Self::Translated(translation) => translation.is_sse(),
        }
    }

    fn take(&mut self, chunk: Bytes) -> (Bytes, Option<StreamFault>) {
        match self {
            Self::Native(native) => native.push(chunk).into(),
            Self::Passed(passed) => passed.push(chunk).into(),
            Self::Translated(translation) => translation.push(chunk),
        }
    }

    fn end(&mut self) -> (Bytes, Option<StreamFault>) {
        match self {
            Self::Native(native) => native.end().into(),
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
        }
    }

    /// What tells the client that the stream is not whole.
    fn fail(&mut self, code: Code) -> Bytes {
        let message = code.message();
        match self {
            Self::Native(_) => failure(&Reply::Native(Route::OllamaChat), code, message),
            Self::Passed(_) => failure(&Reply::Chat { include_usage: false }, code, message),
            Self::Translated(translation) => translation.fail(code, message),
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
        }
    }

    fn produced(&self) -> u64 {
        match self {
            Self::Native(native) => native.produced(),
            Self::Passed(passed) => passed.produced(),
            Self::Translated(translation) => translation.produced(),
        }
    }
}

// === impl TimeLimits ===

impl TimeLimits {
    fn new(gap: Duration, total: Duration) -> Self {
        let now = Instant::now();
        let total = now + total;
        let timer = Box::pin(sleep_until(total.min(now + gap)));
        Self { timer, gap, heard: now, unseen_since: None, total }
    }

    /// A chunk has come.
    fn hear(&mut self) {
        self.heard = Instant::now();
        self.unseen_since.get_or_insert(self.heard);
    }

    /// Whether chunks have come for some time without a pause in which the limits are looked at.
    fn is_due(&self) -> bool {
        self.unseen_since.is_some_and(|since| self.heard - since >= LOOK_EVERY)
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

fn joined(first: Bytes, second: &[u8]) -> Bytes {
    let mut both = BytesMut::from(first);
    both.extend_from_slice(second);
    both.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_never_pauses_is_looked_at_all_the_same() {
        let mut limits = TimeLimits::new(Duration::from_secs(60), Duration::from_secs(60));
        let mut looks = 0;
        for _ in 0..1_000 {
            limits.hear();
            if limits.is_due() {
                limits.unseen_since = None;
                looks += 1;
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!((85..=100).contains(&looks), "{looks} looks in a second");
    }

    #[tokio::test(start_paused = true)]
    async fn what_pauses_between_chunks_costs_no_look_more() {
        let mut limits = TimeLimits::new(Duration::from_secs(60), Duration::from_secs(60));
        for _ in 0..100 {
            limits.hear();
            assert!(!limits.is_due());
            // The pause, in which they are looked at.
            limits.unseen_since = None;
            tokio::time::advance(Duration::from_millis(10)).await;
        }
    }
}
