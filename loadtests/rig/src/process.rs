//! Processes that end with what started them.

use std::{path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

pub use rustix::process::Signal;

/// Does the work until it is done, or until a signal ends it: then what it has started is dropped with
/// it, and so ends, too.
///
/// # Errors
/// Those of the work, and where a signal ended it.
pub async fn until_told<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let hear = |kind| signal(kind).map_err(|error| error.to_string());
    let (mut term, mut int) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    tokio::select! {
        done = work => done,
        _ = term.recv() => Err("told to end".to_owned()),
        _ = int.recv() => Err("told to end".to_owned()),
    }
}

/// How long a process is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until it says the line that is waited for.
    pub line: Duration,
    /// Until it ends when it is asked to; then it is killed.
    pub end: Duration,
}

/// A process; asked to end when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
    input: Option<ChildStdin>,
    patience: Patience,
}

// === impl Process ===

impl Process {
    /// Starts it. Its standard output is read by [`Process::line`], its errors are added to `NAME.log` in
    /// the directory. The number of the process goes into `pids` there, for whoever has to end it if this
    /// program cannot.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(
        name: &str,
        command: &mut Command,
        directory: &Path,
        patience: Patience,
    ) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::start_with(name, command, directory, patience)
    }

    /// Starts one that nobody listens to: what it says goes to `NAME.out`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start_unheard(
        name: &str,
        command: &mut Command,
        directory: &Path,
        patience: Patience,
    ) -> Result<Self, String> {
        let out = std::fs::File::create(directory.join(format!("{name}.out")))
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        Self::start_with(name, command.stdin(Stdio::null()).stdout(out), directory, patience)
    }

    fn start_with(
        name: &str,
        command: &mut Command,
        directory: &Path,
        patience: Patience,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start {name}: {error}");
        let log = directory.join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).map_err(failed)?;
        let child = command.stderr(log).kill_on_drop(true).spawn().map_err(failed)?;
        let name = name.to_owned();
        let mut process = Self { name, child, lines: None, input: None, patience };
        process.lines = process.child.stdout.take().map(|out| BufReader::new(out).lines());
        process.input = process.child.stdin.take();
        remember(process.pid(), directory).map_err(failed)?;
        Ok(process)
    }

    /// Its number; 0 once it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// Where it ends, or says nothing in time.
    pub async fn line(&mut self) -> Result<String, String> {
        let name = &self.name;
        let lines = self.lines.as_mut().ok_or("its output is not read")?;
        match timeout(self.patience.line, lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(format!("{name} ended; what it logged is in {name}.log")),
            Ok(Err(error)) => Err(format!("{name}: {error}")),
            Err(_) => Err(format!("{name} said nothing in time")),
        }
    }

    /// Tells it a line.
    ///
    /// # Errors
    /// Where it does not listen.
    pub async fn tell(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("it hears nothing")?;
        let told = input.write_all(format!("{line}\n").as_bytes()).await;
        told.map_err(|error| format!("{}: {error}", self.name))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to end by that signal, and waits until it has; what does not hear is killed. Whether it ended
    /// by itself, and well.
    pub async fn end(&mut self, signal: Signal) -> bool {
        self.signal(signal);
        self.ended().await
    }

    /// Waits until it ends of itself, with nothing more to be told; what does not is killed. Whether it ended
    /// by itself, and well.
    pub async fn ended(&mut self) -> bool {
        drop(self.input.take());
        if let Ok(status) = timeout(self.patience.end, self.child.wait()).await {
            return status.is_ok_and(|status| status.success());
        }
        let _ = self.child.kill().await;
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's workers outlive a master that is killed, but not one that is asked: it is given a
        // moment before kill_on_drop does the rest.
        if !self.has_ended() {
            self.signal(Signal::TERM);
            for _ in 0..200 {
                if self.has_ended() {
                    break;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    }
}

/// Notes the number of a process in `pids`.
fn remember(pid: u32, directory: &Path) -> std::io::Result<()> {
    use std::io::Write;
    let mut pids =
        std::fs::OpenOptions::new().create(true).append(true).open(directory.join("pids"))?;
    writeln!(pids, "{pid}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::process::getpid;

    use super::*;

    #[tokio::test]
    async fn work_that_a_signal_ends_is_dropped_with_what_it_has_started() {
        let started = Arc::new(());
        let held = Arc::clone(&started);
        let work = async move {
            let _held = held;
            kill_process(getpid(), Signal::TERM).map_err(|error| error.to_string())?;
            std::future::pending::<Result<(), String>>().await
        };
        assert!(until_told(work).await.is_err());
        assert_eq!(Arc::strong_count(&started), 1);
    }
}
