//! The names of metrics and their labels, in one place.

/// Requests that ended, by tenant, model and status.
pub const REQUESTS_TOTAL: &str = "gateway_requests_total";
/// Tokens, by tenant, model and direction (`prompt`, `completion`).
pub const TOKENS_TOTAL: &str = "gateway_tokens_total";
/// From the request's head to the end of its reply, in seconds.
pub const REQUEST_DURATION_SECONDS: &str = "gateway_request_duration_seconds";
/// From the request's head to the first byte of its reply, in seconds.
pub const FIRST_BYTE_SECONDS: &str = "gateway_first_byte_seconds";
/// Replies that are being streamed right now.
pub const STREAMS_OPEN: &str = "gateway_streams_open";
/// From the client gone to the upstream's connection closed, in seconds.
pub const CANCEL_SECONDS: &str = "gateway_cancel_seconds";
/// Requests refused because a check could not be made, by reason.
pub const FAIL_CLOSED_TOTAL: &str = "gateway_fail_closed_total";
/// Keys that were verified with Argon2id, by result (`right`, `wrong`).
pub const KEY_VERIFICATIONS_TOTAL: &str = "gateway_key_verifications_total";
/// Audit events that wait to be stored.
pub const AUDIT_WAITING: &str = "gateway_audit_waiting";
/// Audit events stored.
pub const AUDIT_STORED_TOTAL: &str = "gateway_audit_stored_total";
/// Attempts to store audit events that failed (the events are kept and tried again).
pub const AUDIT_FAILURES_TOTAL: &str = "gateway_audit_failures_total";
/// Refusals of unauthenticated requests that were counted only, so that a flood of wrong keys
/// cannot fill the audit.
pub const AUDIT_SAMPLED_OUT_TOTAL: &str = "gateway_audit_sampled_out_total";
/// Time an actor took to handle a message, in seconds, by actor.
pub const ACTOR_HANDLING_SECONDS: &str = "gateway_actor_handling_seconds";
/// Restarts of actors, by actor.
pub const ACTOR_RESTARTS_TOTAL: &str = "gateway_actor_restarts_total";
/// Whether an upstream answered its last poll (1) or not (0), by upstream.
pub const UPSTREAM_UP: &str = "gateway_upstream_up";
/// How the breaker of an upstream is, by upstream: 0 closed, 1 half open, 2 open.
pub const BREAKER_STATE: &str = "gateway_breaker_state";
/// Models in the catalog.
pub const CATALOG_MODELS: &str = "gateway_catalog_models";
/// Messages of requests that wait in the mailboxes of actors, by actor.
pub const ACTOR_MAILBOX_DEPTH: &str = "gateway_actor_mailbox_depth";
/// Actors that run, by actor.
pub const ACTORS_RUNNING: &str = "gateway_actors_running";
/// Requests that limits said no to, by scope (`tenant`, `key`), limit (`rpm`, `tpm`, `concurrency`,
/// `budget`) and mode (`enforce`: it was refused; `observe`: it would have been).
pub const LIMIT_REFUSALS_TOTAL: &str = "gateway_limit_refusals_total";
/// Tokens by which the count of a budget and the ledger differed when they were compared, by direction
/// (`over`: more was counted than is written; `under`: less).
pub const BUDGET_DRIFT_TOKENS_TOTAL: &str = "gateway_budget_drift_tokens_total";
/// Requests that wait for a slot of an upstream, by upstream.
pub const QUEUE_DEPTH: &str = "gateway_queue_depth";
/// Requests that have a slot of an upstream, by upstream.
pub const UPSTREAM_SLOTS_TAKEN: &str = "gateway_upstream_slots_taken";
/// How long requests waited for a slot of an upstream, in seconds.
pub const QUEUE_SECONDS: &str = "gateway_queue_seconds";
/// What the gateway itself took of a request until the head of its answer, in seconds: without the arrival of
/// the body, the wait in the queue and the upstream.
pub const OVERHEAD_SECONDS: &str = "gateway_overhead_seconds";
/// Calls of upstreams that were made again on another upstream, by upstream that failed.
pub const RETRIES_TOTAL: &str = "gateway_retries_total";
/// Prompts that were to be kept and could not be.
pub const PROMPTS_LOST_TOTAL: &str = "gateway_prompts_lost_total";
