//! Those who ask, as people and programs do: most want a reply, some a stream, some leave in the middle of
//! it, some have a key that is none.

use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use rig::out::note;
use serde::Serialize;
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use crate::keys;

const PATH: &str = "/v1/chat/completions";
/// Requests after which a user opens another connection.
const REQUESTS_OF_A_CONNECTION: u32 = 50;
/// Parts of a stream after which some leave.
const PARTS_BEFORE_LEAVING: usize = 3;
/// How long an answer may take, on whatever machine.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long a user waits after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// A whole reply.
    Whole,
    /// A stream, read to its end.
    Stream,
    /// A stream that nobody reads to its end.
    Cancelled,
    /// A reply, with a key that is none.
    WrongKey,
}

/// What became of it all.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Tally {
    pub(crate) whole: u64,
    pub(crate) streams: u64,
    pub(crate) cancelled: u64,
    pub(crate) refused_keys: u64,
    /// What was not answered as it should be.
    pub(crate) failures: u64,
    /// The first of them.
    pub(crate) failure: Option<String>,
}

/// All who ask.
pub(crate) struct Crowd {
    address: SocketAddr,
    keys: Vec<String>,
    answered: AtomicU64,
    tally: Mutex<Tally>,
    /// The connections; each ends by itself once nobody has it any more.
    connections: TaskTracker,
}

/// One who asks.
struct User {
    crowd: Arc<Crowd>,
    connection: Option<SendRequest<Full<Bytes>>>,
    asked: u32,
}

// === impl Wish ===

impl Wish {
    /// Of a hundred: 70 whole, 20 streams, 5 that are left, 5 with a wrong key.
    fn any() -> Self {
        match fastrand::u8(0..100) {
            0..70 => Self::Whole,
            70..90 => Self::Stream,
            90..95 => Self::Cancelled,
            _ => Self::WrongKey,
        }
    }

    const fn body(self) -> &'static str {
        match self {
            Self::Whole | Self::WrongKey => {
                r#"{"model":"llama3.2","messages":[{"role":"user","content":"hi"}]}"#
            }
            Self::Stream => {
                r#"{"model":"llama3.2","stream":true,"messages":[{"role":"user","content":"[[chunks 20]] [[pace 5]] go on"}]}"#
            }
            Self::Cancelled => {
                r#"{"model":"llama3.2","stream":true,"messages":[{"role":"user","content":"[[chunks 500]] [[pace 5]] go on"}]}"#
            }
        }
    }
}

// === impl Crowd ===

impl Crowd {
    /// Those who have these keys.
    pub(crate) fn new(address: SocketAddr, keys: Vec<String>) -> Self {
        Self {
            address,
            keys,
            answered: AtomicU64::new(0),
            tally: Mutex::default(),
            connections: TaskTracker::new(),
        }
    }

    /// Requests that were answered so far, however.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// What became of them.
    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// Lets each key be used, by few at once: each costs a hash.
    pub(crate) async fn each_key_once(self: &Arc<Self>) {
        let users = TaskTracker::new();
        let (few, many) = (4, self.keys.len());
        for first in 0..few {
            let mut user = User::of(self);
            users.spawn(async move {
                for number in (first..many).step_by(few) {
                    let key = user.crowd.keys[number].clone();
                    user.turn(Wish::Whole, &key).await;
                }
            });
        }
        users.close();
        users.wait().await;
    }

    /// Lets users ask for so long: so many requests a second together, or as many as are answered.
    pub(crate) async fn ask(self: &Arc<Self>, users: usize, rate: Option<f64>, long: Duration) {
        let until = Instant::now() + long;
        let all = TaskTracker::new();
        for number in 0..users {
            let mut user = User::of(self);
            let pace = rate.map(|rate| Duration::from_secs_f64(users as f64 / rate.max(0.1)));
            all.spawn(async move {
                let pace = pace.map(|pace| (pace, pace.mul_f64(number as f64 / users as f64)));
                user.ask_until(until, pace).await;
            });
        }
        all.close();
        all.wait().await;
    }

    /// Opens streams that go on until what is returned is dropped.
    pub(crate) async fn leak(self: &Arc<Self>, streams: usize) -> Result<Vec<impl Sized>, String> {
        let mut held = Vec::with_capacity(streams);
        for _ in 0..streams {
            let mut user = User::of(self);
            let body = Wish::Stream.body().replace("[[pace 5]]", "[[hang 1]]");
            let key = self.keys.first().map(String::as_str).unwrap_or_default();
            let response = user.send(key, Bytes::from(body)).await?;
            held.push((user, response));
        }
        Ok(held)
    }

    fn count(&self, wish: Wish, result: Result<(), String>) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.tally.lock();
        match (result, wish) {
            (Ok(()), Wish::Whole) => tally.whole += 1,
            (Ok(()), Wish::Stream) => tally.streams += 1,
            (Ok(()), Wish::Cancelled) => tally.cancelled += 1,
            (Ok(()), Wish::WrongKey) => tally.refused_keys += 1,
            (Err(why), _) => {
                tally.failures += 1;
                if tally.failure.is_none() {
                    note(&format!("  a failure: {wish:?}: {why}"));
                    tally.failure = Some(format!("{wish:?}: {why}"));
                }
            }
        }
    }

    /// A key that is none: forged, garbage, or a lookalike of a real one.
    fn wrong_key(&self) -> String {
        let made = match fastrand::u8(0..4) {
            0 => Ok(keys::garbage()),
            1 => fastrand::choice(&self.keys).map_or_else(keys::forged, |key| keys::lookalike(key)),
            _ => keys::forged(),
        };
        made.unwrap_or_else(|_| keys::garbage())
    }
}

// === impl User ===

impl User {
    fn of(crowd: &Arc<Crowd>) -> Self {
        Self { crowd: Arc::clone(crowd), connection: None, asked: 0 }
    }

    /// Asks until then; with a pace, once in so long, beginning so late.
    async fn ask_until(&mut self, until: Instant, pace: Option<(Duration, Duration)>) {
        let mut ticks = pace.map(|(every, late)| {
            let mut ticks = interval_at(Instant::now() + late, every);
            // Who is late does not hurry afterwards: that would be another load.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks
        });
        loop {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            if Instant::now() >= until {
                return;
            }
            let wish = Wish::any();
            let key = match wish {
                Wish::WrongKey => self.crowd.wrong_key(),
                _ => fastrand::choice(&self.crowd.keys).cloned().unwrap_or_default(),
            };
            self.turn(wish, &key).await;
        }
    }

    /// Asks once.
    async fn turn(&mut self, wish: Wish, key: &str) {
        let asked = timeout(ANSWER_MAX, self.fulfil(wish, key)).await;
        let result = asked.unwrap_or_else(|_| Err(format!("no answer after {ANSWER_MAX:?}")));
        let has_failed = result.is_err();
        self.asked += 1;
        if has_failed || self.asked >= REQUESTS_OF_A_CONNECTION {
            self.connection = None;
            self.asked = 0;
        }
        self.crowd.count(wish, result);
        if has_failed {
            sleep(AFTER_FAILURE).await;
        }
    }

    async fn fulfil(&mut self, wish: Wish, key: &str) -> Result<(), String> {
        let response = self.send(key, Bytes::from_static(wish.body().as_bytes())).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        match wish {
            Wish::Cancelled if status == 200 => {
                for _ in 0..PARTS_BEFORE_LEAVING {
                    body.frame().await.ok_or("the stream ended early")?.map_err(text)?;
                }
                self.connection = None;
                Ok(())
            }
            _ => {
                let read = body.collect().await.map_err(text)?.to_bytes();
                let is_whole = !matches!(wish, Wish::Stream) || read.ends_with(b"data: [DONE]\n\n");
                match (wish, status) {
                    (Wish::WrongKey, 401 | 429) => Ok(()),
                    (Wish::Whole | Wish::Stream, 200) if is_whole => Ok(()),
                    _ => Err(format!("status {status}: {}", String::from_utf8_lossy(&read))),
                }
            }
        }
    }

    /// Sends a request, on a new connection where there is none.
    async fn send(&mut self, key: &str, body: Bytes) -> Result<Response<Incoming>, String> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            self.connection = None;
        }
        let address = self.crowd.address;
        let sender = match &mut self.connection {
            Some(sender) => sender,
            none => {
                let stream = TcpStream::connect(address).await.map_err(text)?;
                stream.set_nodelay(true).map_err(text)?;
                let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(text)?;
                self.crowd.connections.spawn(driver);
                none.insert(sender)
            }
        };
        let request = Request::post(PATH)
            .header(header::HOST, address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .body(Full::new(body))
            .map_err(text)?;
        sender.ready().await.map_err(text)?;
        sender.send_request(request).await.map_err(text)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
