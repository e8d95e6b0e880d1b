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
    ($($variant:ident = $code:literal, $status:literal, $side:ident, $kind:literal, $retry:literal, $message:literal, $remedy:literal;)+) => {
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

            /// What whoever reads it can do.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy),+ }
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
        "The request is not well-formed HTTP.",
        "Look at what stands between you and the gateway: a length that is given twice, a body that breaks off.";
    InvalidJson = "invalid_json", 400, Client, "invalid_request_error", false,
        "The body is not valid JSON.",
        "Send one JSON object in UTF-8, and nothing after it.";
    InvalidRequest = "invalid_request", 400, Client, "invalid_request_error", false,
        "The request is not valid.",
        "Correct the field that `param` names.";
    AmbiguousField = "ambiguous_field", 400, Client, "invalid_request_error", false,
        "A field stands in the body more than once, or in another case than its own.",
        "Send the field once, in lower case.";
    ModelRequired = "model_required", 400, Client, "invalid_request_error", false,
        "The request names no model.",
        "Name a model: `GET /v1/models` lists those of the key.";
    InvalidModelName = "invalid_model_name", 400, Client, "invalid_request_error", false,
        "The model name is not valid.",
        "Spell the model as `GET /v1/models` does.";
    UnsupportedParameter = "unsupported_parameter", 400, Client, "invalid_request_error", false,
        "A parameter cannot be honoured.",
        "Leave out what `param` names, or ask a model whose server has it; the operator may allow a field that the gateway does not know (`tenant set --options all`).";
    ImageUnavailable = "image_unavailable", 400, Client, "invalid_request_error", false,
        "The image at that address cannot be had.",
        "Send the image itself, as a `data:` URI or in base64.";
    AmbiguousCredentials = "ambiguous_credentials", 400, Client, "invalid_request_error", false,
        "Two different API keys came with the request.",
        "Send one key, as `Authorization: Bearer nz_…` or as `x-api-key`; a key of another provider beside it does no harm.";
    UpstreamRejected = "upstream_rejected", 400, Client, "invalid_request_error", false,
        "The model server does not accept this request for this model.",
        "Ask for less, or another model; operators look into the log of the model server.";
    ContextLengthExceeded = "context_length_exceeded", 400, Client, "invalid_request_error", false,
        "The request exceeds the context length of this model.",
        "Send a shorter prompt, ask for fewer tokens, or take a model with a larger context.";
    CapabilityMissing = "capability_missing", 400, Client, "invalid_request_error", false,
        "This model does not support what the request asks for.",
        "Leave out what `param` names, or ask another model; operators look at how the model server was started.";
    ContentFilter = "content_filter", 400, Client, "invalid_request_error", false,
        "The filter of the model server did not let the request pass.",
        "Change the prompt, or ask another model.";
    MissingApiKey = "missing_api_key", 401, Client, "invalid_request_error", false,
        "No API key was given. Send it as `Authorization: Bearer nz_…`.",
        "Send the key as `Authorization: Bearer nz_…`, or as `x-api-key`.";
    InvalidApiKey = "invalid_api_key", 401, Client, "invalid_request_error", false,
        "Incorrect API key provided.",
        "Look whether the key is whole, and this gateway's.";
    KeyExpired = "key_expired", 401, Client, "invalid_request_error", false,
        "The API key has expired.",
        "Ask the operator for a new key.";
    KeyRevoked = "key_revoked", 401, Client, "invalid_request_error", false,
        "The API key has been revoked.",
        "Ask the operator for a new key.";
    OperatorUnproven = "operator_unproven", 401, Client, "invalid_request_error", false,
        "It was not proven that an operator asks.",
        "On the admin listener: send `admin.token` as `Authorization: Bearer …`.";
    TenantSuspended = "tenant_suspended", 403, Client, "permission_error", false,
        "The tenant of this API key is suspended.",
        "Ask the operator.";
    EndpointBlocked = "endpoint_blocked", 403, Client, "permission_error", false,
        "This endpoint changes the model server and is always blocked.",
        "Models are managed on the model server itself.";
    ModelNotAllowed = "model_not_allowed", 403, Client, "permission_error", false,
        "This API key may not use that model.",
        "Ask the operator to allow the model, or use one of `GET /v1/models`.";
    OptionNotAllowed = "option_not_allowed", 403, Client, "permission_error", false,
        "This API key may not ask that of a model server.",
        "Leave out what `param` names, or ask the operator (`tenant set --may-unload`, `--options`, `--num-ctx-max`).";
    CloudModelBlocked = "cloud_model_blocked", 403, Client, "permission_error", false,
        "Cloud models are not allowed on this gateway.",
        "Use a model that runs here.";
    ChangesForbidden = "changes_forbidden", 403, Client, "permission_error", false,
        "Nobody may change anything here: no operator's token is configured.",
        "On the admin listener: configure `admin.token`, and send it.";
    OriginNotAllowed = "origin_not_allowed", 403, Client, "permission_error", false,
        "A page of another origin may not change anything here.",
        "On the admin listener: ask without a browser, or add the page's host to `admin.hosts`.";
    NotFound = "not_found", 404, Client, "invalid_request_error", false,
        "There is no such endpoint.",
        "Compare the path with the list in the README.";
    NoSuchObject = "no_such_object", 404, Client, "invalid_request_error", false,
        "There is nothing of that name.",
        "On the admin listener: look at the id or the name in the path.";
    ModelNotFound = "model_not_found", 404, Client, "invalid_request_error", false,
        "The model does not exist.",
        "Use one of `GET /v1/models`.";
    MethodNotAllowed = "method_not_allowed", 405, Client, "invalid_request_error", false,
        "The endpoint does not answer to this method.",
        "Use the method that `allow` names.";
    RequestTimeout = "request_timeout", 408, Client, "invalid_request_error", true,
        "The request did not arrive in time.",
        "Send faster, or less.";
    ReplyUnread = "reply_unread", 408, Client, "invalid_request_error", true,
        "The reply was not read in time.",
        "Read the reply as it comes; operators raise `server.write_timeout`.";
    AlreadyThere = "already_there", 409, Client, "invalid_request_error", false,
        "There is something of that name already.",
        "On the admin listener: choose another name.";
    ChangedMeanwhile = "changed_meanwhile", 409, Client, "invalid_request_error", true,
        "It was changed by somebody else meanwhile.",
        "On the admin listener: look at it again and repeat the change.";
    RequestTooLarge = "request_too_large", 413, Client, "invalid_request_error", false,
        "The body is larger than the gateway accepts.",
        "Send less; the operator may raise `server.body_bytes_max`.";
    UriTooLong = "uri_too_long", 414, Client, "invalid_request_error", false,
        "The URL is longer than the gateway accepts.",
        "Send it in the body.";
    UnsupportedEncoding = "unsupported_encoding", 415, Client, "invalid_request_error", false,
        "The gateway accepts bodies that are packed with gzip or with zstd, and no others.",
        "Send the body as it is, or packed once, with `content-encoding: gzip` or `zstd`.";
    HostNotAllowed = "host_not_allowed", 421, Client, "invalid_request_error", false,
        "The admin listener does not answer to that name.",
        "On the admin listener: ask by its address, or add the name to `admin.hosts`.";
    InvalidSetting = "invalid_setting", 422, Client, "invalid_request_error", false,
        "What was asked for cannot be.",
        "On the admin listener: correct what the message names.";
    TooManyAttempts = "too_many_attempts", 429, Client, "rate_limit_error", true,
        "Too many keys with this prefix are being verified.",
        "Wait for `retry-after`; look for a client with a wrong key.";
    TooManyFailures = "too_many_failures", 429, Client, "rate_limit_error", true,
        "Too many wrong API keys came from your address.",
        "Wait for `retry-after`; look for a client with a wrong key. Operators: `keys.failures_per_minute`.";
    RateLimitRequests = "rate_limit_requests", 429, Client, "rate_limit_error", true,
        "The limit of requests per minute is reached.",
        "Wait for `retry-after`.";
    RateLimitTokens = "rate_limit_tokens", 429, Client, "rate_limit_error", true,
        "The limit of tokens per minute is reached.",
        "Wait for `retry-after`, or ask for fewer tokens.";
    Concurrency = "concurrency", 429, Client, "rate_limit_error", true,
        "The limit of requests at once is reached.",
        "Let a request of yours end first.";
    BudgetExhausted = "budget_exhausted", 429, Client, "insufficient_quota", false,
        "The budget of tokens is used up.",
        "Wait for the next period (`x-budget-reset`), or ask the operator.";
    UpstreamRateLimited = "upstream_rate_limited", 429, Upstream, "rate_limit_error", true,
        "The model server limits how often it is asked, and the limit is reached.",
        "Wait for `retry-after`; operators raise the limit there, or add another model server.";
    HeadersTooLarge = "headers_too_large", 431, Client, "invalid_request_error", false,
        "The header fields are larger than the gateway accepts.",
        "Send fewer, or shorter, header fields.";
    Internal = "internal_error", 500, Gateway, "server_error", true,
        "The gateway failed.",
        "Tell the operator the `x-request-id`.";
    UpstreamOutOfMemory = "upstream_out_of_memory", 500, Upstream, "server_error", false,
        "The model server has too little memory for this model or request.",
        "Ask a smaller model, or with a smaller context; operators make room on the model server.";
    UpstreamFailed = "upstream_failed", 502, Upstream, "server_error", true,
        "The model server failed.",
        "Try again; operators look into the log of the model server.";
    UpstreamUnavailable = "upstream_unavailable", 503, Upstream, "server_error", true,
        "No model server can be reached for that model.",
        "Try again; operators: `neuronetz upstream check`.";
    UpstreamOverloaded = "upstream_overloaded", 503, Upstream, "server_error", true,
        "The model server has too much to do.",
        "Wait for `retry-after`; operators add another model server, or give this one fewer slots.";
    ModelLoading = "model_loading", 503, Upstream, "server_error", true,
        "The model is being loaded.",
        "Wait for `retry-after`.";
    DatabaseUnavailable = "database_unavailable", 503, Gateway, "server_error", true,
        "The database cannot be used right now.",
        "On the admin listener: try again; look after the database.";
    IdentityUnavailable = "identity_unavailable", 503, Gateway, "server_error", true,
        "The API key cannot be checked right now.",
        "Try again; operators look after the database.";
    CatalogUnavailable = "catalog_unavailable", 503, Gateway, "server_error", true,
        "It is not known right now which models there are.",
        "Try again; operators: `neuronetz upstream check`.";
    LimitsUnavailable = "limits_unavailable", 503, Gateway, "server_error", true,
        "The limits cannot be checked right now.",
        "Try again; operators look after Redis, or the database.";
    AuditSaturated = "audit_saturated", 503, Gateway, "server_error", true,
        "The request could not be recorded right now.",
        "Try again; operators look after the database.";
    QueueTimeout = "queue_timeout", 503, Gateway, "server_error", true,
        "No model server had room for the request in time.",
        "Try again later; operators give the model more slots.";
    QueueFull = "queue_full", 503, Gateway, "server_error", true,
        "Too many requests wait for a model server already.",
        "Try again later; operators give the model more slots.";
    Overloaded = "overloaded", 503, Gateway, "server_error", true,
        "The gateway is at one of its limits.",
        "Try again, or send and ask for less; operators raise `server.bodies_bytes_max` or `server.replies_bytes_max`.";
    ShuttingDown = "shutting_down", 503, Gateway, "server_error", true,
        "The gateway is stopping.",
        "Try again: another replica, or the next one, answers.";
    UpstreamTimeout = "upstream_timeout", 504, Upstream, "server_error", true,
        "The model server did not answer in time.",
        "Try again, or ask for less; operators raise `upstream.first_byte_timeout`.";
}

/// The catalogue as Markdown: `docs/ERRORS.md`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(REFERENCE_HEAD);
    for code in Code::ALL {
        let again = if code.retryable() { "yes" } else { "no" };
        let row = format!(
            "| `{code}` | {} | {} | {} | {again} |\n",
            code.status(),
            code.message(),
            code.remedy()
        );
        text.push_str(&row);
    }
    text
}

const REFERENCE_HEAD: &str = "\
# Errors

<!-- Made by `neuronetz check-config --errors`; a test fails when it is stale. -->

Every refusal has one of these codes. On `/v1` it stands in `error.code`, beside the message, OpenAI's
`type` and the field that is meant (`param`); on `/v1/messages` in Anthropic's shape, with the code beside
its `type`; on `/api` only the message is told, as Ollama's clients want it; on the admin listener the code
stands beside it. Where no `param` can stand, the message begins with the field that is meant. Every answer has an
`x-request-id`, by which the operator finds it in the log and in the audit. No word of a model server ever
stands in one.

Once a stream has begun its status is 200, whatever happens: what breaks off then ends with an event (or
a line) that holds the code, and never looks like a reply that is whole.

| code | status | what it says | what to do | worth trying again |
|---|---|---|---|---|
";

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
    fn the_reference_in_the_docs_is_fresh() {
        let kept = include_str!("../../docs/ERRORS.md");
        let hint = "docs/ERRORS.md is stale: neuronetz check-config --errors > docs/ERRORS.md";
        assert!(kept == reference(), "{hint}");
    }

    #[test]
    fn a_server_error_is_never_the_clients_fault() {
        for code in Code::ALL {
            // The model server's limits are not those of the client.
            let is_ours = code.status() >= 500 || *code == Code::UpstreamRateLimited;
            assert_eq!(is_ours, code.side() != Side::Client, "{code}");
        }
    }
}
