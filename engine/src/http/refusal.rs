//! The one place where a refusal becomes HTTP.
//!
//! Each module refuses in its own words; they meet in [`Refusal`]. What a client is told is decided
//! here, without a wildcard, so that a new refusal does not compile until someone has chosen. The
//! inner cause goes to the log, once, here too.

use std::{borrow::Cow, time::Duration};

use actors::{audit::Saturated, catalog, directory::NoneOpen, quiet, rules::lane::NotNow, tenant};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use identity::{authorize::Denied, limits::LimitPeriod, presented::NotPresented};
use protocol::{
    cause::Cause,
    error::{Code, Side},
    id::RequestId,
    ollama::request::BodyError,
    route::{Dialect, Route},
    translate::{Reply, failure, whole::ReplyError},
};

use storage::admission::{Limit, Refused, Wait};

use super::{arrival::ArrivalFault, body::ReplyBody, limits, unpack::Coding};
use crate::{
    clock::request_id,
    keyring, telemetry,
    upstream::{
        client::{CallError, ReadError},
        images::ImageFault,
    },
};

/// What a client is asked to wait before it tries again, where nothing more exact is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The same while a model is being loaded.
const LOADING_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The SDKs wait for a minute and no longer; told of more, some try again at once.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why a request goes no further.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request, as HTTP, is not acceptable.
    #[error(transparent)]
    Head(#[from] HeadFault),
    /// No key, or none that is one.
    #[error(transparent)]
    NotPresented(#[from] NotPresented),
    /// The key does not prove anybody.
    #[error(transparent)]
    Identity(#[from] keyring::Refused),
    /// The endpoint is blocked for everybody.
    #[error("the endpoint is blocked")]
    Blocked,
    /// The body did not arrive as it should.
    #[error(transparent)]
    Arrival(#[from] ArrivalFault),
    /// The body says something that cannot be done.
    #[error("the body is not acceptable: {}", .0.code)]
    Body(BodyError),
    /// An image of it cannot be had; where its address stands.
    #[error("an image cannot be had: {0:?}")]
    Image(ImageFault, Option<String>),
    /// The principal may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It is not known which models there are.
    #[error(transparent)]
    Catalog(#[from] catalog::Unavailable),
    /// Its limits do not let it in.
    #[error(transparent)]
    Admission(#[from] tenant::Denied),
    /// It could not be recorded.
    #[error(transparent)]
    Audit(#[from] Saturated),
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
    /// No upstream had a turn for it.
    #[error("no upstream has a turn for it: {0:?}")]
    Queue(NotNow),
    /// All upstreams are left alone for a while.
    #[error("all upstreams are left alone for a while")]
    NoneOpen(NoneOpen),
    /// No upstream could be called, or the call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The reply could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no room for the reply, or for the work on a large body.
    #[error("there is no room: {0}")]
    NoRoom(&'static str),
    /// The upstream said why it does not do it.
    #[error("the upstream said why: {}", .0.cause)]
    Caused(Caused),
    /// The upstream answered with a fault, and perhaps with when it wants to be asked again.
    #[error("the upstream answered with status {0}")]
    UpstreamStatus(u16, Option<Duration>),
    /// The upstream answered with something that is no reply.
    #[error("the upstream's reply cannot be understood")]
    UpstreamReply,
    /// The upstream answered with something that has no form in the client's dialect.
    #[error("the upstream's reply cannot be translated: {0}")]
    Untranslatable(ReplyError),
}

impl From<NotNow> for Refusal {
    fn from(not_now: NotNow) -> Self {
        Self::Queue(not_now)
    }
}

impl From<Caused> for Refusal {
    fn from(caused: Caused) -> Self {
        Self::Caused(caused)
    }
}

/// Why an upstream does not do it.
#[derive(Clone, Copy, Debug)]
pub struct Caused {
    /// The reason.
    pub cause: Cause,
    /// The route of the request: its dialect decides the words.
    pub route: Route,
    /// When the upstream wants to be asked again, if it says so.
    pub wait: Option<Duration>,
}

/// What is wrong with a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// No such endpoint.
    #[error("no such endpoint")]
    NotFound,
    /// Another method is wanted.
    #[error("wrong method")]
    Method(&'static str),
    /// The URL is too long.
    #[error("the URL is too long")]
    UriTooLong,
    /// The header fields are too large.
    #[error("the header fields are too large")]
    HeadersTooLarge,
    /// Both `Content-Length` and `Transfer-Encoding`, or another shape that could be read in two
    /// ways.
    #[error("the head can be read in two ways")]
    Ambiguous,
}

/// What the client is told.
struct Told<'a> {
    code: Code,
    message: Cow<'a, str>,
    param: Option<&'a str>,
}

// === impl Refusal ===

impl Refusal {
    /// The code of this refusal. No wildcard arm.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Head(HeadFault::NotFound) => Code::NotFound,
            Self::Head(HeadFault::Method(_)) => Code::MethodNotAllowed,
            Self::Head(HeadFault::UriTooLong) => Code::UriTooLong,
            Self::Head(HeadFault::HeadersTooLarge) => Code::HeadersTooLarge,
            Self::Head(HeadFault::Ambiguous) => Code::MalformedRequest,
            Self::NotPresented(NotPresented::Missing) => Code::MissingApiKey,
            Self::NotPresented(NotPresented::Ambiguous) => Code::AmbiguousCredentials,
            Self::NotPresented(NotPresented::Malformed)
            | Self::Identity(keyring::Refused::Wrong) => Code::InvalidApiKey,
            Self::Identity(keyring::Refused::Expired) => Code::KeyExpired,
            Self::Identity(keyring::Refused::Revoked) => Code::KeyRevoked,
            Self::Identity(keyring::Refused::Suspended) => Code::TenantSuspended,
            Self::Identity(keyring::Refused::TooMany) => Code::TooManyAttempts,
            Self::Identity(keyring::Refused::TooManyFailures) => Code::TooManyFailures,
            Self::Identity(keyring::Refused::Unavailable) => Code::IdentityUnavailable,
            Self::Blocked => Code::EndpointBlocked,
            Self::Arrival(ArrivalFault::TooLarge | ArrivalFault::Ratio | ArrivalFault::Window) => {
                Code::RequestTooLarge
            }
            Self::Arrival(ArrivalFault::Encoding) => Code::UnsupportedEncoding,
            Self::Arrival(ArrivalFault::Slow) => Code::RequestTimeout,
            Self::Arrival(ArrivalFault::Broken | ArrivalFault::Packing) => Code::MalformedRequest,
            Self::Arrival(ArrivalFault::NoRoom) => Code::Overloaded,
            Self::Body(error) => error.code,
            Self::Image(ImageFault::Room | ImageFault::Crowded, _) => Code::Overloaded,
            Self::Image(_, _) => Code::ImageUnavailable,
            Self::Denied(Denied::Cloud) => Code::CloudModelBlocked,
            Self::Denied(Denied::NotAllowed) => Code::ModelNotAllowed,
            Self::Denied(Denied::NotFound) => Code::ModelNotFound,
            Self::Catalog(_) => Code::CatalogUnavailable,
            Self::Admission(tenant::Denied::Limit(refused)) => match refused.by.what {
                Limit::Requests => Code::RateLimitRequests,
                Limit::Tokens => Code::RateLimitTokens,
                Limit::Concurrency => Code::Concurrency,
                Limit::Budget(_) => Code::BudgetExhausted,
            },
            Self::Admission(tenant::Denied::Unavailable) => Code::LimitsUnavailable,
            Self::Audit(_) => Code::AuditSaturated,
            Self::Stopping => Code::ShuttingDown,
            Self::Queue(NotNow::TimedOut) => Code::QueueTimeout,
            Self::Queue(NotNow::Full(_)) => Code::QueueFull,
            Self::Queue(NotNow::Open(_))
            | Self::NoneOpen(_)
            | Self::Call(CallError::Connect(_) | CallError::ConnectTimeout) => {
                Code::UpstreamUnavailable
            }
            Self::Call(CallError::FirstByteTimeout) | Self::Read(ReadError::Stalled) => {
                Code::UpstreamTimeout
            }
            Self::Call(CallError::Broken(_))
            | Self::Read(ReadError::Broken(_) | ReadError::TooLarge)
            | Self::UpstreamReply
            | Self::Untranslatable(_) => Code::UpstreamFailed,
            Self::Caused(Caused { cause, .. }) => cause.code(),
            Self::UpstreamStatus(status, _) => upstream_status(*status),
            Self::Read(ReadError::NoRoom) | Self::NoRoom(_) => Code::Overloaded,
        }
    }

    /// Whether the rest of the request must not be waited for on this connection.
    fn closes(&self) -> bool {
        match self {
            Self::Head(fault) => {
                matches!(fault, HeadFault::Ambiguous | HeadFault::HeadersTooLarge)
            }
            Self::Arrival(_) => true,
            _ => false,
        }
    }

    /// Logs the cause, quietly where many are refused alike, and counts what was refused because a check could not be made.
    fn log(&self, request: RequestId) {
        let code = self.code();
        match code.side() {
            Side::Client => tracing::debug!(%request, %code, cause = %self, "refused"),
            Side::Gateway => {
                telemetry::failed_closed(code);
                quiet!(warn, "refused", code.as_str(); %request, %code, cause = %self);
            }
            Side::Upstream => {
                quiet!(warn, "upstream failed", code.as_str(); %request, %code, cause = %self);
            }
        }
    }

    fn told(&self) -> Told<'_> {
        let code = self.code();
        match self {
            Self::Body(error) => {
                Told { code, message: error.message.clone(), param: error.field.as_deref() }
            }
            Self::Image(ImageFault::Room | ImageFault::Crowded, at) => {
                Told { code, message: code.message().into(), param: at.as_deref() }
            }
            Self::Image(fault, at) => {
                Told { code, message: fault.to_string().into(), param: at.as_deref() }
            }
            Self::Admission(tenant::Denied::Limit(refused)) => {
                Told { code, message: limited(refused).into(), param: None }
            }
            Self::Arrival(fault) => {
                let message = fault.message().unwrap_or(code.message()).into();
                Told { code, message, param: None }
            }
            Self::Caused(Caused { cause, route, .. }) => {
                Told { code, message: cause.message(*route), param: cause.param(*route) }
            }
            Self::Denied(_) | Self::UpstreamStatus(404, _) => {
                Told { code, message: code.message().into(), param: Some("model") }
            }
            _ => Told { code, message: code.message().into(), param: None },
        }
    }

    /// The answer. The cause goes to the log.
    #[must_use]
    pub fn respond(&self, request: RequestId, dialect: Dialect) -> Response<ReplyBody> {
        let Told { code, message, param } = self.told();
        self.log(request);
        let mut response = respond(code, &message, param, (dialect, request));
        let headers = response.headers_mut();
        if let Self::Admission(tenant::Denied::Limit(refused)) = self {
            limits::tell(refused.gauges, headers);
            match refused.by.wait {
                Wait::For(wait) => retry_after(wait, headers),
                Wait::Unknown => {}
                // Whoever tried again would hear the same.
                Wait::Forever => never_retry(headers),
            }
        }
        if let Self::Caused(Caused { cause, wait, .. }) = self {
            match wait {
                _ if !code.retryable() => never_retry(headers),
                Some(wait) => retry_after((*wait).max(RETRY_AFTER), headers),
                None if *cause == Cause::Loading => retry_after(LOADING_RETRY_AFTER, headers),
                None => {}
            }
        }
        if let Self::NoneOpen(NoneOpen { after: Some(after) })
        | Self::UpstreamStatus(503, Some(after)) = self
        {
            retry_after((*after).max(RETRY_AFTER), headers);
        }
        if let Self::Head(HeadFault::Method(allowed)) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        // What a body may be packed with, to whoever chose something else (RFC 9110, 12.5.3).
        if let Self::Arrival(ArrivalFault::Encoding) = self {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(Coding::ALL));
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The same as the last event of a stream that had begun already.
pub(crate) fn event(refusal: &Refusal, reply: &Reply) -> Bytes {
    let Told { code, message, param } = refusal.told();
    failure(reply, code, &message, param)
}

/// What the status of an upstream's answer means here. Its 401 and 403 are between it and us: a
/// client that is told so would change its key in vain.
fn upstream_status(status: u16) -> Code {
    match status {
        404 => Code::ModelNotFound,
        400 | 405..=407 | 409..=428 => Code::UpstreamRejected,
        503 => Code::UpstreamUnavailable,
        408 | 504 => Code::UpstreamTimeout,
        _ => Code::UpstreamFailed,
    }
}

/// An error body with its headers; what every answer has besides is added where it leaves.
fn respond(
    code: Code,
    message: &str,
    param: Option<&str>,
    whose: (Dialect, RequestId),
) -> Response<ReplyBody> {
    let body = Bytes::from(text(code, message, param, whose));
    let mut response = Response::new(ReplyBody::whole(body));
    *response.status_mut() =
        StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if code.status() == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if code.retryable() && matches!(code.status(), 429 | 503) {
        retry_after(RETRY_AFTER, headers);
    }
    response
}

/// Says when to try again. Whole seconds are rounded up, so that nobody comes too early.
fn retry_after(wait: Duration, headers: &mut HeaderMap) {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1_000)));
    headers.insert("retry-after-ms", HeaderValue::from(millis));
    if wait > RETRY_WAIT_MAX {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
}

fn never_retry(headers: &mut HeaderMap) {
    headers.remove(header::RETRY_AFTER);
    headers.remove("retry-after-ms");
    headers.insert("x-should-retry", HeaderValue::from_static("false"));
}

/// Which limit it was, for people.
fn limited(refused: &Refused) -> String {
    let whose = refused.scope.as_str();
    let limit = refused.by.limit;
    let of_what = match refused.by.what {
        Limit::Requests => "requests per minute",
        Limit::Tokens => "tokens per minute",
        Limit::Concurrency => "requests at once",
        Limit::Budget(LimitPeriod::Day) => "tokens per day",
        Limit::Budget(LimitPeriod::Month) => "tokens per month",
        Limit::Budget(LimitPeriod::Total) => "tokens in all",
    };
    match refused.by.wait {
        Wait::Forever => {
            format!("This request needs more than the {whose}'s limit of {limit} {of_what}.")
        }
        Wait::For(_) | Wait::Unknown => {
            format!("The {whose}'s limit of {limit} {of_what} is reached.")
        }
    }
}

fn text(
    code: Code,
    message: &str,
    param: Option<&str>,
    (dialect, request): (Dialect, RequestId),
) -> String {
    match dialect {
        Dialect::Ollama => protocol::openai::error::ollama_error(message, param),
        Dialect::OpenAi => protocol::openai::error::openai_error(code, message, param),
        Dialect::Anthropic => {
            protocol::openai::error::anthropic_error(code, message, param, Some(request))
        }
    }
}

/// A whole answer as bytes, for a request that never became one: its head could not be read.
#[must_use]
pub fn raw(code: Code) -> Bytes {
    let request = request_id();
    tracing::debug!(%request, %code, "refused before there was a request");
    let body = text(code, code.message(), None, (Dialect::OpenAi, request));
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = status.canonical_reason().unwrap_or("Refused");
    Bytes::from(format!(
        "HTTP/1.1 {} {reason}\r\nx-request-id: {request}\r\ncontent-type: application/json\r\n\
         x-content-type-options: nosniff\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        status.as_u16(),
        body.len(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_answer_is_whole_and_has_a_request_id() {
        let raw = raw(Code::HeadersTooLarge);
        let Ok(text) = std::str::from_utf8(&raw) else { panic!("not text") };
        let Some((head, body)) = text.split_once("\r\n\r\n") else { panic!("no head") };
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        assert!(head.contains("x-request-id: req_"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert!(body.contains("headers_too_large"), "{body}");
    }

    #[test]
    fn an_upstreams_word_on_identity_is_not_passed_on() {
        for status in [401, 403, 500, 502, 302, 101] {
            assert_eq!(upstream_status(status), Code::UpstreamFailed, "{status}");
        }
        assert_eq!(upstream_status(400), Code::UpstreamRejected);
        assert_eq!(upstream_status(404), Code::ModelNotFound);
        assert_eq!(upstream_status(503), Code::UpstreamUnavailable);
    }
}
