// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;
use protocol::id::TenantId;

use super::{
    NewTenant, Tenant, TenantChange, Tenants,
    row::{self, TenantRow},
};
use crate::{
    Revision,
    column::{At, Count, new_id, rule_columns},
    error::{Error, Result},
};

#[async_trait]
impl Tenants for Store {
    async fn create(&self, new: NewTenant) -> Result<Tenant> {
        let id = new_id(new.at);
        let (all, models) = rule_columns(Some(&new.models));
        let levers = new.policy.levers;
        let mut transaction = self.writer.begin().await?;
        sqlx::query(row::INSERT)
            .bind(id)
            .bind(new.name)
            .bind(all)
            .bind(models)
            .bind(At(new.at))
            .bind(Count(new.policy.weight.into()))
            .bind(new.policy.reserve.as_str())
            .bind(new.policy.exhausted.as_str())
            .bind(new.audit_retention.map(|kept| Count(kept.as_secs())))
            .bind(levers.keep_alive_max.map(|most| Count(most.as_secs())))
            .bind(levers.may_unload)
            .bind(levers.num_ctx_max.map(Count))
            .bind(levers.options.as_str())
            .bind(levers.trusted_show)
            .execute(&mut transaction)
            .await
            .map_err(Error::or_conflict("tenant"))?;
        put_limits(&mut transaction, PUT_LIMITS, id, new.limits).await?;
        let tenant = read(&mut transaction, TenantId(id)).await?;
        transaction.commit().await?;
        Ok(tenant)
    }

    async fn list(&self) -> Result<Vec<Tenant>> {
        let rows: Vec<TenantRow> = sqlx::query_as(row::LIST).fetch_all(&self.reader).await?;
        rows.into_iter().map(Tenant::try_from).collect()
    }

    async fn by_id(&self, id: TenantId) -> Result<Option<Tenant>> {
        let query = sqlx::query_as::<_, TenantRow>(row::BY_ID).bind(id.0);
        query.fetch_optional(&self.reader).await?.map(Tenant::try_from).transpose()
    }

    async fn by_name(&self, name: &str) -> Result<Option<Tenant>> {
        let query = sqlx::query_as::<_, TenantRow>(row::BY_NAME).bind(name);
        query.fetch_optional(&self.reader).await?.map(Tenant::try_from).transpose()
    }

    async fn change(&self, id: TenantId, change: TenantChange) -> Result<Tenant> {
        let (all, models) = rule_columns(change.models.as_ref());
        let levers = change.policy.map(|policy| policy.levers);
        let mut transaction = self.writer.begin().await?;
        let done = sqlx::query(row::UPDATE)
            .bind(id.0)
            .bind(change.name)
            .bind(change.suspended)
            .bind(all)
            .bind(models)
            .bind(change.policy.map(|policy| Count(policy.weight.into())))
            .bind(change.policy.map(|policy| policy.reserve.as_str()))
            .bind(change.policy.map(|policy| policy.exhausted.as_str()))
            .bind(change.audit_retention.is_some())
            .bind(change.audit_retention.flatten().map(|kept| Count(kept.as_secs())))
            .bind(levers.is_some())
            .bind(levers.and_then(|levers| levers.keep_alive_max).map(|most| Count(most.as_secs())))
            .bind(levers.map(|levers| levers.may_unload))
            .bind(levers.and_then(|levers| levers.num_ctx_max).map(Count))
            .bind(levers.map(|levers| levers.options.as_str()))
            .bind(levers.map(|levers| levers.trusted_show))
            .bind(change.expected.map(Revision::column))
            .execute(&mut transaction)
            .await
            .map_err(Error::or_conflict("tenant"))?;
        if done.rows_affected() == 0 {
            let query = sqlx::query_as::<_, TenantRow>(row::BY_ID).bind(id.0);
            let there = query.fetch_optional(&mut transaction).await?.is_some();
            transaction.rollback().await?;
            return Err(Error::not_as_expected(there, "tenant"));
        }
        if let Some(limits) = change.limits {
            put_limits(&mut transaction, PUT_LIMITS, id.0, limits).await?;
        }
        let tenant = read(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(tenant)
    }

    async fn delete(&self, id: TenantId) -> Result<()> {
        let done = sqlx::query(row::DELETE).bind(id.0).execute(&self.writer).await?;
        if done.rows_affected() == 0 { Err(Error::NotFound("tenant")) } else { Ok(()) }
    }
}

async fn read(transaction: &mut Transaction, id: TenantId) -> Result<Tenant> {
    let query = sqlx::query_as::<_, TenantRow>(row::BY_ID).bind(id.0);
    query.fetch_one(transaction).await?.try_into()
}
