//! Upstreams on Postgres.

use async_trait::async_trait;

use super::{
    Upstream, Upstreams,
    row::{self, UpstreamRow},
};
use crate::{
    column::At,
    error::{Error, Result},
    postgres::Postgres,
};

const INSERT: &str = "INSERT INTO upstreams (name, url, kind, created_at) VALUES ($1, $2, CAST($3 AS gateway.upstream_kind), $4)";

#[async_trait]
impl Upstreams for Postgres {
    async fn add(&self, upstream: Upstream) -> Result<()> {
        sqlx::query(INSERT)
            .bind(upstream.name)
            .bind(upstream.url)
            .bind(upstream.kind.as_str())
            .bind(At(upstream.created_at))
            .execute(&self.pool)
            .await
            .map_err(Error::or_conflict("upstream"))?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Upstream>> {
        let rows: Vec<UpstreamRow> = sqlx::query_as(row::LIST).fetch_all(&self.pool).await?;
        rows.into_iter().map(Upstream::try_from).collect()
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let done = sqlx::query(row::DELETE).bind(name).execute(&self.pool).await?;
        if done.rows_affected() == 0 { Err(Error::NotFound("upstream")) } else { Ok(()) }
    }
}
