//! Processes that end with what started them.

use std::{path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// How long a process may take to say the line that is waited for.
const LINE_MAX: Duration = Duration::from_secs(330);
/// How long it may take to end when it is asked to; then it is killed.
const END_MAX: Duration = Duration::from_secs(10);

/// A process; asked to end when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
    input: Option<ChildStdin>,
}

// === impl Process ===

impl Process {
    /// Starts it. Its standard output is read by [`Process::line`], its errors go to `NAME.log`. The
    /// number of the process goes into `pids`, for whoever has to end it if this program cannot.
    pub(crate) fn start(
        name: &str,
        command: &mut Command,
        directory: &Path,
    ) -> Result<Self, String> {
        Self::start_with(name, command.stdin(Stdio::piped()).stdout(Stdio::piped()), directory)
    }

    /// Starts one that nobody listens to: all it says goes to `NAME.log`.
    pub(crate) fn start_unheard(
        name: &str,
        command: &mut Command,
        directory: &Path,
    ) -> Result<Self, String> {
        let out = std::fs::File::create(directory.join(format!("{name}.out")))
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        Self::start_with(name, command.stdin(Stdio::null()).stdout(out), directory)
    }

    fn start_with(name: &str, command: &mut Command, directory: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start {name}: {error}");
        let log = std::fs::File::create(directory.join(format!("{name}.log"))).map_err(failed)?;
        let child = command.stderr(log).kill_on_drop(true).spawn().map_err(failed)?;
        let mut process = Self { name: name.to_owned(), child, lines: None, input: None };
        process.lines = process.child.stdout.take().map(|out| BufReader::new(out).lines());
        process.input = process.child.stdin.take();
        remember(process.pid(), directory).map_err(failed)?;
        Ok(process)
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

    /// Tells it a line.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("it hears nothing")?;
        let told = input.write_all(format!("{line}\n").as_bytes()).await;
        told.map_err(|error| format!("{}: {error}", self.name))
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn end(mut self) {
        self.ask_to_end();
        // Dropped afterwards, which kills what did not hear.
        let _ = timeout(END_MAX, self.child.wait()).await;
    }

    /// Waits until it ends of itself.
    pub(crate) async fn ended(mut self) {
        drop(self.input.take());
        let _ = timeout(END_MAX, self.child.wait()).await;
    }

    fn ask_to_end(&self) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's workers outlive a master that is killed, but not one that is asked: it is given a
        // moment before kill_on_drop does the rest.
        if !self.has_ended() {
            self.ask_to_end();
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
