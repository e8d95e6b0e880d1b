//! What is started for a run: the scripted Ollama, the gateway.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use rig::{
    http,
    process::{Patience, Process, Signal},
};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

/// How long the gateway may take until it is ready.
const READY_MAX: Duration = Duration::from_secs(60);

/// How long it may take to answer a single request.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a process is waited for.
pub(crate) const PATIENCE: Patience =
    Patience { line: Duration::from_secs(60), end: Duration::from_secs(40) };

/// The programs.
#[derive(Args, Clone, Debug)]
pub(crate) struct Programs {
    /// The gateway's program.
    #[arg(long)]
    pub(crate) gateway: PathBuf,
    /// The scripted Ollama's program.
    #[arg(long)]
    pub(crate) ollama: PathBuf,
    /// A directory for logs and databases, which is there.
    #[arg(long)]
    pub(crate) scratch: PathBuf,
}

/// A scripted Ollama.
pub(crate) struct Ollama {
    process: Process,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

/// A gateway.
pub(crate) struct Gateway {
    /// Its process.
    pub(crate) process: Process,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where operators do.
    pub(crate) admin: SocketAddr,
}

// === impl Ollama ===

impl Ollama {
    /// Starts one; port 0 takes a free one.
    pub(crate) async fn start(programs: &Programs, listen: SocketAddr) -> Result<Self, String> {
        Self::start_with(programs, listen, None).await
    }

    /// Starts one that does what that file says.
    pub(crate) async fn start_with(
        programs: &Programs,
        listen: SocketAddr,
        script: Option<&Path>,
    ) -> Result<Self, String> {
        let mut command = Command::new(&programs.ollama);
        command.arg("--listen").arg(listen.to_string());
        if let Some(script) = script {
            command.arg("--script").arg(script);
        }
        let mut process = Process::start("ollama", &mut command, &programs.scratch, PATIENCE)?;
        let line = process.line().await?;
        let address = line.strip_prefix("http://").and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| format!("the scripted Ollama says {line:?}"))?;
        Ok(Self { process, address })
    }

    /// Kills it, as a crash would.
    pub(crate) async fn kill(mut self) {
        self.process.end(Signal::KILL).await;
    }

    /// Lets it end; what it says that it has done.
    pub(crate) async fn end(mut self) -> Result<String, String> {
        self.process.signal(Signal::INT);
        let said = self.process.line().await;
        self.process.end(Signal::INT).await;
        said
    }
}

// === impl Gateway ===

impl Gateway {
    /// Starts one with these settings and waits until it is ready.
    pub(crate) async fn start(
        programs: &Programs,
        settings: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut command = Command::new(&programs.gateway);
        // What the caller has set for a gateway of theirs is not for this one.
        command.env_clear();
        command.args(["serve", "--json"]);
        command.env("NEURONETZ_LISTEN", "127.0.0.1:0");
        command.env("NEURONETZ_ADMIN_LISTEN", "127.0.0.1:0");
        command.env("NEURONETZ_LOG_LEVEL", "warn");
        command.envs(settings);
        let mut process = Process::start("gateway", &mut command, &programs.scratch, PATIENCE)?;
        let line = process.line().await?;
        let (address, admin) = addresses(&line).ok_or_else(|| format!("it says {line:?}"))?;
        let deadline = Instant::now() + READY_MAX;
        while !matches!(http::get(address, "/readyz", ANSWER_MAX).await, Ok((200, _))) {
            if process.has_ended() || Instant::now() > deadline {
                return Err("the gateway does not become ready; see gateway.log".to_owned());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { process, address, admin })
    }

    /// Its metrics.
    pub(crate) async fn metrics(&self) -> Result<String, String> {
        Ok(http::get(self.admin, "/metrics", ANSWER_MAX).await?.1)
    }

    /// Lets it end; whether it did so by itself, and well.
    pub(crate) async fn end(mut self) -> bool {
        self.process.end(Signal::TERM).await
    }
}

/// Where it listens, as it says itself.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let said: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| said[name].as_str()?.strip_prefix("http://")?.parse().ok();
    Some((address("listening")?, address("admin")?))
}

/// A SQLite file of that name in a directory, as a URL.
pub(crate) fn sqlite(directory: &Path, name: &str) -> String {
    format!("sqlite:{}", directory.join(name).display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_start_is_read() {
        let line = r#"{"listening":"http://127.0.0.1:8080","admin":"http://127.0.0.1:9090"}"#;
        assert_eq!(addresses(line).unwrap().1, SocketAddr::from(([127, 0, 0, 1], 9090)));
        assert!(addresses("{}").is_none());
    }
}
