// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;
use protocol::id::KeyId;
use uuid::Uuid;

use super::{
    Revocation, Revocations,
    row::{self, RevocationRow},
};
use crate::{
    column::At,
    error::{Error, Result},
};

#[async_trait]
impl Revocations for Store {
    async fn revoke(&self, revocation: Revocation) -> Result<()> {
        sqlx::query(row::INSERT)
            .bind(revocation.key.0)
            .bind(At(revocation.at))
            .bind(revocation.reason)
            .bind(revocation.cut)
            .execute(&self.writer)
            .await
            .map_err(Error::or_not_found("key"))?;
        Ok(())
    }

    async fn list(&self, limit: u32) -> Result<Vec<Revocation>> {
        let query = sqlx::query_as::<_, RevocationRow>(row::LIST).bind(i64::from(limit));
        let rows = query.fetch_all(&self.reader).await?;
        Ok(rows.into_iter().map(Revocation::from).collect())
    }

    async fn cut_keys(&self) -> Result<Vec<KeyId>> {
        let keys: Vec<Uuid> = sqlx::query_scalar(row::CUT).fetch_all(&self.reader).await?;
        Ok(keys.into_iter().map(KeyId).collect())
    }
}
