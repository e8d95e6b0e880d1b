//! Settling: a permit that ends, and what happened written down, beside a database that is told of each request.

#![expect(clippy::unwrap_used, reason = "what cannot be measured says so by a panic")]

use std::{sync::Arc, time::Duration};

use actors::Handles;
use benches::stage::{ask, event, started};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use jiff::Timestamp;
use protocol::{
    id::{RequestId, TenantId},
    secret::Secret,
};
use storage::{Storage, audit::AuditEvent};
use tokio::runtime::{self, Runtime};
use uuid::Uuid;

/// Requests that end together.
const AT_ONCE: usize = 64;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));

/// What happened of one more request.
fn happened() -> AuditEvent {
    event(RequestId(Uuid::now_v7()), TENANT, Timestamp::now())
}

async fn database(url: String) -> Storage {
    let acquire_timeout = Duration::from_secs(20);
    let deadlines = storage::Deadlines::default();
    let url = Secret::new(url);
    let config = storage::Config { url, connections_max: 4, acquire_timeout, deadlines };
    let storage = storage::open(config).await.unwrap();
    storage.database.migrate().await.unwrap();
    storage
}

/// Requests that were let in are settled, and stored.
async fn settle(handles: &Handles) {
    let admitted = join_all((0..AT_ONCE).map(|_| handles.admission.admit(ask(TENANT)))).await;
    for permit in admitted {
        let place = handles.audit.reserve(TENANT).unwrap();
        permit.unwrap().settle(50);
        place.record(happened());
    }
    handles.audit.flush().await;
}

fn settling(criterion: &mut Criterion) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("audit.db").display());
    let storage = runtime.block_on(database(url));
    let in_process = runtime.block_on(started(None, None, 0)).unwrap();
    let on_sqlite = runtime.block_on(started(None, Some(storage.audit.clone()), 0)).unwrap();
    let mut group = criterion.benchmark_group("settle 64 requests");
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    group.bench_function("their permits end and their events lie in the ring", |bencher| {
        bencher.to_async(&runtime).iter(async || settle(&in_process.handles).await);
    });
    group.bench_function("the same, and SQLite has the batch and its sums of usage", |bencher| {
        bencher.to_async(&runtime).iter(async || settle(&on_sqlite.handles).await);
    });
    group.sample_size(10);
    group.bench_function("naive: each writes its own event", |bencher| {
        write(bencher, &runtime, &storage);
    });
    group.finish();
}

fn write(bencher: &mut criterion::Bencher<'_>, runtime: &Runtime, storage: &Storage) {
    let audit = Arc::clone(&storage.audit);
    let events = || (0..AT_ONCE).map(|_| happened()).collect::<Vec<_>>();
    bencher.iter_batched(
        events,
        |events| {
            runtime.block_on(async {
                for one in &events {
                    audit.append(std::slice::from_ref(one)).await.unwrap();
                }
            });
        },
        BatchSize::PerIteration,
    );
}

criterion_group!(benches, settling);
criterion_main!(benches);
