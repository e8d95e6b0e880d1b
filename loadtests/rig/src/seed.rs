//! The gateway's database before it starts: tenants and keys. The command line would take a second for
//! a few keys.

use std::{collections::VecDeque, time::Duration};

use identity::{
    api_key::{Minted, mint},
    hashing::{HashError, Hashing},
    limits::Limits,
    models::ModelRule,
    policy::Policy,
};
use jiff::Timestamp;
use protocol::{id::TenantId, secret::Secret};
use storage::{
    Storage,
    keys::NewKey,
    tenants::NewTenant,
    upstreams::{Upstream, UpstreamKind},
};
use tokio::task::{JoinHandle, spawn_blocking};

/// Keys that are hashed at once.
const HASHED_AT_ONCE: usize = 2;

/// The cost of hashing a key where something else is measured: next to nothing.
pub const CHEAP: Hashing = Hashing { memory_kib: 64, iterations: 1, lanes: 1 };

/// A database that is being filled.
pub struct Seeding {
    storage: Storage,
    hashing: Hashing,
}

// === impl Seeding ===

impl Seeding {
    /// Opens the database and brings its schema up to date. Keys are hashed at the cost that the
    /// gateway is told, or it would hash each of them anew.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub async fn open(url: &str, hashing: Hashing) -> Result<Self, String> {
        let config = storage::Config {
            url: Secret::new(url.to_owned()),
            connections_max: 2,
            acquire_timeout: Duration::from_secs(10),
            deadlines: storage::Deadlines::default(),
        };
        let storage = storage::open(config).await.map_err(|error| failed(&error))?;
        storage.database.migrate().await.map_err(|error| failed(&error))?;
        Ok(Self { storage, hashing })
    }

    /// Makes a tenant that may use every model.
    ///
    /// # Errors
    /// Where it cannot be stored.
    pub async fn tenant(&self, name: &str, limits: Limits) -> Result<TenantId, String> {
        let new = NewTenant {
            name: name.to_owned(),
            models: ModelRule::All,
            limits,
            policy: Policy::default(),
            audit_retention: None,
            at: Timestamp::now(),
        };
        Ok(self.storage.tenants.create(new).await.map_err(|error| failed(&error))?.id)
    }

    /// Adds a model server of that name and dialect, with so many slots; none: as many as come.
    ///
    /// # Errors
    /// Where it cannot be stored.
    pub async fn upstream(
        &self,
        name: &str,
        url: &str,
        kind: UpstreamKind,
        slots: Option<u64>,
    ) -> Result<(), String> {
        let (name, url, created_at) = (name.to_owned(), url.to_owned(), Timestamp::now());
        let upstream = Upstream { name, url, kind, slots, keep_alive: true, created_at };
        self.storage.upstreams.add(upstream).await.map_err(|error| failed(&error))
    }

    /// Makes so many keys of that name, which have these limits; the tenants take turns, also in what is
    /// returned.
    ///
    /// # Errors
    /// Where one cannot be made or stored.
    pub async fn keys(
        &self,
        tenants: &[TenantId],
        name: &str,
        count: usize,
        limits: Limits,
    ) -> Result<Vec<String>, String> {
        let mut made = Vec::with_capacity(count);
        let mut hashed = VecDeque::with_capacity(HASHED_AT_ONCE);
        for tenant in tenants.iter().cycle().take(count) {
            if hashed.len() >= HASHED_AT_ONCE {
                made.extend(self.store(hashed.pop_front(), name, limits).await?);
            }
            let (tenant, minted, hashing) = (*tenant, minted(None)?, self.hashing);
            hashed.push_back(spawn_blocking(move || {
                let mut salt = [0; 16];
                fastrand::fill(&mut salt);
                hashing.hash(&minted.key, &salt).map(|hash| (tenant, minted, hash))
            }));
        }
        while !hashed.is_empty() {
            made.extend(self.store(hashed.pop_front(), name, limits).await?);
        }
        Ok(made)
    }

    /// Stores the next key that was hashed.
    async fn store(
        &self,
        next: Option<JoinHandle<Result<Hashed, HashError>>>,
        name: &str,
        limits: Limits,
    ) -> Result<Option<String>, String> {
        let Some(next) = next else { return Ok(None) };
        let next = next.await.map_err(|error| error.to_string())?;
        let (tenant, minted, hash) = next.map_err(|error| error.to_string())?;
        let new = NewKey {
            tenant,
            name: name.to_owned(),
            prefix: minted.prefix,
            hash,
            models: None,
            limits,
            log_prompts: false,
            expires_at: None,
            at: Timestamp::now(),
        };
        self.storage.keys.create(new).await.map_err(|error| failed(&error))?;
        Ok(Some(minted.key.expose().to_owned()))
    }

    /// Closes the database.
    pub async fn close(self) {
        self.storage.database.close().await;
    }
}

/// A key with its hash.
type Hashed = (TenantId, Minted, Secret);

fn failed(error: &storage::Error) -> String {
    format!("cannot fill the database: {error}")
}

/// A key like those that the gateway makes; its prefix, where one is given, as digits of base 62.
///
/// # Errors
/// Where the system has no random numbers.
pub fn minted(mut prefix: Option<Vec<u8>>) -> Result<Minted, String> {
    let mut is_random = true;
    let minted = mint(|buffer| {
        is_random &= getrandom::fill(buffer).is_ok();
        // What is drawn first becomes the prefix.
        if let Some(prefix) = prefix.take() {
            buffer[..prefix.len()].copy_from_slice(&prefix);
        }
    });
    if is_random { Ok(minted) } else { Err("the system has no random numbers".to_owned()) }
}
