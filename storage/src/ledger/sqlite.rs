//! The ledger on SQLite.

use async_trait::async_trait;

use super::{Ledger, LedgerQuery, LedgerSum, row};
use crate::{error::Result, sqlite::Sqlite};

const MICROS_PER_DAY: i64 = 86_400_000_000;
const DAY: &str = "date(l.day * 86400, 'unixepoch')";

#[async_trait]
impl Ledger for Sqlite {
    async fn sums(&self, query: LedgerQuery) -> Result<Vec<LedgerSum>> {
        // The day in which `since` falls is the first one that ends after it.
        let since = query.since.map(|since| since.as_microsecond().div_euclid(MICROS_PER_DAY));
        let mut sql = row::select(query, DAY, since);
        // Those of one have an index, and a request may wait for them.
        let is_narrow = query.tenant.is_some() || query.key.is_some();
        let pool = if is_narrow { &self.reader } else { &self.reports };
        Ok(row::sums(sql.build_query_as().fetch_all(pool).await?))
    }
}
