//! What every database owes the port of the audit.

use std::time::Duration;

use protocol::{
    error::Code,
    id::{KeyId, TenantId},
    outcome::Outcome,
    route::Route,
    usage::Usage,
};
use uuid::Uuid;

use super::{AuditEvent, AuditQuery};
use crate::{
    Storage,
    ledger::{LedgerBy, LedgerQuery},
    testing::{at, contract, event, model, noon, paid},
};

contract! {
    an_event_reads_back_as_it_was,
    every_word_reads_back,
    a_query_gives_what_was_asked_for_newest_first,
    an_event_that_is_stored_twice_counts_once,
    an_event_that_stands_twice_in_a_batch_counts_once,
    an_event_of_many_requests_counts_all_of_them,
    a_large_batch_is_stored_whole,
    a_count_beyond_all_measure_does_no_harm,
    what_is_older_is_forgotten,
    what_is_older_of_one_tenant_is_forgotten_in_parts,
}

const TENANT: TenantId = TenantId(Uuid::from_u128(0x10));
const KEY: KeyId = KeyId(Uuid::from_u128(0x20));

async fn all(storage: &Storage) -> Vec<AuditEvent> {
    query(storage, AuditQuery::default()).await
}

async fn query(storage: &Storage, query: AuditQuery) -> Vec<AuditEvent> {
    let limit = if query.limit == 0 { 10_000 } else { query.limit };
    storage.audit.query(AuditQuery { limit, ..query }).await.unwrap()
}

/// Requests and tokens that the ledger has of the tenant.
async fn counted(storage: &Storage) -> (u64, u64) {
    let query = LedgerQuery { by: LedgerBy::Tenant, tenant: Some(TENANT), key: None, since: None };
    let sums = storage.ledger.sums(query).await.unwrap();
    sums.iter().fold((0, 0), |(requests, tokens), sum| {
        (requests + sum.requests, tokens + sum.prompt + sum.completion)
    })
}

async fn an_event_reads_back_as_it_was(storage: &Storage) {
    let full = AuditEvent {
        model: Some(model("llama3:latest")),
        upstream: Some("gpu-1".to_owned()),
        status: 504,
        outcome: Outcome::TimedOut,
        code: Some(Code::UpstreamTimeout),
        usage: Usage { prompt: 11, completion: 13, estimated: true },
        first_byte: Some(Duration::from_micros(17)),
        total: Duration::from_secs(3_000),
        ..paid(1, noon(), TENANT, KEY)
    };
    let bare = event(2, at("2026-11-23T11:00:00Z"));
    storage.audit.append(&[bare.clone(), full.clone()]).await.unwrap();
    assert_eq!(all(storage).await, [full, bare]);
    storage.audit.append(&[]).await.unwrap();
}

async fn every_word_reads_back(storage: &Storage) {
    let mut events = Vec::new();
    for (number, route) in Route::ALL.iter().enumerate() {
        events.push(AuditEvent { route: *route, ..event(number as u128, noon()) });
    }
    for (number, outcome) in Outcome::ALL.iter().enumerate() {
        events.push(AuditEvent { outcome: *outcome, ..event(100 + number as u128, noon()) });
    }
    for (number, code) in Code::ALL.iter().enumerate() {
        events.push(AuditEvent { code: Some(*code), ..event(200 + number as u128, noon()) });
    }
    storage.audit.append(&events).await.unwrap();
    events.reverse();
    assert_eq!(all(storage).await, events);
}

async fn a_query_gives_what_was_asked_for_newest_first(storage: &Storage) {
    let other = KeyId(Uuid::from_u128(0x21));
    let hour = |hour: u32| at(&format!("2026-11-23T{hour:02}:00:00Z"));
    let events = [
        paid(1, hour(1), TENANT, KEY),
        paid(2, hour(2), TENANT, other),
        paid(3, hour(3), TenantId(Uuid::from_u128(0x11)), KEY),
        event(4, hour(4)),
    ];
    storage.audit.append(&events).await.unwrap();
    let numbers = async |asked| {
        let found = query(storage, asked).await;
        found.iter().map(|event| event.request.0.as_u128()).collect::<Vec<_>>()
    };
    let asked = AuditQuery::default;

    assert_eq!(numbers(asked()).await, [4, 3, 2, 1]);
    assert_eq!(numbers(AuditQuery { tenant: Some(TENANT), ..asked() }).await, [2, 1]);
    assert_eq!(numbers(AuditQuery { key: Some(KEY), ..asked() }).await, [3, 1]);
    assert_eq!(numbers(AuditQuery { since: Some(hour(3)), ..asked() }).await, [4, 3]);
    assert_eq!(numbers(AuditQuery { until: Some(hour(3)), ..asked() }).await, [2, 1]);
    assert_eq!(numbers(AuditQuery { limit: 2, ..asked() }).await, [4, 3]);
    let both = AuditQuery { tenant: Some(TENANT), key: Some(KEY), ..asked() };
    assert_eq!(numbers(both).await, [1]);
    assert!(storage.audit.query(asked()).await.unwrap().is_empty(), "a limit of 0 is none");
}

async fn an_event_that_is_stored_twice_counts_once(storage: &Storage) {
    let (first, second) = (paid(1, noon(), TENANT, KEY), paid(2, noon(), TENANT, KEY));
    storage.audit.append(std::slice::from_ref(&first)).await.unwrap();
    storage.audit.append(&[first.clone(), second.clone()]).await.unwrap();
    storage.audit.append(&[first.clone(), second.clone()]).await.unwrap();
    assert_eq!(all(storage).await, [second, first]);
    assert_eq!(counted(storage).await, (2, 16));
}

async fn an_event_that_stands_twice_in_a_batch_counts_once(storage: &Storage) {
    let one = paid(1, noon(), TENANT, KEY);
    storage.audit.append(&[one.clone(), one.clone()]).await.unwrap();
    assert_eq!(all(storage).await, [one]);
    assert_eq!(counted(storage).await, (1, 8));
}

async fn an_event_of_many_requests_counts_all_of_them(storage: &Storage) {
    let refused = AuditEvent { usage: Usage::default(), ..paid(1, noon(), TENANT, KEY) };
    let folded = AuditEvent { requests: 480, ..refused };
    storage.audit.append(&[folded.clone(), paid(2, noon(), TENANT, KEY)]).await.unwrap();
    storage.audit.append(std::slice::from_ref(&folded)).await.unwrap();
    assert_eq!(all(storage).await.last(), Some(&folded));
    assert_eq!(counted(storage).await, (481, 8));
}

async fn a_large_batch_is_stored_whole(storage: &Storage) {
    let events: Vec<_> = (0..4_500).map(|number| paid(number, noon(), TENANT, KEY)).collect();
    storage.audit.append(&events).await.unwrap();
    assert_eq!(all(storage).await.len(), 4_500);
    assert_eq!(counted(storage).await, (4_500, 36_000));
}

async fn a_count_beyond_all_measure_does_no_harm(storage: &Storage) {
    let usage = Usage { prompt: u64::MAX, completion: u64::MAX, estimated: false };
    let events: Vec<_> =
        (0..3).map(|number| AuditEvent { usage, ..paid(number, noon(), TENANT, KEY) }).collect();
    storage.audit.append(&events).await.unwrap();
    assert_eq!(counted(storage).await, (3, 6 * u64::from(i32::MAX.unsigned_abs())));
}

async fn what_is_older_is_forgotten(storage: &Storage) {
    let prepared = (at("2026-09-15T00:00:00Z"), at("2026-11-15T00:00:00Z"));
    storage.audit.prepare(prepared.0, prepared.1).await.unwrap();
    let days = ["2026-07-31", "2026-09-01", "2026-10-31", "2026-11-01"];
    let on = |day: &str| at(&format!("{day}T23:59:59Z"));
    for (number, day) in days.iter().enumerate() {
        let one = paid(number as u128, on(day), TENANT, KEY);
        storage.audit.append(&[one]).await.unwrap();
    }
    assert_eq!(storage.audit.forget_before(at("2026-11-01T00:00:00Z")).await.unwrap(), 3);
    assert_eq!(all(storage).await, [paid(3, on("2026-11-01"), TENANT, KEY)]);
    assert_eq!(storage.audit.forget_before(at("2026-11-01T00:00:00Z")).await.unwrap(), 0);
    assert_eq!(counted(storage).await.0, 4, "what was counted stays");
}

async fn what_is_older_of_one_tenant_is_forgotten_in_parts(storage: &Storage) {
    let (one, two) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
    let key = KeyId(Uuid::from_u128(3));
    let day = |day: u128| at(&format!("2026-11-{day:02}T00:00:00Z"));
    let events: Vec<_> = (1..=20)
        .map(|number| paid(number, day(number), if number % 2 == 0 { one } else { two }, key))
        .collect();
    storage.audit.append(&events).await.unwrap();
    let forget = async |limit| storage.audit.forget_of(one, day(11), limit).await.unwrap();
    assert_eq!(forget(3).await, 3);
    assert_eq!(forget(3).await, 2);
    assert_eq!(forget(3).await, 0);
    let left = AuditQuery { limit: 100, ..AuditQuery::default() };
    assert_eq!(storage.audit.query(left).await.unwrap().len(), 15);
    // What was used is still known.
    let used = LedgerQuery { by: LedgerBy::Tenant, tenant: Some(one), key: None, since: None };
    assert_eq!(storage.ledger.sums(used).await.unwrap()[0].requests, 10);
}
