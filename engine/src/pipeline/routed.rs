//! The fifth stage: it is known who answers.
//!
//! An upstream is chosen, its turn waited for, and it is called. What fails before the first byte is
//! tried again on another upstream, and then on the models that stand in for the first one, as long as
//! the budget of retries lasts: a share of all calls, so that a failing upstream does not double the
//! load of the others.

use std::{sync::Arc, time::Duration};

use actors::{
    catalog::Model,
    rules::{breaker::Ended, lane::NotNow},
    upstream::{Turn, Waiting},
};
use bytes::Bytes;
use http::Method;
use identity::principal::Principal;
use protocol::{
    cause::Cause,
    id::RequestId,
    route::{Route, UpstreamKind},
    translate::{long::LongReply, whole::ReplyError},
};
use storage::upstreams::Upstream;
use tokio::time::{Instant, timeout, timeout_at};
use tower::retry::budget::Budget as _;

use super::{
    authorized::{Ask, Inference, Written},
    faults::{self, Again, Fault},
    heavy, images,
    passage::{Passage, Step},
    streaming::{Part, Reading, Streaming, Whole},
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::{
        refusal::{Caused, Refusal},
        room::NoRoom,
    },
    keyring,
    phase::Phase,
    telemetry::{self, UNTRANSLATABLE},
    upstream::client::{Call, CallError, ReadError, Reply},
};

/// How much of a whole reply is held before the rest is relayed as it comes, in bytes.
const HELD_BYTES_MAX: usize = 1024 * 1024;
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

/// A request that an upstream answers.
pub struct Routed {
    principal: Arc<Principal>,
    inference: Inference,
    cut: Cut,
}

/// The way of a request to an upstream.
struct Trip {
    gateway: Arc<Gateway>,
    principal: Arc<Principal>,
    request: RequestId,
    passage: Arc<Passage>,
}

/// What became of a call.
enum Taken {
    Whole(Whole),
    Long(Box<Part>, Turn),
    Stream(Reply, Turn, UpstreamKind),
}

/// A call that failed.
struct Failed {
    why: Refusal,
    again: Again,
}

// === impl Here ===

impl Here {
    pub(super) fn new(principal: Arc<Principal>, ask: Ask) -> Self {
        Self { principal, ask }
    }
}

// === impl Routed ===

impl Routed {
    pub(super) fn new(principal: Arc<Principal>, inference: Inference, cut: Cut) -> Self {
        Self { principal, inference, cut }
    }

    /// How it is to be answered, where the reply is a stream of server-sent events.
    pub(super) fn as_sse(&self) -> Option<protocol::translate::Reply> {
        self.inference.is_sse().then(|| self.inference.reply.clone())
    }

    /// Asks upstreams in turn until one takes the request; whoever took it keeps it.
    ///
    /// # Errors
    /// What the last one said; or that the request was cut meanwhile.
    pub async fn dispatch(
        self,
        gateway: Arc<Gateway>,
        request: RequestId,
        passage: Arc<Passage>,
    ) -> Result<Streaming, Refusal> {
        let Self { principal, mut inference, cut } = self;
        let token = cut.token();
        let trip = Trip { gateway, principal, request, passage };
        let taken = tokio::select! {
            biased;
            taken = async {
                let of = (trip.principal.tenant, &*trip.gateway);
                images::fetch(&mut inference, of).await?;
                trip.run(&inference).await
            } => taken?,
            () = token.cancelled() => return Err(if trip.gateway.phase() >= Phase::Cutting {
                Refusal::Stopping
            } else {
                Refusal::Identity(keyring::Refused::Revoked)
            }),
        };
        Ok(match taken {
            Taken::Whole(whole) => Streaming::whole(whole),
            Taken::Long(part, turn) => Streaming::long(*part, &inference, turn, cut),
            Taken::Stream(reply, turn, kind) => {
                Streaming::relayed((reply, kind), inference, turn, cut)?
            }
        })
    }
}

// === impl Trip ===

impl Trip {
    async fn run(&self, inference: &Inference) -> Result<Taken, Refusal> {
        let gateway = &self.gateway;
        let mut last = None;
        // The one that failed last, of those that were called.
        let mut failed: Option<Arc<Upstream>> = None;
        let mut is_last = false;
        for model in &inference.targets {
            let mut tried: Vec<Arc<Upstream>> = Vec::new();
            loop {
                let Principal { tenant, policy, .. } = &*self.principal;
                let asked =
                    gateway.handles.upstreams.ask(&model.upstreams, &tried, *tenant, policy.weight);
                let (upstream, waiting) = match asked {
                    Ok(asked) => asked,
                    Err(none) => {
                        last.get_or_insert(Refusal::NoneOpen(none));
                        break;
                    }
                };
                tried.push(Arc::clone(&upstream));
                let turn = match self.wait(waiting).await {
                    Ok(turn) => turn,
                    Err(NotNow::TimedOut) => return Err(NotNow::TimedOut.into()),
                    Err(not_now) => {
                        last.get_or_insert(not_now.into());
                        continue;
                    }
                };
                match &failed {
                    None => gateway.retries.deposit(),
                    Some(_) if !gateway.retries.withdraw() => {
                        return Err(last.unwrap_or(Refusal::UpstreamReply));
                    }
                    Some(before) => {
                        let error = last.as_ref().map(tracing::field::display);
                        actors::quiet!(warn, "trying another", &before.name; upstream = %before.name, error);
                        telemetry::retried(&before.name);
                    }
                }
                match self.call(inference, model, &upstream, turn).await {
                    Ok(taken) => return Ok(taken),
                    Err(Failed { why, again: Again::No }) => return Err(why),
                    Err(Failed { why, again: Again::Once }) if is_last => return Err(why),
                    Err(Failed { why, again }) => {
                        is_last |= again == Again::Once;
                        failed = Some(upstream);
                        last = Some(why);
                    }
                }
            }
        }
        Err(last.unwrap_or(Refusal::Catalog(actors::catalog::Unavailable)))
    }

    /// Waits for a turn, and says where it stands meanwhile to whoever wants to know.
    async fn wait(&self, mut waiting: Waiting) -> Result<Turn, NotNow> {
        let began = Instant::now();
        let turn = match self.gateway.upstream.queue_comments_every {
            None => waiting.turn().await,
            Some(every) => {
                self.passage.note(|passed| passed.step = Step::Waits(began));
                loop {
                    if let Ok(turn) = timeout(every, waiting.turn()).await {
                        break turn;
                    }
                    let standing = waiting.standing().await;
                    self.passage.note(|passed| passed.standing = standing);
                }
            }
        };
        let took = began.elapsed();
        let place = turn.as_ref().ok().and_then(|turn| turn.place);
        if place.is_some() {
            telemetry::queued(took);
        }
        self.passage.note(|passed| {
            passed.queued += took;
            passed.place = passed.place.or(place);
            (passed.step, passed.standing) = (Step::Moves, None);
        });
        turn
    }

    async fn call(
        &self,
        inference: &Inference,
        model: &Model,
        upstream: &Upstream,
        mut turn: Turn,
    ) -> Result<Taken, Failed> {
        let began = Instant::now();
        self.passage.note(|passed| {
            passed.upstream = Some(upstream.name.clone());
            passed.model = Some(model.name.clone());
            passed.step = Step::Asks(began);
        });
        let taken = self.ask(inference, model, upstream, &mut turn).await;
        self.passage.note(|passed| {
            passed.asked += began.elapsed();
            passed.step = Step::Moves;
        });
        match taken {
            Ok(Asked::Stream(reply)) => Ok(Taken::Stream(reply, turn, upstream.kind)),
            Ok(Asked::Whole(whole)) => Ok(Taken::Whole(whole)),
            Ok(Asked::Long(part)) => Ok(Taken::Long(Box::new(part), turn)),
            Err(Fault { why, kind, ended, again }) => {
                match &why {
                    Refusal::Caused(Caused { cause, .. }) => {
                        telemetry::caused(&upstream.name, &self.principal.tenant_name, *cause);
                    }
                    _ => telemetry::upstream_fault(&upstream.name, kind),
                }
                turn.ended(ended);
                Err(Failed { why, again })
            }
        }
    }

    async fn ask(
        &self,
        inference: &Inference,
        model: &Model,
        upstream: &Upstream,
        turn: &mut Turn,
    ) -> Result<Asked, Fault> {
        let gateway = &self.gateway;
        let Ok(origin) = gateway.client.origin(upstream) else {
            return Err(Fault::unsent(Refusal::UpstreamReply));
        };
        let of = (self.principal.tenant, gateway);
        let written = inference.for_upstream(model, upstream, of).await;
        let Written { path, body, .. } = written.map_err(Fault::unsent)?;
        let call = Call {
            method: Method::POST,
            path,
            body,
            credential: gateway.client.credential(&upstream.name),
            request: self.request,
            first_byte: first_byte(inference, model, upstream, gateway),
            origin: &origin,
            keep_alive: upstream.keep_alive,
        };
        let reply = self.send(&call).await.map_err(faults::call)?;
        if !reply.status.is_success() {
            // It says itself that it does nothing for it.
            self.passage.note(|passed| passed.sent_at = None);
            return Err(self.refused(inference.route, reply).await);
        }
        turn.begun();
        gateway.client.warmed(&upstream.name, &model.name);
        if inference.stream {
            return Ok(Asked::Stream(reply));
        }
        self.whole(inference, upstream.kind, reply).await
    }

    /// Reads a refusal, also so that the connection can serve on. Its words are looked through for a cause, and
    /// forgotten.
    async fn refused(&self, route: Route, reply: Reply) -> Fault {
        let status = reply.status.as_u16();
        let wait = reply.retry_after.map(|after| after.wait(self.gateway.clock.now()));
        let words = reply.read(REFUSAL_BYTES_MAX, REFUSAL_TIME).await.unwrap_or_default();
        match Cause::read(Some(status), &words) {
            Some(cause) => faults::cause(cause, route, wait),
            None => faults::status(status, wait),
        }
    }

    /// Reads a reply that is no stream. A long one in the client's own dialect is not held: its rest is relayed as
    /// it comes.
    async fn whole(
        &self,
        inference: &Inference,
        from: UpstreamKind,
        mut reply: Reply,
    ) -> Result<Asked, Fault> {
        let (gateway, tenant) = (&self.gateway, self.principal.tenant);
        let settings = &gateway.upstream;
        let (bytes_max, gap) = (settings.reply_bytes_max, settings.gap_timeout);
        let reading = Reading::new(inference, from);
        let mut room = gateway.replies.hold(tenant);
        let until = Instant::now() + settings.total_timeout;
        let (mut bytes, mut may_pass) = (Bytes::new(), reading.passes());
        loop {
            let there = bytes.len();
            let read = reply.read_until(bytes_max, gap, |length| {
                if there + length > bytes_max {
                    return Err(ReadError::TooLarge);
                }
                room.resize(there + length).map_err(|NoRoom| ReadError::NoRoom)?;
                Ok(may_pass && length > HELD_BYTES_MAX)
            });
            let Ok(read) = timeout_at(until, read).await else {
                // It was never silent for too long: the request asks for more than the time is enough for.
                return Err(Fault::new(
                    ReadError::Stalled,
                    "total_timeout",
                    Ended::Well,
                    Again::No,
                ));
            };
            let (more, is_all) = read.map_err(faults::read)?;
            bytes = if bytes.is_empty() { more } else { [bytes, more].concat().into() };
            if is_all {
                break;
            }
            if LongReply::may_pass(&bytes) {
                return Ok(Asked::Long(Part { bytes, source: reply.body, room }));
            }
            may_pass = false;
        }
        let read = bytes.clone();
        let work = move || reading.read(&read, room);
        let whole = heavy::work(gateway, (tenant, &bytes), work).await;
        let whole = whole.and_then(|whole| whole);
        whole.map(Asked::Whole).map_err(|why| match (&why, Cause::read(None, &bytes)) {
            // Some servers tell of an error with the status of a success.
            (
                Refusal::UpstreamReply | Refusal::Untranslatable(ReplyError::UpstreamError),
                Some(cause),
            ) => faults::cause(cause, inference.route, None),
            // What is untranslatable to us is no sign that the server is sick.
            _ => Fault::new(why, UNTRANSLATABLE, Ended::Well, Again::No),
        })
    }

    /// Sends it, and takes note of that unless there was no connection to send it through. Whoever is
    /// cut in the middle of this may have sent it.
    async fn send(&self, call: &Call<'_>) -> Result<Reply, CallError> {
        let before = self.passage.read(|passed| passed.sent);
        let now = Instant::now();
        self.passage.note(|passed| (passed.sent, passed.sent_at) = (true, Some(now)));
        let called = self.gateway.client.call(call).await;
        match &called {
            Err(CallError::Connect(_) | CallError::ConnectTimeout) => {
                self.passage.note(|passed| (passed.sent, passed.sent_at) = (before, None));
            }
            // With its connection gone, the upstream works on it no more.
            Err(CallError::Broken(_)) => self.passage.note(|passed| passed.sent_at = None),
            // It may be at work still.
            Err(CallError::FirstByteTimeout) | Ok(_) => {}
        }
        called
    }
}

/// What an upstream said.
enum Asked {
    Whole(Whole),
    Long(Part),
    Stream(Reply),
}

/// How long the first byte may take: a model that answered lately is loaded, another one may have
/// to be read from disk first.
fn first_byte(
    inference: &Inference,
    model: &Model,
    upstream: &Upstream,
    gateway: &Gateway,
) -> Duration {
    let settings = &gateway.upstream;
    // A whole reply has its first byte at its end.
    if inference.stream && gateway.client.is_warm(&upstream.name, &model.name) {
        settings.first_byte_timeout
    } else {
        settings.cold_first_byte_timeout
    }
}
