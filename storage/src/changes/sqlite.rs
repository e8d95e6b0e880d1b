//! Changes on SQLite: a table that triggers write to and a feed polls.
//!
//! The table keeps its last 4,096 rows, and a feed reads all of them at once: a revocation waits behind no
//! more than one poll, whatever was changed before it. A feed that finds its place gone has missed some rows,
//! and says [`Change::Everything`].

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use protocol::id::{KeyId, TenantId};
use sqlx::Sqlite as Driver;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{Change, Changes, Feed};
use crate::{error::Result, pool::Pool, sqlite::Sqlite};

/// How often the table is looked at.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// How long a look may take. With the time until the next one, changes are missed for at most a second until
/// the feed says that it is deaf.
const POLL_WITHIN: Duration = Duration::from_millis(800);
/// Rows read at once: all that the trigger `changes_trim` keeps.
const READ_AT_ONCE: i64 = 4_096;

/// The place of the newest row. The sequence knows it also where no row is left.
const NEWEST: &str = "SELECT seq FROM sqlite_sequence WHERE name = 'changes'";
const READ: &str = "SELECT seq, kind, id, cut FROM changes WHERE seq > $1 ORDER BY seq LIMIT $2";

/// A place in the table.
struct TableFeed {
    pool: Pool<Driver>,
    /// The last row that was read; `None` before the first call and after an error.
    place: Option<i64>,
    poll_at: Instant,
}

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    kind: String,
    id: Option<Uuid>,
    cut: bool,
}

#[async_trait]
impl Changes for Sqlite {
    async fn feed(&self) -> Result<Box<dyn Feed>> {
        let pool = self.reader.within(POLL_WITHIN);
        let feed = TableFeed { pool, place: None, poll_at: Instant::now() };
        // So that a database that cannot be read is told now.
        feed.newest().await?;
        Ok(Box::new(feed))
    }
}

// === impl TableFeed ===

impl TableFeed {
    async fn newest(&self) -> Result<i64> {
        Ok(sqlx::query_scalar(NEWEST).fetch_optional(&self.pool).await?.unwrap_or(0))
    }

    /// What came after the place; may be empty.
    async fn poll(&mut self) -> Result<Vec<Change>> {
        let Some(place) = self.place else {
            // The place is taken before the caller reads what "everything" is, so that what
            // changes in between is heard again rather than missed.
            self.place = Some(self.newest().await?);
            return Ok(vec![Change::Everything]);
        };
        let query = sqlx::query_as::<_, Row>(READ).bind(place).bind(READ_AT_ONCE);
        let rows = query.fetch_all(&self.pool).await?;
        let Some(last) = rows.last() else {
            return Ok(Vec::new());
        };
        let missed = rows.first().is_some_and(|first| first.seq != place + 1);
        self.place = Some(last.seq);
        let everything = missed.then_some(Change::Everything);
        let mut told = HashSet::with_capacity(rows.len());
        let all = everything.into_iter().chain(rows.iter().map(Row::change));
        Ok(all.filter(|change| told.insert(*change)).collect())
    }
}

#[async_trait]
impl Feed for TableFeed {
    async fn next(&mut self) -> Result<Vec<Change>> {
        loop {
            sleep_until(self.poll_at).await;
            // The next time is set before this one is made, so that neither an error nor a dropped
            // call makes a busy loop.
            self.poll_at = Instant::now() + POLL_EVERY;
            match self.poll().await.inspect_err(|_| self.place = None) {
                Ok(changes) if changes.is_empty() => {}
                changes_or_error => return changes_or_error,
            }
        }
    }
}

// === impl Row ===

impl Row {
    fn change(&self) -> Change {
        match (self.kind.as_str(), self.id) {
            ("tenant", Some(id)) => Change::Tenant(TenantId(id)),
            ("key", Some(id)) => Change::Key(KeyId(id)),
            ("revoked", Some(id)) => Change::Revoked { key: KeyId(id), cut: self.cut },
            ("upstreams", _) => Change::Upstreams,
            ("models", _) => Change::Models,
            // A newer binary's kind.
            _ => Change::Everything,
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::secret::Secret;

    use super::*;
    use crate::{Config, scratch::run_on_sqlite};

    /// A database in a file, and its URL.
    async fn stage() -> (tempfile::TempDir, String, Sqlite) {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("changes.db").display());
        let config = Config {
            deadlines: crate::Deadlines::default(),
            url: Secret::new(url.clone()),
            connections_max: 1,
            acquire_timeout: Duration::from_secs(20),
        };
        let sqlite = Sqlite::open(&config).await.unwrap();
        crate::Database::migrate(&sqlite).await.unwrap();
        (directory, url, sqlite)
    }

    #[tokio::test]
    async fn a_revocation_behind_thousands_of_changes_is_told_with_the_next_look() {
        let (_directory, url, sqlite) = stage().await;
        for count in [4_000, 10_000] {
            let mut feed = sqlite.feed().await.unwrap();
            assert_eq!(feed.next().await.unwrap(), [Change::Everything]);
            let bulk = format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
                 INSERT INTO changes (kind, id) SELECT 'key', randomblob(16) FROM n;
                 INSERT INTO changes (kind, id, cut) VALUES ('revoked', zeroblob(16), 1);"
            );
            run_on_sqlite(&url, &bulk).await.unwrap();
            let told = feed.next().await.unwrap();
            let revoked = Change::Revoked { key: KeyId(Uuid::nil()), cut: true };
            assert!(told.contains(&revoked), "{count}: {} were told", told.len());
            // What the table no longer has is made up for by reading everything.
            assert_eq!(told.contains(&Change::Everything), count > 4_096);
        }
    }

    #[tokio::test]
    async fn a_feed_whose_look_takes_too_long_is_deaf() {
        let (_directory, _url, sqlite) = stage().await;
        let mut feed = sqlite.feed().await.unwrap();
        assert_eq!(feed.next().await.unwrap(), [Change::Everything]);
        let only_reader = sqlite.reader.acquire().await.unwrap();
        let began = Instant::now();
        assert!(feed.next().await.is_err());
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        drop(only_reader);
        assert_eq!(feed.next().await.unwrap(), [Change::Everything]);
    }
}
