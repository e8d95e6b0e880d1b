//! The audit on SQLite.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::{error::Code, id::TenantId, name::ModelName};
use sqlx::{AssertSqlSafe, QueryBuilder};
use uuid::Uuid;

use super::{Audit, AuditEvent, AuditQuery, names::Ids, row};
use crate::{
    column::At,
    error::Result,
    sqlite::{Sqlite, Transaction},
};

/// Rows deleted in one transaction, so that no writer waits long for it.
const FORGET_AT_ONCE: i64 = 2_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Rows in one statement: each statement is a way to SQLite's thread and back, which costs as much as
/// some ten rows.
const ROWS_AT_ONCE: usize = 50;
const INSERT: &str = "
    INSERT INTO audit_events (request_id, at, tenant_id, key_id, model_id, upstream_id, route_id,
        code_id, status, outcome, prompt_tokens, completion_tokens, estimated, first_byte_us,
        total_us, requests) VALUES ";
const ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const ONCE: &str = " ON CONFLICT (request_id) DO NOTHING";
const ADD: &str = "
    INSERT INTO usage_ledger (tenant_id, key_id, model_id, day, requests, prompt_tokens,
        completion_tokens, estimated) ";
const TO_WHAT_IS_THERE: &str = "
    ON CONFLICT (tenant_id, key_id, model_id, day) DO UPDATE SET
        requests = requests + excluded.requests,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        estimated = estimated + excluded.estimated";
const FORGET: &str = "
    DELETE FROM audit_events WHERE request_id IN
        (SELECT request_id FROM audit_events WHERE at < $1 ORDER BY at LIMIT $2)";

/// Tenant, key, model, day.
type Account = (Uuid, Uuid, i32, i64);

/// What a batch adds to one row of the ledger.
#[derive(Default)]
struct Sum {
    requests: i64,
    prompt: i64,
    completion: i64,
    estimated: i64,
}

#[async_trait]
impl Audit for Sqlite {
    async fn append(&self, events: &[AuditEvent]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let ids = self.ids(events).await?;
        if !self.append_by(events, ROWS_AT_ONCE, &ids).await? {
            self.append_by(events, 1, &ids).await?;
        }
        Ok(())
    }

    async fn query(&self, query: AuditQuery) -> Result<Vec<AuditEvent>> {
        let mut sql = row::select(&query);
        let rows: Vec<row::EventRow> = sql.build_query_as().fetch_all(&self.reports).await?;
        rows.into_iter().map(AuditEvent::try_from).collect()
    }

    /// Nothing: one table holds every month.
    async fn prepare(&self, _from: Timestamp, _until: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn forget_before(&self, at: Timestamp) -> Result<u64> {
        let mut forgotten = 0;
        loop {
            let done = sqlx::query(FORGET)
                .bind(At(at))
                .bind(FORGET_AT_ONCE)
                .execute(&self.batches)
                .await?
                .rows_affected();
            if done == 0 {
                return Ok(forgotten);
            }
            forgotten += done;
        }
    }

    async fn forget_of(&self, tenant: TenantId, before: Timestamp, limit: u32) -> Result<u64> {
        let query =
            sqlx::query(row::FORGET_OF).bind(tenant.0).bind(At(before)).bind(i64::from(limit));
        Ok(query.execute(&self.batches).await?.rows_affected())
    }
}

// === impl Sqlite ===

impl Sqlite {
    /// Stores a batch, so many events in a statement, and counts those that were not there yet. False, and
    /// nothing is done, where that cannot be told: some of one statement were there.
    async fn append_by(&self, events: &[AuditEvent], rows: usize, ids: &Ids) -> Result<bool> {
        let mut transaction = self.batches.begin().await?;
        let mut sums: BTreeMap<Account, Sum> = BTreeMap::new();
        // In the order of the primary key, which is that of time: SQLite then finds each place beside the last.
        let mut events: Vec<_> = events.iter().collect();
        events.sort_unstable_by_key(|event| event.request);
        for events in events.chunks(rows) {
            let new = insert(&mut transaction, events, ids).await?;
            if new == 0 {
                continue;
            }
            if new < events.len() as u64 {
                transaction.rollback().await?;
                return Ok(false);
            }
            for event in events {
                let Some(tenant) = event.tenant else { continue };
                let key = event.key.map_or(Uuid::nil(), |key| key.0);
                let model = ids.of_some(event.model.as_ref().map(ModelName::as_str))?.unwrap_or(0);
                let day = event.at.as_microsecond().div_euclid(MICROS_PER_DAY);
                sums.entry((tenant.0, key, model, day)).or_default().add(event);
            }
        }
        let sums: Vec<_> = sums.into_iter().collect();
        for sums in sums.chunks(rows) {
            add(&mut transaction, sums).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// The ids of all words of the batch; new words are written.
    async fn ids(&self, events: &[AuditEvent]) -> Result<Ids> {
        let (mut ids, unknown) = self.names.split(events);
        let mut learned = Vec::with_capacity(unknown.len());
        for word in unknown {
            sqlx::query("INSERT INTO names (name) VALUES ($1) ON CONFLICT (name) DO NOTHING")
                .bind(word)
                .execute(&self.batches)
                .await?;
            let id = sqlx::query_scalar("SELECT id FROM names WHERE name = $1")
                .bind(word)
                .fetch_one(&self.batches)
                .await?;
            learned.push((word.to_owned(), id));
        }
        self.names.learn(&mut ids, learned);
        Ok(ids)
    }
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, event: &AuditEvent) {
        let requests = i64::from(row::requests(event.requests));
        self.requests += requests;
        self.prompt += i64::from(row::tokens(event.usage.prompt));
        self.completion += i64::from(row::tokens(event.usage.completion));
        self.estimated += if event.usage.estimated { requests } else { 0 };
    }
}

/// Inserts events; says how many were not there yet.
async fn insert(transaction: &mut Transaction, events: &[&AuditEvent], ids: &Ids) -> Result<u64> {
    let rows = vec![ROW; events.len()].join(", ");
    let mut query = sqlx::query(AssertSqlSafe(format!("{INSERT}{rows}{ONCE}")));
    for event in events {
        query = query
            .bind(event.request.0)
            .bind(At(event.at))
            .bind(event.tenant.map(|tenant| tenant.0))
            .bind(event.key.map(|key| key.0))
            .bind(ids.of_some(event.model.as_ref().map(ModelName::as_str))?)
            .bind(ids.of_some(event.upstream.as_deref())?)
            .bind(ids.of(event.route.as_str())?)
            .bind(ids.of_some(event.code.map(Code::as_str))?)
            .bind(row::status(event.status))
            .bind(event.outcome.as_str())
            .bind(row::tokens(event.usage.prompt))
            .bind(row::tokens(event.usage.completion))
            .bind(event.usage.estimated)
            .bind(event.first_byte.map(row::micros))
            .bind(row::micros(event.total))
            .bind(row::requests(event.requests));
    }
    Ok(query.execute(transaction).await?.rows_affected())
}

async fn add(transaction: &mut Transaction, sums: &[(Account, Sum)]) -> Result<()> {
    let mut sql = QueryBuilder::new(ADD);
    sql.push_values(sums, |mut row, ((tenant, key, model, day), sum)| {
        row.push_bind(tenant)
            .push_bind(key)
            .push_bind(model)
            .push_bind(day)
            .push_bind(sum.requests)
            .push_bind(sum.prompt)
            .push_bind(sum.completion)
            .push_bind(sum.estimated);
    });
    sql.push(TO_WHAT_IS_THERE);
    sql.build().execute(transaction).await?;
    Ok(())
}
