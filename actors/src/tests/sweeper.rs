//! Retention.

use identity::{models::ModelRule, policy::Policy};

use super::*;

#[tokio::test(start_paused = true)]
async fn the_sweeper_prepares_and_forgets_in_rounds_and_tries_again() {
    let mut settings = Settings::default();
    settings.sweeper.audit_retention = Some(Duration::from_secs(24 * 3_600));
    let stage = Stage::new(settings, &[]).await;
    let forgotten = || stage.database.with(|stored| stored.forgotten.clone());
    eventually("the first round", || forgotten().len() == 1).await;
    assert_eq!(forgotten()[0], "2026-11-22T12:00:00Z".parse().unwrap());
    sleep(Duration::from_secs(3_700)).await;
    assert_eq!(forgotten().len(), 2);
    stage.database.away(true);
    sleep(Duration::from_secs(3_600)).await;
    let prepared = || stage.database.with(|stored| stored.prepared);
    let before = prepared();
    sleep(Duration::from_secs(180)).await;
    assert!(prepared() >= before + 2, "{} rounds after {before}", prepared());
    stage.database.away(false);
    eventually("the return", || forgotten().len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_ever_is_not_forgotten() {
    let mut settings = Settings::default();
    settings.sweeper.audit_retention = None;
    let stage = Stage::new(settings, &[]).await;
    sleep(Duration::from_secs(8_000)).await;
    let (prepared, forgotten) =
        stage.database.with(|stored| (stored.prepared, stored.forgotten.len()));
    assert!(prepared >= 2 && forgotten == 0);
}

#[tokio::test(start_paused = true)]
async fn a_tenants_own_word_is_kept_in_batches_and_prompts_go_when_their_time_is_over() {
    let mut settings = Settings::default();
    settings.sweeper.audit_retention = None;
    let stage = Stage::new(settings, &[]).await;
    let tenant = Tenant {
        id: TenantId(Uuid::from_u128(1)),
        name: "acme".to_owned(),
        suspended: false,
        models: ModelRule::All,
        limits: Limits::default(),
        policy: Policy::default(),
        audit_retention: Some(Duration::from_secs(3_600)),
        created_at: noon(),
        revision: storage::Revision::FIRST,
    };
    stage.database.with(|stored| {
        stored.tenants = vec![tenant.clone(), Tenant { audit_retention: None, ..tenant.clone() }];
        (stored.left_of, stored.prompts_old) = (2_500, 1_500);
    });
    sleep(Duration::from_secs(3_700)).await;
    let (left, prompts, swept, of) = stage.database.with(|stored| {
        let swept = stored.prompts_swept.len();
        (stored.left_of, stored.prompts_old, swept, stored.forgotten_of.clone())
    });
    assert_eq!((left, prompts), (0, 0));
    // An hour before the round, which is an hour after noon.
    assert_eq!(of, [(tenant.id, noon()); 3]);
    assert!(swept > 100, "{swept} rounds in an hour");
}
