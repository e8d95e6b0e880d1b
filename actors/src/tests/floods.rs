//! What one caller does to the audit that all share.

use futures_util::FutureExt as _;
use protocol::{error::Code, telemetry as names};

use super::*;
use crate::audit::Place;

/// Requests that are rows of their own: of five seconds.
const ROWS_AT_ONCE: usize = 50;

fn tenant(number: u128) -> TenantId {
    TenantId(Uuid::from_u128(number))
}

/// A request that a limit refused.
fn refused(number: u128, caller: u128) -> AuditEvent {
    AuditEvent {
        tenant: Some(tenant(caller)),
        key: Some(key(caller)),
        status: 429,
        outcome: Outcome::Refused,
        code: Some(Code::RateLimitRequests),
        ..event(number)
    }
}

impl Stage {
    fn requests(&self) -> u64 {
        self.database.with(|stored| stored.requests)
    }

    fn place(&self, of: u128) -> Result<Place, Saturated> {
        self.system.handles.audit.reserve(tenant(of))
    }

    /// Requests are refused, each after it got a place.
    fn refuse(&self, caller: u128, count: u128) {
        for number in 0..count {
            let place = self.place(caller).ok();
            self.system.handles.audit.record(place, refused(caller * 1_000_000 + number, caller));
        }
    }
}

/// What a counter says, of all its labels or of those with this one.
fn counted(recorder: &DebuggingRecorder, name: &str, label: Option<&str>) -> u64 {
    let all = recorder.snapshotter().snapshot().into_vec();
    let of = all.iter().filter(|(key, ..)| {
        let mut labels = key.key().labels();
        key.key().name() == name && label.is_none_or(|wanted| labels.any(|l| l.value() == wanted))
    });
    of.map(|(.., value)| match value {
        DebugValue::Counter(count) => *count,
        other => panic!("{other:?}"),
    })
    .sum()
}

#[tokio::test(start_paused = true)]
async fn refusals_beyond_a_rate_are_counted_in_one_event() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let stage = Stage::new(places(10_000), &[]).await;
    stage.refuse(1, 500);
    // What another caller does, and what used tokens, stays as it is.
    stage.refuse(2, 20);
    for number in 0..100 {
        let usage = Usage { prompt: 1, ..Usage::default() };
        let paid = AuditEvent { usage, ..refused(5_000_000 + number, 1) };
        stage.system.handles.audit.record(stage.place(1).ok(), paid);
    }
    // The end of the burst is enough: nothing else happens.
    eventually("all of them", || stage.requests() == 620).await;
    assert_eq!(stage.database.events().len(), ROWS_AT_ONCE + 1 + 20 + 100);
    assert_eq!(counted(&recorder, names::AUDIT_FOLDED_TOTAL, None), 450);
    assert_eq!(stage.system.handles.audit.unstored(), 0);
    // After a while the caller has rows of its own again.
    sleep(Duration::from_secs(60)).await;
    stage.refuse(1, 10);
    eventually("ten more", || stage.database.events().len() == ROWS_AT_ONCE + 131).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_that_goes_on_makes_so_many_rows_a_second() {
    let stage = Stage::new(places(10_000), &[]).await;
    for round in 0..600_u128 {
        for number in 0..20 {
            // Of several kinds, which are not mixed up.
            let model = (number % 2 == 0).then(|| ModelName::parse("llama3").unwrap());
            let event = AuditEvent { model, ..refused(round * 100 + number, 1) };
            stage.system.handles.audit.record(stage.place(1).ok(), event);
        }
        sleep(Duration::from_millis(100)).await;
    }
    eventually("all of them", || stage.requests() == 12_000).await;
    let rows = stage.database.events().len();
    // A minute: ten a second, the burst, and two kinds every five seconds.
    assert!((600..=600 + ROWS_AT_ONCE + 30).contains(&rows), "{rows}");
}

#[tokio::test(start_paused = true)]
async fn many_kinds_of_one_caller_are_folded_too() {
    let stage = Stage::new(places(10_000), &[]).await;
    for number in 0..5_000_u128 {
        let model = ModelName::parse(&format!("model-{}", number % 1_000)).ok();
        let event = AuditEvent { model, ..refused(number, 1) };
        stage.system.handles.audit.record(None, event);
    }
    eventually("all of them", || stage.requests() == 5_000).await;
    let rows = stage.database.events().len();
    assert!(rows <= ROWS_AT_ONCE + 33, "{rows}");
}

#[tokio::test(start_paused = true)]
async fn what_is_folded_survives_a_crash_and_is_stored_at_the_end() {
    let stage = Stage::new(places(10_000), &[]).await;
    stage.refuse(1, 200);
    stage.system.handles.audit.poison();
    stage.refuse(2, 200);
    eventually("all of them", || stage.requests() >= 400).await;
    stage.refuse(3, 300);
    let before = stage.requests();
    let Stage { system, database, .. } = stage;
    let stopped = system.stop(Duration::from_secs(1)).await;
    assert_eq!(stopped, Stopped { unstored: 0 });
    assert_eq!(database.with(|stored| stored.requests), before + 300);
}

#[tokio::test(start_paused = true)]
async fn one_tenant_takes_its_share_of_the_places_and_shuts_nobody_out() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let stage = Stage::new(places(90), &[]).await;
    let audit = &stage.system.handles.audit;
    stage.database.away(true);
    let mut held: Vec<_> = (0..).map_while(|_| stage.place(1).ok()).collect();
    assert_eq!(held.len(), 60);
    held.push(stage.place(2).unwrap());
    assert!(!audit.state().is_refusing, "one tenant's share is no reason to be unready");
    // What it is refused for is counted: it has no place even for that.
    let paid = |number| AuditEvent {
        usage: Usage { prompt: 1, ..Usage::default() },
        ..refused(number, 1)
    };
    (0..7).for_each(|number| audit.record(None, paid(number)));
    assert_eq!(counted(&recorder, names::AUDIT_DROPPED_TOTAL, Some("share")), 7);
    // The database is away, and somebody was refused for it.
    audit.record(held.pop(), paid(100));
    eventually("the failure", || audit.state().failing_since.is_some()).await;
    assert_eq!(stage.place(1).err(), Some(Saturated));
    assert!(audit.state().is_refusing);
    let others: Vec<_> = (2..100).filter_map(|number| stage.place(number).ok()).collect();
    assert_eq!(others.len(), 29);
    audit.record(None, paid(101));
    audit.record(None, refused(102, 500));
    assert_eq!(counted(&recorder, names::AUDIT_DROPPED_TOTAL, Some("full")), 2);
    stage.database.away(false);
    eventually("the return", || audit.state().failing_since.is_none()).await;
    drop((held, others));
    assert!(!audit.state().is_refusing);
}

#[tokio::test(start_paused = true)]
async fn with_a_full_ring_refusals_are_still_counted_where_they_are_folded() {
    let stage = Stage::new(places(90), &[]).await;
    stage.refuse(1, 55);
    let _held: Vec<_> = (0..).map_while(|_| stage.place(2).ok()).collect();
    let _more: Vec<_> = (3..200).map_while(|number| stage.place(number).ok()).collect();
    for number in 0..100 {
        stage.system.handles.audit.record(None, refused(9_000_000 + number, 1));
    }
    eventually("all of them", || stage.requests() == 155).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_events_of_requests_that_are_not_over() {
    let stage = Stage::new(places(100), &[]).await;
    let place = stage.place(1).unwrap();
    let Stage { system, database, .. } = stage;
    let audit = system.handles.audit.clone();
    let late = async {
        sleep(Duration::from_secs(3)).await;
        audit.record(Some(place), refused(1, 1));
    };
    let stopping = system.stop(Duration::from_secs(5));
    let (stopped, ()) = tokio::join!(stopping, late);
    assert_eq!((stopped, database.events().len()), (Stopped { unstored: 0 }, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_says_how_many_requests_never_ended() {
    let stage = Stage::new(places(100), &[]).await;
    let held = [stage.place(1).unwrap(), stage.place(2).unwrap()];
    let began = Instant::now();
    let stopped = stage.system.stop(Duration::from_secs(5)).await;
    assert_eq!(stopped, Stopped { unstored: 2 });
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    drop(held);
    // A place that is given back without an event is waited for, too.
    let stage = Stage::new(places(100), &[]).await;
    let place = stage.place(1).unwrap();
    let mut stopping = Box::pin(stage.system.stop(Duration::from_secs(5)));
    assert!(stopping.as_mut().now_or_never().is_none());
    drop(place);
    assert_eq!(stopping.await, Stopped { unstored: 0 });
}
