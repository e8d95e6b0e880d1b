//! A gateway as a user starts it: the binary, in a process of its own.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{binary, patience::eventually};

/// A gateway in a process of its own; killed when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// The data listener.
    pub address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Process {
    /// Starts one with these settings, as environment variables, and no others.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start(env: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let directory = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let log = directory.path().join("log");
        let file = std::fs::File::create(&log).unwrap_or_else(|e| panic!("{e}"));
        let child = Command::new(binary("neuronetz"))
            .arg("serve")
            .env_clear()
            .envs(env)
            .env("NEURONETZ_LISTEN", "127.0.0.1:0")
            .env("NEURONETZ_ADMIN_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        let address = eventually("the address", || async {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let (_, rest) = said.split_once("listening on http://")?;
            rest.split([' ', ';', '\n']).next()?.parse().ok()
        })
        .await;
        Self { child, log, address, _directory: directory }
    }

    /// What it has logged.
    #[must_use]
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The memory that it takes, in bytes, as the kernel counts it (`VmRSS`).
    ///
    /// # Panics
    /// Where the kernel does not say.
    #[must_use]
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_else(|e| panic!("{e}"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: usize = kib.and_then(|kib| kib.parse().ok()).unwrap_or_else(|| panic!("{status}"));
        kib * 1024
    }

    /// Ends it as `kill -9` would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Tells it to stop, as a signal does.
    ///
    /// # Panics
    /// Where there is no such process.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &id]).status();
        assert!(killed.is_ok_and(|status| status.success()));
    }

    /// Waits for its end, which must be in order.
    ///
    /// # Panics
    /// Where it is not.
    pub async fn ends_in_order(&mut self) {
        let child = &mut self.child;
        let ended = eventually("the end", || {
            let ended = child.try_wait().unwrap_or_else(|e| panic!("{e}"));
            async move { ended }
        })
        .await;
        assert_eq!(ended.code(), Some(0), "{}", self.text());
        assert!(self.text().contains("stopped in order"), "{}", self.text());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
