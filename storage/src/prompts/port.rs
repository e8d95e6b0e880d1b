// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::id::KeyId;

use super::{
    Prompt, Prompts,
    row::{self, PromptRow},
};
use crate::{
    column::{At, Count},
    error::Result,
};

#[async_trait]
impl Prompts for Store {
    async fn add(&self, prompts: &[Prompt]) -> Result<()> {
        let mut transaction = self.batches.begin().await?;
        for prompt in prompts {
            sqlx::query(row::INSERT)
                .bind(prompt.request.0)
                .bind(prompt.key.0)
                .bind(At(prompt.at))
                .bind(At(prompt.expires_at))
                .bind(prompt.encrypted)
                .bind(prompt.body.as_slice())
                .bind(prompt.cut_from.map(Count))
                .execute(&mut transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn list(&self, key: KeyId, limit: u32) -> Result<Vec<Prompt>> {
        let rows: Vec<PromptRow> = sqlx::query_as(row::LIST)
            .bind(key.0)
            .bind(i64::from(limit))
            .fetch_all(&self.reports)
            .await?;
        Ok(rows.into_iter().map(Prompt::from).collect())
    }

    async fn forget_expired(&self, now: Timestamp, limit: u32) -> Result<u64> {
        let query = sqlx::query(row::FORGET).bind(At(now)).bind(i64::from(limit));
        Ok(query.execute(&self.batches).await?.rows_affected())
    }
}
