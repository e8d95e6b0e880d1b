//! What a user does, again and again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use goose::{
    goose::{GooseMethod, GooseResponse},
    prelude::*,
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::outcome::{Outcomes, now_ms, of_reply};

const PATH: &str = "/v1/chat/completions";
const MODEL: &str = "llama3.2";
/// What is kept of a reply: the end of a stream says whether it is whole.
const KEPT: usize = 8 * 1024;
/// How long a user rests for whom no key is left.
const NO_KEY: Duration = Duration::from_secs(1);

/// A `scenario.toml`, as far as users are concerned.
#[derive(Deserialize)]
pub(crate) struct Scenario {
    pub(crate) users: Vec<Does>,
}

/// What users do.
#[derive(Deserialize)]
pub(crate) struct Does {
    pub(crate) name: String,
    pub(crate) count: usize,
    /// The name of their keys.
    pub(crate) keys: String,
    /// Each key is used once; else they take turns.
    #[serde(default)]
    once: bool,
    prompt: String,
    #[serde(default)]
    stream: bool,
    /// How long a user waits between two requests: without that, so few cores measure only each other.
    #[serde(default = "wait_ms")]
    pub(crate) wait_ms: [u64; 2],
    /// All ask at the same moment, once in so many seconds.
    together_every_s: Option<u64>,
    /// So slowly the reply is read.
    bytes_per_second: Option<u64>,
    /// After so long the user leaves, in the middle of the reply.
    leave_after_s: Option<u64>,
    /// What may become of a request.
    allowed: Vec<String>,
}

const fn wait_ms() -> [u64; 2] {
    [50, 150]
}

/// A kind of users.
pub(crate) struct User {
    does: Does,
    keys: Vec<String>,
    next_key: AtomicUsize,
    outcomes: Arc<Outcomes>,
}

// === impl User ===

impl User {
    pub(crate) fn new(does: Does, keys: &str, outcomes: Arc<Outcomes>) -> Self {
        let keys = keys.lines().map(str::to_owned).collect();
        Self { does, keys, next_key: AtomicUsize::new(0), outcomes }
    }

    /// Asks once.
    pub(crate) async fn ask(&self, user: &mut GooseUser) -> TransactionResult {
        if let Some(every) = self.does.together_every_s {
            let every = every * 1_000;
            sleep(Duration::from_millis(every - now_ms() % every)).await;
        }
        let Some(key) = self.key() else {
            sleep(NO_KEY).await;
            return Ok(());
        };
        let body = json!({
            "model": MODEL,
            "stream": self.does.stream,
            "messages": [{ "role": "user", "content": self.does.prompt }],
        });
        let builder = user.get_request_builder(&GooseMethod::Post, PATH)?;
        let request = GooseRequest::builder()
            .method(GooseMethod::Post)
            .path(PATH)
            .name(self.does.name.as_str())
            .set_request_builder(builder.bearer_auth(key).json(&body))
            .build();
        let begun = now_ms();
        let mut goose = user.request(request).await?;
        let how = self.read(&mut goose).await;
        self.outcomes.note(begun, &self.does.name, &how);
        if self.does.allowed.contains(&how) {
            return user.set_success(&mut goose.request);
        }
        user.set_failure(&how, &mut goose.request, None, None)
    }

    fn key(&self) -> Option<&str> {
        let next = self.next_key.fetch_add(1, Ordering::Relaxed);
        let place = if self.does.once { next } else { next % self.keys.len().max(1) };
        self.keys.get(place).map(String::as_str)
    }

    /// Reads the reply as this user does; how it ended.
    async fn read(&self, goose: &mut GooseResponse) -> String {
        let Some(seconds) = self.does.leave_after_s else { return self.read_on(goose).await };
        match timeout(Duration::from_secs(seconds), self.read_on(goose)).await {
            Ok(how) => how,
            Err(_) => "left".to_owned(),
        }
    }

    async fn read_on(&self, goose: &mut GooseResponse) -> String {
        let response = match &mut goose.response {
            Ok(response) => response,
            Err(error) if error.is_connect() => return "no connection".to_owned(),
            Err(error) if error.is_timeout() => return "no answer in time".to_owned(),
            Err(_) => return "no answer".to_owned(),
        };
        let status = response.status().as_u16();
        let waits = response.headers().contains_key("retry-after-ms");
        let (mut read, mut kept, begun) = (0, Vec::new(), Instant::now());
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    read += chunk.len();
                    kept.extend_from_slice(&chunk);
                    if kept.len() > 2 * KEPT {
                        kept.drain(..kept.len() - KEPT);
                    }
                }
                Ok(None) => return of_reply(status, waits, self.does.stream, &kept),
                Err(_) => return "cut".to_owned(),
            }
            if let Some(rate) = self.does.bytes_per_second {
                sleep_until(begun + Duration::from_secs_f64(read as f64 / rate as f64)).await;
            }
        }
    }
}
