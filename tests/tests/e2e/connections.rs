//! Connections to upstreams that say more than they were asked, or end when they are used again.

use parking_lot::Mutex;
use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use storage::upstreams::{Upstream, UpstreamKind};
use tests::{TestGateway, get, patience::eventually, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use crate::{settings, whole_chat};

/// A model server that answers, and pushes an answer that nobody asked for when it is told to.
struct Hostile {
    address: SocketAddr,
    push: watch::Sender<()>,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What it does besides.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    Nothing,
    /// It pushes an answer behind each of its own.
    Pushes,
    /// It takes a second chat on a connection, and closes that, as if its idle time had just been over.
    Closes,
}

#[derive(Default)]
struct Seen {
    /// The heads of the chats, by connection.
    chats: Vec<Vec<String>>,
    /// Connections with chats into which an answer was pushed.
    pushed: usize,
}

impl Hostile {
    async fn start(habit: Habit) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (push, mut pushed) = watch::channel(());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (tasks, kept) = (TaskTracker::new(), Arc::clone(&seen));
        let task = tasks.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // What was pushed before is none of its business.
                pushed.mark_unchanged();
                tasks.spawn(serve(stream, pushed.clone(), Arc::clone(&kept), habit));
            }
        });
        Self { address, push, seen, task }
    }

    fn chats(&self) -> Vec<usize> {
        self.seen.lock().chats.iter().map(Vec::len).collect()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    mut push: watch::Receiver<()>,
    seen: Arc<Mutex<Seen>>,
    habit: Habit,
) {
    // What is pushed is there before the next call is made: Nagle would hold it until that is acknowledged.
    stream.set_nodelay(true).unwrap();
    let (mut read, mut place) = (Vec::new(), None);
    loop {
        tokio::select! {
            count = stream.read_buf(&mut read) => if !matches!(count, Ok(1..)) { return },
            Ok(()) = push.changed() => {
                let _ = stream.write_all(&chat("pushed")).await;
                seen.lock().pushed += usize::from(place.is_some());
            }
        }
        let Some(head) = request(&mut read) else { continue };
        if head.starts_with("GET") {
            let _ = stream.write_all(&json_of(r#"{"models":[{"name":"llama3.2:latest"}]}"#)).await;
            continue;
        }
        {
            let chats = &mut seen.lock().chats;
            let place = *place.get_or_insert_with(|| {
                chats.push(Vec::new());
                chats.len() - 1
            });
            chats[place].push(head);
            if habit == Habit::Closes && chats[place].len() == 2 {
                return;
            }
        }
        let _ = stream.write_all(&chat("asked for")).await;
        if habit == Habit::Pushes {
            let _ = stream.write_all(&chat("pushed")).await;
        }
    }
}

/// Takes a whole request of what was read; returns its head.
fn request(read: &mut Vec<u8>) -> Option<String> {
    let text = String::from_utf8_lossy(read).to_lowercase();
    let (head, _) = text.split_once("\r\n\r\n")?;
    let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest);
    let length: usize = length.split("\r\n").next()?.parse().ok()?;
    if read.len() < head.len() + 4 + length {
        return None;
    }
    let head = String::from_utf8_lossy(&read[..head.len()]).into_owned();
    read.drain(..head.len() + 4 + length);
    Some(head)
}

fn json_of(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn chat(content: &str) -> Vec<u8> {
    let reply = json!({
        "model": "llama3.2", "created_at": "2026-01-01T00:00:00Z",
        "message": { "role": "assistant", "content": content },
        "done": true, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1,
    });
    json_of(&reply.to_string())
}

/// A gateway of one thread, so that all connections to an upstream are in one place.
async fn in_front(upstreams: &str) -> TestGateway {
    let env = [("NEURONETZ_UPSTREAMS", upstreams), ("NEURONETZ_SERVER_THREADS", "1")];
    let gateway = TestGateway::with(settings(env)).await;
    eventually("the upstream", || async {
        let ready = get(gateway.admin, "/readyz", None).await.json();
        (ready["upstreams"][0]["status"] == "up").then_some(())
    })
    .await;
    gateway
}

async fn answer(gateway: &TestGateway) -> Value {
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["message"]["content"].clone()
}

#[tokio::test]
async fn without_keep_alive_nobody_reads_what_an_upstream_pushed_behind_an_answer() {
    let hostile = Hostile::start(Habit::Pushes).await;
    let gateway = in_front(&format!("hostile=no-keep-alive+http://{}", hostile.address)).await;
    for _ in 0..20 {
        assert_eq!(answer(&gateway).await, "asked for");
    }
    assert_eq!(hostile.chats(), [1; 20]);
    let told = hostile.seen.lock();
    assert!(told.chats.iter().flatten().all(|head| head.contains("\r\nconnection: close\r\n")));
}

#[tokio::test]
async fn what_an_upstream_pushed_while_nothing_was_asked_is_noticed() {
    let hostile = Hostile::start(Habit::Nothing).await;
    let gateway = in_front(&format!("hostile=http://{}", hostile.address)).await;
    for _ in 0..2 {
        assert_eq!(answer(&gateway).await, "asked for");
    }
    assert_eq!(hostile.chats(), [2], "the connection serves on");
    hostile.push.send_replace(());
    eventually("the pushed answer", || async { (hostile.seen.lock().pushed == 1).then_some(()) })
        .await;
    for _ in 0..2 {
        assert_eq!(answer(&gateway).await, "asked for");
    }
    assert_eq!(hostile.chats(), [2, 2]);
}

#[tokio::test]
async fn a_kept_connection_that_ends_as_it_is_used_again_costs_no_answer() {
    let hostile = Hostile::start(Habit::Closes).await;
    let gateway = in_front(&format!("hostile=http://{}", hostile.address)).await;
    for _ in 0..3 {
        assert_eq!(answer(&gateway).await, "asked for");
    }
    assert_eq!(hostile.chats(), [2, 2, 1]);
}

#[tokio::test]
async fn keep_alive_is_switched_off_and_on_without_a_restart() {
    let hostile = Hostile::start(Habit::Nothing).await;
    let gateway = in_front(&format!("hostile=http://{}", hostile.address)).await;
    let stored = Upstream {
        name: "hostile".to_owned(),
        url: format!("http://{}", hostile.address),
        kind: UpstreamKind::Ollama,
        slots: None,
        keep_alive: false,
        created_at: jiff::Timestamp::now(),
    };
    let is_kept = async || {
        let state = get(gateway.admin, "/admin/v1/actors/upstream/hostile", None).await.json();
        state["keep_alive"].clone()
    };
    assert_eq!((answer(&gateway).await, is_kept().await), (json!("asked for"), json!(true)));
    gateway.storage.upstreams.add(stored).await.unwrap();
    for (keep_alive, chats) in [(false, vec![1, 1, 1]), (true, vec![1, 1, 1, 2])] {
        gateway.storage.upstreams.set_keep_alive("hostile", keep_alive).await.unwrap();
        eventually("the switch", || async {
            let ready = get(gateway.admin, "/readyz", None).await.json();
            let is_up = ready["upstreams"][0]["status"] == "up";
            (is_up && is_kept().await == json!(keep_alive)).then_some(())
        })
        .await;
        for _ in 0..2 {
            assert_eq!(answer(&gateway).await, "asked for");
        }
        let now = hostile.chats();
        // A connection that was kept from before may serve on.
        assert!(now == chats || (keep_alive && now == [3, 1, 1]), "{now:?}");
    }
}
