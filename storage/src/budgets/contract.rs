//! What every database owes the port of budgets' corrections.

use protocol::id::{KeyId, TenantId};
use uuid::Uuid;

use super::Owner;
use crate::{
    Error, Storage,
    limits::{Budget, Correction, LimitPeriod, Limits},
    tenants::TenantChange,
    testing::{at, contract, key, tenant},
};

contract! {
    a_correction_outlasts_new_limits,
    what_is_not_there_is_not_corrected,
    a_correction_of_what_was_changed_meanwhile_is_stale,
}

const DAILY: Option<Budget> = Some(Budget::new(7, LimitPeriod::Day));

async fn a_correction_outlasts_new_limits(storage: &Storage) {
    let owner = tenant(storage, "acme").await;
    let used = key(storage, &owner, "abc").await;
    let limits = |budget| TenantChange {
        limits: Some(Limits { budget, ..Limits::default() }),
        ..TenantChange::default()
    };
    storage.tenants.change(owner.id, limits(DAILY)).await.unwrap();
    let moment = Some(at("2026-11-23T12:00:00.000001Z"));
    let correction = Correction { forgiven: 5, reset_at: moment, read_at: moment };
    for owner in [Owner::Tenant(owner.id), Owner::Key(used.id)] {
        storage.budgets.correct(owner, correction, None).await.unwrap();
    }
    let monthly = Some(Budget::new(9, LimitPeriod::Month));
    let changed = storage.tenants.change(owner.id, limits(monthly)).await.unwrap();
    let wanted = Budget { correction, ..Budget::new(9, LimitPeriod::Month) };
    assert_eq!(changed.limits.budget, Some(wanted));
    // A key without a budget has nothing to be corrected, until it has one.
    assert_eq!(storage.keys.by_id(used.id).await.unwrap().unwrap().limits.budget, None);
}

async fn what_is_not_there_is_not_corrected(storage: &Storage) {
    for owner in [Owner::Tenant(TenantId(Uuid::nil())), Owner::Key(KeyId(Uuid::nil()))] {
        let corrected = storage.budgets.correct(owner, Correction::default(), None).await;
        assert!(matches!(corrected, Err(Error::NotFound("budget"))));
    }
}

async fn a_correction_of_what_was_changed_meanwhile_is_stale(storage: &Storage) {
    let read = tenant(storage, "acme").await;
    let used = key(storage, &read, "abc").await;
    for (owner, revision) in
        [(Owner::Tenant(read.id), read.revision), (Owner::Key(used.id), used.revision)]
    {
        let correct = async |forgiven| {
            let correction = Correction { forgiven, reset_at: None, read_at: None };
            storage.budgets.correct(owner, correction, Some(revision)).await
        };
        correct(1).await.unwrap();
        assert!(matches!(correct(2).await, Err(Error::Stale("budget"))));
    }
    // And the other way round: who changes the limits sees that the budget was corrected.
    let expected = Some(read.revision);
    let change = TenantChange { limits: Some(read.limits), expected, ..TenantChange::default() };
    let changed = storage.tenants.change(read.id, change).await;
    assert!(matches!(changed, Err(Error::Stale("tenant"))));
}
