//! Tenants: who is let in.

use std::task::Poll;

use identity::policy::{Exhausted, Policy, Reserve};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use protocol::telemetry as names;

use super::*;

pub(super) fn ask(tenant: u128, key: u128, tenant_limits: Limits, key_limits: Limits) -> Ask {
    let (tenant, key) = (TenantId(Uuid::from_u128(tenant)), super::key(key));
    let policy = Policy::default();
    let (prompt, prompt_max, completion_max, learns) = (10, 10, 0, None);
    Ask {
        tenant,
        key,
        tenant_limits,
        key_limits,
        policy,
        prompt,
        prompt_max,
        completion_max,
        learns,
        replaces: None,
    }
}

/// The same, for so many tokens.
pub(super) fn of(tokens: u64, ask: Ask) -> Ask {
    Ask { prompt: tokens, prompt_max: tokens, ..ask }
}

pub(super) fn rpm(limit: u64) -> Limits {
    Limits { rpm: Some(limit), ..Limits::default() }
}

pub(super) fn at_once(limit: u64) -> Limits {
    Limits { concurrency: Some(limit), ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_at_once_get_what_there_is_and_no_more() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let asks = (0..1_000_u128).map(|number| admission.admit(ask(1, number % 7, rpm(100), rpm(20))));
    let all = join_all(asks).await;
    let granted: Vec<_> = all.iter().filter_map(|one| one.as_ref().ok()).collect();
    assert_eq!(granted.len(), 100);
    let refused = all.iter().filter_map(|one| one.as_ref().err());
    for denied in refused {
        let Denied::Limit(refused) = denied else { panic!("{denied:?}") };
        assert_eq!(refused.by.what, Limit::Requests);
        assert!(
            matches!(refused.by.wait, Wait::For(wait) if wait <= Duration::from_millis(60_500))
        );
    }
    assert_eq!(admission.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_before_a_body_was_read_is_taken_once() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let limits = Limits { rpm: Some(3), concurrency: Some(1), ..Limits::default() };
    let asked = || of(50, ask(1, 1, limits, Limits::default()));
    let first = Arc::new(admission.admit(of(0, asked())).await.unwrap());
    // The slot is its own: what takes its place does not wait for it, and nobody else gets it.
    assert!(admission.admit(asked()).await.is_err());
    let whole = Ask { replaces: Some(Arc::clone(&first)), ..asked() };
    let second = admission.admit(whole).await.unwrap();
    assert_eq!(second.gauges.requests.unwrap().remaining, 2);
    // What was replaced has nothing left to give back.
    drop(first);
    assert!(admission.admit(asked()).await.is_err());
    drop(second);
    let third = admission.admit(asked()).await.unwrap();
    assert_eq!(third.gauges.requests.unwrap().remaining, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_when_its_body_was_read_holds_nothing() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let limits = Limits { tpm: Some(100), concurrency: Some(1), ..Limits::default() };
    let asked = |tokens| of(tokens, ask(1, 1, limits, Limits::default()));
    let first = Arc::new(admission.admit(asked(0)).await.unwrap());
    let whole = Ask { replaces: Some(first), ..asked(101) };
    assert!(matches!(admission.admit(whole).await, Err(Denied::Limit(_))));
    assert!(admission.admit(asked(100)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_one_refuses_the_other_does_not_lose() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let first = admission.admit(ask(1, 1, rpm(3), rpm(1))).await.unwrap();
    for _ in 0..50 {
        let Err(Denied::Limit(refused)) = admission.admit(ask(1, 1, rpm(3), rpm(1))).await else {
            panic!("let in")
        };
        assert_eq!((refused.scope, refused.gauges.requests.unwrap().remaining), (Scope::Key, 0));
    }
    for key in [2, 3] {
        let _ = admission.admit(ask(1, key, rpm(3), rpm(1))).await.unwrap();
    }
    let Err(Denied::Limit(refused)) = admission.admit(ask(1, 4, rpm(3), rpm(1))).await else {
        panic!("let in")
    };
    assert_eq!(refused.scope, Scope::Tenant);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_slot_comes_back_however_a_request_ends() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let one = || admission.admit(ask(1, 1, at_once(1), Limits::default()));
    for round in 0..50 {
        let mut permit = one().await.unwrap_or_else(|denied| panic!("{round}: {denied:?}"));
        assert!(one().await.is_err());
        if round % 2 == 0 {
            permit.settle(5);
        }
        drop(permit);
        // Before anybody else has had a turn.
        drop(one().await.unwrap_or_else(|denied| panic!("{round}: {denied:?}")));
    }
}

/// Gives whoever is ready one turn: unlike tokio's, which comes back when nobody is ready any more.
async fn give_way() {
    let mut is_back = false;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut is_back, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A tenant's actor that has been idle ends. Whenever in the course of that a request is let in, it counts.
#[tokio::test(start_paused = true)]
async fn who_is_let_in_while_the_actor_ends_is_counted() {
    for turns in 0..40 {
        let mut settings = Settings::default();
        settings.admission.idle_after = Duration::from_secs(60);
        let stage = Stage::new(settings, &[]).await;
        let admission = stage.system.handles.admission.clone();
        // A task has its turn between those of the actors; the test itself would come after them all.
        let asks = TaskTracker::new().spawn(async move {
            let one = || admission.admit(ask(1, 1, at_once(1), Limits::default()));
            drop(one().await.unwrap());
            tokio::time::advance(Duration::from_secs(125)).await;
            for _ in 0..turns {
                give_way().await;
            }
            let permit = one().await.unwrap_or_else(|denied| panic!("{turns}: {denied:?}"));
            for _ in 0..100 {
                give_way().await;
            }
            assert!(one().await.is_err(), "after {turns} turns");
            drop(permit);
            assert!(one().await.is_ok(), "after {turns} turns");
        });
        asks.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_are_corrected_by_what_was_used() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let tpm = Limits { tpm: Some(100), ..Limits::default() };
    let admit = |tokens| admission.admit(of(tokens, ask(1, 1, tpm, Limits::default())));
    let mut first = admit(90).await.unwrap();
    let Err(Denied::Limit(refused)) = admit(20).await else { panic!("let in") };
    assert_eq!((refused.by.what, refused.by.limit), (Limit::Tokens, 100));
    first.settle(30);
    drop(first);
    let second = admit(70).await.unwrap();
    assert_eq!(second.gauges.tokens.unwrap().remaining, 0);
    let Err(Denied::Limit(refused)) = admit(101).await else { panic!("let in") };
    assert_eq!(refused.by.wait, Wait::Forever);
}

pub(super) fn daily(tokens: u64) -> Limits {
    Limits { budget: Some(Budget::new(tokens, LimitPeriod::Day)), ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_at_once_never_pass_a_budget_for_a_hundred() {
    let stage = Stage::new(Settings::default(), &[]).await;
    stage.database.with(|stored| stored.used = 500);
    let admission = &stage.system.handles.admission;
    let asks = (0..500_u128).map(|key| {
        let limits = Limits::default();
        admission.admit(of(100, ask(1, key % 5, daily(10_500), limits)))
    });
    let mut granted: Vec<_> = join_all(asks).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(granted.len(), 100);
    // The ledger was read once for all of them.
    let asked = stage.database.with(|stored| stored.asked.clone());
    assert_eq!((asked.len(), asked[0].key), (1, None));
    assert_eq!(asked[0].since, Some("2026-11-23T00:00:00Z".parse().unwrap()));
    // Half of what each had set aside comes back, and lets half as many more in.
    granted.iter_mut().for_each(|permit| permit.settle(50));
    drop(granted);
    let again = (0..500_u128).map(|key| {
        let limits = Limits::default();
        admission.admit(of(100, ask(1, key % 5, daily(10_500), limits)))
    });
    let again = join_all(again).await;
    assert_eq!(again.iter().filter(|one| one.is_ok()).count(), 50);
    let Some(Err(Denied::Limit(refused))) = again.last() else { panic!("let in") };
    assert_eq!((refused.by.what, refused.by.limit), (Limit::Budget(LimitPeriod::Day), 10_500));
    assert_eq!(refused.gauges.budget.unwrap().remaining, 0);
}

#[tokio::test(start_paused = true)]
async fn where_the_ledger_cannot_be_read_nobody_can_say() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    stage.database.away(true);
    let limited = ask(1, 1, Limits::default(), daily(1_000));
    assert_eq!(admission.admit(limited.clone()).await.map(drop), Err(Denied::Unavailable));
    // Who has no budget does not need it.
    assert!(admission.admit(ask(1, 2, rpm(5), Limits::default())).await.is_ok());
    stage.database.away(false);
    stage.database.with(|stored| stored.used_by_key = 995);
    let Err(Denied::Limit(refused)) = admission.admit(limited.clone()).await else {
        panic!("let in")
    };
    assert_eq!((refused.scope, refused.gauges.budget.unwrap().remaining), (Scope::Key, 5));
    let small = of(5, limited);
    assert!(admission.admit(small).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_message_concerns_one_tenant() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let (sick, well) = (ask(1, 1, rpm(1), Limits::default()), ask(2, 2, rpm(1_000), rpm(1_000)));
    let before = restarts_of("tenant");
    let mut back = 0;
    for _ in 0..10 {
        back += u32::from(admission.admit(sick.clone()).await.is_ok());
        admission.poison(sick.tenant);
        sleep(Duration::from_millis(50)).await;
        let _ = admission.admit(well.clone()).await.unwrap();
    }
    // What was let in counted on. It was started again as often as is allowed; until that is past
    // nobody can say.
    assert_eq!(back, 1);
    assert_eq!(restarts_of("tenant"), before + 6);
    assert_eq!(admission.admit(sick.clone()).await.map(drop), Err(Denied::Unavailable));
    let failed = timeout(Duration::from_millis(10), stage.system.failed());
    assert!(failed.await.is_err(), "one tenant's actor is no reason to end");
    sleep(Duration::from_secs(61)).await;
    assert!(admission.admit(sick.clone()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_idle_tenant_is_let_go_and_nothing_is_forgotten_that_counts() {
    let mut settings = Settings::default();
    settings.admission.idle_after = Duration::from_secs(1);
    let stage = Stage::new(settings, &[]).await;
    let admission = &stage.system.handles.admission;
    let held = admission.admit(ask(1, 1, at_once(1), Limits::default())).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(admission.running(), 1, "a request is under way");
    drop(held);
    eventually("the end", || admission.running() == 0).await;
    assert!(admission.admit(ask(1, 1, at_once(1), Limits::default())).await.is_ok());
}

/// A request of a stream, of at most a thousand tokens.
pub(super) fn streaming(exhausted: Exhausted, limits: Limits) -> Ask {
    let policy = Policy { reserve: Reserve::Learned, exhausted, ..Policy::default() };
    let learns = ModelName::parse("llama3").ok();
    Ask { policy, completion_max: 1_000, learns, ..ask(1, 1, limits, Limits::default()) }
}

#[tokio::test(start_paused = true)]
async fn what_is_learned_is_set_aside_and_topped_up() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let stream = |tokens| streaming(Exhausted::Stop, daily(tokens));
    // Nothing is known yet: the most that it may have.
    for number in 0..20 {
        let mut permit = admission.admit(stream(5_000)).await.unwrap();
        if number < 8 {
            assert_eq!(permit.meter.as_ref().unwrap().set_aside, 1_000);
        }
        permit.learn(40);
        permit.settle(50);
    }
    let permit = admission.admit(stream(5_000)).await.unwrap();
    let set_aside = permit.meter.as_ref().unwrap().set_aside;
    assert!((40..=60).contains(&set_aside), "{set_aside}");
    assert_eq!(permit.gauges.budget.unwrap().remaining, 5_000 - 1_000 - 10 - set_aside);
    assert!(permit.meter.as_ref().unwrap().ask(3_000).await);
    // What is left is not enough for that.
    assert!(!permit.meter.as_ref().unwrap().ask(1_000).await);
    let Err(Denied::Limit(_)) = admission.admit(stream(4_050)).await else { panic!("let in") };
    drop(permit);
    // A strict tenant sets aside all of it, and is not metered.
    let strict = Ask { policy: Policy::default(), ..stream(5_000) };
    let permit = admission.admit(strict).await.unwrap();
    assert_eq!((permit.meter.is_none(), permit.gauges.budget.unwrap().remaining), (true, 2_990));
}

#[tokio::test(start_paused = true)]
async fn five_hundred_that_learn_never_pass_a_budget() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    for _ in 0..20 {
        let mut permit =
            admission.admit(streaming(Exhausted::Stop, daily(u64::MAX))).await.unwrap();
        permit.learn(40);
        drop(permit);
    }
    // Each wants twice of what is expected, in steps of ten.
    let streams = (0..500).map(|_| async {
        let Ok(mut permit) = admission.admit(streaming(Exhausted::Stop, daily(5_000))).await else {
            return 0;
        };
        let mut set_aside = permit.meter.as_ref().unwrap().set_aside;
        let mut used = 0;
        while used < 80 {
            if used + 10 > set_aside {
                if !permit.meter.as_ref().unwrap().ask(10).await {
                    break;
                }
                set_aside += 10;
            }
            used += 10;
            sleep(Duration::from_millis(1)).await;
        }
        permit.settle(10 + used);
        10 + used
    });
    let used: u64 = join_all(streams).await.into_iter().sum();
    assert!((4_000..=5_000).contains(&used), "{used}");
}

#[tokio::test(start_paused = true)]
async fn who_looks_sees_the_tenant_and_its_keys() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    assert!(admission.look(TenantId(Uuid::from_u128(1))).await.is_none());
    let _permit = admission.admit(ask(1, 7, rpm(10), at_once(3))).await.unwrap();
    assert_eq!(admission.tenants(), [TenantId(Uuid::from_u128(1))]);
    let look = admission.look(TenantId(Uuid::from_u128(1))).await.unwrap();
    assert_eq!((look.limits, look.standing.under_way, look.waiting), (rpm(10), 1, 0));
    assert_eq!(look.standing.gauges.requests.unwrap().remaining, 9);
    assert_eq!(look.keys.len(), 1);
    assert_eq!((look.keys[0].0, look.keys[0].2.under_way), (super::key(7), 1));
}

#[tokio::test(start_paused = true)]
async fn where_a_new_day_begins_the_count_is_compared_with_the_ledger() {
    let recorder = DebuggingRecorder::new();
    let drift = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let limited = of(100, ask(1, 1, daily(1_000), Limits::default()));
    let mut permit = admission.admit(limited.clone()).await.unwrap();
    permit.settle(70);
    drop(permit);
    let _under_way = admission.admit(limited.clone()).await.unwrap();
    // The ledger says something else of the day that has ended, and begins with nothing.
    stage.database.with(|stored| (stored.used, stored.used_before) = (0, 50));
    sleep(Duration::from_secs(24 * 60 * 60)).await;
    let permit = admission.admit(limited).await.unwrap();
    assert_eq!(permit.gauges.budget.unwrap().remaining, 900, "of the new day");
    let told: Vec<_> = drift.snapshot().into_vec();
    let told = told.iter().find(|(name, ..)| name.key().name() == names::BUDGET_DRIFT_TOKENS_TOTAL);
    let (name, .., value) = told.expect("a difference is counted");
    assert_eq!(name.key().labels().next().unwrap().value(), "over");
    assert_eq!(*value, DebugValue::Counter(20));
}
