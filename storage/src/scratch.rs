//! Databases on a Postgres server that live as long as a test.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::Result;

/// An empty database of its own; dropped with this, whoever still uses it.
pub struct Scratch {
    /// Where it is, `postgres://…`.
    pub url: String,
    server: String,
    name: String,
}

// === impl Scratch ===

impl Scratch {
    /// Makes one on the server of that URL, which names a database that exists.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] where the server cannot be reached or refuses.
    pub async fn on(server: &str) -> Result<Self> {
        let name = format!("scratch_{}", Uuid::now_v7().simple());
        let (address, parameters) = server.split_once('?').unwrap_or((server, ""));
        let address = address.rsplit_once('/').map_or(address, |(address, _)| address);
        let url = format!("{address}/{name}?{parameters}");
        execute(server, format!("CREATE DATABASE {name}")).await?;
        Ok(Self { url, server: server.to_owned(), name })
    }

    /// Cuts every connection to it and lets none in, until [`Scratch::restore`].
    ///
    /// # Errors
    /// As [`Scratch::on`].
    pub async fn cut_off(&self) -> Result<()> {
        self.allow_connections(false).await?;
        let name = &self.name;
        let terminate = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        execute(&self.server, terminate).await
    }

    /// Lets connections in again.
    ///
    /// # Errors
    /// As [`Scratch::on`].
    pub async fn restore(&self) -> Result<()> {
        self.allow_connections(true).await
    }

    /// Runs a statement in it, as another program would.
    ///
    /// # Errors
    /// As [`Scratch::on`].
    pub async fn run(&self, statement: &str) -> Result<()> {
        execute(&self.url, statement.to_owned()).await
    }

    async fn allow_connections(&self, allow: bool) -> Result<()> {
        execute(&self.server, format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", self.name))
            .await
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // On a thread of its own: the runtime of the test may be ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let drop = execute(&server, format!("DROP DATABASE {name} WITH (FORCE)"));
            runtime.is_ok_and(|runtime| runtime.block_on(drop).is_ok())
        });
        if !dropping.join().unwrap_or(false) {
            tracing::warn!(database = self.name, "a scratch database stays behind");
        }
    }
}

async fn execute(server: &str, statement: String) -> Result<()> {
    let mut connection = PgConnection::connect(server).await?;
    // Names are made above of digits and letters; the rest is a test's own.
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
