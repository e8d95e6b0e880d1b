//! What every database owes the port of prompts.

use std::time::Duration;

use jiff::Timestamp;
use protocol::id::{KeyId, RequestId};
use uuid::Uuid;

use super::Prompt;
use crate::{
    Storage,
    testing::{contract, key, noon, tenant},
};

contract! {
    what_is_kept_reads_back_newest_first,
    what_is_over_is_forgotten_in_parts,
    what_cannot_belong_to_anybody_is_not_kept,
}

fn prompt(number: u128, key: KeyId) -> Prompt {
    let at = noon().checked_add(Duration::from_secs(number as u64)).unwrap();
    Prompt {
        request: RequestId(Uuid::from_u128(number)),
        key,
        at,
        expires_at: at.checked_add(Duration::from_secs(60)).unwrap(),
        encrypted: number.is_multiple_of(2),
        body: vec![0, 255, number as u8],
        cut_from: (number == 1).then_some(1 << 40),
    }
}

async fn kept(storage: &Storage, key: KeyId, count: u128) -> Vec<Prompt> {
    let prompts: Vec<_> = (0..count).map(|number| prompt(number, key)).collect();
    storage.prompts.add(&prompts).await.unwrap();
    prompts
}

async fn what_is_kept_reads_back_newest_first(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let (one, two) = (key(storage, &owner, "a").await, key(storage, &owner, "b").await);
    let mut prompts = kept(storage, one.id, 3).await;
    // A second time changes nothing.
    storage.prompts.add(&prompts).await.unwrap();
    prompts.reverse();
    assert_eq!(storage.prompts.list(one.id, 10).await.unwrap(), prompts);
    assert_eq!(storage.prompts.list(one.id, 2).await.unwrap(), prompts[..2]);
    assert_eq!(storage.prompts.list(two.id, 10).await.unwrap(), []);
    assert!(!format!("{prompts:?}").contains("255"));
}

async fn what_is_over_is_forgotten_in_parts(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let used = key(storage, &owner, "a").await;
    let prompts = kept(storage, used.id, 10).await;
    let forget =
        async |now: Timestamp, limit| storage.prompts.forget_expired(now, limit).await.unwrap();
    assert_eq!(forget(noon(), 100).await, 0);
    assert_eq!(forget(prompts[6].expires_at, 4).await, 4);
    assert_eq!(forget(prompts[6].expires_at, 4).await, 3);
    assert_eq!(forget(prompts[6].expires_at, 4).await, 0);
    assert_eq!(storage.prompts.list(used.id, 10).await.unwrap().len(), 3);
}

async fn what_cannot_belong_to_anybody_is_not_kept(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let used = key(storage, &owner, "a").await;
    let stranger = KeyId(Uuid::from_u128(77));
    let (mine, other) = (prompt(1, used.id), prompt(2, stranger));
    storage.prompts.add(&[other, mine.clone()]).await.unwrap();
    assert_eq!(storage.prompts.list(stranger, 10).await.unwrap(), []);
    assert_eq!(storage.prompts.list(used.id, 10).await.unwrap(), [mine]);
}
