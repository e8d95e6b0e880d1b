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
use http::Method;
use identity::principal::Principal;
use protocol::{id::RequestId, route::UpstreamKind};
use storage::upstreams::Upstream;
use tokio::time::{Instant, timeout};
use tower::retry::budget::Budget as _;

use super::{
    authorized::{Ask, Inference, Written},
    images,
    passage::{Passage, Step},
    streaming::Streaming,
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::refusal::Refusal,
    keyring,
    phase::Phase,
    telemetry,
    upstream::client::{Call, CallError, ReadError, Reply},
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
    Whole(Streaming),
    Stream(Reply, Turn, UpstreamKind),
}

/// A call that failed.
struct Failed {
    why: Refusal,
    /// Whether another upstream may do better.
    again: bool,
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
                images::fetch(&mut inference, &trip.gateway).await?;
                trip.run(&inference).await
            } => taken?,
            () = token.cancelled() => return Err(if trip.gateway.phase() >= Phase::Cutting {
                Refusal::Stopping
            } else {
                Refusal::Identity(keyring::Refused::Revoked)
            }),
        };
        Ok(match taken {
            Taken::Whole(streaming) => streaming,
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
                        tracing::warn!(upstream = %before.name, error, "trying another");
                        telemetry::retried(&before.name);
                    }
                }
                match self.call(inference, model, &upstream, turn).await {
                    Ok(taken) => return Ok(taken),
                    Err(Failed { why, again: false }) => return Err(why),
                    Err(Failed { why, again: true }) => {
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
            Ok(Asked::Whole(streaming)) => Ok(Taken::Whole(streaming)),
            Err((why, ended, again)) => {
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
            return Err((Refusal::UpstreamReply, Ended::Unknown, true));
        };
        let Written { path, body, .. } = inference
            .for_upstream(model, upstream)
            .map_err(|refusal| (refusal, Ended::Unknown, true))?;
        let call = Call {
            method: Method::POST,
            path,
            body,
            credential: gateway.client.credential(&upstream.name),
            request: self.request,
            first_byte: first_byte(inference, model, upstream, gateway),
            origin: &origin,
        };
        let reply = self.send(&call).await.map_err(call_fault)?;
        let status = reply.status.as_u16();
        if !reply.status.is_success() {
            // Its words are read, so that the connection can serve on, and forgotten.
            let _ = reply.read(REFUSAL_BYTES_MAX, REFUSAL_TIME).await;
            return Err(status_fault(status));
        }
        turn.begun();
        gateway.client.warmed(&upstream.name, &model.name);
        if inference.stream {
            return Ok(Asked::Stream(reply));
        }
        let settings = &gateway.upstream;
        let whole = reply.read(settings.reply_bytes_max, settings.gap_timeout);
        let whole = timeout(settings.total_timeout, whole)
            .await
            .unwrap_or(Err(ReadError::Stalled))
            .map_err(read_fault)?;
        let streaming = Streaming::whole(&whole, inference, upstream.kind);
        Ok(Asked::Whole(streaming.map_err(|refusal| (refusal, Ended::Failed, false))?))
    }

    /// Sends it, and takes note of that unless there was no connection to send it through. Whoever is
    /// cut in the middle of this may have sent it.
    async fn send(&self, call: &Call<'_>) -> Result<Reply, CallError> {
        let before = self.passage.read(|passed| passed.sent);
        self.passage.note(|passed| passed.sent = true);
        let called = self.gateway.client.call(call).await;
        if let Err(CallError::Connect(_) | CallError::ConnectTimeout) = &called {
            self.passage.note(|passed| passed.sent = before);
        }
        called
    }
}

/// What an upstream said.
enum Asked {
    Whole(Streaming),
    Stream(Reply),
}

/// Why a call failed, whether that is the upstream's fault, and whether another may do better.
type Fault = (Refusal, Ended, bool);

fn call_fault(error: CallError) -> Fault {
    let (ended, again) = match &error {
        CallError::Connect(_) | CallError::ConnectTimeout => (Ended::Unconnected, true),
        CallError::Broken(_) => (Ended::Failed, true),
        // Whoever waited for that long is not made to wait for as long again.
        CallError::FirstByteTimeout => (Ended::Failed, false),
    };
    (error.into(), ended, again)
}

fn status_fault(status: u16) -> Fault {
    let (ended, again) = match status {
        500..=599 => (Ended::Failed, true),
        // It is busy, or no longer has the model.
        404 | 429 => (Ended::Well, true),
        _ => (Ended::Well, false),
    };
    (Refusal::UpstreamStatus(status), ended, again)
}

fn read_fault(error: ReadError) -> Fault {
    let (ended, again) = match &error {
        ReadError::Broken(_) => (Ended::Failed, true),
        ReadError::Stalled => (Ended::Failed, false),
        ReadError::TooLarge => (Ended::Well, false),
    };
    (error.into(), ended, again)
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
