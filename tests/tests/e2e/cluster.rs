//! Several gateways on one database and one Redis.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::{Timestamp, ToSpan as _};
use serde_json::json;
use storage::{
    keys::KeyChange,
    limits::{Budget, LimitPeriod, Limits},
    revocations::Revocation,
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
    let gateway = TestGateway::with(shared()).await;
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
    let gateway = TestGateway::with(shared()).await;
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

#[tokio::test]
async fn where_redis_cannot_say_nobody_is_let_in_and_it_comes_back_by_itself() {
    let mut gateway = TestGateway::with(shared()).await;
    let (_, key) = gateway.limited(rpm(1_000_000)).await;
    let address = gateway.address;
    let ask = async || post(address, PATH, Some(&key), &whole_chat("hi")).await;
    let refuses = async |fault: &str| {
        for _ in 0..20 {
            let reply = ask().await;
            assert_eq!(reply.code(), "limits_unavailable", "{fault}: {}", reply.text());
            assert_eq!(reply.status, 503);
            assert!(!reply.header("retry-after").is_empty());
        }
    };
    let comes_back = async |fault: &str| {
        eventually(&format!("the end of {fault}"), || async {
            (ask().await.status == 200).then_some(())
        })
        .await;
    };
    comes_back("the beginning").await;
    for (fault, mended) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CLIENT PAUSE 600000 ALL", ""),
    ] {
        gateway.redis().run(fault).await;
        refuses(fault).await;
        if !mended.is_empty() {
            gateway.redis().run(mended).await;
            comes_back(fault).await;
        }
    }
    gateway.redis().stop();
    refuses("a Redis that is gone").await;
    gateway.redis().start_again().await;
    comes_back("a Redis that is gone").await;
    let events = gateway.audited(80).await;
    let refused = events.iter().filter(|event| event.status == 503);
    assert!(refused.clone().count() >= 80 && refused.clone().all(|event| event.usage.total() == 0));
    assert!(
        gateway.metric("gateway_fail_closed_total{reason=\"limits_unavailable\"}").await >= 80.0
    );
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
    // The stream says within seconds that it is still there.
    let other = Open::post(gateway.address, PATH, &key, &hanging).await;
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
    for open in streams {
        assert!(open.end().await.contains("\"code\":\"key_revoked\""));
    }
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
    for replica in [gateway.address, other.address] {
        eventually("the limit", || async {
            let reply = post(replica, PATH, Some(&text), &whole_chat("hi")).await;
            (reply.code() == "rate_limit_requests").then_some(())
        })
        .await;
    }
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
