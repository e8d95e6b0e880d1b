//! The audit on Postgres.

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::{error::Code, id::TenantId, name::ModelName};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Audit, AuditEvent, AuditQuery,
    names::Ids,
    partitions,
    row::{self, EventRow},
};
use crate::{
    column::{At, offset},
    error::{Error, Result},
    postgres::Postgres,
};

/// Events stored by one statement; a larger batch is one transaction of several.
const ROWS_AT_ONCE: usize = 2_000;

/// Stores a batch and adds it to the ledger, in one statement and therefore one round trip. Only
/// what was inserted is added. The order of the sums is that of the primary key: two replicas that
/// add to the same rows wait for each other, and never in a circle.
const APPEND: &str = "
    WITH stored AS (
        INSERT INTO audit_events (at, request_id, tenant_id, key_id, model_id, upstream_id,
            route_id, code_id, status, outcome, prompt_tokens, completion_tokens, estimated,
            first_byte_us, total_us, requests)
        SELECT at, request, tenant, key, model, upstream, route, code, status,
            CAST(outcome AS gateway.request_outcome), prompt, completion, estimated, first_byte,
            total, requests
        FROM unnest($1::timestamptz[], $2::uuid[], $3::uuid[], $4::uuid[], $5::integer[],
            $6::integer[], $7::integer[], $8::integer[], $9::smallint[], $10::text[],
            $11::integer[], $12::integer[], $13::boolean[], $14::bigint[], $15::bigint[],
            $16::integer[])
            AS events (at, request, tenant, key, model, upstream, route, code, status, outcome,
                prompt, completion, estimated, first_byte, total, requests)
        ON CONFLICT DO NOTHING
        RETURNING at, tenant_id, key_id, model_id, prompt_tokens, completion_tokens, estimated,
            requests
    )
    INSERT INTO usage_ledger (tenant_id, key_id, model_id, day, requests, prompt_tokens,
        completion_tokens, estimated)
    SELECT tenant_id, COALESCE(key_id, '00000000-0000-0000-0000-000000000000'::uuid),
        COALESCE(model_id, 0), CAST(at AT TIME ZONE 'UTC' AS date), sum(requests),
        sum(prompt_tokens), sum(completion_tokens),
        COALESCE(sum(requests) FILTER (WHERE estimated), 0)
    FROM stored
    WHERE tenant_id IS NOT NULL
    GROUP BY 1, 2, 3, 4
    ORDER BY 1, 2, 3, 4
    ON CONFLICT (tenant_id, key_id, model_id, day) DO UPDATE SET
        requests = usage_ledger.requests + excluded.requests,
        prompt_tokens = usage_ledger.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = usage_ledger.completion_tokens + excluded.completion_tokens,
        estimated = usage_ledger.estimated + excluded.estimated";
/// `$1`: words that may be new. First asked, then written: an insert that conflicts would use up an
/// id each time.
const FIND_NAMES: &str = "SELECT name, id FROM names WHERE name = ANY($1)";
const ADD_NAMES: &str = "
    INSERT INTO names (name) SELECT word FROM unnest($1::text[]) AS words (word)
    WHERE word NOT IN (SELECT name FROM names WHERE name = ANY($1)) ORDER BY word
    ON CONFLICT (name) DO NOTHING";

/// A batch by column.
#[derive(Default)]
struct Columns {
    at: Vec<OffsetDateTime>,
    request: Vec<Uuid>,
    tenant: Vec<Option<Uuid>>,
    key: Vec<Option<Uuid>>,
    model: Vec<Option<i32>>,
    upstream: Vec<Option<i32>>,
    route: Vec<i32>,
    code: Vec<Option<i32>>,
    status: Vec<i16>,
    outcome: Vec<&'static str>,
    prompt: Vec<i32>,
    completion: Vec<i32>,
    estimated: Vec<bool>,
    first_byte: Vec<Option<i64>>,
    total: Vec<i64>,
    requests: Vec<i32>,
}

#[async_trait]
impl Audit for Postgres {
    async fn append(&self, events: &[AuditEvent]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let ids = self.ids(events).await?;
        if events.len() <= ROWS_AT_ONCE {
            Columns::of(events, &ids)?.query().execute(&self.batches).await?;
            return Ok(());
        }
        let mut transaction = self.batches.begin().await?;
        for some in events.chunks(ROWS_AT_ONCE) {
            Columns::of(some, &ids)?.query().execute(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn query(&self, query: AuditQuery) -> Result<Vec<AuditEvent>> {
        let mut sql = row::select(&query);
        let rows: Vec<EventRow> = sql.build_query_as().fetch_all(&self.reports).await?;
        rows.into_iter().map(AuditEvent::try_from).collect()
    }

    async fn prepare(&self, from: Timestamp, until: Timestamp) -> Result<()> {
        partitions::prepare(&self.batches, from, until).await
    }

    async fn forget_before(&self, at: Timestamp) -> Result<u64> {
        partitions::forget_before(&self.batches, at).await
    }

    async fn forget_of(&self, tenant: TenantId, before: Timestamp, limit: u32) -> Result<u64> {
        let query =
            sqlx::query(row::FORGET_OF).bind(tenant.0).bind(At(before)).bind(i64::from(limit));
        Ok(query.execute(&self.batches).await?.rows_affected())
    }
}

// === impl Postgres ===

impl Postgres {
    /// The ids of all words of the batch; new words are written.
    async fn ids(&self, events: &[AuditEvent]) -> Result<Ids> {
        let (mut ids, unknown) = self.names.split(events);
        if !unknown.is_empty() {
            sqlx::query(ADD_NAMES).bind(&unknown).execute(&self.batches).await?;
            let learned =
                sqlx::query_as(FIND_NAMES).bind(&unknown).fetch_all(&self.batches).await?;
            self.names.learn(&mut ids, learned);
        }
        Ok(ids)
    }
}

// === impl Columns ===

impl Columns {
    fn of(events: &[AuditEvent], ids: &Ids) -> Result<Self> {
        let mut columns = Self::default();
        for event in events {
            let out_of_range = |cause| Error::Unexpected(sqlx::Error::Encode(Box::new(cause)));
            columns.at.push(offset(event.at).map_err(out_of_range)?);
            columns.request.push(event.request.0);
            columns.tenant.push(event.tenant.map(|tenant| tenant.0));
            columns.key.push(event.key.map(|key| key.0));
            columns.model.push(ids.of_some(event.model.as_ref().map(ModelName::as_str))?);
            columns.upstream.push(ids.of_some(event.upstream.as_deref())?);
            columns.route.push(ids.of(event.route.as_str())?);
            columns.code.push(ids.of_some(event.code.map(Code::as_str))?);
            columns.status.push(row::status(event.status));
            columns.outcome.push(event.outcome.as_str());
            columns.prompt.push(row::tokens(event.usage.prompt));
            columns.completion.push(row::tokens(event.usage.completion));
            columns.estimated.push(event.usage.estimated);
            columns.first_byte.push(event.first_byte.map(row::micros));
            columns.total.push(row::micros(event.total));
            columns.requests.push(row::requests(event.requests));
        }
        Ok(columns)
    }

    fn query(self) -> sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments> {
        sqlx::query(APPEND)
            .bind(self.at)
            .bind(self.request)
            .bind(self.tenant)
            .bind(self.key)
            .bind(self.model)
            .bind(self.upstream)
            .bind(self.route)
            .bind(self.code)
            .bind(self.status)
            .bind(self.outcome)
            .bind(self.prompt)
            .bind(self.completion)
            .bind(self.estimated)
            .bind(self.first_byte)
            .bind(self.total)
            .bind(self.requests)
    }
}
