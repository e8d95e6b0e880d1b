//! What is compared: each server is started, asked, looked at and ended in the same way.

pub(crate) mod gateway;
pub(crate) mod nginx;
pub(crate) mod peer;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use rig::process::{Patience, Process};
use tokio::time::{Instant, sleep};

use crate::{http, proc::Group, replies::Dialect};

/// How long a process is waited for: a load takes as long as its plan.
pub(crate) const PATIENCE: Patience =
    Patience { line: Duration::from_secs(330), end: Duration::from_secs(10) };

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// A directory for what is thrown away.
    pub(crate) directory: PathBuf,
    /// The model server.
    pub(crate) upstream: SocketAddr,
}

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Passes native replies through, with no policy: the measure.
    Nginx,
    /// Ours.
    Gateway,
    /// Somebody else's gateway.
    Peer,
}

/// A server that serves.
pub(crate) struct Server {
    /// What it is called in the table.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// Where its metrics are.
    pub(crate) admin: Option<SocketAddr>,
    /// Header lines that it needs.
    pub(crate) headers: Vec<String>,
    /// A file with one key.
    pub(crate) key: PathBuf,
    /// A file with all of them.
    pub(crate) keys: PathBuf,
    /// What the number of its requests is divided by, where each costs so much more.
    pub(crate) divisor: u64,
    /// Requests that were sent to it and answered well.
    pub(crate) answered: u64,
    pub(crate) process: Process,
}

// === impl Server ===

impl Server {
    /// Its processes.
    pub(crate) fn group(&self) -> Group {
        match self.kind {
            Kind::Nginx => Group::children(self.process.pid()),
            Kind::Gateway => Group::one(self.process.pid()),
            Kind::Peer => Group::family(self.process.pid()),
        }
    }

    /// The dialect in which it is asked where the scenario wants `wanted`. nginx translates nothing:
    /// it passes as many native chunks through.
    pub(crate) fn dialect(&self, wanted: Dialect) -> Dialect {
        match self.kind {
            Kind::Nginx => Dialect::Native,
            Kind::Gateway => wanted,
            Kind::Peer => Dialect::OpenAi,
        }
    }
}

/// Waits until `path` is answered with 200; looks every millisecond.
pub(crate) async fn ready(
    process: &mut Process,
    address: SocketAddr,
    path: &str,
    most: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + most;
    loop {
        if let Ok((200, _)) = http::get(address, path).await {
            return Ok(());
        }
        if process.has_ended() {
            return Err(format!("{address} has ended before it was ready"));
        }
        if Instant::now() > deadline {
            return Err(format!("{address} is not ready after {most:?}"));
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// A port on which nobody listens, for servers that do not choose one themselves.
fn free_address() -> Result<SocketAddr, String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map_err(|error| format!("no free port: {error}"))
}

/// Writes a file into the directory.
fn put(directory: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = directory.join(name);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}
