// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;

use super::{
    Upstream, Upstreams,
    row::{self, UpstreamRow},
};
use crate::{
    column::{At, Count},
    error::{Error, Result},
};

#[async_trait]
impl Upstreams for Store {
    async fn add(&self, upstream: Upstream) -> Result<()> {
        sqlx::query(INSERT)
            .bind(upstream.name)
            .bind(upstream.url)
            .bind(upstream.kind.as_str())
            .bind(upstream.slots.map(Count))
            .bind(upstream.keep_alive)
            .bind(At(upstream.created_at))
            .execute(&self.writer)
            .await
            .map_err(Error::or_conflict("upstream"))?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Upstream>> {
        let rows: Vec<UpstreamRow> = sqlx::query_as(row::LIST).fetch_all(&self.reader).await?;
        rows.into_iter().map(Upstream::try_from).collect()
    }

    async fn set_slots(&self, name: &str, slots: Option<u64>) -> Result<()> {
        let set = sqlx::query(row::SET_SLOTS).bind(name).bind(slots.map(Count));
        let done = set.execute(&self.writer).await?;
        if done.rows_affected() == 0 { Err(Error::NotFound("upstream")) } else { Ok(()) }
    }

    async fn set_keep_alive(&self, name: &str, keep_alive: bool) -> Result<()> {
        let set = sqlx::query(row::SET_KEEP_ALIVE).bind(name).bind(keep_alive);
        let done = set.execute(&self.writer).await?;
        if done.rows_affected() == 0 { Err(Error::NotFound("upstream")) } else { Ok(()) }
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let done = sqlx::query(row::DELETE).bind(name).execute(&self.writer).await?;
        if done.rows_affected() == 0 { Err(Error::NotFound("upstream")) } else { Ok(()) }
    }
}
