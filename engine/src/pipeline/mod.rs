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

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
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
    http::{Seen, body::ReplyBody, refusal::Refusal, router},
};

pub mod admitted;
pub mod authenticated;
pub mod authorized;
pub mod received;
pub mod routed;
pub mod settled;
pub mod streaming;

/// Answers a request. `seen` is what the edge of an HTTP/1.1 connection knows of its head.
pub(crate) async fn answer(
    gateway: Arc<Gateway>,
    seen: Option<Arc<Seen>>,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let id = request_id();
    let is_head = request.method() == Method::HEAD;
    let dialect = router::dialect(request.uri().path());
    let received = match Received::new(request, seen, &gateway) {
        Ok(received) => received,
        Err(fault) => {
            let record = Record::open(&gateway, id, Route::Unknown);
            return finish(refuse(&fault.into(), record, dialect), id, is_head);
        }
    };
    if let Some(response) = api::open(&received, &gateway).await {
        return finish(response, id, is_head);
    }
    let mut record = Record::open(&gateway, id, received.endpoint().route());
    // A walk that is still under way when everything is cut ends here, with a record.
    let walked = tokio::select! {
        biased;
        walked = walk(received, &gateway, &mut record) => walked,
        () = gateway.life.cutting().cancelled() => Err(Refusal::Stopping),
    };
    let response = match walked {
        Ok(response) => settled::attach(response, record),
        Err(refusal) => refuse(&refusal, record, dialect),
    };
    finish(response, id, is_head)
}

fn refuse(refusal: &Refusal, mut record: Record, dialect: Dialect) -> Response<ReplyBody> {
    record.refuse(refusal);
    settled::attach(refusal.respond(record.id(), dialect), record)
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
    match admitted.route(gateway)? {
        routed::Way::Here(here) => {
            let response = api::answer(here, gateway, record.id()).await?;
            record.first_byte();
            record.complete(Usage::default());
            Ok(response)
        }
        routed::Way::Upstream(routed) => {
            let streaming = routed.dispatch(gateway, record).await?;
            Ok(streaming.into_response(gateway, record))
        }
    }
}

/// What every answer has, whatever it says.
fn finish(mut response: Response<ReplyBody>, id: RequestId, is_head: bool) -> Response<ReplyBody> {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert("x-request-id", value);
    }
    // Callers prove themselves with a key that they put in by hand, never with what a browser adds
    // by itself: another origin gains nothing that it did not have.
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-request-id, retry-after, retry-after-ms"),
    );
    if is_head {
        response = response.map(ReplyBody::without_bytes);
    }
    response
}
