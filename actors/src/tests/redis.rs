//! Replicas on a real Redis: what it forgets, and what was counted there wrongly.

use std::sync::atomic::{AtomicU64, Ordering};

use identity::limits::Correction;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use protocol::{secret::Secret, telemetry as names};
use storage::{admission::redis, scratch::ScratchRedis};

use super::{
    admission::{ask, at_once, daily, of},
    *,
};
use crate::tenant::LIVES_FOR;

/// A client of a Redis.
pub(super) fn client(server: &ScratchRedis, lives_for: Duration) -> Arc<redis::Redis> {
    let url = Secret::new(server.url.clone());
    // A slow machine is no reason to fail.
    let settings = redis::Settings { url, deadline: Duration::from_secs(10), lives_for };
    Arc::new(redis::Redis::open(&settings).unwrap())
}

async fn replica(redis: &Arc<redis::Redis>) -> Stage {
    let stage =
        Stage::sharing(Settings::default(), &[], Some(Arc::clone(redis) as Arc<dyn Admission>));
    let stage = stage.await;
    // It is long ago that anything was used.
    stage.database.with(|stored| stored.first_day = Some(Timestamp::MIN));
    stage
}

fn tenant() -> u128 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

#[tokio::test]
async fn what_redis_forgets_is_said_again_before_anybody_is_let_in() {
    let server = ScratchRedis::start().await;
    let redis = client(&server, LIVES_FOR);
    let (one, two) = (replica(&redis).await, replica(&redis).await);
    let tenant = tenant();
    let limits = Limits { concurrency: Some(6), ..daily(1_000) };
    let ask = || of(100, ask(tenant, 1, limits, at_once(6)));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(one.system.handles.admission.admit(ask()).await.unwrap());
    }
    held.push(two.system.handles.admission.admit(ask()).await.unwrap());
    server.run("FLUSHALL").await;
    // Its own three are known at once; the other's one is missing until it is heard of.
    let next = one.system.handles.admission.admit(ask()).await.unwrap();
    assert_eq!(next.gauges.budget.unwrap().remaining, 1_000 - 300 - 100);
    let under_way = async || {
        let look = one.system.handles.admission.look(ask().tenant).await;
        look.map(|look| look.standing.under_way)
    };
    assert_eq!(under_way().await, Some(4));
    let began = Instant::now();
    while under_way().await != Some(5) {
        assert!(began.elapsed() < Duration::from_secs(10), "the other one is not heard of");
        sleep(Duration::from_millis(50)).await;
    }
    let last = one.system.handles.admission.admit(ask()).await.unwrap();
    assert_eq!(last.gauges.budget.unwrap().remaining, 1_000 - 600);
    assert!(one.system.handles.admission.admit(ask()).await.is_err());
    // What ends gives back what was said again.
    held.iter_mut().for_each(|permit| permit.settle(10));
    drop((held, next, last));
    eventually("the end of all", || one.system.handles.admission.running() == 1).await;
    let began = Instant::now();
    while under_way().await != Some(0) {
        assert!(began.elapsed() < Duration::from_secs(10), "something stays under way");
        sleep(Duration::from_millis(10)).await;
    }
    let look = one.system.handles.admission.look(ask().tenant).await.unwrap();
    assert_eq!(look.standing.gauges.budget.unwrap().remaining, 1_000 - 40);
}

#[tokio::test]
async fn a_count_in_redis_is_compared_with_the_ledger_at_midnight_and_on_demand() {
    let recorder = DebuggingRecorder::new();
    let drift = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let drifted = |direction: &str| {
        let told = drift.snapshot().into_vec();
        let found = told.into_iter().find(|(name, ..)| {
            let key = name.key();
            key.name() == names::BUDGET_DRIFT_TOKENS_TOTAL
                && key.labels().any(|label| label.value() == direction)
        });
        found.map(|(.., value)| value)
    };
    let server = ScratchRedis::start().await;
    let redis = client(&server, LIVES_FOR);
    let stage = replica(&redis).await;
    let admission = &stage.system.handles.admission;
    let limited = of(100, ask(tenant(), 1, daily(1_000), Limits::default()));
    let mut permit = admission.admit(limited.clone()).await.unwrap();
    permit.settle(70);
    drop(permit);
    let counter = format!("nz:{{{}}}:t:b", limited.tenant.0.as_simple());
    server.run(&format!("HINCRBY {counter} s 25")).await;
    // The ledger has what was really used, which is told after midnight; the new day begins with 0.
    stage.database.with(|stored| {
        (stored.used_before, stored.first_day) = (70, Some(Timestamp::now()));
    });
    redis.set_ahead(Duration::from_secs(24 * 60 * 60));
    let mut permit = admission.admit(limited.clone()).await.unwrap();
    assert_eq!(permit.gauges.budget.unwrap().remaining, 900, "of the new day");
    assert_eq!(drifted("over"), Some(DebugValue::Counter(25)));
    permit.settle(30);
    drop(permit);
    // Somebody asks for it: what is counted of this day is not what the ledger says of it.
    server.run(&format!("HINCRBY {counter} s -20")).await;
    stage.database.with(|stored| stored.used = 30);
    let mut corrected = Budget::new(1_000, LimitPeriod::Day);
    corrected.correction = Correction { read_at: Some(Timestamp::now()), ..Correction::default() };
    let tenant_limits = Limits { budget: Some(corrected), ..Limits::default() };
    let permit = admission.admit(Ask { tenant_limits, ..limited }).await.unwrap();
    assert_eq!(permit.gauges.budget.unwrap().remaining, 1_000 - 30 - 100);
    assert_eq!(drifted("under"), Some(DebugValue::Counter(20)));
}
