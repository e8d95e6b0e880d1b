//! Admission: in process and over what replicas share, one request at a time and many at once.
//!
//! What is shared is a stand-in in process, which answers at once; with `TEST_REDIS_URL` set, that Redis.

#![expect(clippy::unwrap_used, reason = "what cannot be measured says so by a panic")]

use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use actors::rules::{account::Now, book::Book, moment::Moment, window::Window};
use async_trait::async_trait;
use benches::stage::{ask, limits, started};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use jiff::Timestamp;
use protocol::{
    id::{KeyId, TenantId},
    secret::Secret,
};
use storage::admission::{
    Admission, Admit, Answer, Member, Need, Operation, Unavailable, redis::Redis, redis::Settings,
};
use tokio::{runtime, task::yield_now};
use uuid::Uuid;

/// Requests of one tenant at once.
const AT_ONCE: usize = 64;

/// Requests a minute, where a window counts them.
const PER_MINUTE: u64 = 6_000;

/// What replicas share, in process: a book for each tenant.
struct Books {
    books: Mutex<HashMap<TenantId, Book>>,
    began: Instant,
}

#[async_trait]
impl Admission for Books {
    async fn exchange(
        &self,
        tenant: TenantId,
        batch: &[Operation],
    ) -> Result<Vec<Answer>, Unavailable> {
        // Whoever is asked over a network has others go first.
        yield_now().await;
        let moment = Moment::default().after(self.began.elapsed());
        let now = Now { moment, wall: Timestamp::now() };
        let mut books = self.books.lock();
        let book = books.entry(tenant).or_default();
        Ok(batch.iter().map(|operation| book.run(operation, now)).collect())
    }
}

/// What is shared, and what it is called.
#[expect(clippy::disallowed_methods, reason = "where a server is can be said only here")]
fn shared() -> (Arc<dyn Admission>, &'static str) {
    let Ok(url) = std::env::var("TEST_REDIS_URL") else {
        let began = Instant::now();
        return (Arc::new(Books { books: Mutex::default(), began }), "a stand-in for Redis");
    };
    let (deadline, lives_for) = (Duration::from_secs(10), Duration::from_secs(20));
    let settings = Settings { url: Secret::new(url), deadline, lives_for };
    (Arc::new(Redis::open(&settings).unwrap()), "Redis")
}

fn admit(number: u64) -> (Member, Operation) {
    let member = Member { replica: 1, number };
    let admit = Admit {
        member,
        key: KeyId(Uuid::from_u128(1)),
        tenant_limits: limits(),
        key_limits: limits(),
        need: Need { tokens: 90, tokens_max: 100 },
    };
    (member, Operation::Admit(admit))
}

/// A tenant of which nothing is known yet, on a Redis that others use, too.
fn tenant() -> TenantId {
    TenantId(Uuid::now_v7())
}

fn local(criterion: &mut Criterion) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let system = runtime.block_on(started(None, None, 0)).unwrap();
    let mut group = criterion.benchmark_group("admission, local");
    let tenant = tenant();
    group.throughput(Throughput::Elements(1));
    group.bench_function("the actor of a tenant lets a request in, and it is settled", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            let mut permit = system.handles.admission.admit(ask(tenant)).await.unwrap();
            permit.settle(50);
        });
    });
    group.bench_function("its rule alone does", |bencher| {
        let (mut book, mut number) = (Book::default(), 0);
        bencher.iter(|| {
            number += 1;
            let now =
                Now { moment: Moment::from_millis(number / 100), wall: Timestamp::UNIX_EPOCH };
            let (member, operation) = admit(number);
            let admitted = book.run(black_box(&operation), now);
            book.run(&Operation::Settle { member, used: 50 }, now);
            assert!(matches!(admitted, Answer::Admitted(_)));
        });
    });
    group.finish();
}

fn coalesced(criterion: &mut Criterion) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (shared, name) = shared();
    let admission = Arc::clone(&shared);
    let system = runtime.block_on(started(Some(admission), None, 0)).unwrap();
    let mut group = criterion.benchmark_group(format!("admission, shared over {name}"));
    let together = tenant();
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    group.bench_function("64 requests of a tenant at once go in few exchanges", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            let admission = &system.handles.admission;
            let all = join_all((0..AT_ONCE).map(|_| admission.admit(ask(together)))).await;
            for permit in all {
                permit.unwrap().settle(50);
            }
        });
    });
    let apart = tenant();
    let mut number = 0;
    group.bench_function("naive: each of the 64 is an exchange, and so is its end", |bencher| {
        bencher.iter(|| {
            number += AT_ONCE as u64;
            let each = |number| {
                let shared = &shared;
                async move {
                    let (member, operation) = admit(number);
                    let admitted = shared.exchange(apart, &[operation]).await.unwrap();
                    let settle = Operation::Settle { member, used: 50 };
                    let settled = shared.exchange(apart, &[settle]).await.unwrap();
                    (admitted, settled)
                }
            };
            let numbers = number..number + AT_ONCE as u64;
            let all = runtime.block_on(join_all(numbers.map(each)));
            assert!(all.iter().all(|(one, _)| matches!(one.as_slice(), [Answer::Admitted(_)])));
        });
    });
    group.finish();
}

/// A window as it comes to mind: the moments of all that was taken in the last sixty seconds.
fn windows(criterion: &mut Criterion) {
    let pause = 60_000 / PER_MINUTE;
    let mut group = criterion.benchmark_group("a window that is nearly full");
    group.throughput(Throughput::Elements(1));
    group.bench_function("counts by steps of half a second", |bencher| {
        let (mut window, mut at) = (Window::new(PER_MINUTE), 0);
        bencher.iter(|| {
            at += pause;
            window.take(1, Moment::from_millis(black_box(at))).is_ok()
        });
    });
    group.bench_function("naive: keeps a log and adds up what is young", |bencher| {
        let (mut log, mut at) = (VecDeque::<(u64, u64)>::new(), 0);
        bencher.iter(|| {
            at += pause;
            let now = black_box(at);
            log.retain(|(then, _)| now - then < 60_000);
            let used: u64 = log.iter().map(|(_, amount)| amount).sum();
            let granted = used < PER_MINUTE;
            if granted {
                log.push_back((now, 1));
            }
            granted
        });
    });
    group.finish();
}

criterion_group!(benches, local, coalesced, windows);
criterion_main!(benches);
