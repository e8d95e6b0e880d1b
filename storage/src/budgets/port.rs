// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;

use super::{Budgets, Owner, row};
use crate::{
    Revision,
    column::{At, Count},
    error::{Error, Result},
    limits::Correction,
};

#[async_trait]
impl Budgets for Store {
    async fn correct(
        &self,
        owner: Owner,
        correction: Correction,
        expected: Option<Revision>,
    ) -> Result<()> {
        let (revise, sql, is_there, id) = match owner {
            Owner::Tenant(tenant) => {
                (row::REVISE_TENANT, row::CORRECT_TENANT, row::TENANT_IS_THERE, tenant.0)
            }
            Owner::Key(key) => (row::REVISE_KEY, row::CORRECT_KEY, row::KEY_IS_THERE, key.0),
        };
        let mut transaction = self.writer.begin().await?;
        let revised = sqlx::query(revise).bind(id).bind(expected.map(Revision::column));
        if revised.execute(&mut transaction).await?.rows_affected() == 0 {
            let there = sqlx::query_scalar(is_there).bind(id).fetch_one(&mut transaction).await?;
            transaction.rollback().await?;
            return Err(Error::not_as_expected(there, "budget"));
        }
        let done = sqlx::query(sql)
            .bind(id)
            .bind(Count(correction.forgiven))
            .bind(correction.reset_at.map(At))
            .bind(correction.read_at.map(At))
            .execute(&mut transaction)
            .await?;
        if done.rows_affected() == 0 {
            transaction.rollback().await?;
            return Err(Error::NotFound("budget"));
        }
        Ok(transaction.commit().await?)
    }
}
