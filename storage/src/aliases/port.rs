// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;
use protocol::{id::TenantId, name::ModelName};

use super::{
    Alias, Aliases,
    row::{self, AliasRow, owner},
};
use crate::{
    column::ModelList,
    error::{Error, Result},
};

#[async_trait]
impl Aliases for Store {
    async fn put(&self, alias: Alias) -> Result<()> {
        sqlx::query(row::PUT)
            .bind(owner(alias.tenant))
            .bind(alias.name.as_str())
            .bind(ModelList(alias.targets))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Alias>> {
        let rows: Vec<AliasRow> = sqlx::query_as(row::LIST).fetch_all(&self.reader).await?;
        rows.into_iter().map(Alias::try_from).collect()
    }

    async fn remove(&self, tenant: Option<TenantId>, name: &ModelName) -> Result<()> {
        let done = sqlx::query(row::DELETE)
            .bind(owner(tenant))
            .bind(name.as_str())
            .execute(&self.writer)
            .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound("alias")) } else { Ok(()) }
    }
}
