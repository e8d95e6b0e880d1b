//! The load: connections that are kept, each asking for the next reply when it has read the last.
//!
//! A process of its own that is told what to do on standard input and answers on standard output, a line
//! of JSON each:
//!
//! | in | out |
//! |---|---|
//! | a [`Plan`] | a [`Warm`], once everything is warmed up |
//! | `go` | a [`Done`], once the requests are done (held streams: at once) |
//! | the end | the end |
//!
//! The pause between lets the one who asked look at the clocks of other processes.

mod connection;

use std::{
    cell::{Cell, RefCell},
    io::BufRead,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use memchr::memmem;
use rig::out::say;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, task::LocalSet, time::sleep};

use crate::timing::Percentiles;
use connection::Connection;

/// How many connections of held streams are opened at once.
const OPENING: usize = 64;
/// How long it may take to hear that held streams ended.
const HEARING: Duration = Duration::from_millis(100);
/// How long everything of one phase may take.
const PHASE_MAX: Duration = Duration::from_secs(300);

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Whom to ask.
    pub(crate) address: SocketAddr,
    /// For what, beginning with a slash.
    pub(crate) path: String,
    /// Header lines besides the usual ones, `name: value`.
    pub(crate) headers: Vec<String>,
    /// The bodies of the requests.
    pub(crate) body: String,
    /// A file with a key a line; they take turns.
    pub(crate) keys: std::path::PathBuf,
    /// Connections at once.
    pub(crate) connections: usize,
    /// Requests before those that count.
    pub(crate) warmup: u64,
    /// Requests that count.
    pub(crate) requests: u64,
    /// The connections begin spread over this time, in milliseconds.
    pub(crate) spread_ms: u64,
    /// Each connection asks for one stream and keeps it open.
    pub(crate) hold: bool,
}

/// Everything is warm.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Warm {
    /// Requests that were not answered well.
    pub(crate) failures: u64,
    /// What the first of them was.
    pub(crate) failure: Option<String>,
    /// The pieces of content in the first reply.
    pub(crate) pieces: usize,
    /// Whether the first reply ended as its dialect wants it.
    pub(crate) is_complete: bool,
}

/// Everything is done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Requests that were answered well.
    pub(crate) requests: u64,
    /// Requests that were not.
    pub(crate) failures: u64,
    /// What the first of them was.
    pub(crate) failure: Option<String>,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Until the first byte of the body.
    pub(crate) first: Percentiles,
    /// Until the end of the body.
    pub(crate) total: Percentiles,
}

/// The requests, and who is next.
struct Requests {
    address: SocketAddr,
    head: String,
    tail: String,
    keys: Vec<String>,
    next_key: Cell<usize>,
    /// Of the phase: how many are still to be begun.
    left: Cell<u64>,
}

/// What a phase found.
#[derive(Default)]
struct Found {
    first: Vec<u64>,
    total: Vec<u64>,
    failures: u64,
    failure: Option<String>,
    /// The body of the first reply.
    body: Option<Vec<u8>>,
}

/// Does what standard input says.
pub(crate) fn run(runtime: &Runtime) -> Result<(), String> {
    let mut lines = std::io::stdin().lock().lines();
    let mut line = || {
        let line = lines.next().ok_or("nothing more on standard input")?;
        line.map_err(|error| error.to_string())
    };
    let plan: Plan = read(&line()?)?;
    let requests = Rc::new(Requests::new(&plan)?);
    let local = LocalSet::new();
    let connections = (0..plan.connections).map(|_| Connection::new(plan.hold)).collect();

    requests.left.set(if plan.hold { plan.connections as u64 } else { plan.warmup });
    let (connections, warm) =
        within(&local, runtime, phase(&requests, connections, &plan, !plan.hold))?;
    say(&write(&warm.warm())?);
    line()?;

    let start = Instant::now();
    let (_connections, mut found) = if plan.hold {
        let look = async {
            // A turn of the runtime, in which it hears of streams that ended.
            sleep(HEARING).await;
            Found::of_held(&connections)
        };
        let found = within(&local, runtime, look)?;
        (connections, found)
    } else {
        requests.left.set(plan.requests);
        within(&local, runtime, phase(&requests, connections, &plan, false))?
    };
    say(&write(&found.done(start.elapsed()))?);
    // Until then its own clocks can be looked at.
    let _ = line();
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn write(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

fn within<T>(
    local: &LocalSet,
    runtime: &Runtime,
    phase: impl Future<Output = T>,
) -> Result<T, String> {
    let limited = async { tokio::time::timeout(PHASE_MAX, phase).await };
    let seconds = PHASE_MAX.as_secs();
    local.block_on(runtime, limited).map_err(|_| format!("not done within {seconds} s"))
}

/// Lets the connections do what is left of the requests.
async fn phase(
    requests: &Rc<Requests>,
    connections: Vec<Connection>,
    plan: &Plan,
    keep_first: bool,
) -> (Vec<Connection>, Found) {
    let found = Rc::new(RefCell::new(Found::default()));
    if keep_first {
        found.borrow_mut().body = Some(Vec::new());
    }
    let count = connections.len() as u64;
    let opening =
        Rc::new(tokio::sync::Semaphore::new(if plan.hold { OPENING } else { usize::MAX >> 3 }));
    let mut tasks = Vec::with_capacity(connections.len());
    for (number, mut connection) in connections.into_iter().enumerate() {
        let (requests, found) = (Rc::clone(requests), Rc::clone(&found));
        let opening = Rc::clone(&opening);
        let wait = Duration::from_millis(plan.spread_ms * number as u64 / count.max(1));
        tasks.push(tokio::task::spawn_local(async move {
            if !wait.is_zero() {
                sleep(wait).await;
            }
            let _permit = opening.acquire().await;
            connection.work(&requests, &found).await;
            connection
        }));
    }
    let mut connections = Vec::with_capacity(tasks.len());
    for task in tasks {
        if let Ok(connection) = task.await {
            connections.push(connection);
        }
    }
    (connections, found.take())
}

// === impl Requests ===

impl Requests {
    fn new(plan: &Plan) -> Result<Self, String> {
        let file = plan.keys.display();
        let text =
            std::fs::read_to_string(&plan.keys).map_err(|error| format!("{file}: {error}"))?;
        let keys: Vec<String> = text.lines().map(str::to_owned).collect();
        if keys.is_empty() {
            return Err(format!("{file} holds no key"));
        }
        let more: String = plan.headers.iter().map(|line| format!("{line}\r\n")).collect();
        Ok(Self {
            address: plan.address,
            head: format!(
                "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{more}\
                 Content-Length: {}\r\nAuthorization: Bearer ",
                plan.path,
                plan.address,
                plan.body.len(),
            ),
            tail: format!("\r\n\r\n{}", plan.body),
            keys,
            next_key: Cell::new(0),
            left: Cell::new(0),
        })
    }

    /// Takes the next one, where there is one.
    fn take(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    /// Writes the next one into `buffer`.
    fn write(&self, buffer: &mut Vec<u8>) {
        let number = self.next_key.get();
        self.next_key.set((number + 1) % self.keys.len());
        buffer.clear();
        buffer.extend_from_slice(self.head.as_bytes());
        buffer.extend_from_slice(self.keys[number].as_bytes());
        buffer.extend_from_slice(self.tail.as_bytes());
    }
}

// === impl Found ===

impl Found {
    fn failed(&mut self, why: String) {
        self.failures += 1;
        self.failure.get_or_insert(why);
    }

    /// Held streams must be open still.
    fn of_held(connections: &[Connection]) -> Self {
        let mut found = Self::default();
        for connection in connections {
            if connection.is_quiet() {
                found.total.push(0);
            } else {
                found.failed("a held stream ended".to_owned());
            }
        }
        found
    }

    fn warm(&self) -> Warm {
        let body = self.body.as_deref().unwrap_or_default();
        let has = |text: &str| memmem::find(body, text.as_bytes()).is_some();
        // Others than Ollama write a space behind a colon.
        let pieces = memmem::find_iter(body, b"\"content\":\"").count()
            + memmem::find_iter(body, b"\"content\": \"").count();
        Warm {
            failures: self.failures,
            failure: self.failure.clone(),
            pieces,
            is_complete: has("\"done\":true") || has("[DONE]") || has("\"chat.completion\""),
        }
    }

    fn done(&mut self, elapsed: Duration) -> Done {
        Done {
            requests: self.total.len() as u64,
            failures: self.failures,
            failure: self.failure.take(),
            seconds: elapsed.as_secs_f64(),
            first: Percentiles::of(&mut self.first),
            total: Percentiles::of(&mut self.total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_counted_in_either_dialect() {
        let count = |body: &str| {
            let found = Found { body: Some(body.as_bytes().to_vec()), ..Found::default() };
            let warm = found.warm();
            (warm.pieces, warm.is_complete)
        };
        let native =
            "{\"message\":{\"content\":\" a\"},\"done\":false}\n{\"content\":\"\",\"done\":true}\n";
        assert_eq!(count(native), (2, true));
        assert_eq!(
            count("data: {\"delta\": {\"content\": \" a\"}}\n\ndata: [DONE]\n\n"),
            (1, true)
        );
        assert_eq!(count("data: {\"delta\":{\"content\":\" a\"}}\n\n"), (1, false));
    }
}
