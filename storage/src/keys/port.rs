// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;
use jiff::Timestamp;
use protocol::{
    id::{KeyId, TenantId},
    secret::Secret,
};
use uuid::Uuid;

use super::{
    Credential, Key, KeyChange, KeyStatus, Keys, NewKey,
    row::{self, CredentialRow, KeyRow},
};
use crate::{
    Revision,
    column::{At, new_id, rule_columns},
    error::{Error, Result},
};

#[async_trait]
impl Keys for Store {
    async fn create(&self, new: NewKey) -> Result<Key> {
        let mut transaction = self.writer.begin().await?;
        let key = insert(&mut transaction, new_id(new.at), new).await?;
        transaction.commit().await?;
        Ok(key)
    }

    async fn list(&self, tenant: Option<TenantId>) -> Result<Vec<Key>> {
        let rows: Vec<KeyRow> = match tenant {
            None => sqlx::query_as(row::LIST).fetch_all(&self.reports).await?,
            Some(of) => sqlx::query_as(row::LIST_OF).bind(of.0).fetch_all(&self.reports).await?,
        };
        rows.into_iter().map(Key::try_from).collect()
    }

    async fn by_id(&self, id: KeyId) -> Result<Option<Key>> {
        let query = sqlx::query_as::<_, KeyRow>(row::BY_ID).bind(id.0);
        query.fetch_optional(&self.reader).await?.map(Key::try_from).transpose()
    }

    async fn by_prefix(&self, prefix: &str) -> Result<Option<Key>> {
        let query = sqlx::query_as::<_, KeyRow>(row::BY_PREFIX).bind(prefix);
        query.fetch_optional(&self.reader).await?.map(Key::try_from).transpose()
    }

    async fn credential(&self, prefix: &str) -> Result<Option<Credential>> {
        let query = sqlx::query_as::<_, CredentialRow>(row::CREDENTIAL).bind(prefix);
        query.fetch_optional(&self.reader).await?.map(Credential::try_from).transpose()
    }

    async fn prefixes(&self) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(row::PREFIXES).fetch_all(&self.reports).await?)
    }

    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key> {
        let (all, models) = rule_columns(change.models.as_ref().and_then(Option::as_ref));
        let mut transaction = self.writer.begin().await?;
        let done = sqlx::query(row::UPDATE)
            .bind(id.0)
            .bind(change.name)
            .bind(change.models.is_some())
            .bind(all)
            .bind(models)
            .bind(change.log_prompts)
            .bind(change.expires_at.is_some())
            .bind(change.expires_at.flatten().map(At))
            .bind(change.expected.map(Revision::column))
            .execute(&mut transaction)
            .await?;
        if done.rows_affected() == 0 {
            let there = find(&mut transaction, id).await?.is_some();
            transaction.rollback().await?;
            return Err(Error::not_as_expected(there, "key"));
        }
        if let Some(limits) = change.limits {
            put_limits(&mut transaction, PUT_LIMITS, id.0, limits).await?;
        }
        let key = read(&mut transaction, id.0).await?;
        transaction.commit().await?;
        Ok(key)
    }

    async fn rehash(&self, id: KeyId, old: &Secret, new: &Secret) -> Result<bool> {
        let done = sqlx::query(row::REHASH)
            .bind(id.0)
            .bind(old.expose())
            .bind(new.expose())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn rotate(
        &self,
        old: KeyId,
        new: NewKey,
        old_ends_at: Timestamp,
        expected: Option<Revision>,
    ) -> Result<Key> {
        let id = new_id(new.at);
        let mut transaction = self.writer.begin().await?;
        let done = sqlx::query(row::RETIRE)
            .bind(old.0)
            .bind(new.tenant.0)
            .bind(id)
            .bind(At(old_ends_at))
            .bind(expected.map(Revision::column))
            .execute(&mut transaction)
            .await?;
        if done.rows_affected() == 0 {
            let found = find(&mut transaction, old).await?;
            transaction.rollback().await?;
            // A key that may not be rotated is none, whatever its revision.
            let may = |key: &Key| key.tenant == new.tenant && key.status == KeyStatus::Active;
            return Err(Error::not_as_expected(found.as_ref().is_some_and(may), "key"));
        }
        let key = insert(&mut transaction, id, new).await?;
        transaction.commit().await?;
        Ok(key)
    }
}

async fn insert(transaction: &mut Transaction, id: Uuid, new: NewKey) -> Result<Key> {
    let (all, models) = rule_columns(new.models.as_ref());
    sqlx::query(row::INSERT)
        .bind(id)
        .bind(new.tenant.0)
        .bind(new.name)
        .bind(new.prefix)
        .bind(new.hash.expose())
        .bind(all)
        .bind(models)
        .bind(new.log_prompts)
        .bind(new.expires_at.map(At))
        .bind(At(new.at))
        .execute(&mut *transaction)
        .await
        .map_err(row::refused)?;
    put_limits(transaction, PUT_LIMITS, id, new.limits).await?;
    read(transaction, id).await
}

async fn find(transaction: &mut Transaction, id: KeyId) -> Result<Option<Key>> {
    let query = sqlx::query_as::<_, KeyRow>(row::BY_ID).bind(id.0);
    query.fetch_optional(transaction).await?.map(Key::try_from).transpose()
}

async fn read(transaction: &mut Transaction, id: Uuid) -> Result<Key> {
    let query = sqlx::query_as::<_, KeyRow>(row::BY_ID).bind(id);
    query.fetch_one(transaction).await?.try_into()
}
