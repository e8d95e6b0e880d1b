//! A sum as one row, and the query that is the same on both databases.

use protocol::id::{KeyId, TenantId};
use sqlx::{Database, Encode, QueryBuilder, Type};
use uuid::Uuid;

use super::{LedgerBy, LedgerQuery, LedgerSum};
use crate::column::Count;

/// What stands for a key or a model where there was none.
const NONE: &str = "-";

const SUMS: &str = "
    CAST(SUM(l.requests) AS bigint) AS requests,
    CAST(SUM(l.prompt_tokens) AS bigint) AS prompt,
    CAST(SUM(l.completion_tokens) AS bigint) AS completion,
    CAST(SUM(l.estimated) AS bigint) AS estimated
    FROM usage_ledger l ";

/// One row of what [`select`] asks for.
#[derive(sqlx::FromRow)]
pub(super) struct SumRow {
    label: Option<String>,
    id: Option<Uuid>,
    requests: Count,
    prompt: Count,
    completion: Count,
    estimated: Count,
}

/// The SQL of a query, with its values bound. `day` is how the database writes a day as a text;
/// `since` is the first day to be counted, as the column holds it.
pub(super) fn select<DB: Database, D>(
    query: LedgerQuery,
    day: &'static str,
    since: Option<D>,
) -> QueryBuilder<DB>
where
    Uuid: for<'q> Encode<'q, DB> + Type<DB>,
    D: for<'q> Encode<'q, DB> + Type<DB> + Send + 'static,
{
    let none = "CAST(NULL AS uuid)";
    let (label, id, join) = match query.by {
        LedgerBy::Tenant => ("t.name", "l.tenant_id", "LEFT JOIN tenants t ON t.id = l.tenant_id"),
        LedgerBy::Key => ("k.prefix", "l.key_id", "LEFT JOIN keys k ON k.id = l.key_id"),
        LedgerBy::Model => ("n.name", none, "LEFT JOIN names n ON n.id = l.model_id"),
        LedgerBy::Day => (day, none, ""),
    };
    let mut sql = QueryBuilder::new("SELECT ");
    sql.push(label).push(" AS label, ").push(id).push(" AS id, ").push(SUMS).push(join);
    sql.push(" WHERE 1 = 1");
    if let Some(TenantId(tenant)) = query.tenant {
        sql.push(" AND l.tenant_id = ").push_bind(tenant);
    }
    if let Some(KeyId(key)) = query.key {
        sql.push(" AND l.key_id = ").push_bind(key);
    }
    if let Some(since) = since {
        sql.push(" AND l.day >= ").push_bind(since);
    }
    sql.push(" GROUP BY 1, 2");
    sql
}

/// The sums of those rows, by what they are of.
pub(super) fn sums(rows: Vec<SumRow>) -> Vec<LedgerSum> {
    let mut sums: Vec<_> = rows.into_iter().map(LedgerSum::from).collect();
    sums.sort_by(|one, other| one.of.cmp(&other.of));
    sums
}

// === impl SumRow ===

impl From<SumRow> for LedgerSum {
    fn from(row: SumRow) -> Self {
        let of = match (row.label, row.id) {
            (Some(label), _) => label,
            (None, Some(id)) if !id.is_nil() => id.to_string(),
            (None, _) => NONE.to_owned(),
        };
        Self {
            of,
            requests: row.requests.0,
            prompt: row.prompt.0,
            completion: row.completion.0,
            estimated: row.estimated.0,
        }
    }
}
