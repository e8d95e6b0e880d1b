// The port on either database: included by `sqlite.rs` and `postgres.rs`, which say what differs.

use async_trait::async_trait;

use super::{Budgets, Owner, row};
use crate::{
    column::{At, Count},
    error::{Error, Result},
    limits::Correction,
};

#[async_trait]
impl Budgets for Store {
    async fn correct(&self, owner: Owner, correction: Correction) -> Result<()> {
        let (sql, id) = match owner {
            Owner::Tenant(tenant) => (row::CORRECT_TENANT, tenant.0),
            Owner::Key(key) => (row::CORRECT_KEY, key.0),
        };
        let done = sqlx::query(sql)
            .bind(id)
            .bind(Count(correction.forgiven))
            .bind(correction.reset_at.map(At))
            .bind(correction.read_at.map(At))
            .execute(&self.writer)
            .await?;
        if done.rows_affected() == 0 { Err(Error::NotFound("budget")) } else { Ok(()) }
    }
}
