//! Databases and servers that live as long as a test.

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

/// A port of the loopback interface on which nobody listens.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn free_port() -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    free.unwrap_or_else(|e| panic!("{e}")).port()
}

/// A Redis of a test's own; ended with this.
pub struct ScratchRedis {
    /// Where it is, `redis://…`.
    pub url: String,
    /// Its port on the loopback interface.
    pub port: u16,
    arguments: Vec<String>,
    child: Option<std::process::Child>,
}

// === impl ScratchRedis ===

impl ScratchRedis {
    /// Starts one.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start() -> Self {
        Self::start_with(|port| vec!["--port".to_owned(), port.to_string()]).await
    }

    /// Starts one with arguments that say its port.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_with(arguments: impl FnOnce(u16) -> Vec<String>) -> Self {
        let port = free_port();
        let url = format!("redis://127.0.0.1:{port}");
        let mut server = Self { url, port, arguments: arguments(port), child: None };
        server.start_again().await;
        server
    }

    /// Starts it on the same port, with nothing in it.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_again(&mut self) {
        let child = std::process::Command::new("redis-server")
            .args(&self.arguments)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("redis-server: {e}"));
        self.child = Some(child);
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("redis-server does not start");
    }

    /// Kills it, as -9 would.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Does a command of plain words, on a connection of its own.
    ///
    /// # Panics
    /// Where it is not done.
    pub async fn run(&self, command: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await;
        let mut stream = stream.unwrap_or_else(|e| panic!("{e}"));
        let line = format!("{command}\r\n");
        stream.write_all(line.as_bytes()).await.unwrap_or_else(|e| panic!("{e}"));
        let mut answer = vec![0; 4_096];
        let read = stream.read(&mut answer).await.unwrap_or_else(|e| panic!("{e}"));
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(!answer.starts_with('-'), "{command}: {answer}");
        answer
    }
}

impl Drop for ScratchRedis {
    fn drop(&mut self) {
        self.stop();
    }
}
