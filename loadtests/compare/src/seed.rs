//! The database of a gateway, before it starts: tenants and keys with every kind of limit, all of them
//! so high that nothing is refused. The command line would take a second for a few keys.

use std::time::Duration;

use identity::{
    api_key::mint,
    hashing::Hashing,
    limits::{Budget, Correction, LimitPeriod, Limits, Observed},
    models::ModelRule,
    policy::Policy,
};
use jiff::Timestamp;
use protocol::secret::Secret;
use storage::{Storage, keys::NewKey, tenants::NewTenant};

/// The cost of hashing a key, here: next to nothing, since what is measured comes after it. The
/// gateway is told the same, or it would hash every key anew.
pub(crate) const HASHING: Hashing = Hashing { memory_kib: 64, iterations: 1, lanes: 1 };

const LIMITS: Limits = Limits {
    rpm: Some(1_000_000_000),
    tpm: Some(1_000_000_000_000),
    concurrency: Some(1_000_000),
    budget: Some(Budget {
        tokens: 1_000_000_000_000_000,
        period: LimitPeriod::Month,
        correction: Correction { forgiven: 0, reset_at: None, read_at: None },
    }),
    observed: Observed { rpm: false, tpm: false, concurrency: false, budget: false },
};

/// Makes tenants with so many keys each. Of the keys that it returns two neighbours have different
/// tenants, where there is more than one.
pub(crate) async fn seed(
    url: &str,
    tenants: usize,
    keys_each: usize,
) -> Result<Vec<String>, String> {
    let failed = |error: storage::Error| format!("cannot fill the database: {error}");
    let config = storage::Config {
        url: Secret::new(url.to_owned()),
        connections_max: 2,
        acquire_timeout: Duration::from_secs(10),
    };
    let storage = storage::open(config).await.map_err(failed)?;
    storage.database.migrate().await.map_err(failed)?;
    let mut ids = Vec::with_capacity(tenants);
    for number in 0..tenants {
        let new = NewTenant {
            name: format!("tenant-{number}"),
            models: ModelRule::All,
            limits: LIMITS,
            policy: Policy::default(),
            audit_retention: None,
            at: Timestamp::now(),
        };
        ids.push(storage.tenants.create(new).await.map_err(failed)?.id);
    }
    let mut keys = Vec::with_capacity(tenants * keys_each);
    for number in 0..keys_each {
        for tenant in &ids {
            keys.push(make_key(&storage, *tenant, number).await?);
        }
    }
    storage.database.close().await;
    Ok(keys)
}

async fn make_key(
    storage: &Storage,
    tenant: protocol::id::TenantId,
    number: usize,
) -> Result<String, String> {
    let mut is_random = true;
    let minted = mint(|buffer| is_random &= getrandom::fill(buffer).is_ok());
    if !is_random {
        return Err("the system has no random numbers".to_owned());
    }
    let hash = HASHING.hash(&minted.key, &[9; 16]).map_err(|error| error.to_string())?;
    let new = NewKey {
        tenant,
        name: format!("key-{number}"),
        prefix: minted.prefix,
        hash,
        models: None,
        limits: LIMITS,
        log_prompts: false,
        expires_at: None,
        at: Timestamp::now(),
    };
    storage.keys.create(new).await.map_err(|error| format!("cannot make a key: {error}"))?;
    Ok(minted.key.expose().to_owned())
}
