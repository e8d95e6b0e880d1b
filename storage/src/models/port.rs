// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;
use protocol::name::ModelName;

use super::{
    Model, Models,
    row::{self, ModelRow},
};
use crate::{
    column::Count,
    error::{Error, Result},
};

#[async_trait]
impl Models for Store {
    async fn put(&self, model: Model) -> Result<()> {
        sqlx::query(row::PUT)
            .bind(model.name.as_str())
            .bind(model.prompt_price.map(Count))
            .bind(model.completion_price.map(Count))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Model>> {
        let rows: Vec<ModelRow> = sqlx::query_as(row::LIST).fetch_all(&self.reader).await?;
        rows.into_iter().map(Model::try_from).collect()
    }

    async fn remove(&self, name: &ModelName) -> Result<()> {
        let done = sqlx::query(row::DELETE).bind(name.as_str()).execute(&self.writer).await?;
        if done.rows_affected() == 0 { Err(Error::NotFound("model")) } else { Ok(()) }
    }
}
