//! An event as one row, and the query that is the same on both databases.

use std::time::Duration;

use protocol::{
    error::Code,
    id::{KeyId, RequestId, TenantId},
    name::ModelName,
    outcome::Outcome,
    route::Route,
    usage::Usage,
};
use sqlx::{Database, Encode, QueryBuilder, Type};
use uuid::Uuid;

use super::{AuditEvent, AuditQuery};
use crate::{
    column::{At, Count},
    error::{Error, Result},
};

/// Reads events with their words.
const SELECT: &str = "
    SELECT a.at, a.request_id, a.tenant_id, a.key_id, m.name AS model, u.name AS upstream,
        r.name AS route, c.name AS code, CAST(a.status AS bigint) AS status,
        CAST(a.outcome AS text) AS outcome, CAST(a.prompt_tokens AS bigint) AS prompt_tokens,
        CAST(a.completion_tokens AS bigint) AS completion_tokens, a.estimated,
        a.first_byte_us, a.total_us, CAST(a.requests AS bigint) AS requests
    FROM audit_events a
    JOIN names r ON r.id = a.route_id
    LEFT JOIN names m ON m.id = a.model_id
    LEFT JOIN names u ON u.id = a.upstream_id
    LEFT JOIN names c ON c.id = a.code_id";

/// Those of a tenant, `$1`, before `$2`; at most `$3`.
pub(super) const FORGET_OF: &str = "
    DELETE FROM audit_events WHERE (at, request_id) IN
        (SELECT at, request_id FROM audit_events WHERE tenant_id = $1 AND at < $2
         ORDER BY at LIMIT $3)";

/// One row of what [`select`] asks for.
#[derive(sqlx::FromRow)]
pub(super) struct EventRow {
    at: At,
    request_id: Uuid,
    tenant_id: Option<Uuid>,
    key_id: Option<Uuid>,
    model: Option<String>,
    upstream: Option<String>,
    route: String,
    code: Option<String>,
    status: i64,
    outcome: String,
    prompt_tokens: Count,
    completion_tokens: Count,
    estimated: bool,
    first_byte_us: Option<Count>,
    total_us: Count,
    requests: i64,
}

/// The words of an event that stand in the dictionary.
pub(super) fn words(event: &AuditEvent) -> impl Iterator<Item = &str> {
    std::iter::once(event.route.as_str())
        .chain(event.model.as_ref().map(ModelName::as_str))
        .chain(event.upstream.as_deref())
        .chain(event.code.map(Code::as_str))
}

/// Tokens as they are stored. Two thousand million in one request are a fault of whoever counted,
/// and must not be able to overflow a sum.
pub(super) fn tokens(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A status as it is stored.
pub(super) fn status(status: u16) -> i16 {
    i16::try_from(status).unwrap_or(i16::MAX)
}

/// The requests of one row as they are stored.
pub(super) fn requests(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Whole microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The SQL of a query, with its values bound. Only the conditions that are asked for stand in it,
/// so that those of a tenant, and those of a time, find their index.
pub(super) fn select<DB: Database>(query: &AuditQuery) -> QueryBuilder<DB>
where
    Uuid: for<'q> Encode<'q, DB> + Type<DB>,
    At: for<'q> Encode<'q, DB> + Type<DB>,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
{
    let mut sql = QueryBuilder::new(SELECT);
    sql.push(" WHERE 1 = 1");
    if let Some(tenant) = query.tenant {
        sql.push(" AND a.tenant_id = ").push_bind(tenant.0);
    }
    if let Some(key) = query.key {
        sql.push(" AND a.key_id = ").push_bind(key.0);
    }
    if let Some(since) = query.since {
        sql.push(" AND a.at >= ").push_bind(At(since));
    }
    if let Some(until) = query.until {
        sql.push(" AND a.at < ").push_bind(At(until));
    }
    sql.push(" ORDER BY a.at DESC, a.request_id DESC LIMIT ").push_bind(i64::from(query.limit));
    sql
}

// === impl EventRow ===

impl TryFrom<EventRow> for AuditEvent {
    type Error = Error;

    /// A route or a code of a newer binary reads as unknown: while replicas of two versions run,
    /// one such row must not hide all others.
    fn try_from(row: EventRow) -> Result<Self> {
        let model = row.model.as_deref().map(ModelName::read).transpose();
        let outcome: Outcome = row.outcome.parse().map_err(|_| Error::unknown_word("outcome"))?;
        Ok(Self {
            request: RequestId(row.request_id),
            at: row.at.0,
            tenant: row.tenant_id.map(TenantId),
            key: row.key_id.map(KeyId),
            model: model.map_err(|_| Error::unknown_word("model"))?,
            upstream: row.upstream,
            route: row.route.parse().unwrap_or(Route::Unknown),
            status: u16::try_from(row.status).map_err(|_| Error::unknown_word("status"))?,
            outcome,
            code: row.code.as_deref().and_then(Code::parse),
            usage: Usage {
                prompt: row.prompt_tokens.0,
                completion: row.completion_tokens.0,
                estimated: row.estimated,
            },
            first_byte: row.first_byte_us.map(|micros| Duration::from_micros(micros.0)),
            total: Duration::from_micros(row.total_us.0),
            requests: u32::try_from(row.requests).unwrap_or(1),
        })
    }
}
