//! The last stage: what happened is written down, whoever ended it.
//!
//! A [`Record`] is opened with the request and ends up in the body of its answer. It is settled when
//! it is dropped: after the last byte, when the client has gone, or when the gateway gives up. No
//! branch can forget it.

use std::{sync::Arc, time::Duration};

use actors::{
    audit::{Place, Saturated},
    tenant::{Ask, Meter, Permit},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use identity::principal::Principal;
use protocol::{
    cause::Cause,
    error::{Code, Side},
    id::{RequestId, TenantId},
    name::ModelName,
    outcome::Outcome,
    route::Route,
    usage::Usage,
};
use storage::{admission::Gauges, audit::AuditEvent};
use tokio::time::Instant;

use super::passage::Passage;
use crate::{
    gateway::Gateway,
    http::{body::ReplyBody, limits, refusal::Refusal},
    telemetry::{self, Ended, NOBODY, UNTRANSLATABLE},
};

/// What is known of a request, growing as it goes. Settles when it is dropped.
pub struct Record {
    gateway: Arc<Gateway>,
    principal: Option<Arc<Principal>>,
    place: Option<Place>,
    permit: Option<Permit>,
    /// What a body that is under way has taken of the limits, until the request is admitted with what it asks for.
    entered: Option<Arc<Permit>>,
    /// What the request is taken for where nobody says what it used.
    expected: Expected,
    /// Whether it was said what the request used.
    is_counted: bool,
    gauges: Option<Gauges>,
    passage: Option<Arc<Passage>>,
    spent: Spent,
    event: AuditEvent,
    opened: Instant,
}

/// What a request is taken for where it ends before the upstream has said what it used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    /// The tokens of its prompt.
    pub(super) prompt: u64,
    /// The most tokens that its reply may have.
    pub(super) completion_max: u64,
    /// Whether the reply comes whole: nothing is seen of it before its end.
    pub(super) is_whole: bool,
}

/// Where the time of a request went, until the head of its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Proving who is calling.
    pub authenticate: Duration,
    /// Waiting for the body.
    pub arrive: Duration,
    /// Asking the limits.
    pub admit: Duration,
}

/// Where the time of a request went (W3C Server Timing).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Header fields that an answer will have, give or take some: a map that grows by itself does so four times.
const HEADERS_EXPECTED: usize = 20;

/// Ties the record to the answer: it is settled when the answer's body is done with.
pub fn attach(mut response: Response<ReplyBody>, mut record: Box<Record>) -> Response<ReplyBody> {
    record.event.status = response.status().as_u16();
    let headers = response.headers_mut();
    headers.reserve(HEADERS_EXPECTED);
    limits::tell(record.gauges().unwrap_or_default(), headers);
    record.tell_timing(headers);
    response.map(|body| body.with(record))
}

// === impl Record ===

impl Record {
    /// Opens a record. Until something else is said, the client has left. It is boxed, since it goes along
    /// with everything that a request becomes.
    #[must_use]
    pub fn open(gateway: &Arc<Gateway>, request: RequestId, route: Route) -> Box<Self> {
        Box::new(Self {
            gateway: Arc::clone(gateway),
            principal: None,
            place: None,
            permit: None,
            entered: None,
            expected: Expected::default(),
            is_counted: false,
            gauges: None,
            passage: None,
            spent: Spent::default(),
            event: AuditEvent {
                request,
                at: gateway.clock.now(),
                tenant: None,
                key: None,
                model: None,
                upstream: None,
                route,
                status: CLIENT_CLOSED_REQUEST,
                outcome: Outcome::ClientLeft,
                code: None,
                usage: Usage::default(),
                first_byte: None,
                total: Duration::ZERO,
                requests: 1,
            },
            opened: Instant::now(),
        })
    }

    /// The request.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.event.request
    }

    /// It is proven who is calling.
    pub fn prove(&mut self, principal: Arc<Principal>) {
        self.event.tenant = Some(principal.tenant);
        self.event.key = Some(principal.key);
        self.principal = Some(principal);
    }

    /// Takes a place in the audit, unless the request has one: what cannot be written down is not done.
    ///
    /// # Errors
    /// [`Saturated`].
    pub fn reserve_place(&mut self, tenant: TenantId) -> Result<(), Saturated> {
        if self.place.is_none() {
            self.place = Some(self.gateway.handles.audit.reserve(tenant)?);
        }
        Ok(())
    }

    /// Takes a request and a slot of the limits for a body that is under way. What it will use is not known yet.
    /// A body that turns out to be of no use has used up that request: it was work.
    ///
    /// # Errors
    /// Where there is no place in the audit, or the limits do not let it in.
    pub async fn enter(&mut self, principal: &Principal, gateway: &Gateway) -> Result<(), Refusal> {
        self.reserve_place(principal.tenant)?;
        let began = Instant::now();
        let admitted = gateway.handles.admission.admit(Ask::entrance(principal)).await;
        self.spent.admit += began.elapsed();
        let permit = admitted?;
        self.gauges = Some(permit.gauges);
        self.entered = Some(Arc::new(permit));
        Ok(())
    }

    /// What [`Record::enter`] has taken: the admission of the whole request takes its place.
    pub fn entered(&self) -> Option<Arc<Permit>> {
        self.entered.clone()
    }

    /// What the request is taken for where nobody says what it used.
    pub(super) fn expect(&mut self, expected: Expected) {
        self.expected = expected;
    }

    /// Its limits let it in.
    pub fn permit(&mut self, permit: Permit) {
        self.gauges = Some(permit.gauges);
        self.permit = Some(permit);
        self.entered = None;
    }

    /// What its reply must not pass without asking for more.
    pub fn take_meter(&mut self) -> Option<Meter> {
        self.permit.as_mut().and_then(|permit| permit.meter.take())
    }

    /// How the limits stand of whoever asks.
    #[must_use]
    pub fn gauges(&self) -> Option<Gauges> {
        self.gauges
    }

    /// Says how they stand.
    pub fn gauge(&mut self, gauges: Gauges) {
        self.gauges = Some(gauges);
    }

    /// Who was proven, if anybody.
    #[must_use]
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// Where its time went.
    pub fn spent(&mut self) -> &mut Spent {
        &mut self.spent
    }

    /// It sets off to an upstream.
    pub fn set_off(&mut self) -> Arc<Passage> {
        Arc::clone(self.passage.insert(Arc::default()))
    }

    /// The model that was found.
    pub fn model(&mut self, model: &ModelName) {
        self.event.model = Some(model.clone());
    }

    /// It goes no further. One that no upstream has seen uses up nothing of its limits.
    pub fn refuse(&mut self, refusal: &Refusal) {
        let code = refusal.code();
        self.give_back(code.side() != Side::Client);
        self.event.code = Some(code);
        self.event.status = code.status();
        self.event.outcome = match (code, code.side()) {
            (Code::UpstreamTimeout | Code::RequestTimeout, _) => Outcome::TimedOut,
            (_, Side::Upstream) => Outcome::UpstreamFailed,
            (_, Side::Client | Side::Gateway) => Outcome::Refused,
        };
    }

    /// Gives back all that was taken of the limits, also of the windows, where no upstream has seen the request.
    /// Of a body whose client is at fault the request is kept: it was work.
    fn give_back(&mut self, is_ours: bool) {
        let was_sent =
            self.passage.as_ref().is_some_and(|passage| passage.read(|passed| passed.sent));
        if was_sent {
            return;
        }
        if let Some(mut permit) = self.permit.take() {
            permit.cancel();
            self.gauges = None;
        }
        if is_ours && let Some(permit) = self.entered.as_mut().and_then(Arc::get_mut) {
            permit.cancel();
            self.gauges = None;
        }
    }

    /// What the request used where nobody has said so, although an upstream was at work on it when it ended: its
    /// prompt and, where the reply was to come whole, as much as the model makes in that time. Never more than was
    /// reserved; all of that where it is not known how fast the model is.
    fn estimate(&self) -> Option<Usage> {
        let sent_at = self.passage.as_ref()?.read(|passed| passed.sent_at)?;
        let Expected { prompt, completion_max, is_whole } = self.expected;
        let made = || {
            let rate = self.gateway.rates.of(self.event.model.as_ref()?)?;
            Some((rate * sent_at.elapsed().as_secs_f64()) as u64)
        };
        let completion = if is_whole { made().unwrap_or(u64::MAX).min(completion_max) } else { 0 };
        Some(Usage { prompt, completion, estimated: true })
    }

    /// Learns from a reply that is complete how fast its model is.
    fn learn_rate(&self) {
        let Usage { completion, estimated: false, .. } = self.event.usage else { return };
        let sent_at = self.passage.as_ref().and_then(|passage| passage.read(|one| one.sent_at));
        if let (Some(sent_at), Some(model)) = (sent_at, &self.event.model)
            && self.event.outcome == Outcome::Completed
        {
            self.gateway.rates.learn(model, completion, sent_at.elapsed());
        }
    }

    /// The upstream that was asked last; `None` where none was.
    fn upstream(&self) -> Option<String> {
        self.passage.as_ref()?.read(|passed| passed.upstream.clone())
    }

    /// The stream of its upstream was one that cannot be translated.
    pub(super) fn untranslatable(&self) {
        telemetry::upstream_fault(self.upstream().as_deref().unwrap_or_default(), UNTRANSLATABLE);
    }

    /// The first byte of the reply is on its way.
    pub fn first_byte(&mut self) {
        if self.event.first_byte.is_none() {
            self.event.first_byte = Some(self.opened.elapsed());
        }
    }

    /// The reply is whole.
    pub fn complete(&mut self, usage: Usage) {
        self.is_counted = true;
        self.event.outcome = Outcome::Completed;
        self.event.usage = usage;
    }

    /// The reply came to its own end after so many tokens.
    pub fn learn(&mut self, completion: u64) {
        if let Some(permit) = &mut self.permit {
            permit.learn(completion);
        }
    }

    /// It goes no further, and its answer has begun already.
    pub fn refuse_late(&mut self, refusal: &Refusal) {
        let status = self.event.status;
        self.refuse(refusal);
        self.event.status = status;
    }

    /// The reply broke off after it had begun.
    pub fn break_off(&mut self, outcome: Outcome, code: Option<Code>, usage: Usage) {
        self.is_counted = true;
        self.event.outcome = outcome;
        self.event.code = code;
        self.event.usage = usage;
    }

    /// The upstream said within the reply why it does not go on.
    pub fn caused(&mut self, cause: Cause, usage: Usage) {
        let code = cause.code();
        let outcome = match code.side() {
            Side::Client => Outcome::Refused,
            Side::Gateway | Side::Upstream => Outcome::UpstreamFailed,
        };
        if let (Some(upstream), Some(principal)) = (self.upstream(), &self.principal) {
            telemetry::caused(&upstream, &principal.tenant_name, cause);
        }
        self.break_off(outcome, Some(code), usage);
    }

    /// Where the time went, in milliseconds (W3C Server Timing).
    fn tell_timing(&self, headers: &mut HeaderMap) {
        let Spent { authenticate, arrive, admit } = self.spent;
        // The head may go out while the request still waits: that is not the gateway's own time either.
        let (queued, asked, place) =
            self.passage.as_ref().map_or_else(Default::default, |passage| {
                passage.read(|passed| (passed.queued_so_far(), passed.asked_so_far(), passed.place))
            });
        let own = self.opened.elapsed().saturating_sub(arrive + queued + asked);
        self.gateway.series.overhead(own);
        let mut told = String::with_capacity(128);
        for (name, took) in [
            ("authenticate;dur=", authenticate),
            (", admit;dur=", admit),
            (", queue;dur=", queued),
            (", upstream;dur=", asked),
            (", own;dur=", own),
        ] {
            told.push_str(name);
            limits::put_millis(&mut told, took);
        }
        if let Ok(told) = HeaderValue::from_str(&told) {
            headers.insert(SERVER_TIMING, told);
        }
        if let Some(place) = place {
            headers.insert("x-queue-position", HeaderValue::from(place));
        }
    }
}

/// What nginx logs for a client that closed its connection before it was answered; it is never sent.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Drop for Record {
    fn drop(&mut self) {
        self.event.total = self.opened.elapsed();
        if self.event.outcome == Outcome::ClientLeft {
            self.give_back(false);
        }
        if self.is_counted {
            self.learn_rate();
        } else if let Some(usage) = self.estimate() {
            self.event.usage = usage;
        }
        if let Some(passage) = self.passage.take() {
            passage.note(|passed| {
                self.event.upstream = passed.upstream.take();
                self.event.model = passed.model.take().or(self.event.model.take());
            });
        }
        self.gateway.series.ended(&Ended {
            tenant: self.principal.as_ref().map_or(NOBODY, |one| &one.tenant_name),
            model: self.event.model.as_ref().map_or(NOBODY, ModelName::as_str),
            status: self.event.status,
            usage: self.event.usage,
            first_byte: self.event.first_byte,
            total: self.event.total,
        });
        let audit = &self.gateway.handles.audit;
        let (model, upstream) = (self.event.model.take(), self.event.upstream.take());
        audit.record(self.place.take(), AuditEvent { model, upstream, ..self.event });
        // What is counted is recorded before: who reads the ledger anew must find it there.
        if let Some(mut permit) = self.permit.take() {
            permit.settle(self.event.usage.total());
        }
    }
}
