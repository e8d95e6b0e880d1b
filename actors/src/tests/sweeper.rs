//! Retention.

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
