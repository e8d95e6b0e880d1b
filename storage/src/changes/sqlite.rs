//! Changes on SQLite: a table that triggers write to and a feed polls.
//!
//! The table keeps its last few thousand rows. A feed that finds its place gone has missed some,
//! and says [`Change::Everything`].

use std::time::Duration;

use async_trait::async_trait;
use protocol::id::{KeyId, TenantId};
use sqlx::SqlitePool;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{Change, Changes, Feed, merge};
use crate::{error::Result, sqlite::Sqlite};

/// How often the table is looked at.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// Rows read at once.
const READ_AT_ONCE: i64 = 1_024;

/// The place of the newest row. The sequence knows it also where no row is left.
const NEWEST: &str = "SELECT seq FROM sqlite_sequence WHERE name = 'changes'";
const READ: &str = "SELECT seq, kind, id, cut FROM changes WHERE seq > $1 ORDER BY seq LIMIT $2";

/// A place in the table.
struct TableFeed {
    pool: SqlitePool,
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
        let feed = TableFeed { pool: self.reader.clone(), place: None, poll_at: Instant::now() };
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
        let mut changes = Vec::new();
        if rows.first().is_some_and(|first| first.seq != place + 1) {
            changes.push(Change::Everything);
        }
        self.place = Some(last.seq);
        for row in rows {
            merge(&mut changes, row.change());
        }
        Ok(changes)
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
            let polled = self.poll().await.inspect_err(|_| self.place = None);
            match polled {
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
