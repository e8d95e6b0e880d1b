//! What every database owes the port of changes.

use std::time::Duration;

use protocol::secret::Secret;

use super::Change;
use crate::{
    Storage,
    keys::KeyChange,
    limits::Limits,
    models::Model,
    revocations::Revocation,
    tenants::TenantChange,
    testing::{contract, heard, key, model, new_key, next, noon, tenant},
    upstreams::{Upstream, UpstreamKind},
};

contract! {
    a_feed_begins_with_everything,
    every_kind_of_change_is_heard,
    a_deletion_is_heard_for_each_key,
    what_came_together_is_told_once,
    a_call_that_is_dropped_loses_nothing,
}

async fn a_feed_begins_with_everything(storage: &Storage) {
    tenant(storage, "before").await;
    let mut feed = storage.changes.feed().await.unwrap();
    assert_eq!(next(&mut *feed).await.unwrap(), [Change::Everything]);
}

async fn every_kind_of_change_is_heard(storage: &Storage) {
    let mut feed = storage.changes.feed().await.unwrap();
    next(&mut *feed).await.unwrap();

    let owner = tenant(storage, "acme").await;
    heard(&mut *feed, Change::Tenant(owner.id)).await;
    let limits = TenantChange { limits: Some(Limits::default()), ..TenantChange::default() };
    storage.tenants.change(owner.id, limits).await.unwrap();
    heard(&mut *feed, Change::Tenant(owner.id)).await;

    let made = key(storage, &owner, "abc").await;
    heard(&mut *feed, Change::Key(made.id)).await;
    let change = KeyChange { expires_at: Some(Some(noon())), ..KeyChange::default() };
    storage.keys.change(made.id, change).await.unwrap();
    heard(&mut *feed, Change::Key(made.id)).await;
    let new = storage.keys.rotate(made.id, new_key(owner.id, "new"), noon(), None).await.unwrap();
    let said = heard(&mut *feed, Change::Key(new.id)).await;
    assert!(said.contains(&Change::Key(made.id)));

    for cut in [false, true] {
        let reason = String::new();
        let revocation = Revocation { key: made.id, at: noon(), reason, cut };
        storage.revocations.revoke(revocation).await.unwrap();
        heard(&mut *feed, Change::Revoked { key: made.id, cut }).await;
    }

    let (name, url) = ("a".to_owned(), "http://a".to_owned());
    let (kind, slots, keep_alive) = (UpstreamKind::Ollama, None, true);
    let upstream = Upstream { name, url, kind, slots, keep_alive, created_at: noon() };
    storage.upstreams.add(upstream).await.unwrap();
    heard(&mut *feed, Change::Upstreams).await;
    storage.upstreams.remove("a").await.unwrap();
    heard(&mut *feed, Change::Upstreams).await;

    let known = Model { name: model("a"), prompt_price: None, completion_price: None };
    storage.models.put(known).await.unwrap();
    heard(&mut *feed, Change::Models).await;
}

async fn a_deletion_is_heard_for_each_key(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let made = key(storage, &owner, "abc").await;
    let mut feed = storage.changes.feed().await.unwrap();
    next(&mut *feed).await.unwrap();

    storage.tenants.delete(owner.id).await.unwrap();
    let mut said = heard(&mut *feed, Change::Key(made.id)).await;
    if !said.contains(&Change::Tenant(owner.id)) {
        said = heard(&mut *feed, Change::Tenant(owner.id)).await;
    }
    assert!(!said.contains(&Change::Everything));
}

async fn what_came_together_is_told_once(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let made = key(storage, &owner, "abc").await;
    let mut feed = storage.changes.feed().await.unwrap();
    next(&mut *feed).await.unwrap();

    // A login with a stronger hash is nobody else's business.
    let (old, new) = (Secret::new("hash of abc".to_owned()), Secret::new("new".to_owned()));
    assert!(storage.keys.rehash(made.id, &old, &new).await.unwrap());
    let suspend = TenantChange {
        suspended: Some(true),
        limits: Some(Limits::default()),
        ..TenantChange::default()
    };
    storage.tenants.change(owner.id, suspend).await.unwrap();
    assert_eq!(next(&mut *feed).await.unwrap(), [Change::Tenant(owner.id)]);
}

async fn a_call_that_is_dropped_loses_nothing(storage: &Storage) {
    let mut feed = storage.changes.feed().await.unwrap();
    next(&mut *feed).await.unwrap();
    let mut expected = Vec::new();
    let mut said = Vec::new();
    for number in 0..20 {
        expected.push(Change::Tenant(tenant(storage, &format!("tenant{number}")).await.id));
        // Dropped at its first, second, … point of waiting.
        for _ in 0..=number {
            let once = tokio::time::timeout(Duration::ZERO, feed.next()).await;
            said.extend(once.map_or(Vec::new(), Result::unwrap));
        }
    }
    while !expected.iter().all(|change| said.contains(change)) {
        said.extend(next(&mut *feed).await.unwrap());
    }
    assert!(!said.contains(&Change::Everything));
}
