//! What every database owes the port of keys.

use identity::models::ModelRule;
use jiff::Timestamp;
use protocol::{
    id::{KeyId, TenantId},
    secret::Secret,
};
use uuid::Uuid;

use super::{Key, KeyChange, KeyStatus};
use crate::{
    Error, Storage,
    limits::{Budget, LimitPeriod, Limits},
    revocations::Revocation,
    testing::{at, contract, key, new_key, noon, only, tenant},
};

contract! {
    a_key_reads_back_as_it_was_made,
    a_credential_is_the_key_its_tenant_and_the_hash,
    a_key_may_have_no_word_on_models_or_any,
    a_prefix_is_taken_once,
    a_key_needs_a_tenant,
    a_change_sets_takes_away_and_leaves,
    a_hash_is_replaced_only_where_it_is_the_old_one,
    a_rotated_key_ends_and_names_its_successor,
    a_rotation_never_lengthens_a_life,
    a_revoked_key_is_not_rotated,
    a_rotation_that_fails_changes_nothing,
    a_revoked_key_is_no_prefix,
    of_two_who_read_the_same_key_one_is_stale,
}

async fn revoke(storage: &Storage, key: KeyId) {
    let revocation = Revocation { key, at: noon(), reason: String::new(), cut: false };
    storage.revocations.revoke(revocation).await.unwrap();
}

async fn by_id(storage: &Storage, id: KeyId) -> Key {
    storage.keys.by_id(id).await.unwrap().unwrap()
}

async fn a_key_reads_back_as_it_was_made(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let mut new = new_key(owner.id, "abc");
    new.models = Some(only(&["a", "b"]));
    new.limits.budget = Some(Budget::new(7, LimitPeriod::Total));
    new.log_prompts = true;
    new.expires_at = Some(at("2030-01-01T00:00:00Z"));
    let made = storage.keys.create(new).await.unwrap();

    assert_eq!((made.tenant, made.name.as_str(), made.prefix.as_str()), (owner.id, "key", "abc"));
    assert_eq!((made.status, made.revoked_at, made.rotated_to), (KeyStatus::Active, None, None));
    assert_eq!((made.models.clone(), made.log_prompts), (Some(only(&["a", "b"])), true));
    assert_eq!(made.limits.budget, Some(Budget::new(7, LimitPeriod::Total)));
    assert_eq!((made.expires_at, made.created_at), (Some(at("2030-01-01T00:00:00Z")), noon()));
    assert_eq!(by_id(storage, made.id).await, made);
    assert_eq!(storage.keys.by_prefix("abc").await.unwrap().as_ref(), Some(&made));
    assert_eq!(storage.keys.by_prefix("ab").await.unwrap(), None);
    let stranger = tenant(storage, "stranger").await;
    assert_eq!(storage.keys.list(Some(stranger.id)).await.unwrap(), []);
    assert_eq!(storage.keys.list(Some(owner.id)).await.unwrap(), [made]);
}

async fn a_credential_is_the_key_its_tenant_and_the_hash(storage: &Storage) {
    let mut new = crate::testing::new_tenant("acme");
    (new.models, new.limits.rpm) = (ModelRule::All, Some(1));
    let owner = storage.tenants.create(new).await.unwrap();
    let mut new = new_key(owner.id, "abc");
    new.limits = Limits { tpm: Some(2), ..Limits::default() };
    let made = storage.keys.create(new).await.unwrap();

    let credential = storage.keys.credential("abc").await.unwrap().unwrap();
    assert_eq!((credential.key, credential.tenant), (made, owner));
    assert!(credential.hash.matches(b"hash of abc"));
    assert!(storage.keys.credential("abd").await.unwrap().is_none());
}

async fn a_key_may_have_no_word_on_models_or_any(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let words = [None, Some(ModelRule::All), Some(only(&[])), Some(only(&["a"]))];
    for (number, word) in words.into_iter().enumerate() {
        let mut new = new_key(owner.id, &format!("key{number}"));
        new.models = word.clone();
        assert_eq!(storage.keys.create(new).await.unwrap().models, word);
    }
}

async fn a_prefix_is_taken_once(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    key(storage, &owner, "abc").await;
    let again = storage.keys.create(new_key(owner.id, "abc")).await;
    assert!(matches!(again, Err(Error::Conflict("key"))));
}

async fn a_key_needs_a_tenant(storage: &Storage) {
    let nobody = TenantId(Uuid::from_u128(1));
    let refused = storage.keys.create(new_key(nobody, "abc")).await;
    assert!(matches!(refused, Err(Error::NotFound("tenant"))));
}

async fn a_change_sets_takes_away_and_leaves(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let made = key(storage, &owner, "abc").await;
    let set = KeyChange {
        expected: None,
        name: Some("other".to_owned()),
        models: Some(Some(only(&["a"]))),
        limits: Some(Limits { rpm: Some(1), ..Limits::default() }),
        log_prompts: Some(true),
        expires_at: Some(Some(noon())),
    };
    let changed = storage.keys.change(made.id, set).await.unwrap();
    assert_eq!((changed.name.as_str(), changed.log_prompts), ("other", true));
    assert_eq!((changed.models.clone(), changed.expires_at), (Some(only(&["a"])), Some(noon())));
    assert_eq!(changed.limits.rpm, Some(1));

    let left = storage.keys.change(made.id, KeyChange::default()).await.unwrap();
    assert_eq!(left, Key { revision: left.revision, ..changed });
    let take = KeyChange { models: Some(None), expires_at: Some(None), ..KeyChange::default() };
    let taken = storage.keys.change(made.id, take).await.unwrap();
    assert_eq!((taken.models, taken.expires_at), (None, None));
    let nobody = storage.keys.change(KeyId(Uuid::from_u128(1)), KeyChange::default()).await;
    assert!(matches!(nobody, Err(Error::NotFound("key"))));
}

async fn a_hash_is_replaced_only_where_it_is_the_old_one(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let made = key(storage, &owner, "abc").await;
    let secret = |text: &str| Secret::new(text.to_owned());

    let (old, new) = (secret("hash of abc"), secret("stronger"));
    assert!(!storage.keys.rehash(made.id, &new, &old).await.unwrap());
    assert!(storage.keys.rehash(made.id, &old, &new).await.unwrap());
    assert!(!storage.keys.rehash(made.id, &old, &new).await.unwrap());
    let credential = storage.keys.credential("abc").await.unwrap().unwrap();
    assert!(credential.hash.matches(b"stronger"));
}

async fn rotate(storage: &Storage, old: &Key, prefix: &str, end: Timestamp) -> crate::Result<Key> {
    storage.keys.rotate(old.id, new_key(old.tenant, prefix), end, None).await
}

async fn a_rotated_key_ends_and_names_its_successor(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let old = key(storage, &owner, "old").await;
    let end = at("2026-12-01T00:00:00Z");

    let new = rotate(storage, &old, "new", end).await.unwrap();
    assert_eq!((new.prefix.as_str(), new.expires_at), ("new", None));
    let old = by_id(storage, old.id).await;
    assert_eq!((old.rotated_to, old.expires_at), (Some(new.id), Some(end)));
    assert_eq!(old.status, KeyStatus::Active);
}

async fn a_rotation_never_lengthens_a_life(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let mut new = new_key(owner.id, "old");
    new.expires_at = Some(noon());
    let old = storage.keys.create(new).await.unwrap();

    rotate(storage, &old, "new", at("2030-01-01T00:00:00Z")).await.unwrap();
    assert_eq!(by_id(storage, old.id).await.expires_at, Some(noon()));
}

async fn a_revoked_key_is_not_rotated(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let old = key(storage, &owner, "old").await;
    revoke(storage, old.id).await;

    let refused = rotate(storage, &old, "new", noon()).await;
    assert!(matches!(refused, Err(Error::NotFound("key"))));
    assert_eq!(storage.keys.by_prefix("new").await.unwrap(), None);
    let foreign = tenant(storage, "foreign").await;
    let other = key(storage, &foreign, "other").await;
    let refused = storage.keys.rotate(other.id, new_key(owner.id, "new"), noon(), None).await;
    assert!(matches!(refused, Err(Error::NotFound("key"))));
}

async fn a_rotation_that_fails_changes_nothing(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let old = key(storage, &owner, "old").await;
    key(storage, &owner, "taken").await;

    let refused = rotate(storage, &old, "taken", noon()).await;
    assert!(matches!(refused, Err(Error::Conflict("key"))));
    assert_eq!(by_id(storage, old.id).await, old);
}

async fn a_revoked_key_is_no_prefix(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    key(storage, &owner, "kept").await;
    let gone = key(storage, &owner, "gone").await;
    revoke(storage, gone.id).await;
    assert_eq!(storage.keys.prefixes().await.unwrap(), ["kept"]);
}

async fn of_two_who_read_the_same_key_one_is_stale(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let read = key(storage, &owner, "abc").await;
    let change = |rpm| KeyChange {
        limits: Some(Limits { rpm: Some(rpm), ..read.limits }),
        expected: Some(read.revision),
        ..KeyChange::default()
    };
    // A hash is nothing that anybody has read.
    let (old, new) = (Secret::new("hash of abc".to_owned()), Secret::new("new".to_owned()));
    assert!(storage.keys.rehash(read.id, &old, &new).await.unwrap());
    let first = storage.keys.change(read.id, change(1)).await.unwrap();
    let second = storage.keys.change(read.id, change(2)).await;
    assert!(matches!(second, Err(Error::Stale("key"))), "{second:?}");

    // The new key is made of what was read of the old one.
    let rotate = async |prefix, expected| {
        storage.keys.rotate(read.id, new_key(owner.id, prefix), noon(), Some(expected)).await
    };
    assert!(matches!(rotate("late", read.revision).await, Err(Error::Stale("key"))));
    assert_eq!(storage.keys.by_prefix("late").await.unwrap(), None);
    assert_eq!(by_id(storage, read.id).await, first);
    rotate("new", first.revision).await.unwrap();
    assert_ne!(by_id(storage, read.id).await.revision, first.revision);
    revoke(storage, read.id).await;
    let revoked = rotate("newer", first.revision).await;
    assert!(matches!(revoked, Err(Error::NotFound("key"))), "{revoked:?}");
}
