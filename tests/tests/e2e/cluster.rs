//! Several gateways on one database and one Redis.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use identity::policy::{Policy, Reserve};
use jiff::{Timestamp, ToSpan as _};
use serde_json::json;
use storage::{
    keys::KeyChange,
    limits::{Budget, LimitPeriod, Limits},
    revocations::Revocation,
    scratch::{ScratchRedis, SlowWay},
    tenants::TenantChange,
};
use tests::{
    Kept, Open, Process, Replica, Reply, Setup, TestGateway, get, patience::eventually, post,
};

use crate::{chat, whole_chat, with};

const PATH: &str = "/v1/chat/completions";

fn shared() -> Setup {
    Setup { postgres: true, redis: true, ..Setup::default() }
}

/// The same with a Redis that is given its time: what is counted is on trial, and not the machine.
fn patient() -> Setup {
    Setup { env: vec![("NEURONETZ_REDIS_DEADLINE", "10s".to_owned())], ..shared() }
}

fn rpm(limit: u64) -> Limits {
    Limits { rpm: Some(limit), ..Limits::default() }
}

fn at_once(limit: u64) -> Limits {
    Limits { concurrency: Some(limit), ..Limits::default() }
}

fn daily(tokens: u64) -> Limits {
    Limits { budget: Some(Budget::new(tokens, LimitPeriod::Day)), ..Limits::default() }
}

async fn ask(replica: &Replica, key: &str) -> Reply {
    post(replica.address, PATH, Some(key), &whole_chat("hi")).await
}

/// Asks 10,000 times on so many replicas; returns how many were let in and how long it took.
async fn ten_thousand(replicas: usize) -> (usize, Duration) {
    const CLIENTS: usize = 50;
    let gateway = TestGateway::with(patient()).await;
    let (_, key) = gateway.limited(rpm(1_000)).await;
    let mut addresses = vec![gateway.address];
    let mut others = Vec::new();
    for _ in 1..replicas {
        let other = gateway.replica().await;
        addresses.push(other.address);
        others.push(other);
    }
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|number| {
        let (address, key) = (addresses[number % addresses.len()], &key);
        async move {
            let mut kept = Kept::open(address).await;
            let mut granted = 0;
            for _ in 0..10_000 / CLIENTS {
                let reply = kept.post("/api/chat", key, &whole_chat("hi")).await;
                match reply.status.as_u16() {
                    200 => granted += 1,
                    status => assert_eq!(status, 429, "{}", reply.text()),
                }
            }
            granted
        }
    });
    let granted = join_all(clients).await.into_iter().sum();
    let reached = gateway.ollama.requests().iter().filter(|seen| seen.path == "/api/chat").count();
    assert!(reached <= granted);
    (granted, began.elapsed())
}

/// Exactly, as long as all fall into one window; on a machine that is slower a second one begins.
fn assert_exact((granted, took): (usize, Duration)) {
    let windows = 1 + usize::try_from(took.as_secs() / 60).unwrap();
    assert!((1_000..=1_000 * windows).contains(&granted), "{granted} in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_let_in_exactly_a_thousand_of_ten_thousand() {
    assert_exact(ten_thousand(2).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_let_in_exactly_a_thousand_of_ten_thousand() {
    assert_exact(ten_thousand(3).await);
}

#[tokio::test]
async fn slots_are_shared_and_come_back() {
    let gateway = TestGateway::with(shared()).await;
    let other = gateway.replica().await;
    let (_, key) = gateway.limited(at_once(2)).await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut first = Open::post(gateway.address, PATH, &key, &hanging).await;
    let mut second = Open::post(other.address, PATH, &key, &hanging).await;
    first.until("This").await;
    second.until("This").await;
    assert_eq!(ask(&other, &key).await.code(), "concurrency");
    drop(first);
    eventually("the slot", || async { (ask(&other, &key).await.status == 200).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_streams_over_two_replicas_never_pass_a_budget() {
    let gateway = TestGateway::with(patient()).await;
    let other = gateway.replica().await;
    let (_, key) = gateway.limited(daily(3_000)).await;
    let body = with(
        with(chat("[[chunks 50]] [[pace 20]]"), "stream", json!(true)),
        "max_tokens",
        json!(10),
    );
    let asked = (0..500).map(|number| {
        let address = if number % 2 == 0 { gateway.address } else { other.address };
        post(address, PATH, Some(&key), &body)
    });
    let replies = join_all(asked).await;
    let granted = replies.iter().filter(|reply| reply.status == 200).count();
    assert!((20..300).contains(&granted), "{granted}");
    assert!(replies.iter().all(|reply| reply.status == 200 || reply.code() == "budget_exhausted"));
    let events = gateway.audited(500).await;
    let used: u64 = events.iter().map(|event| event.usage.total()).sum();
    assert!(used <= 3_000, "{used} of 3000");
}

/// Within this time of a fault's end requests are let in again.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
/// How long an answer of Redis may take, as is configured.
const DEADLINE: Duration = Duration::from_millis(250);

/// Demands that nobody is let in, and that this does not cost everybody the deadline.
async fn assert_refuses(address: SocketAddr, key: &str, fault: &str) {
    let mut took = Duration::ZERO;
    for number in 0..40 {
        let began = Instant::now();
        let reply = post(address, PATH, Some(key), &whole_chat("hi")).await;
        assert_eq!(reply.code(), "limits_unavailable", "{fault}: {}", reply.text());
        assert_eq!(reply.status, 503);
        assert!(!reply.header("retry-after").is_empty());
        // Until the breaker is open.
        if number >= 20 {
            took += began.elapsed();
        }
    }
    // It is asked once in a while whether it is back; the others need not wait for that.
    assert!(took < 8 * DEADLINE, "{fault}: 20 refusals took {took:?}");
}

/// Demands that requests are let in again in time.
async fn assert_comes_back(address: SocketAddr, key: &str, fault: &str) {
    let ended = Instant::now();
    eventually(&format!("the end of {fault}"), || async {
        (post(address, PATH, Some(key), &whole_chat("hi")).await.status == 200).then_some(())
    })
    .await;
    assert!(ended.elapsed() < RECOVERY_MAX, "{fault}: {:?}", ended.elapsed());
}

#[tokio::test]
async fn where_redis_cannot_say_nobody_is_let_in_and_it_comes_back_by_itself() {
    let mut gateway = TestGateway::with(shared()).await;
    let (_, key) = gateway.limited(rpm(1_000_000)).await;
    let (address, key) = (gateway.address, key.as_str());
    assert_comes_back(address, key, "the beginning").await;
    for (fault, mended) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CLIENT PAUSE 600000 WRITE", "CLIENT UNPAUSE"),
    ] {
        gateway.redis().run(fault).await;
        assert_refuses(address, key, fault).await;
        gateway.redis().run(mended).await;
        assert_comes_back(address, key, fault).await;
    }
    gateway.redis().stop();
    assert_refuses(address, key, "a Redis that is gone").await;
    gateway.redis().start_again().await;
    assert_comes_back(address, key, "a Redis that is gone").await;
    // One that is paused for everybody hears of no end of that: it comes by itself.
    let pause = Duration::from_secs(30);
    gateway.redis().run(&format!("CLIENT PAUSE {} ALL", pause.as_millis())).await;
    let paused = Instant::now();
    assert_refuses(address, key, "a pause of all").await;
    assert!(paused.elapsed() < pause, "40 refusals took {:?}", paused.elapsed());
    let events = gateway.audited(160).await;
    let refused = events.iter().filter(|event| event.status == 503);
    assert!(refused.clone().all(|event| event.usage.total() == 0));
    assert!(refused.map(|event| event.requests).sum::<u32>() >= 160);
    let closed = "gateway_fail_closed_total{reason=\"limits_unavailable\"}";
    assert!(gateway.metric(closed).await >= 160.0);
}

#[tokio::test]
async fn a_redis_that_is_slow_beyond_the_deadline_is_as_good_as_none() {
    let redis = ScratchRedis::start().await;
    let way = SlowWay::to(SocketAddr::from(([127, 0, 0, 1], redis.port))).await;
    let env = vec![("REDIS_URL", format!("redis://{}", way.address))];
    let gateway = TestGateway::with(Setup { postgres: true, env, ..Setup::default() }).await;
    let (_, key) = gateway.limited(rpm(1_000_000)).await;
    assert_comes_back(gateway.address, &key, "the beginning").await;
    for delay in [Some(4 * DEADLINE), None] {
        way.delay(delay);
        assert_refuses(gateway.address, &key, "a slow Redis").await;
        way.delay(Some(Duration::ZERO));
        assert_comes_back(gateway.address, &key, "a slow Redis").await;
    }
    // What takes its time and comes within the deadline is no fault.
    way.delay(Some(DEADLINE / 10));
    let reply = post(gateway.address, PATH, Some(&key), &whole_chat("hi")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn a_refusal_for_want_of_redis_waits_for_one_deadline_and_not_for_two() {
    let setup = shared();
    let env = vec![("NEURONETZ_REDIS_DEADLINE", "900ms".to_owned())];
    let mut gateway = TestGateway::with(Setup { env, ..setup }).await;
    let (_, key) = gateway.limited(rpm(1_000_000)).await;
    let ask = async || post(gateway.address, PATH, Some(&key), &whole_chat("hi")).await;
    eventually("the beginning", || async { (ask().await.status == 200).then_some(()) }).await;
    gateway.redis.as_ref().unwrap().run("CLIENT PAUSE 600000 WRITE").await;
    let began = Instant::now();
    assert_eq!(ask().await.code(), "limits_unavailable");
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    gateway.redis().stop();
}

#[tokio::test]
async fn a_stream_that_waits_for_more_of_its_budget_is_cut_all_the_same() {
    // One that takes part in everything and is not answered for long.
    let env = vec![
        ("NEURONETZ_REDIS_DEADLINE", "15s".to_owned()),
        ("NEURONETZ_LIMITS_COMPLETION_TOKENS_DEFAULT", "64".to_owned()),
    ];
    let gateway = TestGateway::with(Setup { env, ..shared() }).await;
    let policy = Policy { reserve: Reserve::Learned, ..Policy::default() };
    let change = TenantChange { policy: Some(policy), ..TenantChange::default() };
    gateway.storage.tenants.change(gateway.tenant.id, change).await.unwrap();
    let (key, text) = gateway.limited(daily(1_000_000)).await;
    let endless = with(chat("[[chunks 100000]] [[pace 10]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, PATH, &text, &endless).await;
    open.until_times("\"content\"", 20).await;
    gateway.redis.as_ref().unwrap().run("CLIENT PAUSE 600000 WRITE").await;
    // It goes on with what it has, and then waits to be given more.
    open.until_times("\"content\"", 64).await;
    let revocation =
        Revocation { key: key.id, at: Timestamp::now(), reason: String::new(), cut: true };
    gateway.storage.revocations.revoke(revocation).await.unwrap();
    let cut = Instant::now();
    assert!(open.end().await.contains("\"code\":\"key_revoked\""));
    assert!(cut.elapsed() < Duration::from_secs(5), "{:?}", cut.elapsed());
}

#[tokio::test]
async fn what_redis_forgets_is_read_from_the_ledger_and_said_again() {
    let mut gateway = TestGateway::with(shared()).await;
    let limits = Limits { concurrency: Some(2), ..daily(100_000) };
    let (_, key) = gateway.limited(limits).await;
    let small = with(whole_chat("one two three"), "max_tokens", json!(20));
    for _ in 0..10 {
        assert_eq!(post(gateway.address, PATH, Some(&key), &small).await.status, 200);
    }
    let used: u64 = gateway.audited(10).await.iter().map(|event| event.usage.total()).sum();
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, PATH, &key, &hanging).await;
    open.until("This").await;
    gateway.redis().run("FLUSHALL").await;
    // It holds the second slot before anyone else asks for one.
    let mut other = Open::post(gateway.address, PATH, &key, &hanging).await;
    other.until("This").await;
    // The stream says within seconds that it is still there.
    eventually("the stream to be counted again", || async {
        (post(gateway.address, PATH, Some(&key), &small).await.status == 429).then_some(())
    })
    .await;
    drop((open, other));
    let reply = eventually("the slots", || async {
        let reply = post(gateway.address, PATH, Some(&key), &small).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    let left: u64 = reply.header("x-budget-remaining-tokens").parse().unwrap();
    assert!(left < 100_000 - used, "{left} are left after {used} were used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_gives_its_slots_back_within_thirty_seconds() {
    let gateway = TestGateway::with(shared()).await;
    let (_, key) = gateway.limited(at_once(1)).await;
    let mut other = Process::start(gateway.env().to_vec()).await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut open = Open::post(other.address, PATH, &key, &hanging).await;
    open.until("This").await;
    other.kill();
    let killed = Instant::now();
    loop {
        let reply = post(gateway.address, PATH, Some(&key), &whole_chat("hi")).await;
        if reply.status == 200 {
            break;
        }
        assert_eq!(reply.code(), "concurrency");
        assert!(killed.elapsed() < Duration::from_secs(30), "it is still taken for alive");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn what_changes_is_honoured_on_every_replica_within_a_second() {
    let gateway = TestGateway::with(shared()).await;
    let other = gateway.replica().await;
    let within_a_second = async |what: &str, key: &str, code: &str| {
        let changed = Instant::now();
        for address in [gateway.address, other.address] {
            eventually(what, || async {
                (get(address, "/v1/models", Some(key)).await.code() == code).then_some(())
            })
            .await;
        }
        assert!(changed.elapsed() < Duration::from_secs(1), "{what}: {:?}", changed.elapsed());
    };
    let known = async || {
        let (key, text) = gateway.key(None).await;
        for address in [gateway.address, other.address] {
            assert_eq!(get(address, "/v1/models", Some(&text)).await.status, 200);
        }
        (key, text)
    };
    // A row from any process, here of plain SQL.
    let (key, text) = known().await;
    let insert = format!("INSERT INTO gateway.revocations (key_id) VALUES ('{}')", key.id);
    gateway.scratch().run(&insert).await.unwrap();
    within_a_second("the revocation", &text, "key_revoked").await;
    // With a cut, streams end on both.
    let (key, text) = known().await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut streams = Vec::new();
    for address in [gateway.address, other.address] {
        let mut open = Open::post(address, PATH, &text, &hanging).await;
        open.until("This").await;
        streams.push(open);
    }
    let revocation =
        Revocation { key: key.id, at: Timestamp::now(), reason: String::new(), cut: true };
    gateway.storage.revocations.revoke(revocation).await.unwrap();
    let changed = Instant::now();
    for open in streams {
        assert!(open.end().await.contains("\"code\":\"key_revoked\""));
    }
    assert!(changed.elapsed() < Duration::from_secs(1), "the cut: {:?}", changed.elapsed());
    // An end that is moved up.
    let (key, text) = known().await;
    let now = Timestamp::now().checked_sub(1.second()).unwrap();
    let change = KeyChange { expires_at: Some(Some(now)), ..KeyChange::default() };
    gateway.storage.keys.change(key.id, change).await.unwrap();
    within_a_second("the expiry", &text, "key_expired").await;
    // Limits.
    let (key, text) = known().await;
    let change = KeyChange { limits: Some(rpm(0)), ..KeyChange::default() };
    gateway.storage.keys.change(key.id, change).await.unwrap();
    let changed = Instant::now();
    for replica in [gateway.address, other.address] {
        eventually("the limit", || async {
            let reply = post(replica, PATH, Some(&text), &whole_chat("hi")).await;
            (reply.code() == "rate_limit_requests").then_some(())
        })
        .await;
    }
    assert!(changed.elapsed() < Duration::from_secs(1), "the limit: {:?}", changed.elapsed());
    // The tenant.
    let (_, text) = known().await;
    let change = TenantChange { suspended: Some(true), ..TenantChange::default() };
    gateway.storage.tenants.change(gateway.tenant.id, change).await.unwrap();
    within_a_second("the suspension", &text, "tenant_suspended").await;
}

#[tokio::test]
async fn a_correction_of_a_budget_counts_everywhere() {
    let gateway = TestGateway::with(shared()).await;
    let other = gateway.replica().await;
    let (key, text) = gateway.limited(daily(400)).await;
    let small = with(whole_chat("one two three"), "max_tokens", json!(20));
    let left = async |address| {
        let reply = post(address, PATH, Some(&text), &small).await;
        reply.header("x-budget-remaining-tokens").parse::<u64>().unwrap()
    };
    let mut before = left(gateway.address).await;
    for _ in 0..5 {
        let now = left(other.address).await;
        assert!(now < before, "{now} of {before}");
        before = now;
    }
    gateway.audited(6).await;
    let run = |action: &str| {
        let mut command = std::process::Command::new(tests::binary("neuronetz"));
        let id = key.id.to_string();
        command.args(["budget", action, "--key", &id, "--json"]).env_clear();
        let output = command.envs(gateway.env().to_vec()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let reset = run("reset");
    assert_eq!((&reset["used"], &reset["remaining"]), (&json!(0), &json!(400)));
    for address in [gateway.address, other.address] {
        eventually("the reset", || async { (left(address).await > before).then_some(()) }).await;
    }
    let reconciled = run("reconcile");
    assert!(reconciled["used"].as_u64().unwrap() < 400 - before);
    assert!(reconciled["forgiven"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn who_is_cut_at_the_end_of_a_replica_is_over_for_all_at_once() {
    let env = vec![("NEURONETZ_SERVER_DRAIN_TIMEOUT", "200ms".to_owned())];
    let gateway = TestGateway::with(Setup { env, ..shared() }).await;
    let mut other = gateway.replica().await;
    let (_, key) = gateway.limited(Limits { concurrency: Some(5), ..daily(100_000) }).await;
    let hanging = with(with(chat("[[hang 1]]"), "stream", json!(true)), "max_tokens", json!(1_000));
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut open = Open::post(other.address, PATH, &key, &hanging).await;
        open.until("This").await;
        streams.push(open);
    }
    let refused = post(gateway.address, PATH, Some(&key), &whole_chat("hi")).await;
    assert_eq!(refused.code(), "concurrency");
    other.stop().await;
    other.ended().await;
    // At once, and not when nothing was heard of them for a while.
    let small = with(whole_chat("hi"), "max_tokens", json!(20));
    let reply = post(gateway.address, PATH, Some(&key), &small).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let left: u64 = reply.header("x-budget-remaining-tokens").parse().unwrap();
    let events = gateway.audited(7).await;
    let own = events.iter().filter(|event| event.status == 200 && event.usage.completion == 0);
    assert_eq!(own.count(), 0, "all that began have used something");
    let cut: u64 = (events.iter())
        .filter(|event| event.outcome != protocol::outcome::Outcome::Completed)
        .map(|event| event.usage.total())
        .sum();
    // What the ledger has of them is counted; besides, this one holds its own.
    let held = 100_000 - cut - left;
    assert!((20..100).contains(&held), "{held} are held after {cut} were used");
    drop(streams);
}

#[tokio::test]
async fn a_count_that_is_wrong_is_corrected_on_demand_and_said() {
    let mut gateway = TestGateway::with(shared()).await;
    let (key, text) = gateway.limited(daily(100_000)).await;
    let small = with(whole_chat("one two three"), "max_tokens", json!(20));
    let address = gateway.address;
    let left = async || {
        let reply = post(address, PATH, Some(&text), &small).await;
        reply.header("x-budget-remaining-tokens").parse::<u64>().unwrap()
    };
    // Each holds as much as the first one, and uses what the ledger says of it.
    let held = 100_000 - left().await;
    let used = gateway.audited_one().await.usage.total();
    let (tenant, id) = (gateway.tenant.id.0.as_simple(), key.id.0.as_simple());
    let falsify = format!("HINCRBY nz:{{{tenant}}}:{id}:b s 777");
    gateway.redis().run(&falsify).await;
    assert_eq!(left().await, 100_000 - used - 777 - held);
    gateway.audited(2).await;
    let drift = "gateway_budget_drift_tokens_total{direction=\"over\"}";
    let before = gateway.metric(drift).await;
    let mut command = std::process::Command::new(tests::binary("neuronetz"));
    command.args(["budget", "reconcile", "--key", &key.id.to_string(), "--json"]).env_clear();
    let output = command.envs(gateway.env().to_vec()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // With the next request that knows of it.
    let mut asked = 2;
    eventually("the correction", || {
        asked += 1;
        let (left, expected) = (left(), 100_000 - (asked - 1) * used - held);
        async move { (left.await == expected).then_some(()) }
    })
    .await;
    assert_eq!(gateway.metric(drift).await - before, 777.0);
    let log = tests::log::keep().text();
    assert!(log.contains("the count of a budget differs from the ledger"), "{log}");
}
