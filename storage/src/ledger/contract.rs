//! What every database owes the port of the ledger.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::Offset};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use protocol::usage::Usage;
use uuid::Uuid;

use super::{LedgerBy, LedgerQuery, LedgerSum};
use crate::{
    Storage,
    audit::AuditEvent,
    testing::{at, contract, event, key, model, paid, tenant},
};

contract! {
    the_ledger_is_the_sum_of_the_audit,
    only_days_that_end_later_are_summed,
    what_was_deleted_stays_under_its_id,
}

const ALL: LedgerQuery = LedgerQuery { by: LedgerBy::Tenant, tenant: None, key: None, since: None };

/// Adds the events up, one by one.
fn add_up<F>(events: &[AuditEvent], of: F) -> Vec<LedgerSum>
where
    F: Fn(&AuditEvent) -> String,
{
    let mut sums: BTreeMap<String, LedgerSum> = BTreeMap::new();
    for event in events.iter().filter(|event| event.tenant.is_some()) {
        let of = of(event);
        let empty =
            LedgerSum { of: of.clone(), requests: 0, prompt: 0, completion: 0, estimated: 0 };
        let sum = sums.entry(of).or_insert(empty);
        sum.requests += 1;
        sum.prompt += event.usage.prompt;
        sum.completion += event.usage.completion;
        sum.estimated += u64::from(event.usage.estimated);
    }
    sums.into_values().collect()
}

async fn the_ledger_is_the_sum_of_the_audit(storage: &Storage) {
    let tenants = [tenant(storage, "a").await, tenant(storage, "b").await];
    let mut keys = Vec::new();
    for (number, owner) in tenants.iter().cycle().take(4).enumerate() {
        keys.push(key(storage, owner, &format!("key{number}")).await);
    }
    let payer = proptest::option::weighted(0.9, (0..4usize, proptest::bool::weighted(0.9)));
    let one = (payer, 0..4u8, 0..300_000_000i64, 0..10_000u64, 0..10_000u64, any::<bool>());
    let mut runner = TestRunner::deterministic();
    let drawn = proptest::collection::vec(one, 400).new_tree(&mut runner).unwrap().current();
    let start = at("2026-10-30T22:00:00Z").as_millisecond();
    let mut events: Vec<_> = drawn
        .into_iter()
        .enumerate()
        .map(|(number, drawn)| {
            let (payer, named, late, prompt, completion, estimated) = drawn;
            let when = Timestamp::from_millisecond(start + late).unwrap();
            AuditEvent {
                tenant: payer.map(|(key, _)| keys[key].tenant),
                key: payer.filter(|(_, known)| *known).map(|(key, _)| keys[key].id),
                model: (named > 0).then(|| model(&format!("model{named}:latest"))),
                usage: Usage { prompt, completion, estimated },
                ..event(number as u128, when)
            }
        })
        .collect();
    // Some come twice, as after an answer that was lost.
    for batch in events.chunks(37).chain(events.chunks(53).take(2)) {
        storage.audit.append(batch).await.unwrap();
    }

    let sums = async |by| storage.ledger.sums(LedgerQuery { by, ..ALL }).await.unwrap();
    let name = |event: &AuditEvent| {
        let owner = tenants.iter().find(|tenant| Some(tenant.id) == event.tenant);
        owner.unwrap().name.clone()
    };
    let prefix = |event: &AuditEvent| {
        let used = keys.iter().find(|key| Some(key.id) == event.key);
        used.map_or("-".to_owned(), |key| key.prefix.clone())
    };
    let named = |event: &AuditEvent| event.model.as_ref().map_or("-".into(), ToString::to_string);
    let day = |event: &AuditEvent| Offset::UTC.to_datetime(event.at).date().to_string();
    assert_eq!(sums(LedgerBy::Tenant).await, add_up(&events, name));
    assert_eq!(sums(LedgerBy::Key).await, add_up(&events, prefix));
    assert_eq!(sums(LedgerBy::Model).await, add_up(&events, named));
    assert_eq!(sums(LedgerBy::Day).await, add_up(&events, day));

    events.retain(|event| event.key == Some(keys[0].id));
    let one = LedgerQuery { by: LedgerBy::Model, key: Some(keys[0].id), ..ALL };
    assert_eq!(storage.ledger.sums(one).await.unwrap(), add_up(&events, named));
}

async fn only_days_that_end_later_are_summed(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let used = key(storage, &owner, "abc").await;
    for (number, day) in ["2026-11-21", "2026-11-22", "2026-11-23"].iter().enumerate() {
        let at = at(&format!("{day}T00:00:00Z"));
        storage.audit.append(&[paid(number as u128, at, owner.id, used.id)]).await.unwrap();
    }
    let days = async |since: &str| {
        let since = Some(at(since));
        let query = LedgerQuery { by: LedgerBy::Day, tenant: Some(owner.id), since, ..ALL };
        let sums = storage.ledger.sums(query).await.unwrap();
        sums.into_iter().map(|sum| sum.of).collect::<Vec<_>>()
    };
    assert_eq!(days("2026-11-21T23:59:59.999999Z").await.len(), 3);
    assert_eq!(days("2026-11-22T00:00:00Z").await, ["2026-11-22", "2026-11-23"]);
    assert_eq!(days("2026-11-24T00:00:00Z").await, [""; 0]);
}

async fn what_was_deleted_stays_under_its_id(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let used = key(storage, &owner, "abc").await;
    let at = at("2026-11-23T00:00:00Z");
    storage.audit.append(&[paid(1, at, owner.id, used.id)]).await.unwrap();
    storage.tenants.delete(owner.id).await.unwrap();

    let of = async |by| storage.ledger.sums(LedgerQuery { by, ..ALL }).await.unwrap()[0].of.clone();
    assert_eq!(of(LedgerBy::Tenant).await, owner.id.to_string());
    assert_eq!(of(LedgerBy::Key).await, used.id.to_string());
    let stranger = Some(protocol::id::TenantId(Uuid::from_u128(1)));
    let none = storage.ledger.sums(LedgerQuery { tenant: stranger, ..ALL }).await.unwrap();
    assert_eq!(none, []);
}
