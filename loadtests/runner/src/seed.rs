//! The gateway's database before it starts: tenants and keys. The command line would take a second for
//! a few keys.

use std::time::Duration;

use identity::{hashing::Hashing, limits::Limits, models::ModelRule, policy::Policy};
use jiff::Timestamp;
use protocol::{id::TenantId, secret::Secret};
use storage::{Storage, keys::NewKey, tenants::NewTenant};
use tokio::task::JoinSet;

use crate::keys;

/// Keys that are hashed at once.
const HASHED_AT_ONCE: usize = 2;

/// A database that is being filled.
pub(crate) struct Seeding {
    storage: Storage,
    hashing: Hashing,
}

// === impl Seeding ===

impl Seeding {
    /// Opens the database and brings its schema up to date. Keys are hashed at the cost that the
    /// gateway is told, or it would hash each of them anew.
    pub(crate) async fn open(url: &str, hashing: Hashing) -> Result<Self, String> {
        let config = storage::Config {
            url: Secret::new(url.to_owned()),
            connections_max: 2,
            acquire_timeout: Duration::from_secs(10),
        };
        let storage = storage::open(config).await.map_err(|error| failed(&error))?;
        storage.database.migrate().await.map_err(|error| failed(&error))?;
        Ok(Self { storage, hashing })
    }

    /// Makes a tenant that may use every model.
    pub(crate) async fn tenant(&self, name: &str) -> Result<TenantId, String> {
        let new = NewTenant {
            name: name.to_owned(),
            models: ModelRule::All,
            limits: Limits::default(),
            policy: Policy::default(),
            audit_retention: None,
            at: Timestamp::now(),
        };
        Ok(self.storage.tenants.create(new).await.map_err(|error| failed(&error))?.id)
    }

    /// Makes so many keys of that name, which have these limits; the tenants take turns.
    pub(crate) async fn keys(
        &self,
        tenants: &[TenantId],
        name: &str,
        count: usize,
        limits: Limits,
    ) -> Result<Vec<String>, String> {
        let mut made = Vec::with_capacity(count);
        let mut hashed = JoinSet::new();
        for tenant in tenants.iter().cycle().take(count) {
            if hashed.len() >= HASHED_AT_ONCE {
                made.extend(self.store(&mut hashed, name, limits).await?);
            }
            let (tenant, minted, hashing) = (*tenant, keys::fresh()?, self.hashing);
            hashed.spawn_blocking(move || {
                let mut salt = [0; 16];
                fastrand::fill(&mut salt);
                hashing.hash(&minted.key, &salt).map(|hash| (tenant, minted, hash))
            });
        }
        while !hashed.is_empty() {
            made.extend(self.store(&mut hashed, name, limits).await?);
        }
        Ok(made)
    }

    /// Stores the next key that was hashed.
    async fn store(
        &self,
        hashed: &mut JoinSet<Result<Hashed, identity::hashing::HashError>>,
        name: &str,
        limits: Limits,
    ) -> Result<Option<String>, String> {
        let Some(next) = hashed.join_next().await else { return Ok(None) };
        let next = next.map_err(|error| error.to_string())?;
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
    pub(crate) async fn close(self) {
        self.storage.database.close().await;
    }
}

/// A key with its hash.
type Hashed = (TenantId, identity::api_key::Minted, Secret);

fn failed(error: &storage::Error) -> String {
    format!("cannot fill the database: {error}")
}
