//! Postgres: everything in schema `gateway`, many replicas on one server.
//!
//! Connections are made when they are first needed: [`crate::open`] succeeds while the server is
//! away, and every call says [`Error::Unavailable`] until it is back.

use std::{str::FromStr, time::Duration};

use async_trait::async_trait;
use sqlx::{
    Connection, PgConnection,
    migrate::{Migrate, Migrator},
    postgres::{PgConnectOptions, Postgres as Driver},
};
use uuid::Uuid;

use crate::{
    Config, Database,
    audit::names::Names,
    error::{Error, Result},
    limits::{LimitColumns, Limits},
    migration,
    pool::{Aging, Pool, Settings},
};

/// The longest that a transaction may stand still: its process has lost it.
const IDLE_TRANSACTION_TIMEOUT: &str = "30s";
/// When a connection grows old. To try each before it is used would double the round trips.
const AGING: Aging = Aging {
    try_after: Duration::from_secs(5),
    idle_max: Duration::from_secs(600),
    life_max: Duration::from_secs(1_800),
};
/// Where sqlx lists what was applied.
const MIGRATIONS_TABLE: &str = "gateway._sqlx_migrations";

/// What is applied by [`Database::migrate`].
static MIGRATIONS: Migrator = Migrator {
    table_name: std::borrow::Cow::Borrowed(MIGRATIONS_TABLE),
    ..sqlx::migrate!("../migrations/postgres")
};

/// Several statements that happen together or not at all.
pub(crate) type Transaction = crate::pool::Transaction<Driver>;

/// A database on a server.
pub(crate) struct Postgres {
    /// The same pool as `writer`, under the name that it has on SQLite.
    pub(crate) reader: Pool<Driver>,
    pub(crate) writer: Pool<Driver>,
    /// The same connections, for what takes long.
    pub(crate) batches: Pool<Driver>,
    /// The same as `batches`, under the name that it has on SQLite.
    pub(crate) reports: Pool<Driver>,
    /// How to connect, with the time limits of ordinary statements.
    pub(crate) options: PgConnectOptions,
    /// How long a caller waits for a connection.
    pub(crate) acquire_timeout: Duration,
    pub(crate) names: Names,
}

// === impl Postgres ===

impl Postgres {
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let deadlines = config.deadlines;
        let millis = |span: Duration| span.as_millis().clamp(1, i32::MAX as u128).to_string();
        let options = PgConnectOptions::from_str(config.url.expose())
            .map_err(|_| Error::Url)?
            .application_name("neuronetz")
            // What nobody waits for any more, the server ends as well. Long work (migrations, whole
            // partitions) sets its own.
            .options([
                ("search_path", "gateway"),
                ("statement_timeout", &*millis(deadlines.batch.max(deadlines.lookup))),
                ("lock_timeout", &*millis(deadlines.lookup)),
                ("idle_in_transaction_session_timeout", IDLE_TRANSACTION_TIMEOUT),
            ]);
        let settings = Settings {
            connections_max: config.connections_max,
            acquire_timeout: config.acquire_timeout,
            begin: "BEGIN",
            aging: Some(AGING),
        };
        let pool = Pool::new(options.clone(), settings, deadlines.lookup);
        let long = pool.within(deadlines.batch);
        let acquire_timeout = config.acquire_timeout;
        Ok(Self {
            reader: pool.clone(),
            writer: pool,
            batches: long.clone(),
            reports: long,
            options,
            acquire_timeout,
            names: Names::new(),
        })
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
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(MIGRATIONS_TABLE)
            .fetch_one(&self.reader)
            .await?;
        if !there {
            return Ok(false);
        }
        let applied = self.reader.bounded(async {
            let mut lease = self.reader.acquire().await?;
            let applied = lease.connection().list_applied_migrations(MIGRATIONS_TABLE).await;
            if applied.is_ok() {
                lease.give_back();
            }
            Ok(applied)
        });
        migration::is_complete(&MIGRATIONS, &applied.await??)
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
