//! The ledger on Postgres.

use async_trait::async_trait;

use super::{Ledger, LedgerQuery, LedgerSum, row};
use crate::{
    column::offset,
    error::{Error, Result},
    postgres::Postgres,
};

const DAY: &str = "to_char(l.day, 'YYYY-MM-DD')";

#[async_trait]
impl Ledger for Postgres {
    async fn sums(&self, query: LedgerQuery) -> Result<Vec<LedgerSum>> {
        // The day in which `since` falls is the first one that ends after it.
        let since = query.since.map(offset).transpose();
        let out_of_range = |cause| Error::Unexpected(sqlx::Error::Encode(Box::new(cause)));
        let since = since.map_err(out_of_range)?.map(time::OffsetDateTime::date);
        let mut sql = row::select(query, DAY, since);
        // Those of one have an index, and a request may wait for them.
        let is_narrow = query.tenant.is_some() || query.key.is_some();
        let pool = if is_narrow { &self.reader } else { &self.reports };
        Ok(row::sums(sql.build_query_as().fetch_all(pool).await?))
    }
}
