//! The walk of one request, in the order it happens.
//!
//! ```text
//! Received → Authenticated → Authorized → Admitted → Routed → Streaming → Settled
//! ```
//!
//! Each stage consumes the stage before it, and the fields of a stage are private to its module. To
//! hold an [`admitted::Admitted`] is to have been admitted: a walk that skips a check does not
//! compile. The record of the request ([`settled::Record`]) goes along beside the stages and ends up
//! in the answer's body; when that is dropped, whoever dropped it, the request is settled.

use std::{net::IpAddr, sync::Arc};

use actors::tenant::Denied;
use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use hyper::body::{Body, Incoming};
use identity::{limits::Limits, principal::Principal};
use protocol::{
    id::RequestId,
    route::{Dialect, Route},
    usage::Usage,
};

use self::{received::Received, settled::Record};
use crate::{
    api,
    clock::request_id,
    gateway::Gateway,
    http::{
        Seen,
        body::ReplyBody,
        cors::{self, Preflight},
        refusal::{HeadFault, Refusal},
        router,
    },
};

pub mod admitted;
pub mod authenticated;
pub mod authorized;
mod faults;
mod fitting;
pub(crate) mod heavy;
mod images;
pub mod live;
mod meter;
pub mod passage;
pub mod queued;
pub(crate) mod rates;
pub mod received;
pub mod relay;
pub mod routed;
pub mod settled;
pub mod streaming;
mod unpacked;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What of a request goes into the head of every answer to it.
#[derive(Clone, Copy)]
struct Asker {
    id: RequestId,
    dialect: Dialect,
    is_head: bool,
    /// It says which page it comes from, as browsers do.
    is_browser: bool,
}

/// Answers a request. `seen` is what the edge of an HTTP/1.1 connection knows of its head, `peer` the other
/// end of its connection.
pub(crate) async fn answer(
    gateway: Arc<Gateway>,
    seen: Option<Arc<Seen>>,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let asker = Asker {
        id: request_id(),
        dialect: router::dialect(request.uri().path()),
        is_head: request.method() == Method::HEAD,
        is_browser: request.headers().contains_key(header::ORIGIN),
    };
    let Asker { id, dialect, .. } = asker;
    let preflight = Preflight::of(request.method(), request.headers());
    let received = match Received::new(request, seen, peer, &gateway) {
        Ok(received) => received,
        // The page learns from the answer to its request that there is no such endpoint; without this one the
        // browser would keep that from it.
        Err(HeadFault::NotFound) if preflight.is_some() => {
            return finish(api::options("GET, HEAD, POST, OPTIONS", preflight), asker);
        }
        Err(fault) => {
            let mut record = Record::open(&gateway, id, Route::Unknown);
            let refusal = Refusal::from(fault);
            record.refuse(&refusal);
            let response = settled::attach(refusal.respond(id, dialect), record);
            return finish(response, asker);
        }
    };
    if let Some(allowed) = received.asks_for_options() {
        return finish(api::options(allowed, preflight), asker);
    }
    if let Some(response) = api::open(&received, &gateway).await {
        return finish(response, asker);
    }
    let mut record = Record::open(&gateway, id, received.endpoint().route());
    // A walk that is still under way when everything is cut ends here, with a record.
    let walked = tokio::select! {
        biased;
        walked = walk(received, &gateway, &mut record) => walked,
        () = gateway.life.cutting().cancelled() => Err(Refusal::Stopping),
    };
    // Before it is said how the limits stand: a refusal may give back what was taken of them.
    if let Err(refusal) = &walked {
        record.refuse(refusal);
    }
    // Where the limits have just not been said, they are not asked for again.
    if !matches!(walked, Err(Refusal::Admission(Denied::Unavailable))) {
        tell_limits(&gateway, &mut record).await;
    }
    let response = walked.unwrap_or_else(|refusal| refusal.respond(id, dialect));
    finish(settled::attach(response, record), asker)
}

/// Whoever was proven is told how the limits stand, also with an answer that none of them decided on.
async fn tell_limits(gateway: &Gateway, record: &mut Record) {
    let Some(principal) = record.principal().filter(|_| record.gauges().is_none()) else { return };
    let Principal { tenant, key, tenant_limits, key_limits, .. } = **principal;
    if tenant_limits == Limits::default() && key_limits == Limits::default() {
        return;
    }
    let standing = gateway.handles.admission.stand(tenant, tenant_limits, key, key_limits);
    if let Some(gauges) = standing.await {
        record.gauge(gauges);
    }
}

/// The walk, once through.
async fn walk(
    received: Received,
    gateway: &Arc<Gateway>,
    record: &mut Record,
) -> Result<Response<ReplyBody>, Refusal> {
    let authenticated = received.authenticate(gateway, record).await?;
    let authorized = authenticated.authorize(gateway, record).await?;
    let admitted = authorized.admit(gateway, record).await?;
    match admitted.route() {
        routed::Way::Here(here) => {
            let response = api::answer(here, gateway).await?;
            record.first_byte();
            record.complete(Usage::default());
            Ok(response)
        }
        routed::Way::Upstream(routed) => {
            let passage = record.set_off();
            let told =
                routed.as_sse().and_then(|reply| queued::Told::new(&gateway.upstream, reply));
            let dispatch = routed.dispatch(Arc::clone(gateway), record.id(), Arc::clone(&passage));
            match told {
                None => Ok(dispatch.await?.into_response(gateway, record)),
                Some(told) => {
                    queued::answer(Box::pin(dispatch), passage, told, gateway, record).await
                }
            }
        }
    }
}

/// What every answer has, whatever it says.
fn finish(mut response: Response<ReplyBody>, asker: Asker) -> Response<ReplyBody> {
    let Asker { id, dialect, is_head, is_browser } = asker;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id.encode(&mut [0; RequestId::LENGTH])) {
        // What Anthropic's SDKs read.
        if dialect == Dialect::Anthropic {
            headers.insert("request-id", value.clone());
        }
        headers.insert(X_REQUEST_ID, value);
    }
    // An answer is what its type says it is, and no script, wherever a browser comes across it.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if is_browser {
        cors::expose(headers);
    }
    if is_head {
        // How long the body would be (RFC 9110, 9.3.2).
        if let Some(length) = response.body().size_hint().exact() {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        response = response.map(ReplyBody::without_bytes);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of a request resolves through, in bytes.
    fn size_of_walk<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_on_its_way_takes_less_than_five_kilobytes() {
        // All of it is moved once, and one large future in it, though never polled, makes all of it large.
        let size = size_of_walk(answer);
        assert!(size < 5 * 1024, "{size} bytes");
    }
}
