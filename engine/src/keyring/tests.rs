//! The keyring on a real SQLite file, with the ports counted.

use std::{net::Ipv4Addr, sync::atomic::AtomicUsize};

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
use tokio::time::Instant;

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
    async fn rotate(
        &self,
        old: KeyId,
        new: NewKey,
        ends_at: Timestamp,
        expected: Option<storage::Revision>,
    ) -> storage::Result<Key> {
        self.keys.rotate(old, new, ends_at, expected).await
    }
}

/// Where most callers are.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

struct Stage {
    keyring: Keyring,
    hearing: Option<Hearing>,
    counted: Arc<Counted>,
    tenant: TenantId,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn new(cache_ttl: Duration) -> Self {
        Self::with(cache_ttl, 0).await
    }

    async fn with(cache_ttl: Duration, failures_per_minute: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("keys.db").display());
        let acquire_timeout = Duration::from_secs(20);
        let deadlines = storage::Deadlines::default();
        let url = Secret::new(url);
        let config = storage::Config { url, connections_max: 4, acquire_timeout, deadlines };
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
            failures_per_minute,
        };
        let tasks = TaskTracker::new();
        let keyring = Keyring::new(storage, Arc::new(SystemClock), &settings, [5; 32], tasks);
        let hearing = Some(keyring.hear_changes());
        Self { keyring, hearing, counted, tenant, _directory: directory }
    }

    async fn key(&self) -> (Key, String) {
        self.key_of(random()).await
    }

    async fn key_of(&self, minted: Minted) -> (Key, String) {
        self.key_at(CHEAP, minted).await
    }

    async fn key_at(&self, cost: Hashing, minted: Minted) -> (Key, String) {
        let Minted { prefix, key } = minted;
        let new = NewKey {
            tenant: self.tenant,
            name: "key".to_owned(),
            prefix,
            hash: cost.hash(&key, &[1; 16]).unwrap(),
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
        self.prove_at(HERE, key).await
    }

    async fn prove_at(&self, from: IpAddr, key: &str) -> Result<(Arc<Principal>, Proof), Refused> {
        self.keyring.authenticate(PresentedKey::parse(key).unwrap(), from).await
    }

    /// Asks with a wrong key and the prefix of this one.
    async fn guess_at(&self, from: IpAddr, key: &str) -> Option<Refused> {
        self.prove_at(from, guess(key).key.expose()).await.err()
    }

    fn asked(&self) -> usize {
        self.counted.asked.load(Ordering::Relaxed)
    }
}

fn random() -> Minted {
    mint(|buffer| getrandom::fill(buffer).unwrap())
}

/// A random secret behind the prefix of this key.
fn guess(key: &str) -> Minted {
    const ALPHABET: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digit = |c| u8::try_from(ALPHABET.find(c).unwrap()).unwrap();
    let prefix: Vec<u8> = key[3..15].chars().map(digit).collect();
    let mut draws = 0;
    mint(|buffer| {
        draws += 1;
        getrandom::fill(buffer).unwrap();
        if draws == 1 {
            buffer[..prefix.len()].copy_from_slice(&prefix);
        }
    })
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
    stage.keyring.changed(&[Change::Key(one.id)]);
    stage.ask(&first).await.unwrap();
    stage.ask(&second).await.unwrap();
    assert_eq!(stage.asked(), 3);
    stage.keyring.changed(&[Change::Tenant(stage.tenant)]);
    stage.ask(&first).await.unwrap();
    stage.ask(&second).await.unwrap();
    assert_eq!(stage.asked(), 5);
    stage.keyring.changed(&[Change::Everything]);
    stage.ask(&first).await.unwrap();
    assert_eq!(stage.asked(), 6);
}

#[tokio::test]
async fn what_was_proven_is_proven_again_without_the_key_until_something_changes() {
    let mut stage = Stage::new(Duration::from_secs(3_600)).await;
    let (key, text) = stage.key().await;
    let (_, proof) = stage.prove(&text).await.unwrap();
    let again = || stage.keyring.again(&proof).map(|principal| principal.map(|one| one.key));
    assert_eq!((again(), stage.asked()), (Ok(Some(key.id)), 1));
    stage.keyring.changed(&[Change::Key(key.id)]);
    assert_eq!(again(), Ok(None));
    stage.ask(&text).await.unwrap();
    assert_eq!((again(), stage.asked()), (Ok(Some(key.id)), 2));
    stage.hearing.take();
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
    let mut stage = Stage::new(Duration::from_secs(3_600)).await;
    let (_, text) = stage.key().await;
    stage.ask(&text).await.unwrap();
    assert_eq!(stage.keyring.fresh(), Duration::from_secs(3_600));
    stage.hearing.take();
    assert_eq!(stage.keyring.fresh(), Duration::from_secs(1));
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(1_001)).await;
    tokio::time::resume();
    stage.ask(&text).await.unwrap();
    assert_eq!(stage.asked(), 2);
}

#[tokio::test]
async fn a_listener_that_panics_leaves_the_keyring_deaf() {
    let mut stage = Stage::new(Duration::from_secs(3_600)).await;
    assert!(stage.keyring.hears_changes());
    let hearing = stage.hearing.take();
    let listener = std::thread::spawn(move || {
        let _hearing = hearing;
        panic!("a bug");
    });
    assert!(listener.join().is_err());
    assert!(!stage.keyring.hears_changes());
    assert_eq!(stage.keyring.fresh(), Duration::from_secs(1));
}

#[tokio::test]
async fn a_batch_of_changes_concerns_each_of_its_keys_and_tenants() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    let mut keys = Vec::new();
    for _ in 0..4 {
        keys.push(stage.key().await);
        stage.ask(&keys[keys.len() - 1].1).await.unwrap();
    }
    let nobody = |number| KeyId(uuid::Uuid::from_u128(number));
    let mut batch: Vec<_> = (0..10_000).map(|number| Change::Key(nobody(number))).collect();
    batch.push(Change::Key(keys[0].0.id));
    batch.push(Change::Revoked { key: keys[2].0.id, cut: false });
    stage.keyring.changed(&batch);
    for (_, text) in &keys {
        stage.ask(text).await.unwrap();
    }
    assert_eq!(stage.asked(), 4 + 2);
    stage.keyring.changed(&[Change::Models, Change::Tenant(stage.tenant)]);
    for (_, text) in &keys {
        stage.ask(text).await.unwrap();
    }
    assert_eq!(stage.asked(), 6 + 4);
}

#[tokio::test]
async fn the_same_wrong_key_again_costs_nothing_until_something_changes() {
    let mut stage = Stage::new(Duration::from_secs(3_600)).await;
    let (key, right) = stage.key().await;
    let wrong = guess(&right);
    let ask = async |stage: &Stage| stage.ask(wrong.key.expose()).await.err();
    for _ in 0..20 {
        assert_eq!(ask(&stage).await, Some(Refused::Wrong));
    }
    assert_eq!(stage.asked(), 1);
    stage.ask(&right).await.unwrap();
    assert_eq!(stage.asked(), 2);
    stage.keyring.changed(&[Change::Key(key.id)]);
    assert_eq!((ask(&stage).await, stage.asked()), (Some(Refused::Wrong), 3));
    // While changes are not heard, nothing is known of it.
    stage.hearing.take();
    assert_eq!((ask(&stage).await, stage.asked()), (Some(Refused::Wrong), 4));
}

#[tokio::test]
async fn a_key_that_was_tried_before_it_was_made_works_at_once() {
    let stage = Stage::new(Duration::from_secs(3_600)).await;
    let minted = random();
    let text = minted.key.expose().to_owned();
    assert_eq!(stage.ask(&text).await.err(), Some(Refused::Wrong));
    let (key, _) = stage.key_of(minted).await;
    assert_eq!(stage.ask(&text).await.unwrap().key, key.id);
}

#[tokio::test]
async fn an_address_that_fails_too_often_waits_and_one_that_is_proven_does_not() {
    // One failure is worth 100 ms: 20 are answered at once.
    let stage = Stage::with(Duration::from_secs(3_600), 600).await;
    let (_, right) = stage.key().await;
    let (_, cached) = stage.key().await;
    stage.ask(&cached).await.unwrap();
    for _ in 0..20 {
        assert_eq!(stage.guess_at(HERE, &right).await, Some(Refused::Wrong));
    }
    // So many more: the answer to the next one is held until the debt is paid.
    (0..30).for_each(|_| stage.keyring.strangers.failed(HERE, Duration::ZERO));
    let held = Instant::now();
    assert_eq!(stage.guess_at(HERE, &right).await, Some(Refused::Wrong));
    assert!(held.elapsed() > Duration::from_millis(500), "{:?}", held.elapsed());
    // Who has the right key at the same address does not wait for that.
    let (_, late) = stage.key().await;
    stage.ask(&late).await.unwrap();
    (0..700).for_each(|_| stage.keyring.strangers.failed(HERE, Duration::ZERO));
    let compared = stage.asked();
    assert_eq!(stage.guess_at(HERE, &right).await, Some(Refused::TooManyFailures));
    assert_eq!(stage.asked(), compared);
    // Proven keys pass, and other addresses do, too.
    stage.ask(&cached).await.unwrap();
    stage.prove_at(ELSEWHERE, &right).await.unwrap();
    assert_eq!(stage.guess_at(ELSEWHERE, &right).await, Some(Refused::Wrong));
}

#[tokio::test]
async fn who_leaves_before_the_answer_has_failed_all_the_same() {
    let stage = Stage::with(Duration::from_secs(3_600), 600).await;
    let dear = Hashing { memory_kib: 16_384, iterations: 3, lanes: 1 };
    let (_, right) = stage.key_at(dear, random()).await;
    let guess = guess(&right);
    let presented = PresentedKey::parse(guess.key.expose()).unwrap();
    let mut asked = Box::pin(stage.keyring.authenticate(presented, HERE));
    // What compares holds the memory of failures, too.
    let compares = || Arc::strong_count(&stage.keyring.strangers) > 1;
    while !compares() {
        assert!(futures_util::poll!(&mut asked).is_pending());
        tokio::task::yield_now().await;
    }
    drop(asked);
    while compares() {
        tokio::task::yield_now().await;
    }
    let prefix = stage.keyring.cache.short_tag(&right[..15]);
    assert_eq!(stage.keyring.strangers.class(HERE, prefix), lottery::Class::Failing);
    assert_eq!(stage.keyring.strangers.class(ELSEWHERE, prefix), lottery::Class::Pestered);
}

#[test]
fn an_address_is_one_of_ipv4_or_a_network_of_ipv6() {
    let strangers = Strangers::new(600);
    let at = |text: &str| text.parse::<IpAddr>().unwrap();
    for _ in 0..700 {
        strangers.failed(at("2001:db8::1"), Duration::ZERO);
        strangers.failed(at("192.0.2.7"), Duration::ZERO);
    }
    for same in ["2001:db8::ffff", "2001:db8:0:0:ffff::", "192.0.2.7", "::ffff:192.0.2.7"] {
        assert!(strangers.refuses(at(same)), "{same}");
    }
    for other in ["2001:db8:0:1::1", "192.0.2.8", "::ffff:192.0.2.8", "::1", "127.0.0.1"] {
        assert!(!strangers.refuses(at(other)), "{other}");
    }
    let unlimited = Strangers::new(0);
    (0..700).for_each(|_| unlimited.failed(at("192.0.2.7"), Duration::ZERO));
    assert!(!unlimited.refuses(at("192.0.2.7")));
}
