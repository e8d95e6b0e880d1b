//! SQLite: one file, one writer, some readers.
//!
//! The file is in WAL mode, so that readers and the writer do not wait for each other. All writes
//! of this process go through one connection: SQLite has one write lock, and to queue for it in the
//! pool is fair, where its own waiting is not. Other processes may have the file open as well.
//!
//! What a statement of many rows could have to take back is kept in memory (`temp_store`): else SQLite
//! writes it to a file of its own, which costs more than the rows themselves.
//!
//! The writer has room for the pages that one batch of audit events changes (`cache_size`): with thousands of
//! keys, 2 MiB, which is what SQLite has, are written out and read again within each. And what is changed again
//! and again goes into the database's own file only once in a while (`wal_autocheckpoint`).
//!
//! A commit is safe from a crash of the process; from a loss of power only after the next
//! checkpoint (`synchronous = NORMAL`).

use parking_lot::Mutex;
use std::{path::Path, str::FromStr};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions as _, Connection as _, SqlSafeStr as _, SqliteConnection,
    migrate::{Migrate, Migrator},
    sqlite::{Sqlite as Driver, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use uuid::Uuid;

use crate::{
    Config, Database,
    audit::names::Names,
    error::{Error, Result},
    limits::{LimitColumns, Limits},
    migration,
    pool::{Pool, Settings},
};

/// What is applied by [`Database::migrate`].
static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// What the writer may keep of the database in memory: negative, so that it is KiB.
const WRITER_CACHE: &str = "-16384";
/// How long the WAL may grow until it is written into the database's file, in pages of 4 KiB: 32 MiB.
const CHECKPOINT_PAGES: &str = "8000";

/// A transaction has the write lock from its beginning. One that gets it later can fail at its first write,
/// because another process wrote after its first read.
const BEGIN: &str = "BEGIN IMMEDIATE";

/// Several statements that happen together or not at all.
pub(crate) type Transaction = crate::pool::Transaction<Driver>;

/// A database in a file or in memory.
pub(crate) struct Sqlite {
    /// At most one connection. In memory it is the same pool as `reader`: never ask for one of
    /// them while holding the other.
    pub(crate) writer: Pool<Driver>,
    /// The same connection, for what takes long.
    pub(crate) batches: Pool<Driver>,
    pub(crate) reader: Pool<Driver>,
    /// The same connections as `reader`, for what takes long.
    pub(crate) reports: Pool<Driver>,
    pub(crate) names: Names,
    /// What is in memory lives as long as a connection to it: this one, which does nothing else.
    _anchor: Option<Mutex<SqliteConnection>>,
}

// === impl Sqlite ===

impl Sqlite {
    pub(crate) async fn open(config: &Config) -> Result<Self> {
        // SQLite waits for a lock on its own thread: not for longer than its caller does.
        let patience = config.acquire_timeout.min(config.deadlines.lookup);
        let options = SqliteConnectOptions::from_str(config.url.expose())
            .map_err(|_| Error::Url)?
            .foreign_keys(true)
            .busy_timeout(patience);
        if is_in_memory(config.url.expose()) {
            let options = options.shared_cache(true);
            let anchor = Some(Mutex::new(options.connect().await?));
            let writer = pool(config, options, 1);
            return Ok(Self::on(config, writer.clone(), writer, anchor));
        }

        create(options.get_filename()).await?;
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .pragma("temp_store", "memory")
            .optimize_on_close(true, None);
        let writer = options
            .clone()
            .pragma("cache_size", WRITER_CACHE)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES);
        let writer = pool(config, writer, 1);
        // So that a file that cannot be opened is told now.
        writer.acquire().await?.give_back();
        let reader = options.optimize_on_close(false, None).pragma("query_only", "true");
        let reader = pool(config, reader, config.connections_max);
        Ok(Self::on(config, writer, reader, None))
    }

    fn on(
        config: &Config,
        writer: Pool<Driver>,
        reader: Pool<Driver>,
        anchor: Option<Mutex<SqliteConnection>>,
    ) -> Self {
        let long = config.deadlines.batch;
        Self {
            batches: writer.within(long),
            writer,
            reports: reader.within(long),
            reader,
            names: Names::new(),
            _anchor: anchor,
        }
    }
}

#[async_trait]
impl Database for Sqlite {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn migrate(&self) -> Result<Vec<i64>> {
        let mut lease = self.writer.acquire().await?;
        // The lock that keeps other processes out. Each migration is a savepoint in it.
        let mut transaction = lease.connection().begin_with(BEGIN.into_sql_str()).await?;
        let applied = migration::apply(&MIGRATIONS, &mut *transaction).await?;
        transaction.commit().await?;
        lease.give_back();
        Ok(applied)
    }

    async fn is_migrated(&self) -> Result<bool> {
        let there: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1)",
        )
        .bind(&*MIGRATIONS.table_name)
        .fetch_one(&self.reader)
        .await?;
        if !there {
            return Ok(false);
        }
        let applied = self.reader.bounded(async {
            let mut lease = self.reader.acquire().await?;
            let applied = lease.connection().list_applied_migrations(&MIGRATIONS.table_name).await;
            if applied.is_ok() {
                lease.give_back();
            }
            Ok(applied)
        });
        migration::is_complete(&MIGRATIONS, &applied.await??)
    }

    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.reader).await?;
        Ok(())
    }

    async fn close(&self) {
        // The last connection that is closed folds the log in, and only the writer may write.
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// Writes a row of limits; `sql` is a `put_limits!`.
pub(crate) async fn put_limits(
    transaction: &mut Transaction,
    sql: &'static str,
    id: Uuid,
    limits: Limits,
) -> Result<()> {
    let columns = LimitColumns::from(limits);
    sqlx::query(sql)
        .bind(id)
        .bind(columns.rpm)
        .bind(columns.tpm)
        .bind(columns.concurrency)
        .bind(columns.budget_tokens)
        .bind(columns.budget_period)
        .bind(columns.observed)
        .execute(transaction)
        .await?;
    Ok(())
}

/// A pool for one file. A connection to it does not break on its own.
fn pool(config: &Config, options: SqliteConnectOptions, connections_max: u32) -> Pool<Driver> {
    let acquire_timeout = config.acquire_timeout;
    let settings = Settings { connections_max, acquire_timeout, begin: BEGIN, aging: None };
    Pool::new(options, settings, config.deadlines.lookup)
}

fn is_in_memory(url: &str) -> bool {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
    path.starts_with(":memory:") || path.contains("mode=memory")
}

/// Makes the file, and the directory it is in, for this user alone: it holds the hashes of keys.
/// SQLite gives its log the same mode.
async fn create(path: &Path) -> Result<()> {
    let unavailable = |error| Error::Unavailable(sqlx::Error::Io(error));
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let mut builder = tokio::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        builder.mode(0o700);
        builder.create(parent).await.map_err(unavailable)?;
    }
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    options.mode(0o600);
    options.open(path).await.map_err(unavailable)?;
    Ok(())
}
