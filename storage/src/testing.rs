//! Databases that live as long as one test, and what tests put into them.

use std::{collections::BTreeSet, time::Duration};

use identity::{models::ModelRule, policy::Policy};
use jiff::Timestamp;
use protocol::{
    id::{KeyId, RequestId, TenantId},
    name::ModelName,
    outcome::Outcome,
    route::Route,
    secret::Secret,
    usage::Usage,
};
use uuid::Uuid;

use crate::{
    Config, Storage,
    audit::AuditEvent,
    changes::{Change, Feed},
    keys::{Key, NewKey},
    limits::Limits,
    scratch::Scratch,
    tenants::{NewTenant, Tenant},
};

/// After so long a test is stuck rather than slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// An empty database.
pub(crate) struct Place {
    pub(crate) url: String,
}

// === impl Place ===

impl Place {
    /// Opens it, once more each time.
    pub(crate) async fn open(&self) -> Storage {
        crate::open(config(&self.url)).await.unwrap()
    }

    /// Opens it with its schema.
    pub(crate) async fn migrated(&self) -> Storage {
        let storage = self.open().await;
        storage.database.migrate().await.unwrap();
        storage
    }
}

pub(crate) fn config(url: &str) -> Config {
    Config {
        url: Secret::new(url.to_owned()),
        connections_max: 4,
        acquire_timeout: Duration::from_secs(20),
        deadlines: crate::Deadlines {
            lookup: Duration::from_secs(20),
            batch: Duration::from_secs(60),
        },
    }
}

/// Runs a test on a file of its own.
pub(crate) async fn on_sqlite(test: impl AsyncFnOnce(&Place)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.db");
    test(&Place { url: format!("sqlite:{}", path.display()) }).await;
}

/// The Postgres that tests have.
#[expect(clippy::disallowed_methods, reason = "where the test server is can be said only here")]
pub(crate) fn server() -> String {
    std::env::var("TEST_POSTGRES_URL")
        .expect("TEST_POSTGRES_URL is not set: run `make test`, or see tests/services")
}

/// Runs a test on a database of its own, which is dropped also where the test fails.
pub(crate) async fn on_postgres(test: impl AsyncFnOnce(&Place)) {
    let scratch = Scratch::on(&server()).await.unwrap();
    test(&Place { url: scratch.url.clone() }).await;
}

/// Makes two tests of each function, one on each database.
macro_rules! contract {
    ($($test:ident,)+) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                crate::testing::on_sqlite(async |place| super::$test(&place.migrated().await).await)
                    .await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                crate::testing::on_postgres(async |place| {
                    super::$test(&place.migrated().await).await;
                })
                .await;
            })+
        }
    };
}
pub(crate) use contract;

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A moment that both databases can hold.
pub(crate) fn noon() -> Timestamp {
    at("2026-11-23T12:00:00.123456Z")
}

pub(crate) fn model(name: &str) -> ModelName {
    ModelName::read(name).unwrap()
}

pub(crate) fn only(names: &[&str]) -> ModelRule {
    ModelRule::Only(names.iter().map(|name| model(name)).collect::<BTreeSet<_>>())
}

pub(crate) fn new_tenant(name: &str) -> NewTenant {
    let models = ModelRule::default();
    NewTenant {
        name: name.to_owned(),
        models,
        limits: Limits::default(),
        policy: Policy::default(),
        audit_retention: None,
        at: noon(),
    }
}

pub(crate) async fn tenant(storage: &Storage, name: &str) -> Tenant {
    storage.tenants.create(new_tenant(name)).await.unwrap()
}

pub(crate) fn new_key(tenant: TenantId, prefix: &str) -> NewKey {
    NewKey {
        tenant,
        name: "key".to_owned(),
        prefix: prefix.to_owned(),
        hash: Secret::new(format!("hash of {prefix}")),
        models: None,
        limits: Limits::default(),
        log_prompts: false,
        expires_at: None,
        at: noon(),
    }
}

pub(crate) async fn key(storage: &Storage, tenant: &Tenant, prefix: &str) -> Key {
    storage.keys.create(new_key(tenant.id, prefix)).await.unwrap()
}

/// A request of that number: the number decides its id.
pub(crate) fn event(number: u128, at: Timestamp) -> AuditEvent {
    AuditEvent {
        request: RequestId(Uuid::from_u128(number)),
        at,
        tenant: None,
        key: None,
        model: None,
        upstream: None,
        route: Route::OllamaChat,
        status: 200,
        outcome: Outcome::Completed,
        code: None,
        usage: Usage { prompt: 3, completion: 5, estimated: false },
        first_byte: None,
        total: Duration::from_micros(1_500),
        requests: 1,
    }
}

/// A request that somebody pays for.
pub(crate) fn paid(number: u128, at: Timestamp, tenant: TenantId, key: KeyId) -> AuditEvent {
    let named = Some(model("llama3:latest"));
    AuditEvent { tenant: Some(tenant), key: Some(key), model: named, ..event(number, at) }
}

/// The next changes of a feed that has something to say.
pub(crate) async fn next(feed: &mut dyn Feed) -> crate::Result<Vec<Change>> {
    tokio::time::timeout(PATIENCE, feed.next()).await.expect("the feed says nothing")
}

/// Waits until the feed has said that, and returns all that it said.
pub(crate) async fn heard(feed: &mut dyn Feed, change: Change) -> Vec<Change> {
    let mut all = Vec::new();
    while !all.contains(&change) {
        all.extend(next(feed).await.unwrap());
    }
    all
}
