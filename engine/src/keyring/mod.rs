//! Who is calling: from a presented key to a [`Principal`].
//!
//! What costs is done as seldom as possible, and never by a stranger at others' expense:
//!
//! | step | costs | bounded by |
//! |---|---|---|
//! | form and checksum | nothing | – |
//! | the cache, by a keyed hash of the whole key | 100 ns | entries, in number |
//! | the same key, many times at once | one look for all | [`flights`] |
//! | the record, by its public prefix | one query | [`gate`]: two lanes, so that made-up prefixes wait behind each other only |
//! | Argon2id | tens of ms, off the async threads | [`gate`]: so many at once in all, one at once and few waiting per prefix |
//!
//! The cache never holds a key, only a BLAKE3 hash of it under a secret that is drawn at start and
//! never leaves the process. An entry is *fresh* for a while; after that its record is read again,
//! but the key is not hashed again unless what is stored has changed. When the feed of changes is
//! deaf, nothing stays fresh for longer than [`DEAF_FRESH`].

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use actors::ports::Clock;
use identity::{
    api_key::PresentedKey,
    hashing::{Hashing, Verdict},
    models::ModelRule,
    principal::Principal,
};
use protocol::{id::KeyId, secret::Secret};
use storage::{
    Storage,
    changes::Change,
    keys::{Credential, KeyStatus},
};
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;

use self::{
    cache::{Cache, Entry, Tag},
    flights::Flights,
    gate::Gate,
};
use crate::{config, telemetry};

mod cache;
mod flights;
mod gate;
#[cfg(test)]
mod tests;

/// How long an identity may be trusted unseen while the feed of changes is deaf.
const DEAF_FRESH: Duration = Duration::from_secs(1);

/// Why nobody was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such key.
    #[error("the key is wrong")]
    Wrong,
    /// It has expired.
    #[error("the key has expired")]
    Expired,
    /// It was withdrawn.
    #[error("the key was revoked")]
    Revoked,
    /// Its tenant is suspended.
    #[error("the tenant is suspended")]
    Suspended,
    /// Keys with this prefix are being tried too often.
    #[error("too many attempts with this prefix")]
    TooMany,
    /// It cannot be checked right now: no database, no room, no time.
    #[error("the key cannot be checked right now")]
    Unavailable,
}

/// That a key was proven: where the cache has it. Says nothing of the key.
pub struct Proof(Tag);

/// The keys that this process knows, and the way to those it does not.
pub struct Keyring {
    storage: Storage,
    clock: Arc<dyn Clock>,
    hashing: Hashing,
    fresh_for: Duration,
    cache: Cache,
    flights: Flights,
    gate: Gate,
    /// Prefixes of keys that exist, by keyed hash: who is among them goes first.
    known: RwLock<HashSet<u64>>,
    hears_changes: AtomicBool,
    /// Counts changes: what was read before one and is put into the cache after it is stale.
    changes: AtomicU64,
    tasks: TaskTracker,
}

// === impl Keyring ===

impl Keyring {
    /// An empty keyring; `cache_key` is 32 random bytes of its own.
    #[must_use]
    pub fn new(
        storage: Storage,
        clock: Arc<dyn Clock>,
        settings: &config::Keys,
        cache_key: [u8; 32],
        tasks: TaskTracker,
    ) -> Self {
        Self {
            storage,
            clock,
            hashing: settings.hashing(),
            fresh_for: settings.cache_ttl,
            cache: Cache::new(cache_key, settings.cache_entries_max),
            flights: Flights::default(),
            gate: Gate::new(settings.verifications_max, settings.verification_timeout),
            known: RwLock::default(),
            hears_changes: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            tasks,
        }
    }

    /// Proves a key.
    ///
    /// # Errors
    /// [`Refused`]; anything that cannot be checked is refused.
    pub async fn authenticate(
        &self,
        presented: PresentedKey,
    ) -> Result<(Arc<Principal>, Proof), Refused> {
        let tag = self.cache.tag(presented.secret());
        let entry = self.cache.get(&tag);
        let principal = match entry.as_deref().and_then(|entry| self.fresh_principal(entry)) {
            Some(principal) => self.still_valid(principal)?,
            // The way of a known key is short, and its future small; this one is neither.
            None => Box::pin(self.flights.share(tag, self.look_up(presented, tag, entry))).await?,
        };
        Ok((principal, Proof(tag)))
    }

    /// Proves the same key again, by what is known of it now; `None` where its record has to be read, which
    /// takes the key.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn again(&self, Proof(tag): &Proof) -> Result<Option<Arc<Principal>>, Refused> {
        let entry = self.cache.get(tag);
        let fresh = entry.and_then(|entry| self.fresh_principal(&entry));
        fresh.map(|principal| self.still_valid(principal)).transpose()
    }

    fn fresh_principal(&self, entry: &Entry) -> Option<Arc<Principal>> {
        let is_fresh = entry.read_at.elapsed() < self.fresh() && !entry.is_stale();
        is_fresh.then(|| Arc::clone(&entry.principal))
    }

    async fn look_up(
        &self,
        presented: PresentedKey,
        tag: Tag,
        entry: Option<Arc<Entry>>,
    ) -> Result<Arc<Principal>, Refused> {
        let known = self.is_known(presented.prefix());
        let prefix = presented.prefix().to_owned();
        let mut changes = self.changes.load(Ordering::Acquire);
        let mut credential = self.read(&prefix, known).await?;
        // The same key was right for the same stored hash before: it still is.
        if !entry.is_some_and(|entry| entry.is_of(&credential.hash)) {
            self.verify(presented, &credential).await?;
            // That took its time; what changed meanwhile counts.
            let now = self.changes.load(Ordering::Acquire);
            if now != changes {
                let proven = std::mem::replace(&mut credential, self.read(&prefix, known).await?);
                changes = now;
                if credential.key.id != proven.key.id {
                    return Err(Refused::Wrong);
                }
            }
        }
        let principal = Arc::new(principal(&credential));
        let entry = self.cache.put(tag, Arc::clone(&principal), &credential.hash);
        // How a key is, is told only to who has proven it. It is remembered that it was right, so
        // that a client which goes on with a revoked key costs a query each time and no hash.
        let allowed = check(&credential);
        if allowed.is_err() || self.changes.load(Ordering::Acquire) != changes {
            entry.make_stale();
        }
        allowed?;
        self.still_valid(principal)
    }

    /// Takes note of what changed elsewhere.
    pub async fn changed(&self, change: Change) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        match change {
            Change::Tenant(tenant) => self.cache.stale(|principal| principal.tenant == tenant),
            Change::Key(key) => {
                self.cache.stale(|principal| principal.key == key);
                self.learn(key).await;
            }
            Change::Revoked { key, .. } => self.cache.stale(|principal| principal.key == key),
            Change::Everything => {
                self.cache.stale(|_| true);
                self.learn_all().await;
            }
            Change::Upstreams | Change::Models => {}
        }
    }

    /// Whether the feed of changes is heard. While it is not, identities are trusted for no longer
    /// than a second without looking.
    pub fn set_hears_changes(&self, hears: bool) {
        self.hears_changes.store(hears, Ordering::Relaxed);
    }

    /// Whether the feed of changes is heard.
    #[must_use]
    pub fn hears_changes(&self) -> bool {
        self.hears_changes.load(Ordering::Relaxed)
    }

    fn fresh(&self) -> Duration {
        if self.hears_changes() { self.fresh_for } else { self.fresh_for.min(DEAF_FRESH) }
    }

    fn still_valid(&self, principal: Arc<Principal>) -> Result<Arc<Principal>, Refused> {
        match principal.expires_at {
            Some(end) if end <= self.clock.now() => Err(Refused::Expired),
            _ => Ok(principal),
        }
    }

    async fn read(&self, prefix: &str, known: bool) -> Result<Credential, Refused> {
        let _place = self.gate.lookup(known).await?;
        match self.storage.keys.credential(prefix).await {
            Ok(Some(credential)) => Ok(credential),
            Ok(None) => Err(Refused::Wrong),
            Err(error) => {
                tracing::warn!(%error, "a key cannot be looked up");
                Err(Refused::Unavailable)
            }
        }
    }

    /// Compares with Argon2id, off the async threads.
    async fn verify(&self, presented: PresentedKey, stored: &Credential) -> Result<(), Refused> {
        let place = self.gate.verification(presented.prefix()).await?;
        let hashing = self.hashing;
        let hash = Secret::new(stored.hash.expose().to_owned());
        // The place goes along: a caller that leaves does not make room before the work is done.
        let (verdict, presented) = spawn_blocking(move || {
            let _place = place;
            (hashing.verify(presented.secret(), &hash), presented)
        })
        .await
        .map_err(|_| Refused::Unavailable)?;
        match verdict {
            Ok(Verdict::Right { outdated }) => {
                telemetry::key_verified(true);
                if outdated {
                    self.rehash(
                        stored.key.id,
                        presented,
                        Secret::new(stored.hash.expose().to_owned()),
                    );
                }
                Ok(())
            }
            Ok(Verdict::Wrong) => {
                telemetry::key_verified(false);
                Err(Refused::Wrong)
            }
            Err(error) => {
                tracing::error!(key = %stored.key.id, %error, "a stored hash cannot be compared");
                Err(Refused::Unavailable)
            }
        }
    }

    /// Stores the key's hash at today's cost; nobody waits for it.
    fn rehash(&self, key: KeyId, presented: PresentedKey, old: Secret) {
        let (hashing, keys) = (self.hashing, Arc::clone(&self.storage.keys));
        self.tasks.spawn(async move {
            let hashed = spawn_blocking(move || {
                let mut salt = [0; 16];
                getrandom::fill(&mut salt).ok()?;
                hashing.hash(presented.secret(), &salt).ok()
            });
            let Ok(Some(new)) = hashed.await else { return };
            match keys.rehash(key, &old, &new).await {
                Ok(_) => tracing::info!(%key, "hashed anew at today's cost"),
                Err(error) => tracing::warn!(%key, %error, "a new hash could not be stored"),
            }
        });
    }

    fn is_known(&self, prefix: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.contains(&self.cache.short_tag(prefix))
    }

    async fn learn(&self, key: KeyId) {
        if let Ok(Some(key)) = self.storage.keys.by_id(key).await {
            let tag = self.cache.short_tag(&key.prefix);
            self.known.write().unwrap_or_else(PoisonError::into_inner).insert(tag);
        }
    }

    async fn learn_all(&self) {
        match self.storage.keys.prefixes().await {
            Ok(prefixes) => {
                let tags = prefixes.iter().map(|prefix| self.cache.short_tag(prefix)).collect();
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = tags;
            }
            Err(error) => tracing::warn!(%error, "the prefixes of keys cannot be read"),
        }
    }
}

fn check(credential: &Credential) -> Result<(), Refused> {
    match credential.key.status {
        KeyStatus::Revoked => Err(Refused::Revoked),
        KeyStatus::Active if credential.tenant.suspended => Err(Refused::Suspended),
        KeyStatus::Active => Ok(()),
    }
}

fn principal(credential: &Credential) -> Principal {
    let Credential { key, tenant, .. } = credential;
    Principal {
        tenant: tenant.id,
        tenant_name: tenant.name.clone(),
        key: key.id,
        models: ModelRule::effective(&tenant.models, key.models.as_ref()).clone(),
        tenant_limits: tenant.limits,
        key_limits: key.limits,
        policy: tenant.policy,
        log_prompts: key.log_prompts,
        expires_at: key.expires_at,
    }
}
