//! Databases and servers that live as long as a test, and a way to them that can be made slow.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection, postgres::PgConnectOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};
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

    /// A way to it that can be made slow or silent, and its URL over that way.
    ///
    /// # Panics
    /// Where its server cannot be found.
    pub async fn by_way(&self) -> (SlowWay, String) {
        let options = self.url.parse::<PgConnectOptions>().unwrap_or_else(|e| panic!("{e}"));
        let (host, port) = (options.get_host(), options.get_port());
        let there = tokio::net::lookup_host((host, port)).await.map(|mut found| found.next());
        let server = there.ok().flatten().unwrap_or_else(|| panic!("{host} is not found"));
        let way = SlowWay::to(server).await;
        let url = self.url.replace(&format!("{host}:{port}"), &way.address.to_string());
        assert_ne!(url, self.url, "the URL does not say where the server is");
        (way, url)
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

    /// Ends the connections that listen to changes, and runs a statement before they are back.
    ///
    /// # Errors
    /// As [`Scratch::on`].
    pub async fn run_unheard(&self, statement: &str) -> Result<()> {
        // A connection that listens has just begun to, or was asked whether it is there. One that is
        // terminated is waited for.
        let terminate = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND (query LIKE 'LISTEN %' OR query = 'SELECT 1')";
        let mut connection = PgConnection::connect(&self.url).await?;
        let terminated = sqlx::query(terminate).execute(&mut connection).await?;
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await?;
        assert!(terminated.rows_affected() > 0, "nobody listened");
        Ok(())
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

/// Runs a statement on a SQLite database, as another program would.
///
/// # Errors
/// As [`Scratch::on`].
pub async fn run_on_sqlite(url: &str, statement: &str) -> Result<()> {
    let mut connection = SqliteConnection::connect(url).await?;
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// A file system of its own that can be filled, if this process may mount one; gone with this.
pub struct SmallDisk {
    directory: PathBuf,
}

// === impl SmallDisk ===

impl SmallDisk {
    /// Mounts one of so many MiB on a directory; none where that is not allowed here.
    #[must_use]
    pub fn mount(directory: &Path, mebibytes: u32) -> Option<Self> {
        let size = format!("size={mebibytes}m");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self { directory: directory.to_owned() })
    }

    /// Takes all the room there is.
    ///
    /// # Panics
    /// Where it cannot be taken.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.ballast()).unwrap_or_else(|e| panic!("{e}"));
        for size in [65_536, 4_096] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// Where it cannot be given back.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap_or_else(|e| panic!("{e}"));
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the test's connections may still be open.
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("-l").arg(&self.directory).output();
    }
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

/// A way to a server on the loopback interface that can be made slow; gone with this.
pub struct SlowWay {
    /// Where it begins.
    pub address: SocketAddr,
    delay: watch::Sender<Option<Duration>>,
    _carrying: JoinSet<()>,
}

// === impl SlowWay ===

impl SlowWay {
    /// Opens one that delays nothing.
    ///
    /// # Panics
    /// Where it cannot be opened.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|e| panic!("{e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let (delay, delayed) = watch::channel(Some(Duration::ZERO));
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut ways = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = TcpStream::connect(server).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (from.into_split(), to.into_split());
                ways.spawn(carry(from_client, to_server, delayed.clone()));
                ways.spawn(carry(from_server, to_client, delayed.clone()));
            }
        });
        Self { address, delay, _carrying: carrying }
    }

    /// From now on everything takes so much longer, each way; none: nothing comes through.
    pub fn delay(&self, delay: Option<Duration>) {
        self.delay.send_replace(delay);
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut delayed: watch::Receiver<Option<Duration>>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let delay = delayed.wait_for(Option::is_some).await.ok().and_then(|delay| *delay);
        let Some(delay) = delay else { return };
        tokio::time::sleep(delay).await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
