//! Processes that end with what started them.

use std::{path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// How long a process may take to say the line that is waited for.
const LINE_MAX: Duration = Duration::from_secs(60);
/// How long it may take to end when it is asked to; then it is killed.
const END_MAX: Duration = Duration::from_secs(40);

/// A process; killed when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

// === impl Process ===

impl Process {
    /// Starts it. Its standard output is read by [`Process::line`], its errors go to `NAME.log`.
    pub(crate) fn start(
        name: &str,
        command: &mut Command,
        directory: &Path,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start {name}: {error}");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(directory.join(format!("{name}.log")))
            .map_err(failed)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let lines = child.stdout.take().map(|out| BufReader::new(out).lines());
        Ok(Self { name: name.to_owned(), child, lines })
    }

    /// Its number; 0 once it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The next line that it says.
    pub(crate) async fn line(&mut self) -> Result<String, String> {
        let name = &self.name;
        let lines = self.lines.as_mut().ok_or("its output is not read")?;
        match timeout(LINE_MAX, lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(format!("{name} ended; what it logged is in {name}.log")),
            Ok(Err(error)) => Err(format!("{name}: {error}")),
            Err(_) => Err(format!("{name} said nothing in time")),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if timeout(END_MAX, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
