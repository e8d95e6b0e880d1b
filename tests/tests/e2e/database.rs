//! A database that is full, or silent: requests are refused in time, and all is well when it is back.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use storage::scratch::{SmallDisk, run_on_sqlite};
use tests::{Setup, TestGateway, client::Reply, patience::eventually, post};

use crate::{settings, whole_chat};

/// Where a disk cannot be mounted: SQLite takes the transaction back by itself, as it does on a full one.
const FULL: &str = "CREATE TRIGGER full BEFORE INSERT ON audit_events
                    BEGIN SELECT RAISE (ROLLBACK, 'full'); END";
const FREE: &str = "DROP TRIGGER full";
/// What a busy machine may need on top of a deadline.
const GRACE: Duration = Duration::from_secs(4);

async fn ask(gateway: &TestGateway, key: &str) -> Reply {
    post(gateway.address, "/v1/chat/completions", Some(key), &whole_chat("hi")).await
}

#[tokio::test]
async fn what_waited_for_a_full_disk_is_stored_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(directory.path(), 8);
    let url = format!("sqlite:{}", directory.path().join("gateway.db").display());
    let setup = Setup { directory: Some(directory.path().to_owned()), ..Setup::default() };
    let gateway = TestGateway::with(setup).await;
    let mut asked = 0;
    for _ in 0..2 {
        match &disk {
            Some(disk) => disk.fill(),
            None => run_on_sqlite(&url, FULL).await.unwrap(),
        }
        let failures = gateway.metric("gateway_audit_failures_total").await;
        // There is some room in the log of what was written before.
        while gateway.metric("gateway_audit_failures_total").await < failures + 2.0 {
            let all = join_all((0..20).map(|_| ask(&gateway, &gateway.key))).await;
            assert!(all.iter().all(|reply| reply.status == 200), "{}", all[0].text());
            asked += all.len();
        }
        match &disk {
            Some(disk) => disk.free(),
            None => run_on_sqlite(&url, FREE).await.unwrap(),
        }
        assert_eq!(gateway.audited(asked).await.len(), asked);
    }
    let (_, key) = gateway.key(None).await;
    assert_eq!(ask(&gateway, &key).await.status, 200);
    assert_eq!(gateway.audited(asked + 1).await.len(), asked + 1);
}

#[tokio::test]
async fn a_silent_postgres_holds_no_request() {
    let hasty = settings([
        ("NEURONETZ_DATABASE_LOOKUP_TIMEOUT", "500ms"),
        ("NEURONETZ_DATABASE_BATCH_TIMEOUT", "1s"),
        ("NEURONETZ_DATABASE_ACQUIRE_TIMEOUT", "300ms"),
    ]);
    let gateway = TestGateway::with(Setup { slow_postgres: true, ..hasty }).await;
    let way = gateway.way.as_ref().unwrap();
    let granted = Cell::new(0);
    for _ in 0..2 {
        let (_, unseen) = gateway.key(None).await;
        eventually("the first reply", || async {
            (ask(&gateway, &gateway.key).await.status == 200).then_some(())
        })
        .await;
        granted.set(granted.get() + 1);

        way.delay(None);
        let begun = Instant::now();
        for reply in join_all((0..24).map(|_| ask(&gateway, &unseen))).await {
            assert_eq!((reply.status.as_u16(), &*reply.code()), (503, "identity_unavailable"));
        }
        assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
        // What is known is trusted for a second: nobody hears of a revocation.
        eventually("distrust", || async {
            let reply = ask(&gateway, &gateway.key).await;
            granted.set(granted.get() + usize::from(reply.status == 200));
            (reply.status == 503).then_some(())
        })
        .await;

        way.delay(Some(Duration::ZERO));
        for key in [&unseen, &gateway.key] {
            eventually("the replies", || async {
                (ask(&gateway, key).await.status == 200).then_some(())
            })
            .await;
            granted.set(granted.get() + 1);
        }
    }
    let recorded = async || {
        let events = gateway.audited(granted.get()).await;
        events.iter().filter(|event| event.status == 200).count()
    };
    eventually("the audit", || async { (recorded().await == granted.get()).then_some(()) }).await;
}
