//! Postgres: everything in schema `gateway`, many replicas on one server.
//!
//! Connections are made when they are first needed: [`crate::open`] succeeds while the server is
//! away, and every call says [`Error::Unavailable`] until it is back.

use std::{str::FromStr, time::Duration};

use async_trait::async_trait;
use sqlx::{
    Connection, PgConnection, PgPool, Transaction,
    migrate::{Migrate, Migrator},
    pool::PoolOptions,
    postgres::{PgConnectOptions, Postgres as Driver},
};
use uuid::Uuid;

use crate::{
    Config, Database,
    audit::names::Names,
    error::{Error, Result},
    limits::{LimitColumns, Limits},
    migration,
};

/// The longest that one statement may take; the server ends it then. Long work (migrations, whole
/// partitions) sets its own.
const STATEMENT_TIMEOUT: &str = "10s";
/// The longest that a statement may wait for a lock.
const LOCK_TIMEOUT: &str = "5s";
/// The longest that a transaction may stand still: its process has lost it.
const IDLE_TRANSACTION_TIMEOUT: &str = "30s";
/// After so long unused, a connection is tried before it is used. To try each time would double
/// the round trips.
const TRY_AFTER_IDLE: Duration = Duration::from_secs(5);
/// Where sqlx lists what was applied.
const MIGRATIONS_TABLE: &str = "gateway._sqlx_migrations";

/// What is applied by [`Database::migrate`].
static MIGRATIONS: Migrator = Migrator {
    table_name: std::borrow::Cow::Borrowed(MIGRATIONS_TABLE),
    ..sqlx::migrate!("../migrations/postgres")
};

/// A database on a server.
pub(crate) struct Postgres {
    /// The same pool as `writer`, under the name that it has on SQLite.
    pub(crate) reader: PgPool,
    pub(crate) writer: PgPool,
    /// How to connect, with the time limits of ordinary statements.
    pub(crate) options: PgConnectOptions,
    /// How long a caller waits for a connection.
    pub(crate) acquire_timeout: Duration,
    pub(crate) names: Names,
}

// === impl Postgres ===

impl Postgres {
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let options = PgConnectOptions::from_str(config.url.expose())
            .map_err(|_| Error::Url)?
            .application_name("neuronetz")
            .options([
                ("search_path", "gateway"),
                ("statement_timeout", STATEMENT_TIMEOUT),
                ("lock_timeout", LOCK_TIMEOUT),
                ("idle_in_transaction_session_timeout", IDLE_TRANSACTION_TIMEOUT),
            ]);
        let pool = PoolOptions::<Driver>::new()
            .max_connections(config.connections_max.max(1))
            .acquire_timeout(config.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| {
                Box::pin(async move {
                    if metadata.idle_for > TRY_AFTER_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options.clone());
        let acquire_timeout = config.acquire_timeout;
        Ok(Self {
            reader: pool.clone(),
            writer: pool,
            options,
            acquire_timeout,
            names: Names::new(),
        })
    }

    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Driver>> {
        Ok(self.writer.begin().await?)
    }

    /// A connection outside the pool, for what may take long. Its locks end with it, also where
    /// the caller is dropped.
    async fn connect_unhurried(&self) -> Result<PgConnection> {
        let options =
            self.options.clone().options([("statement_timeout", "0"), ("lock_timeout", "0")]);
        tokio::time::timeout(self.acquire_timeout, PgConnection::connect_with(&options))
            .await
            .map_err(|_| Error::Unavailable(sqlx::Error::PoolTimedOut))?
            .map_err(Error::from)
    }
}

#[async_trait]
impl Database for Postgres {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn migrate(&self) -> Result<Vec<i64>> {
        let mut connection = self.connect_unhurried().await?;
        // An advisory lock of the session: one process migrates, the others wait and find nothing
        // left to do.
        connection.lock().await?;
        let there: bool = sqlx::query_scalar("SELECT to_regnamespace('gateway') IS NOT NULL")
            .fetch_one(&mut connection)
            .await?;
        // Not "IF NOT EXISTS" alone: that asks for the right to create even where there is one.
        if !there {
            connection.create_schema_if_not_exists("gateway").await?;
        }
        let applied = migration::apply(&MIGRATIONS, &mut connection).await?;
        connection.close().await?;
        Ok(applied)
    }

    async fn is_migrated(&self) -> Result<bool> {
        let mut connection = self.writer.acquire().await?;
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(MIGRATIONS_TABLE)
            .fetch_one(&mut *connection)
            .await?;
        if !there {
            return Ok(false);
        }
        let applied = connection.list_applied_migrations(MIGRATIONS_TABLE).await?;
        migration::is_complete(&MIGRATIONS, &applied)
    }

    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.writer).await?;
        Ok(())
    }

    async fn close(&self) {
        self.writer.close().await;
    }
}

/// Writes a row of limits; `sql` is a `put_limits!`.
pub(crate) async fn put_limits(
    connection: &mut PgConnection,
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
        .execute(connection)
        .await?;
    Ok(())
}
