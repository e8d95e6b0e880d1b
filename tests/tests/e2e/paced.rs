//! Streams at the pace of a model: no chunk is kept back for the sake of the next.

use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use scripted_ollama::{Script, Scripted};
use serde_json::json;
use tests::{Open, Setup, TestGateway, patience::eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::task::TaskTracker;

use crate::{chat, with};

/// Chunks of a stream, 10 ms apart.
const CHUNKS: usize = 50;
/// How long one may stay in the gateway.
const STAY_MAX: Duration = Duration::from_millis(1);

/// Stands before a model server and notes when a line of a reply leaves for the gateway.
struct Gate {
    address: SocketAddr,
    passed: Arc<Mutex<Vec<Instant>>>,
    task: JoinHandle<()>,
}

impl Gate {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let passed = Arc::default();
        let noted = Arc::clone(&passed);
        let task = TaskTracker::new().spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                open.spawn(pass(near, server, Arc::clone(&noted)));
            }
        });
        Self { address, passed, task }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut near: TcpStream, server: SocketAddr, noted: Arc<Mutex<Vec<Instant>>>) {
    let mut far = TcpStream::connect(server).await.unwrap();
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    let back = async {
        let mut read = Vec::with_capacity(64 * 1024);
        while matches!(from_far.read_buf(&mut read).await, Ok(1..)) {
            let lines = String::from_utf8_lossy(&read).matches("\"message\"").count();
            noted.lock().extend(vec![Instant::now(); lines]);
            if to_near.write_all(&read).await.is_err() {
                break;
            }
            read.clear();
        }
    };
    tokio::select! {
        _ = copy(&mut from_near, &mut to_far) => {}
        () = back => {}
    }
}

/// How long each chunk of a stream took from the model server to the client, the shortest first.
async fn stays(gateway: &TestGateway, gate: &Gate, path: &str) -> Vec<Duration> {
    gate.passed.lock().clear();
    let prompt = format!("[[chunks {CHUNKS}]] [[pace 10]]");
    let body = with(chat(&prompt), "stream", json!(true));
    let mut open = Open::post(gateway.address, path, &gateway.key, &body).await;
    let mut came = Vec::with_capacity(CHUNKS);
    for number in 1..=CHUNKS {
        open.until_times("\"content\"", number).await;
        came.push(Instant::now());
    }
    open.end().await;
    let passed = gate.passed.lock();
    let mut stays: Vec<_> =
        came.iter().zip(&*passed).map(|(came, passed)| *came - *passed).collect();
    stays.sort();
    stays
}

/// A machine may be busy, and then some chunks wait for a processor. Of what the gateway itself would keep back,
/// to send two chunks together or until a timer goes off, there would be at least every second one, always.
#[tokio::test]
async fn a_chunk_leaves_within_a_millisecond_of_its_arrival() {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Scripted::start(Script::default(), loopback).await.unwrap();
    let gate = Gate::before(server.address()).await;
    let env = vec![("NEURONETZ_UPSTREAMS", format!("gated=http://{}", gate.address))];
    let gateway = TestGateway::with(Setup { env, ..Setup::default() }).await;
    for path in ["/api/chat", "/v1/chat/completions"] {
        eventually(
            "a stream of which three chunks in five stay less than a millisecond",
            || async {
                let stays = stays(&gateway, &gate, path).await;
                assert_eq!(stays.len(), CHUNKS);
                (stays[CHUNKS * 3 / 5] < STAY_MAX).then_some(())
            },
        )
        .await;
    }
}
