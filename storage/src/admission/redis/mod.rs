//! The port on Redis or Valkey: one script decides over a tenant and its keys, whole.
//!
//! Time is Redis's own. What is not heard of for a while (a replica was killed) gives back what it held.
//! An error says nothing of what was done: whoever gets one must not go on as if it were a yes.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use fred::{
    clients::Client,
    interfaces::{ClientLike, LuaInterface},
    prelude::FredResult,
    types::{
        Builder, RespVersion, Value,
        config::{Config, ReconnectPolicy, UnresponsiveConfig},
        scripts::Script,
    },
};
use protocol::{id::TenantId, secret::Secret};

use super::{Admission, Answer, Operation, Unavailable};

#[cfg(test)]
mod tests;
mod wire;

/// What Redis runs.
const SCRIPT: &str = include_str!("../exchange.lua");
/// From one attempt to connect to the next, in milliseconds.
const RECONNECT_MS: u32 = 100;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing comes back for so long is taken for dead.
const UNRESPONSIVE: Duration = Duration::from_secs(2);
/// What a URL begins with.
const SCHEMES: [&str; 8] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
    "valkey",
    "valkeys",
];

/// Where Redis is, and how long it may take.
pub struct Settings {
    /// `redis://`, `rediss://`, with `-cluster` or `-sentinel` behind the scheme; may hold a password.
    pub url: Secret,
    /// How long one answer may take.
    pub deadline: Duration,
    /// How long a request counts as under way without being heard of.
    pub lives_for: Duration,
}

/// Windows, slots and budgets in Redis.
pub struct Redis {
    client: Client,
    script: Script,
    deadline: Duration,
    lives_for: Duration,
    /// Milliseconds to be added to the clock of Redis; 0 but in tests.
    ahead_ms: AtomicI64,
}

/// The URL cannot be read. Does not say it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL of Redis must be redis://…, rediss://…, redis-cluster://… or redis-sentinel://…")]
pub struct UrlError;

// === impl Redis ===

impl Redis {
    /// A client that connects, and connects again, in the background.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn open(settings: &Settings) -> Result<Self, UrlError> {
        let url = settings.url.expose();
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        // The client takes any other word for `redis`.
        if !SCHEMES.contains(&scheme) {
            return Err(UrlError);
        }
        let mut config = Config::from_url(url).map_err(|_| UrlError)?;
        config.version = RespVersion::RESP3;
        config.fail_fast = false;
        let client = Builder::from_config(config)
            .with_connection_config(|connection| {
                connection.connection_timeout = CONNECT_TIMEOUT;
                connection.internal_command_timeout = CONNECT_TIMEOUT;
                // What was sent may have been done: it is not done again behind our back.
                connection.max_command_attempts = 1;
                connection.reconnect_on_auth_error = true;
                connection.unresponsive = UnresponsiveConfig {
                    max_timeout: Some(UNRESPONSIVE),
                    interval: UNRESPONSIVE / 4,
                };
            })
            .with_performance_config(|performance| {
                performance.default_command_timeout = settings.deadline;
            })
            .set_policy(ReconnectPolicy::new_constant(0, RECONNECT_MS))
            .build()
            .map_err(|_| UrlError)?;
        drop(client.connect());
        Ok(Self {
            client,
            script: Script::from_lua(SCRIPT),
            deadline: settings.deadline,
            lives_for: settings.lives_for,
            ahead_ms: AtomicI64::new(0),
        })
    }

    /// Whether it answers in time.
    ///
    /// # Errors
    /// [`Unavailable`], where it does not.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        // The client's future takes many kilobytes, which every request would carry along, since any may ask
        // whether the gateway is ready.
        self.in_time(Box::pin(self.client.ping(None))).await
    }

    /// What Redis answers, within the deadline.
    async fn in_time<T>(
        &self,
        asked: impl Future<Output = FredResult<T>>,
    ) -> Result<T, Unavailable> {
        let answered = tokio::time::timeout(self.deadline, asked).await;
        let late = |_| Unavailable("Redis does not answer in time".to_owned());
        answered.map_err(late)?.map_err(|error| Unavailable(format!("Redis: {error}")))
    }

    /// Moves the clock, for tests.
    #[cfg(any(test, feature = "scratch"))]
    pub fn set_ahead(&self, span: Duration) {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.ahead_ms.store(millis, Ordering::Relaxed);
    }

    /// Closes the connection.
    pub async fn close(&self) {
        // A server that has fallen silent hears no farewell.
        let _ = self.in_time(Box::pin(self.client.quit())).await;
    }

    async fn run(&self, tenant: TenantId, batch: String) -> FredResult<String> {
        let tag = tenant.0.as_simple();
        let keys: Vec<String> =
            ["alive", "held", "counts"].iter().map(|what| format!("nz:{{{tag}}}:{what}")).collect();
        let lives_for = i64::try_from(self.lives_for.as_millis()).unwrap_or(i64::MAX);
        let arguments: Vec<Value> =
            vec![batch.into(), lives_for.into(), self.ahead_ms.load(Ordering::Relaxed).into()];
        let hash = self.script.sha1().to_owned();
        match self.client.evalsha(hash, keys.clone(), arguments.clone()).await {
            // Loaded by being run: also on the one node of a cluster that is asked.
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                self.client.eval(SCRIPT, keys, arguments).await
            }
            answered => answered,
        }
    }
}

#[async_trait]
impl Admission for Redis {
    async fn exchange(
        &self,
        tenant: TenantId,
        batch: &[Operation],
    ) -> Result<Vec<Answer>, Unavailable> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let text = self.in_time(self.run(tenant, wire::question(batch)?)).await?;
        wire::answers(&text, batch)
    }
}
