//! What happened: one narrow row a request, or for many requests alike that used no tokens.
//!
//! Rows hold ids; the few repeated texts (models, upstreams) stand once each in a dictionary. On
//! Postgres the table is partitioned by month, so that retention drops a partition instead of
//! deleting rows.

#[cfg(test)]
mod contract;
pub(crate) mod names;
mod partitions;
mod postgres;
mod row;
mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::{
    error::Code,
    id::{KeyId, RequestId, TenantId},
    name::ModelName,
    outcome::Outcome,
    route::Route,
    usage::Usage,
};

use crate::error::Result;

/// One line of what happened, written after the stream has closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// The request.
    pub request: RequestId,
    /// When its head had arrived.
    pub at: Timestamp,
    /// Who pays; none where nobody was proven.
    pub tenant: Option<TenantId>,
    /// The key; none where none was proven.
    pub key: Option<KeyId>,
    /// The model; none where none was named or the catalog does not know it.
    pub model: Option<ModelName>,
    /// The name of the upstream that was chosen.
    pub upstream: Option<String>,
    /// The route.
    pub route: Route,
    /// The HTTP status that the client saw.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The refusal, where there was one, also one in the middle of a stream.
    pub code: Option<Code>,
    /// Tokens.
    pub usage: Usage,
    /// From the head's arrival to the first byte of the reply's body.
    pub first_byte: Option<Duration>,
    /// From the head's arrival to the end.
    pub total: Duration,
    /// How many requests this stands for: one, or many alike of one caller that used no tokens. The
    /// other fields are those of the first of them.
    pub requests: u32,
}

/// Which events to read, newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only this key's. Best given with its tenant: there is an index of tenants and none of keys, which would
    /// be two fifths of what storing an event costs.
    pub key: Option<KeyId>,
    /// Only those at or after.
    pub since: Option<Timestamp>,
    /// Only those before.
    pub until: Option<Timestamp>,
    /// So many at most.
    pub limit: u32,
}

/// The audit.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Stores the events and adds their usage to the ledger, together or not at all. An event whose
    /// request is stored already is passed over, so that a batch may be tried again.
    async fn append(&self, events: &[AuditEvent]) -> Result<()>;
    /// Reads events, newest first.
    async fn query(&self, query: AuditQuery) -> Result<Vec<AuditEvent>>;
    /// Makes ready what the months up to `until` will need (on Postgres: their partitions).
    async fn prepare(&self, from: Timestamp, until: Timestamp) -> Result<()>;
    /// Removes events older than that; returns how many (on Postgres: whole months, by dropping
    /// their partitions, so that younger events of the same month stay until it is over).
    async fn forget_before(&self, at: Timestamp) -> Result<u64>;
    /// Removes events of one tenant older than that, at most `limit`, so that nobody waits long for a
    /// lock; returns how many.
    async fn forget_of(&self, tenant: TenantId, before: Timestamp, limit: u32) -> Result<u64>;
}
