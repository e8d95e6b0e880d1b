//! Changes on Postgres: `LISTEN` on a connection of its own.
//!
//! A notification is a text `tenant:<id>`, `key:<id>`, `revoked:<id>`, `revoked:<id>:cut`,
//! `upstreams` or `models`. What is sent while nobody listens is lost, so the feed must know when
//! it does not: a connection that is closed says so at once, and one that is silent is asked. From
//! the peer's death to the error pass at most [`SILENCE`] and [`PATIENCE`] together.

use std::{io, time::Duration};

use async_trait::async_trait;
use protocol::id::{KeyId, TenantId};
use sqlx::{
    Executor, PgPool,
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgListener, Postgres as Driver},
};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use uuid::Uuid;

use super::{Change, Changes, Feed, merge};
use crate::{
    error::{Error, Result},
    postgres::Postgres,
};

const CHANNEL: &str = "gateway_changes";
/// After so long without a word the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_millis(500);
/// How long it may take to answer that.
const PATIENCE: Duration = Duration::from_millis(500);
/// From one attempt to connect to the next.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Notifications taken in at once. What remains is told by the next call.
const CHANGES_MAX: usize = 1_024;

/// A connection that listens, or the wish for one.
struct ListenFeed {
    options: PgConnectOptions,
    connect_timeout: Duration,
    listener: Option<PgListener>,
    connect_at: Instant,
    /// When the server last said something.
    heard_at: Instant,
    /// When it was asked whether it is there, while it has not answered.
    asked_at: Option<Instant>,
    /// What was heard and is not told yet: a call that is dropped leaves it for the next one.
    heard: Vec<Change>,
}

#[async_trait]
impl Changes for Postgres {
    async fn feed(&self) -> Result<Box<dyn Feed>> {
        let mut feed = ListenFeed::new(self.options.clone(), self.acquire_timeout);
        feed.connect().await?;
        Ok(Box::new(feed))
    }
}

// === impl ListenFeed ===

impl ListenFeed {
    fn new(options: PgConnectOptions, connect_timeout: Duration) -> Self {
        let now = Instant::now();
        let (listener, asked_at, heard) = (None, None, Vec::new());
        Self { options, connect_timeout, listener, connect_at: now, heard_at: now, asked_at, heard }
    }

    async fn connect(&mut self) -> Result<()> {
        sleep_until(self.connect_at).await;
        self.connect_at = Instant::now() + RETRY_AFTER;
        // A pool for each connection: the one before may hang in its farewell to a dead peer.
        let pool = PoolOptions::<Driver>::new()
            .max_connections(1)
            .acquire_timeout(self.connect_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(self.options.clone());
        let listening = timeout(self.connect_timeout, listen(&pool)).await;
        let listener = listening.map_err(|_| Error::from(sqlx::Error::PoolTimedOut))??;
        self.heard_at = Instant::now();
        self.asked_at = None;
        // Last, and before any other await: a listener that is there has always announced itself.
        merge(&mut self.heard, Change::Everything);
        self.listener = Some(listener);
        Ok(())
    }

    /// Waits until something was heard, and takes in all that has come with it.
    async fn listen(&mut self) -> sqlx::Result<()> {
        let Some(listener) = &mut self.listener else {
            return Err(gone());
        };
        while self.heard.is_empty() {
            if let Some(asked_at) = self.asked_at {
                let answer = timeout_at(asked_at + PATIENCE, listener.execute("SELECT 1")).await;
                answer.map_err(|_| gone())??;
                self.asked_at = None;
                self.heard_at = Instant::now();
            }
            match timeout_at(self.heard_at + SILENCE, listener.try_recv()).await {
                Ok(notification) => {
                    let notification = notification?.ok_or_else(gone)?;
                    self.heard_at = Instant::now();
                    merge(&mut self.heard, parse(notification.payload()));
                }
                Err(_) => self.asked_at = Some(Instant::now()),
            }
        }
        for _ in 0..CHANGES_MAX {
            let Ok(notification) = timeout(Duration::ZERO, listener.try_recv()).await else {
                break;
            };
            merge(&mut self.heard, parse(notification?.ok_or_else(gone)?.payload()));
        }
        Ok(())
    }
}

#[async_trait]
impl Feed for ListenFeed {
    async fn next(&mut self) -> Result<Vec<Change>> {
        if self.listener.is_none() {
            self.connect().await?;
        }
        if let Err(cause) = self.listen().await {
            // What was heard before is part of the "everything" that comes next.
            self.listener = None;
            self.heard.clear();
            return Err(Error::Unavailable(cause));
        }
        Ok(std::mem::take(&mut self.heard))
    }
}

async fn listen(pool: &PgPool) -> Result<PgListener> {
    let mut listener = PgListener::connect_with(pool).await?;
    // The loss is to be seen and not mended behind our back.
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

fn gone() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::ConnectionAborted.into())
}

fn parse(text: &str) -> Change {
    let mut words = text.split(':');
    let kind = words.next().unwrap_or_default();
    let id = words.next().and_then(|word| Uuid::parse_str(word).ok());
    match (kind, id, words.next(), words.next()) {
        ("tenant", Some(id), None, None) => Change::Tenant(TenantId(id)),
        ("key", Some(id), None, None) => Change::Key(KeyId(id)),
        ("revoked", Some(id), None, None) => Change::Revoked { key: KeyId(id), cut: false },
        ("revoked", Some(id), Some("cut"), None) => Change::Revoked { key: KeyId(id), cut: true },
        ("upstreams", None, None, None) => Change::Upstreams,
        ("models", None, None, None) => Change::Models,
        // A newer binary's word, or a stranger's.
        _ => Change::Everything,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Storage,
        scratch::{Scratch, SlowWay},
        testing::{heard, next, server, tenant},
    };

    /// A database of its own, and what is stored there through connections that do not listen.
    async fn stage() -> (Scratch, Storage) {
        let scratch = Scratch::on(&server()).await.unwrap();
        let storage = crate::open(crate::testing::config(&scratch.url)).await.unwrap();
        storage.database.migrate().await.unwrap();
        (scratch, storage)
    }

    #[tokio::test]
    async fn a_feed_that_lost_its_connection_says_so_and_that_it_may_have_missed_anything() {
        let (scratch, storage) = stage().await;
        let mut feed = storage.changes.feed().await.unwrap();
        assert_eq!(next(&mut *feed).await.unwrap(), [Change::Everything]);
        let owner = tenant(&storage, "acme").await;
        heard(&mut *feed, Change::Tenant(owner.id)).await;

        scratch.run_unheard("UPDATE gateway.tenants SET suspended = true").await.unwrap();
        assert!(matches!(next(&mut *feed).await, Err(Error::Unavailable(_))));
        // What was missed is there to be read as soon as it is told that there may be something.
        assert_eq!(next(&mut *feed).await.unwrap(), [Change::Everything]);
        assert!(storage.tenants.by_id(owner.id).await.unwrap().unwrap().suspended);
        let later = tenant(&storage, "later").await;
        heard(&mut *feed, Change::Tenant(later.id)).await;
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_is_noticed_and_found_again() {
        let (scratch, storage) = stage().await;
        let direct: PgConnectOptions = scratch.url.parse().unwrap();
        let there =
            std::net::ToSocketAddrs::to_socket_addrs(&(direct.get_host(), direct.get_port()));
        let way = SlowWay::to(there.unwrap().next().unwrap()).await;
        let options = direct.host("127.0.0.1").port(way.address.port());
        let mut feed = ListenFeed::new(options, Duration::from_secs(1));
        feed.connect().await.unwrap();
        assert_eq!(next(&mut feed).await.unwrap(), [Change::Everything]);

        way.delay(None);
        let silent = Instant::now();
        tenant(&storage, "missed").await;
        assert!(matches!(next(&mut feed).await, Err(Error::Unavailable(_))));
        assert!(silent.elapsed() >= PATIENCE, "{:?}", silent.elapsed());
        assert!(next(&mut feed).await.is_err());
        way.delay(Some(Duration::ZERO));
        while next(&mut feed).await.ok() != Some(vec![Change::Everything]) {}
        let later = tenant(&storage, "later").await;
        heard(&mut feed, Change::Tenant(later.id)).await;
    }

    #[test]
    fn a_text_that_is_not_understood_may_mean_anything() {
        let id = "01939a5e-7b3c-7def-8123-456789abcdef";
        let key = KeyId(Uuid::parse_str(id).unwrap());
        assert_eq!(parse(&format!("revoked:{id}:cut")), Change::Revoked { key, cut: true });
        assert_eq!(parse(&format!("revoked:{id}")), Change::Revoked { key, cut: false });
        for strange in ["", "tenant", "tenant:", "key:x", "agent:1", "models:1:2:3"] {
            assert_eq!(parse(strange), Change::Everything, "{strange}");
        }
    }
}
