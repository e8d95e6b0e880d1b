//! What is lost in the middle of a run: nobody is let in unjudged, and nothing goes unrecorded.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use futures_util::future::{join, join_all};
use storage::{audit::AuditQuery, limits::Limits};
use tests::{Kept, Setup, TestGateway, patience::eventually};

use crate::whole_chat;

/// Clients that ask one after another, all at once.
const CLIENTS: usize = 20;
/// Replies before something is lost.
const EARLY: usize = 200;
/// Refusals that each client gets to what it asks afterwards, before it leaves.
const LATE: usize = 50;

/// What clients saw of a run.
#[derive(Default)]
struct Run {
    lost: AtomicBool,
    granted: AtomicUsize,
    granted_late: AtomicUsize,
}

impl Run {
    /// Lets clients ask, loses something in the middle of it, and lets them ask on.
    async fn through(
        gateway: TestGateway,
        key: &str,
        lose: impl AsyncFnOnce(TestGateway) -> TestGateway,
    ) -> (TestGateway, Self) {
        let run = Self::default();
        let address = gateway.address;
        let clients = join_all((0..CLIENTS).map(|_| run.client(address, key)));
        let losing = async {
            eventually("the run", || async { (run.granted.load(SeqCst) >= EARLY).then_some(()) })
                .await;
            let gateway = lose(gateway).await;
            run.lost.store(true, SeqCst);
            gateway
        };
        let (_, gateway) = join(clients, losing).await;
        (gateway, run)
    }

    async fn client(&self, address: std::net::SocketAddr, key: &str) {
        let mut kept = Kept::open(address).await;
        let mut refused = 0;
        while refused < LATE {
            let asked_late = self.lost.load(SeqCst);
            let reply = kept.post("/api/chat", key, &whole_chat("hi")).await;
            let granted = usize::from(reply.status == 200);
            assert!(granted == 1 || reply.status == 503, "{}", reply.text());
            self.granted.fetch_add(granted, SeqCst);
            if asked_late {
                refused += 1 - granted;
                self.granted_late.fetch_add(granted, SeqCst);
            }
        }
    }
}

/// Waits until as many requests stand in the audit as were let in; more never come.
async fn all_recorded(gateway: &TestGateway, granted: usize) {
    let recorded = async || {
        let query =
            AuditQuery { tenant: Some(gateway.tenant.id), limit: 10_000, ..AuditQuery::default() };
        let events = gateway.storage.audit.query(query).await.unwrap_or_default();
        events.iter().filter(|event| event.status == 200).count()
    };
    eventually("the audit", || async { (recorded().await >= granted).then_some(()) }).await;
    gateway.stop().await;
    assert_eq!(recorded().await, granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_is_asked_after_redis_was_killed_nothing_is_let_in() {
    let setup = Setup { postgres: true, redis: true, ..Setup::default() };
    let gateway = TestGateway::with(setup).await;
    let limits = Limits { rpm: Some(1_000_000), ..Limits::default() };
    let (_, key) = gateway.limited(limits).await;
    let (gateway, run) = Run::through(gateway, &key, async |mut gateway| {
        gateway.redis().stop();
        gateway
    })
    .await;
    assert_eq!(run.granted_late.into_inner(), 0);
    all_recorded(&gateway, run.granted.into_inner()).await;
}

/// Loses Postgres where the audit has so many places; returns how many were let in afterwards.
async fn without_postgres(places: usize) -> usize {
    let env = vec![("NEURONETZ_AUDIT_PLACES_MAX", places.to_string())];
    let gateway = TestGateway::with(Setup { postgres: true, env, ..Setup::default() }).await;
    let key = gateway.key.clone();
    let (gateway, run) = Run::through(gateway, &key, async |gateway| {
        gateway.lose_database().await;
        gateway
    })
    .await;
    gateway.find_database().await;
    all_recorded(&gateway, run.granted.into_inner()).await;
    run.granted_late.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgres_nobody_is_let_in_whom_the_audit_has_no_place_for() {
    let late = without_postgres(64).await;
    assert!(late <= 64, "{late} were let in after Postgres was gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgres_proven_keys_go_on_for_a_while() {
    assert!(without_postgres(65_536).await > 0);
}
