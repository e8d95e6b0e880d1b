//! How much memory a gateway takes for those who use it.

use futures_util::{StreamExt as _, stream};
use identity::policy::Policy;
use storage::limits::{Budget, LimitPeriod, Limits};
use tests::{Kept, Process, Setup, TestGateway};

use crate::whole_chat;

const TENANTS: usize = 1_000;
const ACTIVE: usize = 10_000;
const KNOWN: usize = 100_000;
/// Keys that ask before it is measured: what is made once has been made.
const FIRST: usize = 1_000;
const BYTES_MAX: usize = 4 * 1024;
/// What is done at once.
const AT_ONCE: usize = 16;

/// Limits of every kind.
fn limits() -> Limits {
    Limits {
        rpm: Some(1_000),
        tpm: Some(1_000_000),
        concurrency: Some(10),
        budget: Some(Budget::new(1_000_000, LimitPeriod::Day)),
        ..Limits::default()
    }
}

/// Makes tenants with limits; of them, [`ACTIVE`] keys with limits.
async fn make_keys(gateway: &TestGateway) -> Vec<String> {
    let tenants = stream::iter(0..TENANTS).map(|number| async move {
        let name = format!("tenant-{number}");
        gateway.another_tenant(&name, limits(), Policy::default()).await.id
    });
    let tenants: Vec<_> = tenants.buffer_unordered(AT_ONCE).collect().await;
    let keys = stream::iter(0..ACTIVE).map(|number| {
        let tenant = tenants[number % TENANTS];
        async move { gateway.key_of(tenant).await }
    });
    let keys: Vec<_> = keys.buffered(AT_ONCE).collect().await;
    for statement in [
        // Every key has limits of its own.
        "INSERT INTO gateway.key_limits (key_id, rpm, tpm, concurrency, budget_tokens, budget_period)
         SELECT id, 1000, 1000000, 10, 1000000, 'day' FROM gateway.keys
         ON CONFLICT (key_id) DO UPDATE SET rpm = 1000, tpm = 1000000, concurrency = 10,
             budget_tokens = 1000000, budget_period = 'day'"
            .to_owned(),
        // The rest are known and ask for nothing.
        format!(
            "INSERT INTO gateway.keys (id, tenant_id, name, prefix, hash)
             SELECT gen_random_uuid(), (SELECT id FROM gateway.tenants LIMIT 1), 'idle',
                 'idle' || number, '-' FROM generate_series(1, {}) AS number",
            KNOWN - ACTIVE
        ),
    ] {
        gateway.scratch().run(&statement).await.unwrap();
    }
    keys
}

/// Each key asks once.
async fn ask(process: &Process, keys: &[String]) {
    let shares = keys.chunks(keys.len().div_ceil(AT_ONCE));
    futures_util::future::join_all(shares.map(async |share| {
        let mut kept = Kept::open(process.address).await;
        for key in share {
            let reply = kept.post("/api/chat", key, &whole_chat("hi")).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_active_takes_less_than_four_kib() {
    let gateway = TestGateway::with(Setup { postgres: true, ..Setup::default() }).await;
    let keys = make_keys(&gateway).await;
    let process = Process::start(gateway.env().to_vec()).await;
    let (first, others) = keys.split_at(FIRST);
    ask(&process, first).await;
    let before = process.memory();
    ask(&process, others).await;
    let taken = process.memory().saturating_sub(before);
    let each = taken / others.len();
    println!("{each} bytes for each key that is active");
    assert!(each < BYTES_MAX, "{each} bytes for each key that is active");
}
