//! The audit: batches, order, crashes, the end.

use super::*;

fn tenant(number: u128) -> TenantId {
    TenantId(Uuid::from_u128(number))
}

#[tokio::test(start_paused = true)]
async fn a_few_events_wait_for_others_and_a_full_batch_does_not() {
    let mut settings = places(10_000);
    settings.audit.batch_events_max = 500;
    let stage = Stage::new(settings, &[]).await;
    let begun = Instant::now();
    stage.record(1).unwrap();
    sleep(Duration::from_millis(100)).await;
    stage.record(2).unwrap();
    eventually("the first batch", || !stage.database.batches().is_empty()).await;
    assert_eq!(stage.database.batches(), [[1, 2]]);
    let stored = stage.database.with(|stored| stored.batches[0].0);
    assert!(stored - begun >= Duration::from_millis(200), "{:?}", stored - begun);

    let begun = Instant::now();
    (0..1_200).for_each(|number| stage.record(number).unwrap());
    eventually("the full batches", || stage.database.events().len() >= 1_002).await;
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    eventually("the rest", || stage.database.events().len() == 1_202).await;
    assert_eq!(stage.database.events()[2..], (0..1_200).collect::<Vec<_>>());
    assert_eq!(stage.database.batches().iter().map(Vec::len).max(), Some(500));
}

#[tokio::test(start_paused = true)]
async fn a_small_ring_is_emptied_before_it_is_full() {
    let stage = Stage::new(places(100), &[]).await;
    let begun = Instant::now();
    (0..50).for_each(|number| stage.record(number).unwrap());
    eventually("the batch", || stage.database.events().len() == 50).await;
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_until_its_event_is_stored() {
    let stage = Stage::new(places(2), &[]).await;
    let audit = &stage.system.handles.audit;
    let (first, second) = (audit.reserve(tenant(1)).unwrap(), audit.reserve(tenant(1)).unwrap());
    assert_eq!(audit.reserve(tenant(1)).err(), Some(Saturated));
    drop(first);
    let third = audit.reserve(tenant(1)).unwrap();
    stage.database.away(true);
    second.record(event(1));
    third.record(event(2));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(audit.reserve(tenant(1)).err(), Some(Saturated), "a place was given back too early");
    assert!(audit.state().failing_since.is_some());
    stage.database.away(false);
    eventually("room", || audit.reserve(tenant(1)).is_ok()).await;
    assert_eq!(stage.database.events(), [1, 2]);
    assert!(audit.state().failing_since.is_none());
    assert_eq!((audit.state().waiting, audit.state().stored), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_database_that_comes_and_goes_changes_neither_order_nor_number() {
    let stage = Stage::new(places(10_000), &[]).await;
    for round in 0..20_u128 {
        stage.database.away(round % 3 == 1);
        (0..100).for_each(|number| stage.record(round * 100 + number).unwrap());
        sleep(Duration::from_millis(150)).await;
    }
    stage.database.away(false);
    stage.system.handles.audit.flush().await;
    assert_eq!(stage.database.events(), (0..2_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_crash_of_the_audit_loses_nothing() {
    let stage = Stage::new(places(10_000), &[]).await;
    for round in 0..4_u128 {
        (0..50).for_each(|number| stage.record(round * 50 + number).unwrap());
        stage.system.handles.audit.poison();
        (1_000..1_010).for_each(|number| stage.record(round * 50 + number).unwrap());
        sleep(Duration::from_secs(1)).await;
    }
    stage.system.handles.audit.flush().await;
    // An append that was under way may be done twice; storage counts each request once.
    let stored: HashSet<_> = stage.database.events().into_iter().collect();
    assert_eq!(stored.len(), 4 * 50 + 40);
    assert!(timeout(Duration::from_secs(1), stage.system.failed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_fails_again_and_again_is_a_reason_to_end() {
    let stage = Stage::new(Settings::default(), &[]).await;
    for _ in 0..6 {
        stage.system.handles.audit.poison();
        sleep(Duration::from_millis(50)).await;
    }
    let reason = timeout(Duration::from_secs(10), stage.system.failed()).await.unwrap();
    assert!(reason.contains("poisoned"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_root_that_dies_is_a_reason_to_end() {
    let stage = Stage::new(Settings::default(), &[]).await;
    stage.system.root.kill();
    let reason = timeout(Duration::from_secs(10), stage.system.failed()).await.unwrap();
    assert!(reason.contains("root"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn strangers_get_so_many_lines_a_second_and_half_of_the_room() {
    let mut settings = places(20);
    settings.audit.sampled_per_second = 4;
    let stage = Stage::new(settings, &[]).await;
    let audit = &stage.system.handles.audit;
    let taken = || (0..50).filter_map(|_| audit.reserve_sampled()).collect::<Vec<_>>();
    let first = taken();
    assert_eq!(first.len(), 4);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(taken().len(), 4, "what was not used does not add up");
    drop(first);
    let _held: Vec<_> = (0..11).map(|_| audit.reserve(tenant(1)).unwrap()).collect();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(taken().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_stores_what_waits_and_says_what_it_could_not() {
    let stage = Stage::new(places(100), &["one"]).await;
    (0..10).for_each(|number| stage.record(number).unwrap());
    let stopped = stage.system.stop(Duration::from_secs(5)).await;
    assert_eq!((stopped, stage.database.events().len()), (Stopped { unstored: 0 }, 10));

    let stage = Stage::new(places(100), &["one"]).await;
    stage.database.away(true);
    (0..10).for_each(|number| stage.record(number).unwrap());
    let stopped = stage.system.stop(Duration::from_secs(5)).await;
    assert_eq!(stopped, Stopped { unstored: 10 });
    stage.tasks.close();
    assert!(timeout(Duration::from_secs(60), stage.tasks.wait()).await.is_ok(), "a task goes on");
}
