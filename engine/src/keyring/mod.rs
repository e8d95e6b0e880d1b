//! Who is calling: from a presented key to a [`Principal`].
//!
//! What costs is done as seldom as possible, and never by a stranger at others' expense:
//!
//! | step | costs | bounded by |
//! |---|---|---|
//! | form and checksum | nothing | – |
//! | the cache, by a keyed hash of the whole key | 100 ns | entries, in number |
//! | a key that was wrong a moment ago, an address that fails too often | nothing | [`strangers`] |
//! | the same key, many times at once | one look for all | [`flights`] |
//! | the record, by its public prefix | one query | [`gate`]: two lanes, so that made-up prefixes wait behind each other only |
//! | Argon2id | tens of ms, off the async threads | [`gate`]: so many at once in all, half of them for those without failures; one at once per prefix, given by lot ([`lottery`]) |
//!
//! The cache never holds a key, only a BLAKE3 hash of it under a secret that is drawn at start and
//! never leaves the process. An entry is *fresh* for a while; after that its record is read again,
//! but the key is not hashed again unless what is stored has changed. When the feed of changes is
//! deaf, nothing stays fresh for longer than [`DEAF_FRESH`].

use parking_lot::RwLock;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use actors::ports::Clock;
use foldhash::{HashSet, HashSetExt as _};
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
use tokio::{task::spawn_blocking, time::Instant};
use tokio_util::task::TaskTracker;

use self::{
    cache::{Cache, Entry, Tag},
    flights::Flights,
    gate::{Gate, PrefixTurn},
    lottery::Class,
    strangers::Strangers,
};
use crate::{config, telemetry};

mod cache;
mod flights;
mod gate;
mod lottery;
mod strangers;
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
    /// Too many keys from this address proved nobody.
    #[error("too many failures from this address")]
    TooManyFailures,
    /// It cannot be checked right now: no database, no room, no time.
    #[error("the key cannot be checked right now")]
    Unavailable,
}

/// That a key was proven: where the cache has it, and the address it came from. Says nothing of the key.
pub struct Proof {
    tag: Tag,
    from: IpAddr,
}

/// Who brings a key that is not proven: the address, and keyed hashes of the key and of its prefix.
#[derive(Clone, Copy)]
struct Caller {
    from: IpAddr,
    tag: Tag,
    prefix: u64,
}

/// Proof that somebody listens to the feed of changes. Dropped, also by a panic of the listener, the keyring
/// counts as deaf. There is one listener, so there is one of these at a time.
#[must_use]
pub struct Hearing(Arc<AtomicBool>);

/// The keys whose prefixes have to be learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These.
    Keys(HashSet<KeyId>),
    /// All there are.
    All,
}

/// The keys that this process knows, and the way to those it does not.
pub struct Keyring {
    storage: Storage,
    clock: Arc<dyn Clock>,
    hashing: Hashing,
    fresh_for: Duration,
    cache: Cache,
    flights: Flights,
    gate: Gate,
    strangers: Arc<Strangers>,
    /// Prefixes of keys that exist, by keyed hash: who is among them goes first.
    known: RwLock<HashSet<u64>>,
    hears_changes: Arc<AtomicBool>,
    /// Counts changes: what was read before one and is put into the cache after it is stale.
    changes: AtomicU64,
    tasks: TaskTracker,
}

// === impl Proof ===

impl Proof {
    /// The address that the key came from.
    pub(crate) fn peer(&self) -> IpAddr {
        self.from
    }
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
            strangers: Arc::new(Strangers::new(settings.failures_per_minute)),
            known: RwLock::default(),
            hears_changes: Arc::default(),
            changes: AtomicU64::new(0),
            tasks,
        }
    }

    /// Proves a key that came from this address.
    ///
    /// # Errors
    /// [`Refused`]; anything that cannot be checked is refused.
    pub async fn authenticate(
        &self,
        presented: PresentedKey,
        from: IpAddr,
    ) -> Result<(Arc<Principal>, Proof), Refused> {
        let tag = self.cache.tag(presented.secret());
        let entry = self.cache.get(&tag);
        let principal = match entry.as_deref().and_then(|entry| self.fresh_principal(entry)) {
            Some(principal) => self.still_valid(principal)?,
            // The way of a known key is short, and its future small; these are neither.
            None if entry.is_some() => {
                Box::pin(self.look_again(presented, tag, entry, from)).await?
            }
            None => Box::pin(self.meet(presented, tag, from)).await?,
        };
        Ok((principal, Proof { tag, from }))
    }

    /// Proves the same key again, by what is known of it now; `None` where its record has to be read, which
    /// takes the key.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn again(&self, proof: &Proof) -> Result<Option<Arc<Principal>>, Refused> {
        let entry = self.cache.get(&proof.tag);
        let fresh = entry.and_then(|entry| self.fresh_principal(&entry));
        fresh.map(|principal| self.still_valid(principal)).transpose()
    }

    /// Proves a key that the cache does not have. Most of them are right.
    async fn meet(
        &self,
        presented: PresentedKey,
        tag: Tag,
        from: IpAddr,
    ) -> Result<Arc<Principal>, Refused> {
        let changes = self.changes.load(Ordering::Acquire);
        if self.hears_changes() && self.strangers.knows_wrong(&tag, changes) {
            telemetry::key_refused("remembered");
            return Err(Refused::Wrong);
        }
        let outcome = if self.strangers.refuses(from) {
            telemetry::key_refused("address");
            Err(Refused::TooManyFailures)
        } else {
            self.flights.share(tag, self.look_up(presented, tag, None, from)).await
        };
        if let Err(refused) = &outcome {
            self.strangers.hold(from, *refused).await;
        }
        outcome
    }

    /// Proves a key that was proven before and may have changed: one query where it has not.
    async fn look_again(
        &self,
        presented: PresentedKey,
        tag: Tag,
        entry: Option<Arc<Entry>>,
        from: IpAddr,
    ) -> Result<Arc<Principal>, Refused> {
        self.flights.share(tag, self.look_up(presented, tag, entry, from)).await
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
        from: IpAddr,
    ) -> Result<Arc<Principal>, Refused> {
        let prefix = presented.prefix().to_owned();
        let caller = Caller { from, tag, prefix: self.cache.short_tag(&prefix) };
        // A key that was never proven takes the turn of its prefix before it costs a query.
        let turn = if entry.is_none() { Some(self.turn(&prefix, caller).await?) } else { None };
        let known = self.is_known(caller.prefix);
        let mut changes = self.changes.load(Ordering::Acquire);
        let mut credential = self.read(&prefix, known, from).await?;
        // The same key was right for the same stored hash before: it still is.
        if !entry.is_some_and(|entry| entry.is_of(&credential.hash)) {
            let turn = match turn {
                Some(turn) => turn,
                None => self.turn(&prefix, caller).await?,
            };
            self.verify(presented, &credential, (caller, changes), turn).await?;
            // That took its time; what changed meanwhile counts.
            let now = self.changes.load(Ordering::Acquire);
            if now != changes {
                let proven =
                    std::mem::replace(&mut credential, self.read(&prefix, known, from).await?);
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

    /// Takes note of what changed elsewhere: what is cached of it has to be read again before it is trusted.
    /// One pass over the cache for the whole batch, and no I/O.
    pub fn changed(&self, batch: &[Change]) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let (mut tenants, mut keys) = (HashSet::new(), HashSet::new());
        for change in batch {
            match *change {
                Change::Tenant(tenant) => _ = tenants.insert(tenant),
                Change::Key(key) | Change::Revoked { key, .. } => _ = keys.insert(key),
                Change::Everything => return self.cache.stale(|_| true),
                Change::Upstreams | Change::Models => {}
            }
        }
        if !tenants.is_empty() || !keys.is_empty() {
            let is_concerned =
                |one: &Principal| tenants.contains(&one.tenant) || keys.contains(&one.key);
            self.cache.stale(is_concerned);
        }
    }

    /// Learns the prefixes of keys that were made or changed. A prefix that is known goes first when its
    /// record is looked up.
    ///
    /// # Errors
    /// Where storage cannot be read.
    pub async fn learn(&self, changed: &Changed) -> storage::Result<()> {
        let Changed::Keys(changed) = changed else {
            let prefixes = self.storage.keys.prefixes().await?;
            let tags = prefixes.iter().map(|prefix| self.cache.short_tag(prefix)).collect();
            *self.known.write() = tags;
            return Ok(());
        };
        for key in changed {
            if let Some(key) = self.storage.keys.by_id(*key).await? {
                let tag = self.cache.short_tag(&key.prefix);
                self.known.write().insert(tag);
            }
        }
        Ok(())
    }

    /// Says that the feed of changes is heard, for as long as the value lives. While nobody holds one,
    /// identities are trusted for no longer than a second without looking.
    pub fn hear_changes(&self) -> Hearing {
        self.hears_changes.store(true, Ordering::Release);
        Hearing(Arc::clone(&self.hears_changes))
    }

    /// Whether the feed of changes is heard.
    #[must_use]
    pub fn hears_changes(&self) -> bool {
        self.hears_changes.load(Ordering::Acquire)
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

    /// Waits for the turn of a prefix. Who has failed elsewhere meanwhile goes back, so that a crowd that came
    /// all at once is not before the owner.
    async fn turn(&self, prefix: &str, caller: Caller) -> Result<PrefixTurn, Refused> {
        let fails = || self.strangers.class(caller.from, caller.prefix) == Class::Failing;
        loop {
            let failed = fails();
            let turn = self.gate.prefix(prefix, failed).await;
            let turn = turn.inspect_err(|_| telemetry::key_refused("crowded"))?;
            if failed || !fails() {
                return Ok(turn);
            }
        }
    }

    async fn read(&self, prefix: &str, known: bool, from: IpAddr) -> Result<Credential, Refused> {
        let _place = self.gate.lookup(known).await?;
        match self.storage.keys.credential(prefix).await {
            Ok(Some(credential)) => Ok(credential),
            Ok(None) => {
                self.strangers.failed(from, Duration::ZERO);
                Err(Refused::Wrong)
            }
            Err(error) => {
                actors::quiet!(warn, "a key cannot be looked up", ""; %error);
                Err(Refused::Unavailable)
            }
        }
    }

    /// Compares with Argon2id, off the async threads. So many changes had been heard before the record was
    /// read.
    async fn verify(
        &self,
        presented: PresentedKey,
        stored: &Credential,
        (caller, changes): (Caller, u64),
        turn: PrefixTurn,
    ) -> Result<(), Refused> {
        let class = self.strangers.class(caller.from, caller.prefix);
        let place = self.gate.verification(turn, class).await;
        let place = place.inspect_err(|_| telemetry::key_refused("crowded"))?;
        let (hashing, strangers) = (self.hashing, Arc::clone(&self.strangers));
        let hash = Secret::new(stored.hash.expose().to_owned());
        // The place goes along: a caller that leaves does not make room before the work is done, and what it
        // failed at counts.
        let (verdict, presented) = spawn_blocking(move || {
            let _place = place;
            let began = Instant::now();
            let verdict = hashing.verify(presented.secret(), &hash);
            if let Ok(verdict) = &verdict {
                telemetry::key_verified(*verdict != Verdict::Wrong);
            }
            if verdict == Ok(Verdict::Wrong) {
                strangers.compared_wrong(caller, changes, began.elapsed());
            }
            (verdict, presented)
        })
        .await
        .map_err(|_| Refused::Unavailable)?;
        match verdict {
            Ok(Verdict::Right { outdated }) => {
                if outdated {
                    self.rehash(
                        stored.key.id,
                        presented,
                        Secret::new(stored.hash.expose().to_owned()),
                    );
                }
                Ok(())
            }
            Ok(Verdict::Wrong) => Err(Refused::Wrong),
            Err(error) => {
                let key = stored.key.id;
                actors::quiet!(error, "a stored hash cannot be compared", ""; %key, %error);
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
                Err(error) => {
                    actors::quiet!(warn, "a new hash could not be stored", ""; %key, %error);
                }
            }
        });
    }

    fn is_known(&self, prefix: u64) -> bool {
        self.known.read().contains(&prefix)
    }
}

// === impl Hearing ===

impl Drop for Hearing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
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
