//! What lasts: one port per noun, and what stands behind it on SQLite and on Postgres.
//!
//! | module | port | what it holds |
//! |---|---|---|
//! | [`tenants`] | [`tenants::Tenants`] | who pays, their model rule and limits |
//! | [`keys`] | [`keys::Keys`] | API keys: hashes, never secrets |
//! | [`revocations`] | [`revocations::Revocations`] | the withdrawal of keys, also by other programs |
//! | [`upstreams`] | [`upstreams::Upstreams`] | model servers |
//! | [`models`] | [`models::Models`] | prices |
//! | [`aliases`] | [`aliases::Aliases`] | names that stand for models |
//! | [`budgets`] | [`budgets::Budgets`] | what operators say of what was used |
//! | [`prompts`] | [`prompts::Prompts`] | what clients asked, of keys that ask for it |
//! | [`audit`] | [`audit::Audit`] | what happened, one narrow row a request |
//! | [`ledger`] | [`ledger::Ledger`] | sums of usage |
//! | [`admission`] | [`admission::Admission`] | windows, slots and budgets that replicas share |
//! | [`changes`] | [`changes::Changes`] | word of what other processes changed |
//!
//! A port has a folder: `mod.rs` is what others see, `sqlite.rs` and `postgres.rs` stand behind it,
//! `row.rs` is what they share, and `contract.rs` is run on both. Where the two differ by a name and
//! a cast only, both include `port.rs`: sqlx's types are the driver's, and a function that is generic
//! over drivers needs more bounds than it has lines. `sqlite.rs` and `postgres.rs` of
//! the crate connect and migrate, and `pool.rs` bounds how long every call takes. Nobody outside this
//! crate speaks SQL.

use std::sync::Arc;

pub mod admission;
pub mod aliases;
pub mod audit;
pub mod budgets;
pub mod changes;
mod column;
pub mod error;
#[cfg(test)]
mod full;
pub mod keys;
pub mod ledger;
pub mod limits;
mod migration;
pub mod models;
mod pool;
mod postgres;
pub mod prompts;
pub mod revision;
pub mod revocations;
#[cfg(any(test, feature = "scratch"))]
#[expect(clippy::panic, reason = "it serves tests: a panic is their no")]
pub mod scratch;
#[cfg(test)]
mod silent;
mod sqlite;
pub mod tenants;
#[cfg(test)]
mod testing;
pub mod upstreams;

pub use error::{Error, Result};
pub use pool::Deadlines;
pub use revision::Revision;

/// Every port, on one database.
#[derive(Clone)]
pub struct Storage {
    /// Who pays.
    pub tenants: Arc<dyn tenants::Tenants>,
    /// API keys.
    pub keys: Arc<dyn keys::Keys>,
    /// The withdrawal of keys.
    pub revocations: Arc<dyn revocations::Revocations>,
    /// Model servers.
    pub upstreams: Arc<dyn upstreams::Upstreams>,
    /// Names that stand for models.
    pub aliases: Arc<dyn aliases::Aliases>,
    /// What operators say of what was used.
    pub budgets: Arc<dyn budgets::Budgets>,
    /// What clients asked, of keys that ask for it.
    pub prompts: Arc<dyn prompts::Prompts>,
    /// Prices.
    pub models: Arc<dyn models::Models>,
    /// What happened.
    pub audit: Arc<dyn audit::Audit>,
    /// Sums of usage.
    pub ledger: Arc<dyn ledger::Ledger>,
    /// Word of what other processes changed.
    pub changes: Arc<dyn changes::Changes>,
    /// The database as a whole.
    pub database: Arc<dyn Database>,
}

/// The database as a whole.
#[async_trait::async_trait]
pub trait Database: Send + Sync {
    /// `sqlite` or `postgres`.
    fn kind(&self) -> &'static str;

    /// Brings the schema up to date; returns the versions that were applied now. Safe to call from
    /// several processes at once.
    async fn migrate(&self) -> Result<Vec<i64>>;

    /// Whether every migration of this binary has been applied.
    async fn is_migrated(&self) -> Result<bool>;

    /// One cheap round trip.
    async fn ping(&self) -> Result<()>;

    /// Closes the connections. On SQLite the write-ahead log is folded into the file.
    async fn close(&self);
}

/// Where the database is.
pub struct Config {
    /// `sqlite:PATH`, `sqlite::memory:` or `postgres://…`. May hold a password.
    pub url: protocol::secret::Secret,
    /// Connections at most (SQLite: readers; there is one writer).
    pub connections_max: u32,
    /// How long a caller waits for a connection, or for SQLite's write lock; never longer than its deadline.
    pub acquire_timeout: std::time::Duration,
    /// How long a call may take. Migrations have no deadline.
    pub deadlines: Deadlines,
}

/// Opens the database that the URL names. Does not migrate it.
///
/// A SQLite file is made where there is none, readable by this user alone. A Postgres server is
/// reached with the first call that needs it.
///
/// # Errors
/// [`Error::Url`] where the URL cannot be read, [`Error::Unavailable`] where the file cannot be
/// opened.
pub async fn open(config: Config) -> Result<Storage> {
    let url = config.url.expose();
    if url.starts_with("sqlite:") {
        Ok(Storage::on(sqlite::Sqlite::open(&config).await?))
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok(Storage::on(postgres::Postgres::open(&config)?))
    } else {
        Err(Error::Url)
    }
}

// === impl Storage ===

impl Storage {
    fn on<D>(database: D) -> Self
    where
        D: tenants::Tenants
            + keys::Keys
            + revocations::Revocations
            + upstreams::Upstreams
            + models::Models
            + aliases::Aliases
            + budgets::Budgets
            + prompts::Prompts
            + audit::Audit
            + ledger::Ledger
            + changes::Changes
            + Database
            + 'static,
    {
        let database = Arc::new(database);
        Self {
            tenants: database.clone(),
            keys: database.clone(),
            revocations: database.clone(),
            upstreams: database.clone(),
            models: database.clone(),
            aliases: database.clone(),
            budgets: database.clone(),
            prompts: database.clone(),
            audit: database.clone(),
            ledger: database.clone(),
            changes: database.clone(),
            database,
        }
    }
}
