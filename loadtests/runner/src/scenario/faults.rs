//! What goes wrong while users ask: model servers that are killed, a Redis that stands still or is gone.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use rig::{
    out::note,
    process::{Process, Signal},
};
use rustix::process::{Pid, kill_process};
use tokio::{
    process::Command,
    time::{Instant, sleep, sleep_until},
};

use super::{
    config::{Fault, FaultKind},
    now_ms,
};
use crate::started::{Ollama, PATIENCE, Programs};

/// When something was wrong, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
}

/// The Redis that was started for the run.
#[derive(Clone, Debug)]
pub(crate) struct RedisServer {
    pub(crate) pid: i32,
    pub(crate) address: SocketAddr,
    pub(crate) scratch: PathBuf,
}

/// What faults are done to.
pub(crate) struct Victims {
    pub(crate) programs: Programs,
    pub(crate) ollamas: Vec<Ollama>,
    pub(crate) redis: RedisServer,
    /// The Redis that took its place.
    pub(crate) second: Option<Process>,
}

// === impl Victims ===

impl Victims {
    /// Does each fault at its time.
    pub(crate) async fn suffer(mut self, faults: &[Fault]) -> Result<(Self, Vec<Span>), String> {
        let begun = Instant::now();
        let mut spans = Vec::with_capacity(faults.len());
        for fault in faults {
            sleep_until(begun + Duration::from_secs(fault.at)).await;
            note(&format!("  {:?} for {} s", fault.what, fault.seconds));
            spans.push(self.one(fault).await?);
        }
        Ok((self, spans))
    }

    async fn one(&mut self, fault: &Fault) -> Result<Span, String> {
        let begun = now_ms();
        let how_long = Duration::from_secs(fault.seconds);
        match fault.what {
            FaultKind::OneUpstreamKilled => self.kill(1, how_long).await?,
            FaultKind::UpstreamsKilled => self.kill(self.ollamas.len(), how_long).await?,
            FaultKind::RedisStopped => {
                self.tell_redis(Signal::STOP)?;
                sleep(how_long).await;
                self.tell_redis(Signal::CONT)?;
            }
            FaultKind::RedisKilled => {
                match &mut self.second {
                    Some(second) => {
                        second.end(Signal::KILL).await;
                    }
                    None => self.tell_redis(Signal::KILL)?,
                }
                sleep(how_long).await;
                self.second = Some(self.redis.start().await?);
            }
        }
        Ok(Span { begun, ended: now_ms() })
    }

    /// Kills the first model servers and starts them again where they were.
    async fn kill(&mut self, count: usize, how_long: Duration) -> Result<(), String> {
        let mut addresses = Vec::new();
        for ollama in self.ollamas.drain(..count) {
            addresses.push(ollama.address);
            ollama.kill().await;
        }
        sleep(how_long).await;
        for address in addresses {
            self.ollamas.push(Ollama::start(&self.programs, address).await?);
        }
        Ok(())
    }

    fn tell_redis(&self, signal: Signal) -> Result<(), String> {
        let pid = Pid::from_raw(self.redis.pid).ok_or("no Redis of our own")?;
        kill_process(pid, signal).map_err(|error| format!("Redis: {error}"))
    }
}

// === impl RedisServer ===

impl RedisServer {
    /// Starts another one in its place.
    async fn start(&self) -> Result<Process, String> {
        let mut command = Command::new("redis-server");
        command.arg("--bind").arg(self.address.ip().to_string());
        command.arg("--port").arg(self.address.port().to_string());
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(&self.scratch);
        let mut process = Process::start("redis", &mut command, &self.scratch, PATIENCE)?;
        while !process.line().await?.contains("Ready to accept connections") {}
        Ok(process)
    }
}
