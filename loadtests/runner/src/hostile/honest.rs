//! The tenant that behaves well: whole replies and streams at a steady rate, and now and then a key of it that
//! was never used before. Time is counted from when a request was due, so that whoever is kept waiting does
//! not ask less and look better for it.

use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rig::out::note;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::task::TaskTracker;

use super::{
    config::Steady,
    wire::{self, Wire},
};

/// The model and the tenant.
pub(crate) const NAME: &str = "honest";
/// Where it connects from: attackers have addresses of their own.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The server takes 50 ms until the first byte, as a small and quick model would.
const WHOLE: &str =
    r#"{"model":"honest","messages":[{"role":"user","content":"[[first 50]] hi"}]}"#;
/// Twenty pieces, 5 ms apart.
const STREAM: &str = r#"{"model":"honest","stream":true,"messages":[{"role":"user","content":"[[first 50]] [[chunks 20]] [[pace 5]] go on"}]}"#;
const PATH: &str = "/v1/chat/completions";
/// Requests after which a user opens another connection.
const REQUESTS_OF_A_CONNECTION: u32 = 50;
/// How long after the end of the load its last requests may still be asked: what is due then and was never asked,
/// since all before was late, has failed.
const LATE_MAX: Duration = Duration::from_secs(2);
const NO_TURN: &str = "no turn until the end";
/// Of so many requests two are streams.
const STREAM_OF: u64 = 5;

/// What is measured.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wish {
    /// A whole reply.
    Whole,
    /// A stream, read to its end.
    Stream,
    /// A whole reply with a key that was never used before, on a new connection.
    NewKey,
}

/// What became of a request.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    /// When it was due, in seconds since the first.
    pub(crate) at: f64,
    pub(crate) wish: Wish,
    /// Until the first byte of the reply's body, and until its end.
    pub(crate) first_ms: f64,
    pub(crate) total_ms: f64,
    /// Why it was not served.
    pub(crate) failure: Option<String>,
}

/// All users of the tenant.
pub(crate) struct Honest {
    to: SocketAddr,
    keys: Vec<String>,
    new_keys: Mutex<VecDeque<String>>,
    asked: Mutex<Vec<Asked>>,
    begun: Instant,
}

// === impl Honest ===

impl Honest {
    /// Users who have these keys.
    pub(crate) fn new(to: SocketAddr, keys: Vec<String>, new_keys: Vec<String>) -> Self {
        let (new_keys, asked) = (Mutex::new(new_keys.into()), Mutex::default());
        Self { to, keys, new_keys, asked, begun: Instant::now() }
    }

    /// Seconds since the first.
    pub(crate) fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// What became of each request.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.asked.lock().len() as u64
    }

    /// Lets each key be used once: it costs a hash, which is not what is measured.
    pub(crate) async fn each_key_once(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the honest tenant is not served: {error}");
        let mut wire = Wire::open(FROM, self.to).await.map_err(failed)?;
        for key in &self.keys {
            let answer = wire.ask(&wire::post(PATH, key, WHOLE)).await.map_err(failed)?;
            if answer.status != 200 {
                return Err(format!("the honest tenant is told {}", answer.told()));
            }
        }
        Ok(())
    }

    /// Asks at that rate for so long.
    pub(crate) async fn ask(self: &Arc<Self>, load: Steady, long: Duration) {
        let until = Instant::now() + long;
        let users = TaskTracker::new();
        let every = Duration::from_secs_f64(load.users as f64 / load.per_second.max(0.1));
        for number in 0..load.users {
            let late = every.mul_f64(number as f64 / load.users as f64);
            users.spawn(Arc::clone(self).user(number, late, every, until));
        }
        let every = Duration::from_secs_f64(load.new_key_every_s.max(0.1));
        users.spawn(Arc::clone(self).newcomers(every, until));
        users.close();
        users.wait().await;
    }

    async fn user(self: Arc<Self>, number: usize, late: Duration, every: Duration, until: Instant) {
        let requests = self
            .keys
            .get(number % self.keys.len().max(1))
            .map(|key| (wire::post(PATH, key, WHOLE), wire::post(PATH, key, STREAM)));
        let Some((whole, stream)) = requests else { return };
        let mut ticks = interval_at(Instant::now() + late, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut wire, mut count) = (None, number as u64);
        loop {
            let due = ticks.tick().await;
            if due >= until {
                return;
            }
            if Instant::now() > until + LATE_MAX {
                self.add(Wish::Whole, due, Err(NO_TURN.to_owned()));
                continue;
            }
            count += 1;
            let is_stream = count % STREAM_OF < 2;
            let (wish, request) =
                if is_stream { (Wish::Stream, &stream) } else { (Wish::Whole, &whole) };
            self.once(&mut wire, wish, request, due).await;
            if count.is_multiple_of(u64::from(REQUESTS_OF_A_CONNECTION)) {
                wire = None;
            }
        }
    }

    async fn newcomers(self: Arc<Self>, every: Duration, until: Instant) {
        let mut ticks = interval_at(Instant::now() + every, every);
        loop {
            let due = ticks.tick().await;
            let key = self.new_keys.lock().pop_front();
            let (true, Some(key)) = (due < until, key) else { return };
            if Instant::now() > until + LATE_MAX {
                self.add(Wish::NewKey, due, Err(NO_TURN.to_owned()));
                continue;
            }
            self.once(&mut None, Wish::NewKey, &wire::post(PATH, &key, WHOLE), due).await;
        }
    }

    /// Asks once, on a new connection where there is none.
    async fn once(&self, wire: &mut Option<Wire>, wish: Wish, request: &[u8], due: Instant) {
        let asked = self.served(wire, wish, request).await;
        if asked.is_err() {
            *wire = None;
        }
        self.add(wish, due, asked);
    }

    /// Adds what became of a request: when its first byte was there, or why it failed.
    fn add(&self, wish: Wish, due: Instant, asked: Result<Instant, String>) {
        let ms = |until: Instant| (until - due).as_secs_f64() * 1_000.0;
        let now = Instant::now();
        let (first, failure) = match asked {
            Ok(first) => (first, None),
            Err(why) => (now, Some(why)),
        };
        let at = (due - self.begun).as_secs_f64();
        let asked = Asked { at, wish, first_ms: ms(first), total_ms: ms(now), failure };
        let mut all = self.asked.lock();
        if let Some(why) =
            asked.failure.as_ref().filter(|_| all.iter().all(|it| it.failure.is_none()))
        {
            note(&format!("  the first request of the honest tenant that fails: {wish:?}: {why}"));
        }
        all.push(asked);
    }

    /// When the first byte was there, where it was served as it should be.
    async fn served(
        &self,
        wire: &mut Option<Wire>,
        wish: Wish,
        request: &[u8],
    ) -> Result<Instant, String> {
        let text = |error: std::io::Error| error.kind().to_string();
        let wire = match wire {
            Some(wire) => wire,
            none => none.insert(Wire::open(FROM, self.to).await.map_err(text)?),
        };
        let answer = wire.ask(request).await.map_err(text)?;
        let is_whole = match wish {
            Wish::Stream => wire::find(&answer.body, b"data: [DONE]").is_some(),
            Wish::Whole | Wish::NewKey => {
                answer.body.ends_with(b"}\n") || answer.body.ends_with(b"}")
            }
        };
        match answer.status {
            200 if is_whole => Ok(answer.first_byte),
            200 => Err("200, and broken off".to_owned()),
            _ => Err(answer.told()),
        }
    }
}

/// The time that so large a share does not exceed, in milliseconds.
pub(crate) fn percentile(mut times: Vec<f64>, share: f64) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    let rank = (share * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied()
}
