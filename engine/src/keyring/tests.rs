//! The keyring on a real SQLite file, with the ports counted.

use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use futures_util::future::join_all;
use identity::api_key::{Minted, mint};
use jiff::Timestamp;
use protocol::id::TenantId;
use storage::{
    keys::{Key, KeyChange, Keys, NewKey},
    limits::Limits,
    tenants::NewTenant,
};

use identity::policy::Policy;

use super::*;
use crate::clock::SystemClock;

const CHEAP: Hashing = Hashing { memory_kib: 64, iterations: 1, lanes: 1 };

/// The keys of a database, and how often a credential was asked for.
struct Counted {
    keys: Arc<dyn Keys>,
    asked: AtomicUsize,
}

#[async_trait]
impl Keys for Counted {
    async fn create(&self, new: NewKey) -> storage::Result<Key> {
        self.keys.create(new).await
    }
    async fn list(&self, tenant: Option<TenantId>) -> storage::Result<Vec<Key>> {
        self.keys.list(tenant).await
    }
    async fn by_id(&self, id: KeyId) -> storage::Result<Option<Key>> {
        self.keys.by_id(id).await
    }
    async fn by_prefix(&self, prefix: &str) -> storage::Result<Option<Key>> {
        self.keys.by_prefix(prefix).await
    }
    async fn credential(&self, prefix: &str) -> storage::Result<Option<Credential>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.keys.credential(prefix).await
    }
    async fn prefixes(&self) -> storage::Result<Vec<String>> {
        self.keys.prefixes().await
    }
    async fn change(&self, id: KeyId, change: KeyChange) -> storage::Result<Key> {
        self.keys.change(id, change).await
    }
    async fn rehash(&self, id: KeyId, old: &Secret, new: &Secret) -> storage::Result<bool> {
        self.keys.rehash(id, old, new).await
    }
    async fn rotate(&self, old: KeyId, new: NewKey, ends_at: Timestamp) -> storage::Result<Key> {
        self.keys.rotate(old, new, ends_at).await
    }
}

struct Stage {
    keyring: Keyring,
    counted: Arc<Counted>,
    tenant: TenantId,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn new(cache_ttl: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("keys.db").display());
        let acquire_timeout = Duration::from_secs(20);
        let config = storage::Config { url: Secret::new(url), connections_max: 4, acquire_timeout };
        let mut storage = storage::open(config).await.unwrap();
        storage.database.migrate().await.unwrap();
        let new = NewTenant {
            name: "acme".to_owned(),
            models: ModelRule::All,
            limits: Limits::default(),
            policy: Policy::default(),
            audit_retention: None,
            at: Timestamp::now(),
        };
        let tenant = storage.tenants.create(new).await.unwrap().id;
        let counted = Arc::new(Counted { keys: storage.keys.clone(), asked: AtomicUsize::new(0) });
        storage.keys = counted.clone();
        let settings = config::Keys {
            argon2_memory_kib: CHEAP.memory_kib,
            argon2_iterations: CHEAP.iterations,
            argon2_lanes: CHEAP.lanes,
            cache_ttl,
            cache_entries_max: 100,
            verifications_max: 2,
            verification_timeout: Duration::from_secs(20),
        };
        let tasks = TaskTracker::new();
        let keyring = Keyring::new(storage, Arc::new(SystemClock), &settings, [5; 32], tasks);
        keyring.set_hears_changes(true);
        Self { keyring, counted, tenant, _directory: directory }
    }

    async fn key(&self) -> (Key, String) {
        let Minted { prefix, key } = random();
        let new = NewKey {
            tenant: self.tenant,
            name: "key".to_owned(),
            prefix,
            hash: CHEAP.hash(&key, &[1; 16]).unwrap(),
            models: None,
            limits: Limits::default(),
            log_prompts: false,
            expires_at: None,
            at: Timestamp::now(),
        };
        (self.counted.create(new).await.unwrap(), key.expose().to_owned())
    }

    async fn ask(&self, key: &str) -> Result<Arc<Principal>, Refused> {
        self.prove(key).await.map(|(principal, _)| principal)
    }

    async fn prove(&self, key: &str) -> Result<(Arc<Principal>, Proof), Refused> {
        self.keyring.authenticate(PresentedKey::parse(key).unwrap()).await
    }

    fn asked(&self) -> usize {
        self.counted.asked.load(Ordering::Relaxed)
    }
}

fn random() -> Minted {
    mint(|buffer| getrandom::fill(buffer).unwrap())
}

#[tokio::test]
async fn a_cached_key_costs_no_query() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    let (key, text) = stage.key().await;
    for _ in 0..100 {
        assert_eq!(stage.ask(&text).await.unwrap().key, key.id);
    }
    assert_eq!(stage.asked(), 1);
}

#[tokio::test]
async fn a_burst_with_one_key_costs_one_query() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    let (_, text) = stage.key().await;
    let all = join_all((0..200).map(|_| stage.ask(&text))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(stage.asked(), 1);
}

#[tokio::test]
async fn what_has_changed_is_read_again_and_nothing_else() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    let ((one, first), (_, second)) = (stage.key().await, stage.key().await);
    stage.ask(&first).await.unwrap();
    stage.ask(&second).await.unwrap();
    stage.keyring.changed(Change::Key(one.id)).await;
    stage.ask(&first).await.unwrap();
    stage.ask(&second).await.unwrap();
    assert_eq!(stage.asked(), 3);
    stage.keyring.changed(Change::Tenant(stage.tenant)).await;
    stage.ask(&first).await.unwrap();
    stage.ask(&second).await.unwrap();
    assert_eq!(stage.asked(), 5);
    stage.keyring.changed(Change::Everything).await;
    stage.ask(&first).await.unwrap();
    assert_eq!(stage.asked(), 6);
}

#[tokio::test]
async fn what_was_proven_is_proven_again_without_the_key_until_something_changes() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    let (key, text) = stage.key().await;
    let (_, proof) = stage.prove(&text).await.unwrap();
    let again = || stage.keyring.again(&proof).map(|principal| principal.map(|one| one.key));
    assert_eq!((again(), stage.asked()), (Ok(Some(key.id)), 1));
    stage.keyring.changed(Change::Key(key.id)).await;
    assert_eq!(again(), Ok(None));
    stage.ask(&text).await.unwrap();
    assert_eq!((again(), stage.asked()), (Ok(Some(key.id)), 2));
    stage.keyring.set_hears_changes(false);
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(1_001)).await;
    assert_eq!(again(), Ok(None));
}

#[tokio::test]
async fn nothing_is_remembered_of_keys_that_prove_nobody() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    let (_, right) = stage.key().await;
    for _ in 0..500 {
        let wrong = random().key;
        assert_eq!(stage.ask(wrong.expose()).await.err(), Some(Refused::Wrong));
    }
    assert_eq!(stage.keyring.cache.len(), 0);
    stage.ask(&right).await.unwrap();
    assert_eq!(stage.keyring.cache.len(), 1);
}

#[tokio::test]
async fn the_cache_has_a_limit() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    for _ in 0..150 {
        let (_, text) = stage.key().await;
        stage.ask(&text).await.unwrap();
    }
    assert!(stage.keyring.cache.len() <= 100, "{}", stage.keyring.cache.len());
}

#[tokio::test]
async fn while_changes_are_not_heard_nobody_is_trusted_for_longer_than_a_second() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    let (_, text) = stage.key().await;
    stage.ask(&text).await.unwrap();
    assert_eq!(stage.keyring.fresh(), Duration::from_secs(3_600));
    stage.keyring.set_hears_changes(false);
    assert_eq!(stage.keyring.fresh(), Duration::from_secs(1));
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(1_001)).await;
    tokio::time::resume();
    stage.ask(&text).await.unwrap();
    assert_eq!(stage.asked(), 2);
}
