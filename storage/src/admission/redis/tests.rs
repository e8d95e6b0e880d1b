//! Redis as it behaves, and as it fails.

use identity::limits::Budget;
use parking_lot::Mutex;
use protocol::id::TenantId;

use identity::limits::{LimitPeriod, Limits};
use jiff::Timestamp;
use protocol::id::KeyId;
use uuid::Uuid;

use super::{
    wire::{Told, wait_of},
    *,
};
use crate::admission::{Member, Unknown, Usage, Wait};
use crate::{
    admission::{Admit, Need, contract},
    scratch::ScratchRedis,
};

const LIVES_FOR: Duration = Duration::from_secs(20);

struct OnRedis {
    redis: Redis,
    ahead: Mutex<Duration>,
}

impl contract::Stage for OnRedis {
    fn admission(&self) -> &dyn Admission {
        &self.redis
    }

    fn advance(&self, by: Duration) {
        let mut ahead = self.ahead.lock();
        *ahead += by;
        self.redis.set_ahead(*ahead);
    }

    fn go_back(&self, by: Duration) {
        let mut ahead = self.ahead.lock();
        *ahead -= by;
        self.redis.set_ahead(*ahead);
    }

    fn now(&self) -> Timestamp {
        Timestamp::now().checked_add(*self.ahead.lock()).unwrap()
    }
}

fn open(url: &str, deadline: Duration) -> Redis {
    let url = Secret::new(url.to_owned());
    Redis::open(&Settings { url, deadline, lives_for: LIVES_FOR }).unwrap()
}

fn shared() -> OnRedis {
    #[expect(clippy::disallowed_methods, reason = "where the test server is can be said only here")]
    let url = std::env::var("TEST_REDIS_URL")
        .expect("TEST_REDIS_URL is not set: run `make test`, or see tests/services");
    // A slow machine is no reason to fail.
    OnRedis { redis: open(&url, Duration::from_secs(10)), ahead: Mutex::default() }
}

crate::admission_contract!(shared());

fn tenant() -> TenantId {
    TenantId(Uuid::now_v7())
}

fn member(number: u64) -> Member {
    Member { replica: 7, number }
}

fn admit(number: u64, limits: Limits) -> Operation {
    let key = KeyId(Uuid::from_u128(1));
    let need = Need { tokens: 10, tokens_max: 10 };
    let (member, key_limits) = (member(number), Limits::default());
    Operation::Admit(Admit { member, key, tenant_limits: limits, key_limits, need })
}

/// What is not known, and the word on it: so much is used.
async fn unknown(redis: &Redis, tenant: TenantId, limits: Limits, used: u64) -> Operation {
    let asked = redis.exchange(tenant, &[admit(99, limits)]).await.unwrap().remove(0);
    let Answer::Unknown(unknown) = asked else { panic!("{asked:?}") };
    let Unknown { key, period, start, read_at, counted, settled, memory } = unknown[0];
    let counted = counted.map_or(settled, |counted| counted.used);
    Operation::SetUsage(Usage { key, period, start, used, counted, read_at, memory })
}

async fn learn(redis: &Redis, tenant: TenantId, limits: Limits, used: u64) {
    let said = unknown(redis, tenant, limits, used).await;
    redis.exchange(tenant, &[said]).await.unwrap();
}

fn let_in(answers: &[Answer]) -> Vec<bool> {
    answers.iter().map(|answer| matches!(answer, Answer::Admitted(_))).collect()
}

#[tokio::test]
async fn who_is_not_heard_of_gives_back_what_it_held() {
    let stage = shared();
    let (tenant, total) = (tenant(), LimitPeriod::Total);
    let limits =
        Limits { concurrency: Some(2), budget: Some(Budget::new(20, total)), ..Limits::default() };
    let run = async |batch: &[Operation]| stage.redis.exchange(tenant, batch).await.unwrap();
    learn(&stage.redis, tenant, limits, 0).await;
    assert_eq!(let_in(&run(&[admit(1, limits), admit(2, limits)]).await), [true, true]);
    for _ in 0..5 {
        contract::Stage::advance(&stage, LIVES_FOR / 2);
        // One of the two has died.
        let beaten = run(&[Operation::Beat { members: vec![member(1)] }]).await;
        assert_eq!(beaten, [Answer::Missing(vec![])]);
    }
    assert_eq!(let_in(&run(&[admit(3, limits), admit(4, limits)]).await), [true, false]);
    // It is not dead after all, and hears that it is taken for it.
    let beaten = run(&[Operation::Beat { members: vec![member(2), member(3)] }]).await;
    assert_eq!(beaten, [Answer::Missing(vec![member(2)])]);
}

/// A replica that died while the clock was ahead holds its slots for as long as any other, and no longer.
#[tokio::test]
async fn who_died_while_the_clock_was_ahead_gives_back_what_it_held() {
    let stage = shared();
    let (tenant, ahead) = (tenant(), Duration::from_secs(3_600));
    let limits = Limits { concurrency: Some(1), ..Limits::default() };
    let ask = async |number| {
        let_in(&stage.redis.exchange(tenant, &[admit(number, limits)]).await.unwrap())[0]
    };
    contract::Stage::advance(&stage, ahead);
    assert!(ask(1).await);
    contract::Stage::go_back(&stage, ahead);
    assert!(!ask(2).await);
    contract::Stage::advance(&stage, LIVES_FOR + Duration::from_secs(1));
    assert!(ask(3).await);
}

#[tokio::test]
async fn what_redis_has_forgotten_is_said_again() {
    let server = ScratchRedis::start().await;
    let redis = open(&server.url, Duration::from_secs(5));
    let tenant = tenant();
    let limits = Limits {
        concurrency: Some(2),
        budget: Some(Budget::new(20, LimitPeriod::Day)),
        ..Limits::default()
    };
    let run = async |batch: &[Operation]| redis.exchange(tenant, batch).await.unwrap();
    let learn = async || learn(&redis, tenant, limits, 0).await;
    learn().await;
    let Answer::Admitted(admitted) = run(&[admit(1, limits)]).await.remove(0) else {
        panic!("refused")
    };
    // The scripts go as well: they are loaded again.
    server.run("FLUSHALL").await;
    server.run("SCRIPT FLUSH").await;
    let beaten = run(&[Operation::Beat { members: vec![member(1)] }]).await;
    assert_eq!(beaten, [Answer::Missing(vec![member(1)])]);
    let held = admitted.held;
    run(&[Operation::Register { member: member(1), held: held.clone() }]).await;
    run(&[Operation::Register { member: member(1), held }]).await;
    learn().await;
    // What it holds is set aside again: of slots and of the budget.
    assert_eq!(let_in(&run(&[admit(2, limits), admit(3, limits)]).await), [true, false]);
    run(&[Operation::Settle { member: member(1), used: 3 }]).await;
    let looked = run(&[Operation::Look { tenant_limits: limits, keys: vec![] }]).await;
    let [Answer::Looked(standings)] = looked.as_slice() else { panic!("{looked:?}") };
    assert_eq!(standings[0].under_way, 1);
    assert_eq!(standings[0].gauges.budget.unwrap().remaining, 7);
}

#[tokio::test]
async fn a_redis_that_cannot_say_is_no_yes_and_comes_back() {
    let mut server = ScratchRedis::start().await;
    let redis = open(&server.url, Duration::from_millis(250));
    let tenant = tenant();
    let limits = Limits { rpm: Some(1_000), ..Limits::default() };
    let run = async || redis.exchange(tenant, &[admit(1, limits)]).await;
    let comes_back = async || {
        let back = tokio::time::timeout(Duration::from_secs(20), async {
            while run().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(back.await.is_ok(), "it does not come back");
    };
    comes_back().await;
    for (fault, mended) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CLIENT PAUSE 1500 ALL", "PING"),
    ] {
        server.run(fault).await;
        for _ in 0..3 {
            assert!(run().await.is_err(), "{fault}");
        }
        server.run(mended).await;
        comes_back().await;
    }
    server.stop();
    for _ in 0..3 {
        assert!(run().await.is_err());
    }
    server.start_again().await;
    comes_back().await;
}

#[tokio::test]
async fn a_server_says_whether_it_is_there() {
    let mut server = ScratchRedis::start().await;
    let redis = open(&server.url, Duration::from_secs(2));
    assert_eq!(redis.ping().await, Ok(()));
    assert_eq!(redis.exchange(tenant(), &[]).await, Ok(vec![]));
    server.stop();
    assert!(redis.ping().await.is_err());
    redis.close().await;
}

#[test]
fn what_is_not_whole_is_no_answer() {
    let batch = [Operation::Cancel { member: member(1) }, Operation::Cancel { member: member(2) }];
    for (text, is_answer) in
        [("[{},{}]", true), ("[{}]", false), ("[{},{},{}]", false), ("{}", false), ("OK", false)]
    {
        assert_eq!(wire::answers(text, &batch).is_ok(), is_answer, "{text}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_none() {
    let operation = admit(1, Limits::default());
    for text in [
        "{}",
        r#"{"held":"x"}"#,
        r#"{"refused":["key","rpm","5"],"key":{},"tenant":{}}"#,
        r#"{"refused":["nobody","rpm","5"],"key":{},"tenant":{}}"#,
        r#"{"unknown":[{"party":"zz","kind":"day","start":"0","memory":"1"}]}"#,
        r#"{"unknown":[{"party":"t","kind":"week","start":"0","memory":"1"}]}"#,
        r#"{"held":"x","key":{},"tenant":{},"observed":[["key","speed"]]}"#,
    ] {
        let told: Told<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(told.answer(&operation), None, "{text}");
    }
    let beat = Operation::Beat { members: vec![] };
    for (text, fits) in [(r#"{"missing":["7:ff"]}"#, true), (r#"{"missing":["7"]}"#, false)] {
        let told: Told<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(told.answer(&beat).is_some(), fits, "{text}");
    }
    assert_eq!((wait_of("-2"), wait_of("-7"), wait_of("soon")), (Some(Wait::Unknown), None, None));
    let url = Secret::new("http://user:password@host".to_owned());
    let settings = Settings { url, deadline: LIVES_FOR, lives_for: LIVES_FOR };
    let Err(error) = Redis::open(&settings) else { panic!("opened") };
    assert!(!error.to_string().contains("password"));
}

#[tokio::test]
async fn where_nothing_is_asked_nobody_has_to_answer() {
    let nobody = open("redis://127.0.0.1:1", Duration::from_secs(60));
    assert!(nobody.exchange(tenant(), &[]).await.is_ok_and(|answers| answers.is_empty()));
}

/// A request that is over after the ledger was read, on a Redis that has lost its memory, is counted.
#[tokio::test]
async fn what_is_over_before_redis_knows_again_is_counted() {
    let server = ScratchRedis::start().await;
    let redis = open(&server.url, Duration::from_secs(5));
    let tenant = tenant();
    let limits = Limits { budget: Some(Budget::new(20, LimitPeriod::Day)), ..Limits::default() };
    let run = async |batch: &[Operation]| redis.exchange(tenant, batch).await.unwrap();
    learn(&redis, tenant, limits, 0).await;
    let Answer::Admitted(admitted) = run(&[admit(1, limits)]).await.remove(0) else {
        panic!("refused")
    };
    // Word that was asked for before says nothing of what is there now.
    server.run("FLUSHALL").await;
    let early = unknown(&redis, tenant, limits, 0).await;
    server.run("FLUSHALL").await;
    let said = unknown(&redis, tenant, limits, 0).await;
    run(&[early]).await;
    assert_eq!(let_in(&run(&[admit(2, limits)]).await), [false]);
    // Nor does any as long as it is not said who is under way.
    let beat = Operation::Beat { members: vec![member(1)] };
    run(&[beat, said.clone()]).await;
    assert_eq!(let_in(&run(&[admit(3, limits)]).await), [false]);
    run(&[Operation::Register { member: member(1), held: admitted.held }]).await;
    let more = |more| Operation::TopUp {
        member: member(1),
        more,
        tenant_limits: limits,
        key_limits: Limits::default(),
    };
    assert_eq!(run(&[more(1)]).await, [Answer::ToppedUp(false)]);
    run(&[Operation::Settle { member: member(1), used: 11 }, said]).await;
    assert_eq!(let_in(&run(&[admit(4, limits)]).await), [false], "11 of 20 are used");
}
