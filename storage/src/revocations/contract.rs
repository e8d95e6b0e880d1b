//! What every database owes the port of revocations.

use protocol::id::KeyId;
use uuid::Uuid;

use super::Revocation;
use crate::{
    Error, Storage,
    keys::KeyStatus,
    testing::{at, contract, key, noon, tenant},
};

contract! {
    a_revoked_key_reads_as_revoked_everywhere,
    the_first_revocation_stays_and_a_later_one_can_add_the_cut,
    what_is_not_there_is_not_revoked,
    the_newest_come_first,
    only_those_with_a_cut_are_to_be_cut,
}

fn revocation(key: KeyId) -> Revocation {
    Revocation { key, at: noon(), reason: "leaked".to_owned(), cut: false }
}

async fn a_revoked_key_reads_as_revoked_everywhere(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let made = key(storage, &owner, "abc").await;
    storage.revocations.revoke(revocation(made.id)).await.unwrap();

    let read = storage.keys.by_id(made.id).await.unwrap().unwrap();
    assert_eq!((read.status, read.revoked_at), (KeyStatus::Revoked, Some(noon())));
    let credential = storage.keys.credential("abc").await.unwrap().unwrap();
    assert_eq!(credential.key, read);
    assert_eq!(storage.keys.by_prefix("abc").await.unwrap(), Some(read.clone()));
    assert_eq!(storage.keys.list(None).await.unwrap(), [read]);
}

async fn the_first_revocation_stays_and_a_later_one_can_add_the_cut(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let first = revocation(key(storage, &owner, "abc").await.id);
    storage.revocations.revoke(first.clone()).await.unwrap();

    let later = at("2027-01-01T00:00:00Z");
    let second = Revocation { at: later, reason: "again".to_owned(), ..first.clone() };
    storage.revocations.revoke(second.clone()).await.unwrap();
    assert_eq!(storage.revocations.list(9).await.unwrap(), std::slice::from_ref(&first));
    storage.revocations.revoke(Revocation { cut: true, ..second.clone() }).await.unwrap();
    storage.revocations.revoke(second).await.unwrap();
    assert_eq!(storage.revocations.list(9).await.unwrap(), [Revocation { cut: true, ..first }]);
}

async fn what_is_not_there_is_not_revoked(storage: &Storage) {
    let refused = storage.revocations.revoke(revocation(KeyId(Uuid::from_u128(1)))).await;
    assert!(matches!(refused, Err(Error::NotFound("key"))));
}

async fn the_newest_come_first(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let mut all = Vec::new();
    for day in 1..4 {
        let revoked = key(storage, &owner, &format!("key{day}")).await.id;
        let at = at(&format!("2026-11-0{day}T00:00:00Z"));
        let one = Revocation { at, ..revocation(revoked) };
        storage.revocations.revoke(one.clone()).await.unwrap();
        all.insert(0, one);
    }
    all.truncate(2);
    assert_eq!(storage.revocations.list(2).await.unwrap(), all);
}

async fn only_those_with_a_cut_are_to_be_cut(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let (one, other) = (key(storage, &owner, "abc").await.id, key(storage, &owner, "def").await.id);
    storage.revocations.revoke(revocation(one)).await.unwrap();
    assert!(storage.revocations.cut_keys().await.unwrap().is_empty());
    storage.revocations.revoke(Revocation { cut: true, ..revocation(other) }).await.unwrap();
    assert_eq!(storage.revocations.cut_keys().await.unwrap(), [other]);
}
