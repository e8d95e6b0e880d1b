//! The months of the audit on Postgres.
//!
//! `audit_events` has a partition per UTC month, `audit_events_y2026m11`, and a default one for
//! rows whose month is not prepared. Replicas may prepare and forget at the same time: an advisory
//! lock lets one of them do it, the others find it done.
//!
//! Order of locks: the advisory one, then the default partition, then the parent in a mode that
//! lets inserts pass. Whoever inserts locks the parent first, so that nobody waits in a circle.

use std::{fmt, time::Duration};

use jiff::{Timestamp, civil::Date, tz::Offset};
use sqlx::{AssertSqlSafe, Postgres};

use crate::{column::At, error::Result, pool::Pool, postgres::Transaction};

/// The advisory lock on the set of partitions: "audit" in ASCII.
const LOCK: i64 = 0x61_75_64_69_74;
/// How long a partition may hold up the requests that queue behind it, before it is given up until
/// the next time.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";
/// How long it may take to count or to move a whole month. The server ends a statement at about the same time.
const MONTH_WITHIN: Duration = Duration::from_secs(900);
const STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = '900s'";
/// Months that are prepared in one call at most: ten years.
const MONTHS_MAX: usize = 120;
/// Rows of the default partition that are deleted in one transaction.
const FORGET_AT_ONCE: i64 = 5_000;

const LIST: &str = "
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'gateway.audit_events'::regclass ORDER BY c.relname";
const FORGET: &str = "
    DELETE FROM audit_events_default WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM audit_events_default WHERE at < $1 LIMIT $2))";

/// A UTC month, as the first of its days.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Month(Date);

/// Makes the partitions of the months from `from` to `until`, both included.
pub(super) async fn prepare(
    pool: &Pool<Postgres>,
    from: Timestamp,
    until: Timestamp,
) -> Result<()> {
    let last = Month::of(until);
    let mut months = Vec::new();
    let mut next = Some(Month::of(from));
    while let Some(month) = next.filter(|month| *month <= last && months.len() < MONTHS_MAX) {
        months.push(month);
        next = month.next();
    }
    // Mostly there is nothing to do, and then no lock is needed to see it.
    let there: Vec<String> = sqlx::query_scalar(LIST).fetch_all(pool).await?;
    months.retain(|month| !there.contains(&month.to_string()));
    for month in months {
        let mut transaction = begin(pool).await?;
        attach(&mut transaction, month).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// Drops the months that are over before `at`, and deletes what is older from the default
/// partition. Returns how many rows went.
pub(super) async fn forget_before(pool: &Pool<Postgres>, at: Timestamp) -> Result<u64> {
    let mut forgotten = 0;
    let there: Vec<String> = sqlx::query_scalar(LIST).fetch_all(pool).await?;
    let over = |month: &Month| month.next().is_some_and(|next| next <= Month::of(at));
    for month in there.iter().filter_map(|name| Month::parse(name)).filter(over) {
        let mut transaction = begin(pool).await?;
        forgotten += drop_month(&mut transaction, month).await?;
        transaction.commit().await?;
    }
    loop {
        let query = sqlx::query(FORGET).bind(At(at)).bind(FORGET_AT_ONCE);
        let done = query.execute(pool).await?.rows_affected();
        if done == 0 {
            return Ok(forgotten);
        }
        forgotten += done;
    }
}

/// A transaction that alone changes the set of partitions.
async fn begin(pool: &Pool<Postgres>) -> Result<Transaction> {
    let mut transaction = pool.within(MONTH_WITHIN).begin().await?;
    sqlx::query(STATEMENT_TIMEOUT).execute(&mut transaction).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut transaction).await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut transaction).await?;
    Ok(transaction)
}

/// Makes the partition of a month and moves into it what the default one holds of that month: a
/// partition cannot be attached while the default one has rows that belong to it.
async fn attach(transaction: &mut Transaction, month: Month) -> Result<()> {
    let (Some(next), true) = (month.next(), is_missing(transaction, month).await?) else {
        return Ok(());
    };
    let (from, until) = (month.start(), next.start());
    let statements = [
        "LOCK TABLE gateway.audit_events_default IN ACCESS EXCLUSIVE MODE".to_owned(),
        format!("CREATE TABLE gateway.{month} (LIKE gateway.audit_events INCLUDING ALL)"),
        format!(
            "WITH moved AS (
                DELETE FROM gateway.audit_events_default
                WHERE at >= '{from}' AND at < '{until}' RETURNING *
            ) INSERT INTO gateway.{month} SELECT * FROM moved"
        ),
        format!(
            "ALTER TABLE gateway.audit_events ATTACH PARTITION gateway.{month}
             FOR VALUES FROM ('{from}') TO ('{until}')"
        ),
    ];
    for statement in statements {
        // Safe: a month writes digits only.
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
    }
    Ok(())
}

async fn drop_month(transaction: &mut Transaction, month: Month) -> Result<u64> {
    if is_missing(transaction, month).await? {
        return Ok(0);
    }
    // Counted before the lock on the parent is asked for: that one stops every insert.
    let rows: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM gateway.{month}")))
            .fetch_one(&mut *transaction)
            .await?;
    sqlx::query(AssertSqlSafe(format!("DROP TABLE gateway.{month}")))
        .execute(&mut *transaction)
        .await?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

async fn is_missing(transaction: &mut Transaction, month: Month) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT to_regclass($1) IS NULL")
        .bind(format!("gateway.{month}"))
        .fetch_one(&mut *transaction)
        .await?)
}

// === impl Month ===

impl Month {
    fn of(at: Timestamp) -> Self {
        Self(Offset::UTC.to_datetime(at).date().first_of_month())
    }

    /// `None` after the year 9999.
    fn next(self) -> Option<Self> {
        Some(Self(self.0.last_of_month().tomorrow().ok()?))
    }

    /// When it begins, as Postgres reads it whatever the time zone of the session.
    fn start(self) -> String {
        format!("{} 00:00:00+00", self.0)
    }

    /// The month of a partition; `None` for the default one.
    fn parse(table: &str) -> Option<Self> {
        let (year, month) = table.strip_prefix("audit_events_y")?.split_once('m')?;
        Some(Self(Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?))
    }
}

/// The name of its partition.
impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "audit_events_y{:04}m{:02}", self.0.year(), self.0.month())
    }
}
