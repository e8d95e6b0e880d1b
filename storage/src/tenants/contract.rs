//! What every database owes the port of tenants.

use std::time::Duration;

use identity::{
    models::ModelRule,
    policy::{Exhausted, Policy, Reserve},
};

use protocol::levers::{Levers, LoadOptions};

use super::{Tenant, TenantChange};
use crate::{
    Error, Storage,
    limits::{Budget, LimitPeriod, Limits, Observed},
    testing::{contract, key, new_tenant, only, tenant},
};

contract! {
    a_tenant_reads_back_as_it_was_made,
    every_period_and_every_rule_reads_back,
    a_name_is_taken_once,
    a_change_leaves_what_it_does_not_name,
    limits_are_replaced_whole,
    how_it_is_served_is_replaced_whole,
    what_is_not_there_is_not_found,
    a_deleted_tenant_takes_its_keys_along,
    of_two_who_read_the_same_tenant_one_is_stale,
    changes_at_once_lose_nothing,
}

fn limits(period: LimitPeriod) -> Limits {
    let budget = Some(Budget::new(0, period));
    let observed = Observed { tpm: true, budget: true, ..Observed::default() };
    Limits { rpm: Some(1), tpm: Some(i64::MAX.unsigned_abs()), concurrency: None, budget, observed }
}

async fn a_tenant_reads_back_as_it_was_made(storage: &Storage) {
    let mut new = new_tenant("acme");
    // The last is no name to Ollama.
    new.models = only(&["llama3:latest", "mistral:7b", "accounts/X/models/Y"]);
    new.limits = limits(LimitPeriod::Month);
    let made = storage.tenants.create(new.clone()).await.unwrap();

    assert_eq!((&made.name, &made.models, made.limits), (&new.name, &new.models, new.limits));
    assert_eq!((made.suspended, made.created_at), (false, new.at));
    assert_eq!(storage.tenants.by_id(made.id).await.unwrap().as_ref(), Some(&made));
    assert_eq!(storage.tenants.by_name("acme").await.unwrap().as_ref(), Some(&made));
    let other = tenant(storage, "aardvark").await;
    assert_eq!(storage.tenants.list().await.unwrap(), [other, made]);
}

async fn every_period_and_every_rule_reads_back(storage: &Storage) {
    for period in [LimitPeriod::Day, LimitPeriod::Month, LimitPeriod::Total] {
        for (models, name) in [(ModelRule::All, "all"), (only(&[]), "none"), (only(&["a"]), "a")] {
            let mut new = new_tenant(&format!("{name} {}", period.as_str()));
            (new.models, new.limits) = (models.clone(), limits(period));
            let made = storage.tenants.create(new).await.unwrap();
            assert_eq!((made.models, made.limits), (models, limits(period)));
        }
    }
}

async fn a_name_is_taken_once(storage: &Storage) {
    tenant(storage, "acme").await;
    let other = tenant(storage, "other").await;

    let again = storage.tenants.create(new_tenant("acme")).await;
    assert!(matches!(again, Err(Error::Conflict("tenant"))));
    let change = TenantChange { name: Some("acme".to_owned()), ..TenantChange::default() };
    let renamed = storage.tenants.change(other.id, change).await;
    assert!(matches!(renamed, Err(Error::Conflict("tenant"))));
}

async fn a_change_leaves_what_it_does_not_name(storage: &Storage) {
    let mut new = new_tenant("acme");
    (new.models, new.limits) = (only(&["a"]), limits(LimitPeriod::Day));
    let made = storage.tenants.create(new).await.unwrap();

    let nothing = storage.tenants.change(made.id, TenantChange::default()).await.unwrap();
    assert_eq!(nothing, Tenant { revision: nothing.revision, ..made.clone() });
    let suspend = TenantChange { suspended: Some(true), ..TenantChange::default() };
    let suspended = storage.tenants.change(made.id, suspend).await.unwrap();
    assert_eq!((suspended.suspended, &suspended.models), (true, &made.models));
    let open = TenantChange { models: Some(ModelRule::All), ..TenantChange::default() };
    let opened = storage.tenants.change(made.id, open).await.unwrap();
    assert_eq!((opened.suspended, opened.models), (true, ModelRule::All));
    assert_eq!((opened.name, opened.limits), (made.name, made.limits));
}

async fn limits_are_replaced_whole(storage: &Storage) {
    let mut new = new_tenant("acme");
    new.limits = limits(LimitPeriod::Day);
    let made = storage.tenants.create(new).await.unwrap();

    let after = Limits { concurrency: Some(2), ..Limits::default() };
    let change = TenantChange { limits: Some(after), ..TenantChange::default() };
    assert_eq!(storage.tenants.change(made.id, change).await.unwrap().limits, after);
}

async fn how_it_is_served_is_replaced_whole(storage: &Storage) {
    let mut new = new_tenant("acme");
    new.policy = Policy {
        weight: 7,
        reserve: Reserve::Learned,
        exhausted: Exhausted::Finish,
        levers: Levers {
            keep_alive_max: Some(Duration::from_secs(90)),
            may_unload: true,
            num_ctx_max: Some(8_192),
            options: LoadOptions::All,
            trusted_show: true,
        },
    };
    new.audit_retention = Some(Duration::from_secs(86_400));
    let made = storage.tenants.create(new.clone()).await.unwrap();
    assert_eq!((made.policy, made.audit_retention), (new.policy, new.audit_retention));

    let rename = TenantChange { name: Some("other".to_owned()), ..TenantChange::default() };
    let renamed = storage.tenants.change(made.id, rename).await.unwrap();
    assert_eq!((renamed.policy, renamed.audit_retention), (new.policy, new.audit_retention));
    let change = TenantChange {
        policy: Some(Policy::default()),
        audit_retention: Some(None),
        ..TenantChange::default()
    };
    let changed = storage.tenants.change(made.id, change).await.unwrap();
    assert_eq!((changed.policy, changed.audit_retention), (Policy::default(), None));
    let levers = Levers { num_ctx_max: Some(0), ..Levers::OPEN };
    let open = Policy { levers, ..Policy::default() };
    let change = TenantChange { policy: Some(open), ..TenantChange::default() };
    assert_eq!(storage.tenants.change(made.id, change).await.unwrap().policy, open);
    let again = TenantChange { suspended: Some(true), ..TenantChange::default() };
    assert_eq!(storage.tenants.change(made.id, again).await.unwrap().policy, open);
}

async fn what_is_not_there_is_not_found(storage: &Storage) {
    let gone = tenant(storage, "acme").await;
    storage.tenants.delete(gone.id).await.unwrap();

    assert_eq!(storage.tenants.by_id(gone.id).await.unwrap(), None);
    assert_eq!(storage.tenants.by_name("acme").await.unwrap(), None);
    let changed = storage.tenants.change(gone.id, TenantChange::default()).await;
    assert!(matches!(changed, Err(Error::NotFound("tenant"))));
    let deleted = storage.tenants.delete(gone.id).await;
    assert!(matches!(deleted, Err(Error::NotFound("tenant"))));
}

async fn a_deleted_tenant_takes_its_keys_along(storage: &Storage) {
    let (going, staying) = (tenant(storage, "going").await, tenant(storage, "staying").await);
    key(storage, &going, "a").await;
    let kept = key(storage, &staying, "b").await;

    storage.tenants.delete(going.id).await.unwrap();
    assert_eq!(storage.keys.list(None).await.unwrap(), [kept]);
}

async fn of_two_who_read_the_same_tenant_one_is_stale(storage: &Storage) {
    let read = tenant(storage, "acme").await;
    let change = |limits| TenantChange {
        limits: Some(limits),
        expected: Some(read.revision),
        ..TenantChange::default()
    };
    let one = Limits { rpm: Some(1), ..read.limits };
    let first = storage.tenants.change(read.id, change(one)).await.unwrap();
    assert_ne!(first.revision, read.revision);
    let two = Limits { tpm: Some(2), ..read.limits };
    let second = storage.tenants.change(read.id, change(two)).await;
    assert!(matches!(second, Err(Error::Stale("tenant"))), "{second:?}");
    assert_eq!(storage.tenants.by_id(read.id).await.unwrap().unwrap(), first);

    // Who does not say what was read is not asked, and is seen by who does.
    let suspend = TenantChange { suspended: Some(true), ..TenantChange::default() };
    let suspended = storage.tenants.change(read.id, suspend).await.unwrap();
    assert_ne!(suspended.revision, first.revision);
    let late = TenantChange { expected: Some(first.revision), ..change(two) };
    assert!(matches!(storage.tenants.change(read.id, late).await, Err(Error::Stale("tenant"))));
    let now = TenantChange { expected: Some(suspended.revision), ..change(two) };
    assert_eq!(storage.tenants.change(read.id, now).await.unwrap().limits, two);

    storage.tenants.delete(read.id).await.unwrap();
    let gone = storage.tenants.change(read.id, change(two)).await;
    assert!(matches!(gone, Err(Error::NotFound("tenant"))));
}

/// Adds one to a limit so many times; each time it reads, changes, and does it again where it was late.
async fn add(
    storage: &Storage,
    read: &Tenant,
    times: u64,
    to: fn(&mut Limits) -> &mut Option<u64>,
) {
    for _ in 0..times {
        loop {
            let now = storage.tenants.by_id(read.id).await.unwrap().unwrap();
            let mut limits = now.limits;
            let limit = to(&mut limits);
            *limit = Some(limit.unwrap_or(0) + 1);
            let (limits, expected) = (Some(limits), Some(now.revision));
            let change = TenantChange { limits, expected, ..TenantChange::default() };
            match storage.tenants.change(read.id, change).await {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, Error::Stale("tenant")), "{error:?}"),
            }
        }
    }
}

async fn changes_at_once_lose_nothing(storage: &Storage) {
    let read = tenant(storage, "acme").await;
    tokio::join!(
        add(storage, &read, 20, |limits| &mut limits.rpm),
        add(storage, &read, 20, |limits| &mut limits.tpm),
        add(storage, &read, 20, |limits| &mut limits.tpm),
    );
    let limits = storage.tenants.by_id(read.id).await.unwrap().unwrap().limits;
    assert_eq!((limits.rpm, limits.tpm), (Some(20), Some(40)));
}
