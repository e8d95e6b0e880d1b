//! What outlives the actor of a tenant, and what its keys can do while they are silent.

use identity::policy::Exhausted;

use super::{
    admission::{ask, at_once, daily, of, rpm, streaming},
    *,
};

/// A request of a stream of at most a thousand tokens, with a prompt of ten.
fn stream(limits: Limits) -> Ask {
    streaming(Exhausted::Stop, limits)
}

#[tokio::test(start_paused = true)]
async fn what_was_let_in_outlives_the_actor() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let limits = Limits { rpm: Some(3), concurrency: Some(2), ..daily(3_000) };
    let tenant = stream(limits).tenant;
    let mut one = admission.admit(stream(limits)).await.ok();
    let two = admission.admit(stream(limits)).await.unwrap();
    for round in 0..3 {
        admission.poison(tenant);
        // Whoever would have heard of this fails before.
        if let Some(mut one) = one.take() {
            one.settle(40);
        }
        sleep(Duration::from_millis(10)).await;
        let standing = admission.look(tenant).await.unwrap().standing;
        assert_eq!(standing.under_way, 1, "{round}");
        assert_eq!(standing.gauges.requests.unwrap().remaining, 1);
        assert_eq!(standing.gauges.budget.unwrap().remaining, 3_000 - 40 - 1_010);
    }
    // It goes on as before: it may have what there is, and no more.
    assert!(!two.meter.as_ref().unwrap().ask(1_951).await);
    assert!(two.meter.as_ref().unwrap().ask(940).await);
    drop(two);
    let third = admission.admit(stream(limits)).await.unwrap();
    assert_eq!(third.gauges.budget.unwrap().remaining, 3_000 - 40 - 1_010);
    let Err(Denied::Limit(refused)) = admission.admit(stream(limits)).await else {
        panic!("let in")
    };
    assert_eq!(refused.by.what, Limit::Requests);
}

#[tokio::test(start_paused = true)]
async fn where_a_rule_failed_the_tenant_begins_anew_after_a_pause() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let sick = || ask(1, 1, Limits { rpm: Some(1), ..at_once(1) }, Limits::default());
    let held = admission.admit(sick()).await.unwrap();
    admission.break_rule(sick().tenant);
    sleep(Duration::from_millis(10)).await;
    for _ in 0..6 {
        // Longer than a window: nobody is let in twice.
        assert_eq!(admission.admit(sick()).await.map(drop), Err(Denied::Unavailable));
        let _ = admission.admit(ask(2, 2, rpm(100), rpm(100))).await.unwrap();
        sleep(Duration::from_secs(10)).await;
    }
    sleep(Duration::from_secs(2)).await;
    let next = admission.admit(sick()).await.unwrap();
    // Of what was under way nothing is known any more, and its end changes nothing.
    drop(held);
    assert_eq!(admission.look(sick().tenant).await.unwrap().standing.under_way, 1);
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_fails_in_the_hands_of_who_asks_is_the_actors_to_tell() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let sick = || ask(1, 1, at_once(1), Limits::default());
    let held = admission.admit(sick()).await.unwrap();
    admission.break_desk(sick().tenant);
    assert_eq!(admission.admit(sick()).await.map(drop), Err(Denied::Unavailable));
    drop(held);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(admission.admit(sick()).await.map(drop), Err(Denied::Unavailable));
    assert!(admission.admit(ask(2, 2, rpm(100), rpm(100))).await.is_ok());
    sleep(Duration::from_secs(61)).await;
    assert!(admission.admit(sick()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_limits_of_who_is_under_way_are_not_forgotten() {
    let mut settings = Settings::default();
    settings.admission.idle_after = Duration::from_secs(1);
    let stage = Stage::new(settings, &[]).await;
    let admission = &stage.system.handles.admission;
    let limited = |tokens| Ask { key_limits: daily(tokens), ..stream(Limits::default()) };
    let held = admission.admit(limited(2_000)).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    let meter = held.meter.as_ref().unwrap();
    assert!(!meter.ask(991).await, "more than there is");
    assert!(meter.ask(890).await);
    // Another limit is heard with the next request, whatever becomes of that one.
    assert!(matches!(admission.admit(limited(1_950)).await, Err(Denied::Limit(_))));
    for _ in 0..2 {
        assert!(!meter.ask(51).await);
        sleep(Duration::from_secs(600)).await;
    }
    assert!(meter.ask(50).await);
    drop(held);
    eventually("the end", || admission.running() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn who_was_let_in_and_went_no_further_has_used_up_nothing() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let limits = Limits { rpm: Some(1), tpm: Some(100), concurrency: Some(1), ..daily(100) };
    let ask = || of(100, ask(1, 1, limits, limits));
    for _ in 0..3 {
        let mut permit = admission.admit(ask()).await.unwrap();
        permit.cancel();
    }
    let permit = admission.admit(ask()).await.unwrap();
    drop(permit);
    assert!(admission.admit(ask()).await.is_err(), "what has begun counts");
}
