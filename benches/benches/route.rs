//! Routing: the choice of an upstream and the wait for a turn at it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what cannot be measured says so by a panic"
)]

use std::{collections::HashMap, hint::black_box, sync::Arc, time::Duration};

use actors::{
    Handles,
    catalog::Model,
    rules::{
        breaker::Ended,
        fair_queue::{FairQueue, Settings},
        lane::{self, Asked, Lane},
        moment::Moment,
    },
};
use benches::stage::{MODEL, started};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use protocol::{id::TenantId, name::ModelName};
use tokio::{runtime, task::yield_now};
use uuid::Uuid;

const UPSTREAMS: usize = 4;
const TENANTS: u64 = 1_000;
const EACH: u64 = 8;

/// The model, once all upstreams have said that they have it.
async fn discovered(handles: &Handles) -> Arc<Model> {
    let name = ModelName::parse(MODEL).unwrap();
    loop {
        if let Ok(snapshot) = handles.catalog.current()
            && let Some(model) = snapshot.find(&name)
            && model.upstreams.len() == UPSTREAMS
        {
            return Arc::clone(model);
        }
        yield_now().await;
    }
}

fn choices(criterion: &mut Criterion) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let system = runtime.block_on(started(None, None, UPSTREAMS)).unwrap();
    let handles = &system.handles;
    let model = runtime.block_on(discovered(handles));
    let tenant = TenantId(Uuid::from_u128(1));
    let turn = async |among: &[_]| {
        let (upstream, mut waiting) = handles.upstreams.ask(among, &[], tenant, 1).unwrap();
        let mut turn = waiting.turn().await.unwrap();
        turn.begun();
        upstream
    };
    let mut group = criterion.benchmark_group("route");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one of four upstreams is chosen by what they publish", |bencher| {
        bencher.to_async(&runtime).iter(async || turn(&model.upstreams).await);
    });
    group.bench_function("naive: each of the four is asked how busy it is", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            let asked = model.upstreams.iter().map(async |upstream| {
                let look = handles.upstreams.look(&upstream.name).await.unwrap();
                (look.taken, upstream)
            });
            let looked = join_all(asked).await;
            let (_, least) = looked.into_iter().min_by_key(|(taken, _)| *taken).unwrap();
            turn(std::slice::from_ref(least)).await
        });
    });
    group.bench_function("the rule of one upstream gives a turn and takes it back", |bencher| {
        let mut lane = Lane::<TenantId, u64>::new(&lane::Settings::default(), Some(4));
        let mut ticket = 0;
        bencher.iter(|| {
            ticket += 1;
            let now = Moment::from_millis(ticket / 100);
            let Asked::Granted(_, pass) = lane.ask(black_box(tenant), 1, ticket, ticket, now)
            else {
                panic!("it has four slots")
            };
            lane.ended(pass, Ended::Well, Duration::from_millis(5), now, 0.5)
        });
    });
    group.finish();
}

/// The naive queue: who has been called least often is next, and of those who came first.
fn called(waiting: &mut Vec<(u64, u64)>, turns: &mut HashMap<u64, u64>) -> (u64, u64) {
    let of = |tenant: &u64| turns.get(tenant).copied().unwrap_or(0);
    let next = (0..waiting.len()).min_by_key(|at| of(&waiting[*at].0)).unwrap();
    let called = waiting.remove(next);
    *turns.entry(called.0).or_default() += 1;
    called
}

fn queues(criterion: &mut Criterion) {
    let all = || (0..TENANTS * EACH).map(|number| (number % TENANTS, number));
    let mut group = criterion.benchmark_group("a queue of 8,000 requests of 1,000 tenants");
    group.throughput(Throughput::Elements(1));
    group.bench_function("calls the next one, who comes again", |bencher| {
        let settings = Settings { per_tenant_max: 100, all_max: 10_000 };
        let mut queue = FairQueue::new(settings);
        let later = Moment::from_millis(30_000);
        for (tenant, number) in all() {
            queue.join(tenant, 1, later, number).unwrap();
        }
        bencher.iter(|| {
            let (tenant, number) = queue.call().unwrap();
            queue.join(tenant, 1, later, black_box(number)).unwrap()
        });
    });
    group.bench_function("naive: looks for who was called least often", |bencher| {
        let (mut waiting, mut turns) = (all().collect::<Vec<_>>(), HashMap::new());
        bencher.iter(|| {
            let next = called(&mut waiting, &mut turns);
            waiting.push(black_box(next));
        });
    });
    group.finish();
}

criterion_group!(benches, choices, queues);
criterion_main!(benches);
