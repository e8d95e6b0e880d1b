//! The last stage: what happened is written down, whoever ended it.
//!
//! A [`Record`] is opened with the request and ends up in the body of its answer. It is settled when
//! it is dropped: after the last byte, when the client has gone, or when the gateway gives up. No
//! branch can forget it.

use std::{sync::Arc, time::Duration};

use actors::{audit::Place, rules::account::Gauges, tenant::Permit};
use http::Response;
use identity::principal::Principal;
use protocol::{
    error::{Code, Side},
    id::RequestId,
    name::ModelName,
    outcome::Outcome,
    route::Route,
    usage::Usage,
};
use storage::audit::AuditEvent;
use tokio::time::Instant;

use crate::{
    gateway::Gateway,
    http::{body::ReplyBody, limits, refusal::Refusal},
    telemetry::Ended,
};

/// What is known of a request, growing as it goes. Settles when it is dropped.
pub struct Record {
    gateway: Arc<Gateway>,
    principal: Option<Arc<Principal>>,
    place: Option<Place>,
    permit: Option<Permit>,
    event: AuditEvent,
    opened: Instant,
}

/// Ties the record to the answer: it is settled when the answer's body is done with.
pub fn attach(mut response: Response<ReplyBody>, mut record: Record) -> Response<ReplyBody> {
    record.event.status = response.status().as_u16();
    limits::tell(record.gauges(), response.headers_mut());
    response.map(|body| body.with(record))
}

// === impl Record ===

impl Record {
    /// Opens a record. Until something else is said, the client has left.
    #[must_use]
    pub fn open(gateway: &Arc<Gateway>, request: RequestId, route: Route) -> Self {
        Self {
            gateway: Arc::clone(gateway),
            principal: None,
            place: None,
            permit: None,
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
            },
            opened: Instant::now(),
        }
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

    /// There is room to write it down.
    pub fn admit(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Its limits let it in.
    pub fn permit(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// How its limits stood when they let it in.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        self.permit.as_ref().map(|permit| permit.gauges).unwrap_or_default()
    }

    /// The model that was found.
    pub fn model(&mut self, model: &ModelName) {
        self.event.model = Some(model.clone());
    }

    /// The upstream that is asked.
    pub fn upstream(&mut self, name: &str) {
        self.event.upstream = Some(name.to_owned());
    }

    /// It goes no further.
    pub fn refuse(&mut self, refusal: &Refusal) {
        let code = refusal.code();
        self.event.code = Some(code);
        self.event.status = code.status();
        self.event.outcome = match (code, code.side()) {
            (Code::UpstreamTimeout | Code::RequestTimeout, _) => Outcome::TimedOut,
            (_, Side::Upstream) => Outcome::UpstreamFailed,
            (_, Side::Client | Side::Gateway) => Outcome::Refused,
        };
    }

    /// The first byte of the reply is on its way.
    pub fn first_byte(&mut self) {
        if self.event.first_byte.is_none() {
            self.event.first_byte = Some(self.opened.elapsed());
        }
    }

    /// The reply is whole.
    pub fn complete(&mut self, usage: Usage) {
        self.event.outcome = Outcome::Completed;
        self.event.usage = usage;
    }

    /// The reply broke off after it had begun.
    pub fn break_off(&mut self, outcome: Outcome, code: Option<Code>, usage: Usage) {
        self.event.outcome = outcome;
        self.event.code = code;
        self.event.usage = usage;
    }
}

/// What nginx logs for a client that closed its connection before it was answered; it is never sent.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Drop for Record {
    fn drop(&mut self) {
        self.event.total = self.opened.elapsed();
        Ended {
            tenant: self.principal.as_ref().map_or("-", |principal| &principal.tenant_name),
            model: self.event.model.as_ref().map_or("-", ModelName::as_str),
            status: self.event.status,
            usage: self.event.usage,
            first_byte: self.event.first_byte,
            total: self.event.total,
        }
        .emit();
        if let Some(mut permit) = self.permit.take() {
            permit.settle(self.event.usage.total());
        }
        let audit = &self.gateway.handles.audit;
        let place = match self.place.take() {
            Some(place) => Some(place),
            // Refused before it was admitted. Strangers can do that as often as they like, so that
            // only a sample of theirs is written down.
            None if self.principal.is_some() => audit.reserve().ok(),
            None => audit.reserve_sampled(),
        };
        if let Some(place) = place {
            place.record(self.event.clone());
        }
    }
}
