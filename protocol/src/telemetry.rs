//! The metrics: their names, what they are and what they say, in one place.

/// What kind of metric one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often it was how large.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it says, in one line.
    pub help: &'static str,
}

/// Names each metric once, with its kind and what it says.
macro_rules! metrics {
    ($($kind:ident $constant:ident = $name:literal: $help:literal;)+) => {
        $(#[doc = $help]
        pub const $constant: &str = $name;)+

        /// All of them.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),+];
    };
}

metrics! {
    Counter REQUESTS_TOTAL = "gateway_requests_total":
        "Requests that ended, by tenant, model and status.";
    Counter TOKENS_TOTAL = "gateway_tokens_total":
        "Tokens, by tenant, model and direction (`prompt`, `completion`).";
    Histogram REQUEST_DURATION_SECONDS = "gateway_request_duration_seconds":
        "From the request's head to the end of its reply, in seconds.";
    Histogram FIRST_BYTE_SECONDS = "gateway_first_byte_seconds":
        "From the request's head to the first byte of its reply, in seconds.";
    Gauge CONNECTIONS_OPEN = "gateway_connections_open":
        "Connections of clients that are open right now.";
    Counter CONNECTIONS_CLOSED_TOTAL = "gateway_connections_closed_total":
        "Connections that the gateway closed by itself, by reason (`address`, `tls_handshake`, `first_request`, `idle`, `write_timeout`, `flood`, `drain`).";
    Counter STREAMS_STALLED_TOTAL = "gateway_streams_stalled_total":
        "HTTP/2 streams that were given up, since their client took nothing of what waited for it for `server.write_timeout`.";
    Counter ACCEPT_FAILURES_TOTAL = "gateway_accept_failures_total":
        "Connections that could not be accepted, for want of descriptors most likely.";
    Gauge STREAMS_OPEN = "gateway_streams_open":
        "Replies that are being streamed right now.";
    Histogram CANCEL_SECONDS = "gateway_cancel_seconds":
        "From the client gone to the upstream's connection closed, in seconds.";
    Counter FAIL_CLOSED_TOTAL = "gateway_fail_closed_total":
        "Requests refused because a check could not be made, by reason.";
    Counter KEY_VERIFICATIONS_TOTAL = "gateway_key_verifications_total":
        "Keys that were compared with Argon2id (`right`, `wrong`), or refused without it (`remembered`: the same key was wrong a moment ago; `crowded`: too many waited for a turn; `address`: its address fails too often), by result.";
    Gauge AUDIT_WAITING = "gateway_audit_waiting":
        "Audit events that wait to be stored.";
    Counter AUDIT_STORED_TOTAL = "gateway_audit_stored_total":
        "Audit events stored.";
    Counter AUDIT_FAILURES_TOTAL = "gateway_audit_failures_total":
        "Attempts to store audit events that failed (the events are kept and tried again).";
    Counter AUDIT_SAMPLED_OUT_TOTAL = "gateway_audit_sampled_out_total":
        "Refusals of unauthenticated requests that were counted only, so that a flood of wrong keys cannot fill the audit.";
    Counter AUDIT_FOLDED_TOTAL = "gateway_audit_folded_total":
        "Requests that used no tokens and were counted in an audit event of many, beyond `audit.unmetered_per_second` of their caller.";
    Counter AUDIT_DROPPED_TOTAL = "gateway_audit_dropped_total":
        "Requests of known callers that were refused and left no audit event, by reason (`full`: the ring was; `share`: their tenant held its share of it).";
    Histogram ACTOR_HANDLING_SECONDS = "gateway_actor_handling_seconds":
        "Time an actor took to handle a message, in seconds, by actor.";
    Counter ACTOR_RESTARTS_TOTAL = "gateway_actor_restarts_total":
        "Restarts of actors, by actor.";
    Gauge UPSTREAM_UP = "gateway_upstream_up":
        "Whether an upstream answered its last poll (1) or not (0), by upstream.";
    Gauge BREAKER_STATE = "gateway_breaker_state":
        "How the breaker of an upstream is, by upstream: 0 closed, 1 half open, 2 open.";
    Counter UPSTREAM_FAULTS_TOTAL = "gateway_upstream_faults_total":
        "Calls of upstreams that failed before anything was sent to the client, and streams that cannot be translated, by upstream and kind; where the upstream says why, also within a stream, with the code of that as the kind. The breaker counts `unconnected`; by tenant `internal_error` (500), `unavailable` (502 to 504), `broken`, `first_byte_timeout`, `stalled`, `model_loading` and `upstream_out_of_memory`; and never `untranslatable`, `own_shortage`, `total_timeout`, `too_large`, `not_now` (404), `refused` (other 4xx), `unsent`, `context_length_exceeded`, `capability_missing`, `content_filter`, `upstream_rate_limited` and `upstream_overloaded`.";
    Gauge CATALOG_MODELS = "gateway_catalog_models":
        "Models in the catalog.";
    Gauge ACTOR_MAILBOX_DEPTH = "gateway_actor_mailbox_depth":
        "Messages that wait in the mailboxes of actors, by actor.";
    Gauge ACTORS_RUNNING = "gateway_actors_running":
        "Actors that run, by actor.";
    Counter LIMIT_REFUSALS_TOTAL = "gateway_limit_refusals_total":
        "Requests that limits said no to, by scope (`tenant`, `key`), limit (`rpm`, `tpm`, `concurrency`, `budget`) and mode (`enforce`: it was refused; `observe`: it would have been).";
    Counter BUDGET_DRIFT_TOKENS_TOTAL = "gateway_budget_drift_tokens_total":
        "Tokens by which the count of a budget and the ledger differed when they were compared, by direction (`over`: more was counted than is written; `under`: less).";
    Gauge QUEUE_DEPTH = "gateway_queue_depth":
        "Requests that wait for a slot of an upstream, by upstream.";
    Gauge UPSTREAM_SLOTS_TAKEN = "gateway_upstream_slots_taken":
        "Requests that have a slot of an upstream, by upstream.";
    Histogram QUEUE_SECONDS = "gateway_queue_seconds":
        "How long requests waited for a slot of an upstream, in seconds.";
    Histogram OVERHEAD_SECONDS = "gateway_overhead_seconds":
        "What the gateway itself took of a request until the head of its answer, in seconds: without the arrival of the body, the wait in the queue and the upstream.";
    Counter RETRIES_TOTAL = "gateway_retries_total":
        "Calls of upstreams that were made again on another upstream, by upstream that failed.";
    Counter PROMPTS_LOST_TOTAL = "gateway_prompts_lost_total":
        "Prompts that were to be kept and could not be.";
}

// === impl Kind ===

impl Kind {
    /// As Prometheus calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What `promtool check metrics` asks of names and helps.
    #[test]
    fn names_and_helps_are_as_prometheus_wants_them() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len(), "a name stands twice");
        for Metric { name, kind, help } in METRICS {
            assert!(name.starts_with("gateway_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(*kind == Kind::Histogram, name.ends_with("_seconds"), "{name}");
            for reserved in ["_count", "_sum", "_bucket"] {
                assert!(!name.ends_with(reserved), "{name}");
            }
            for unit in ["_ms", "_millis", "_milliseconds", "_minutes", "_hours", "_kib", "_mb"] {
                assert!(!name.contains(unit), "{name}: base units only");
            }
            for typed in ["counter", "gauge", "histogram"] {
                assert!(!name.contains(typed), "{name}: the type is no part of the name");
            }
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
        }
    }
}
