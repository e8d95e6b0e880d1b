//! The key check: what a request pays whose key is known, and what it would pay without the cache.

#![expect(clippy::unwrap_used, reason = "what cannot be measured says so by a panic")]

use std::{hint::black_box, net::IpAddr, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::{clock::SystemClock, config, keyring::Keyring};
use identity::{
    api_key::{PresentedKey, mint},
    hashing::Hashing,
    limits::Limits,
    models::ModelRule,
    policy::Policy,
};
use jiff::Timestamp;
use protocol::secret::Secret;
use storage::{Storage, keys::NewKey, tenants::NewTenant};
use tokio::runtime;
use tokio_util::task::TaskTracker;

const SALT: [u8; 16] = [1; 16];

/// A database with one key in it.
async fn database(url: String) -> (Storage, Secret) {
    let acquire_timeout = Duration::from_secs(20);
    let deadlines = storage::Deadlines::default();
    let url = Secret::new(url);
    let config = storage::Config { url, connections_max: 4, acquire_timeout, deadlines };
    let storage = storage::open(config).await.unwrap();
    storage.database.migrate().await.unwrap();
    let tenant = NewTenant {
        name: "acme".to_owned(),
        models: ModelRule::All,
        limits: Limits::default(),
        policy: Policy::default(),
        audit_retention: None,
        at: Timestamp::now(),
    };
    let tenant = storage.tenants.create(tenant).await.unwrap().id;
    let minted = mint(|buffer| buffer.fill(7));
    let key = NewKey {
        tenant,
        name: "key".to_owned(),
        prefix: minted.prefix,
        hash: Hashing::OWASP.hash(&minted.key, &SALT).unwrap(),
        models: None,
        limits: Limits::default(),
        log_prompts: false,
        expires_at: None,
        at: Timestamp::now(),
    };
    storage.keys.create(key).await.unwrap();
    (storage, minted.key)
}

fn keyring(storage: Storage) -> Keyring {
    let Hashing { memory_kib, iterations, lanes } = Hashing::OWASP;
    let settings = config::Keys {
        argon2_memory_kib: memory_kib,
        argon2_iterations: iterations,
        argon2_lanes: lanes,
        cache_ttl: Duration::from_secs(3_600),
        cache_entries_max: 100,
        verifications_max: 1,
        verification_timeout: Duration::from_secs(20),
        failures_per_minute: 0,
    };
    Keyring::new(storage, Arc::new(SystemClock), &settings, [5; 32], TaskTracker::new())
}

fn keys(criterion: &mut Criterion) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("keys.db").display());
    let (storage, key) = runtime.block_on(database(url));
    let keyring = keyring(storage.clone());
    let _hearing = keyring.hear_changes();
    let here = IpAddr::from([127, 0, 0, 1]);
    let text = key.expose();

    let mut group = criterion.benchmark_group("key check");
    group.throughput(Throughput::Elements(1));
    group.bench_function("the form and checksum of a key are checked", |bencher| {
        bencher.iter(|| PresentedKey::parse(black_box(text)).is_ok());
    });
    group.bench_function("a key that is in the cache is proven", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            let presented = PresentedKey::parse(black_box(text)).unwrap();
            keyring.authenticate(presented, here).await.unwrap()
        });
    });
    group.bench_function("naive: its record is read from SQLite each time", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            let presented = PresentedKey::parse(black_box(text)).unwrap();
            storage.keys.credential(presented.prefix()).await.unwrap().unwrap()
        });
    });
    let hash = Hashing::OWASP.hash(&key, &SALT).unwrap();
    group.sample_size(10);
    group.bench_function("naive: it is hashed with Argon2id each time", |bencher| {
        bencher.iter(|| Hashing::OWASP.verify(black_box(&key), &hash).unwrap());
    });
    group.finish();
}

criterion_group!(benches, keys);
criterion_main!(benches);
