//! The catalogue of refusals: every error code that a client can see, with its status and meaning.
//!
//! The engine's one mapping (`engine/src/http/refusal.rs`) turns its typed errors into these; nobody
//! else chooses a status. The texts are the gateway's own: no word of an upstream ever stands here.

use std::fmt;

/// Whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The request was wrong or not permitted.
    Client,
    /// The gateway could not do its part, or would not because a check could not be made.
    Gateway,
    /// The model server failed.
    Upstream,
}

macro_rules! catalogue {
    ($($variant:ident = $code:literal, $status:literal, $side:ident, $kind:literal, $retry:literal, $message:literal;)+) => {
        /// A refusal as clients see it. Its word is the `code` of the error body.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $code, "`, ", stringify!($status), ": ", $message)] $variant,)+
        }

        impl Code {
            /// The whole catalogue, by status.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable word of this refusal.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// Its HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// Whose fault it was.
            #[must_use]
            pub const fn side(self) -> Side {
                match self { $(Self::$variant => Side::$side),+ }
            }

            /// OpenAI's `type` of the error body.
            #[must_use]
            pub const fn kind(self) -> &'static str {
                match self { $(Self::$variant => $kind),+ }
            }

            /// Whether the same request may succeed later.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry),+ }
            }

            /// What is said to the client where nothing more exact is known.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message),+ }
            }

            /// The code of that word, if there is one.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

catalogue! {
    MalformedRequest = "malformed_request", 400, Client, "invalid_request_error", false,
        "The request is not well-formed HTTP.";
    InvalidJson = "invalid_json", 400, Client, "invalid_request_error", false,
        "The body is not valid JSON.";
    InvalidRequest = "invalid_request", 400, Client, "invalid_request_error", false,
        "The request is not valid.";
    AmbiguousField = "ambiguous_field", 400, Client, "invalid_request_error", false,
        "A field stands in the body more than once, or in another case than its own.";
    ModelRequired = "model_required", 400, Client, "invalid_request_error", false,
        "The request names no model.";
    InvalidModelName = "invalid_model_name", 400, Client, "invalid_request_error", false,
        "The model name is not valid.";
    UnsupportedParameter = "unsupported_parameter", 400, Client, "invalid_request_error", false,
        "A parameter cannot be honoured.";
    UpstreamRejected = "upstream_rejected", 400, Client, "invalid_request_error", false,
        "The model server does not accept this request for this model.";
    MissingApiKey = "missing_api_key", 401, Client, "invalid_request_error", false,
        "No API key was given. Send it as `Authorization: Bearer nz_…`.";
    InvalidApiKey = "invalid_api_key", 401, Client, "invalid_request_error", false,
        "Incorrect API key provided.";
    KeyExpired = "key_expired", 401, Client, "invalid_request_error", false,
        "The API key has expired.";
    KeyRevoked = "key_revoked", 401, Client, "invalid_request_error", false,
        "The API key has been revoked.";
    TenantSuspended = "tenant_suspended", 403, Client, "permission_error", false,
        "The tenant of this API key is suspended.";
    EndpointBlocked = "endpoint_blocked", 403, Client, "permission_error", false,
        "This endpoint changes the model server and is always blocked.";
    ModelNotAllowed = "model_not_allowed", 403, Client, "permission_error", false,
        "This API key may not use that model.";
    CloudModelBlocked = "cloud_model_blocked", 403, Client, "permission_error", false,
        "Cloud models are not allowed on this gateway.";
    NotFound = "not_found", 404, Client, "invalid_request_error", false,
        "There is no such endpoint.";
    ModelNotFound = "model_not_found", 404, Client, "invalid_request_error", false,
        "The model does not exist.";
    MethodNotAllowed = "method_not_allowed", 405, Client, "invalid_request_error", false,
        "The endpoint does not answer to this method.";
    RequestTimeout = "request_timeout", 408, Client, "invalid_request_error", true,
        "The request did not arrive in time.";
    RequestTooLarge = "request_too_large", 413, Client, "invalid_request_error", false,
        "The body is larger than the gateway accepts.";
    UriTooLong = "uri_too_long", 414, Client, "invalid_request_error", false,
        "The URL is longer than the gateway accepts.";
    UnsupportedEncoding = "unsupported_encoding", 415, Client, "invalid_request_error", false,
        "The gateway does not accept compressed bodies.";
    TooManyAttempts = "too_many_attempts", 429, Client, "rate_limit_error", true,
        "Too many keys with this prefix are being verified.";
    RateLimitRequests = "rate_limit_requests", 429, Client, "rate_limit_error", true,
        "The limit of requests per minute is reached.";
    RateLimitTokens = "rate_limit_tokens", 429, Client, "rate_limit_error", true,
        "The limit of tokens per minute is reached.";
    Concurrency = "concurrency", 429, Client, "rate_limit_error", true,
        "The limit of requests at once is reached.";
    BudgetExhausted = "budget_exhausted", 429, Client, "insufficient_quota", false,
        "The budget of tokens is used up.";
    HeadersTooLarge = "headers_too_large", 431, Client, "invalid_request_error", false,
        "The header fields are larger than the gateway accepts.";
    Internal = "internal_error", 500, Gateway, "server_error", true,
        "The gateway failed.";
    UpstreamFailed = "upstream_failed", 502, Upstream, "server_error", true,
        "The model server failed.";
    UpstreamUnavailable = "upstream_unavailable", 503, Upstream, "server_error", true,
        "No model server can be reached for that model.";
    IdentityUnavailable = "identity_unavailable", 503, Gateway, "server_error", true,
        "The API key cannot be checked right now.";
    CatalogUnavailable = "catalog_unavailable", 503, Gateway, "server_error", true,
        "It is not known right now which models there are.";
    LimitsUnavailable = "limits_unavailable", 503, Gateway, "server_error", true,
        "The limits cannot be checked right now.";
    AuditSaturated = "audit_saturated", 503, Gateway, "server_error", true,
        "The request could not be recorded right now.";
    QueueTimeout = "queue_timeout", 503, Gateway, "server_error", true,
        "No model server had room for the request in time.";
    QueueFull = "queue_full", 503, Gateway, "server_error", true,
        "Too many requests wait for a model server already.";
    Overloaded = "overloaded", 503, Gateway, "server_error", true,
        "The gateway is at one of its limits.";
    ShuttingDown = "shutting_down", 503, Gateway, "server_error", true,
        "The gateway is stopping.";
    UpstreamTimeout = "upstream_timeout", 504, Upstream, "server_error", true,
        "The model server did not answer in time.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_has_an_error_status() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
            assert!((400..600).contains(&code.status()), "{code}");
        }
    }

    #[test]
    fn a_server_error_is_never_the_clients_fault() {
        for code in Code::ALL {
            assert_eq!(code.status() >= 500, code.side() != Side::Client, "{code}");
        }
    }
}
