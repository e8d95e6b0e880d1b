//! Several upstreams: who is asked, who waits, who stands in for whom.

use std::net::SocketAddr;

use futures_util::future::join_all;
use identity::policy::Policy;
use protocol::{name::ModelName, outcome::Outcome};
use scripted_ollama::{Model, Script, Scripted};
use serde_json::{Value, json};
use storage::{aliases::Alias, limits::Limits, tenants::TenantChange};
use tests::{Open, Setup, TestGateway, get, patience::eventually, post};

use crate::{chat, on_both, settings, whole_chat, with};

const PATH: &str = "/v1/chat/completions";

on_both! {
    an_alias_stands_for_a_model_and_for_those_that_stand_in,
}

/// Another model server, that does so with every request.
async fn another(behave: &str, models: &[&str]) -> Scripted {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let behave = behave.to_owned();
    let models = models.iter().map(|name| Model::named(name)).collect();
    Scripted::start(Script { models, behave, ..Script::default() }, loopback).await.unwrap()
}

fn chats(ollama: &Scripted) -> usize {
    ollama.requests().iter().filter(|seen| seen.path == "/api/chat").count()
}

/// Waits until the gateway knows so many upstreams that answer.
pub(crate) async fn knows(gateway: &TestGateway, count: usize) {
    eventually("the upstreams", || async {
        let ready = get(gateway.admin, "/readyz", None).await.json();
        let up = ready["upstreams"].as_array()?.iter().filter(|one| one["status"] == "up").count();
        (up == count).then_some(())
    })
    .await;
}

async fn ask(gateway: &TestGateway, words: &str) -> tests::Reply {
    post(gateway.address, PATH, Some(&gateway.key), &whole_chat(words)).await
}

async fn alias(gateway: &TestGateway, own: bool, name: &str, targets: &[&str]) {
    let named = |name: &&str| ModelName::parse(name).unwrap();
    let alias = Alias {
        tenant: own.then_some(gateway.tenant.id),
        name: named(&name),
        targets: targets.iter().map(named).collect(),
    };
    gateway.storage.aliases.put(alias).await.unwrap();
}

async fn an_alias_stands_for_a_model_and_for_those_that_stand_in(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let asked = |name: &str| with(whole_chat("hi"), "model", json!(name));
    let reply = post(gateway.address, PATH, Some(&gateway.key), &asked("gpt-4o-mini")).await;
    assert_eq!(reply.code(), "model_not_found");
    alias(&gateway, false, "gpt-4o-mini", &["llama3.2"]).await;
    let reply = eventually("the alias", || async {
        let reply = post(gateway.address, PATH, Some(&gateway.key), &asked("gpt-4o-mini")).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    // The client reads its own spelling; what was used is what is written down.
    assert_eq!(reply.json()["model"], "gpt-4o-mini");
    let served = eventually("the audit", || async {
        let mut events = gateway.audited(2).await.into_iter();
        events.find(|event| event.outcome == Outcome::Completed)
    })
    .await;
    assert_eq!(served.model.as_ref().unwrap().as_str(), "llama3.2:latest");
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &asked("gpt-4o-mini")).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["model"]), (200, &json!("llama3.2:latest")));
    // It is listed, and can be asked about.
    let list = get(gateway.address, "/v1/models", Some(&gateway.key)).await.text();
    assert!(list.contains("gpt-4o-mini"), "{list}");
    let one = get(gateway.address, "/v1/models/gpt-4o-mini", Some(&gateway.key)).await;
    assert_eq!(one.status, 200);
    // A tenant's own word counts before everybody's, and what is missing is stood in for.
    alias(&gateway, true, "gpt-4o-mini", &["no-such-model", "qwen3:8b"]).await;
    eventually("the tenant's own", || async {
        let reply =
            post(gateway.address, "/api/chat", Some(&gateway.key), &asked("gpt-4o-mini")).await;
        (reply.json()["model"] == "qwen3:8b").then_some(())
    })
    .await;
    // It opens no model that the key may not use.
    let (_, narrow) = gateway.key(Some(&["llama3.2"])).await;
    let reply = post(gateway.address, PATH, Some(&narrow), &asked("gpt-4o-mini")).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (403, "model_not_allowed".to_owned()));
    let list = get(gateway.address, "/v1/models", Some(&narrow)).await.text();
    assert!(!list.contains("gpt-4o-mini"), "{list}");
    let name = ModelName::parse("gpt-4o-mini").unwrap();
    gateway.storage.aliases.remove(Some(gateway.tenant.id), &name).await.unwrap();
    eventually("everybody's", || async {
        let reply = post(gateway.address, PATH, Some(&narrow), &asked("gpt-4o-mini")).await;
        (reply.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_fails_before_the_first_byte_is_tried_on_another_upstream() {
    for fault in ["[[status 500]]", "[[status 429]]", "[[status 404]]", "[[html 502]]"] {
        let gateway = TestGateway::start().await;
        let before = gateway.metric("gateway_retries_total{upstream=\"bad\"}").await;
        let bad = another(fault, &["llama3.2"]).await;
        gateway.add_upstream("bad", bad.address()).await;
        knows(&gateway, 2).await;
        // Which of the two is asked first is drawn: until the bad one was, a few times.
        let mut asked = 0;
        while chats(&bad) < 3 {
            let reply = ask(&gateway, "hi").await;
            assert_eq!(reply.status, 200, "{fault}: {}", reply.text());
            asked += 1;
            assert!(asked < 200, "{fault}: it is never asked");
        }
        assert_eq!(chats(&gateway.ollama), asked, "{fault}");
        let retried = gateway.metric("gateway_retries_total{upstream=\"bad\"}").await;
        assert_eq!(retried, before + 3.0, "{fault}");
        let events = gateway.audited(asked).await;
        assert!(events.iter().all(|event| event.upstream.as_deref() == Some("ollama")));
        // What is the client's own fault is not tried again.
        let asked = chats(&gateway.ollama) + chats(&bad);
        assert_eq!(ask(&gateway, "[[status 400]]").await.status.as_u16() / 100, 4);
        assert!(chats(&gateway.ollama) + chats(&bad) <= asked + 2);
    }
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_gone_around_and_then_left_alone() {
    let gateway = TestGateway::with(settings([("NEURONETZ_UPSTREAM_BREAKER_PAUSE", "60s")])).await;
    let gone = another("", &["llama3.2"]).await;
    gateway.add_upstream("gone", gone.address()).await;
    knows(&gateway, 2).await;
    gone.stop().await;
    let said = async |metric: &str| gateway.metric(&format!("{metric}{{upstream=\"gone\"}}")).await;
    let mut asked = 0;
    while said("gateway_breaker_state").await < 2.0 {
        assert_eq!(ask(&gateway, "hi").await.status, 200);
        asked += 1;
        assert!(asked < 200, "it is never asked, or never left alone");
    }
    // Three connections in a row that could not be made are enough, and then there are no more.
    assert_eq!(said("gateway_retries_total").await, 3.0);
    for _ in 0..20 {
        assert_eq!(ask(&gateway, "hi").await.status, 200);
    }
    assert_eq!(said("gateway_retries_total").await, 3.0);
}

#[tokio::test]
async fn where_there_is_no_other_upstream_nothing_is_tried_again() {
    let gateway = TestGateway::start().await;
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "[[status 500]]").await.code(), "upstream_failed");
    }
    assert_eq!(chats(&gateway.ollama), 3);
    assert_eq!(gateway.metric("gateway_retries_total{upstream=\"ollama\"}").await, 0.0);
    assert!(!tests::log::keep().text().contains("trying another"));
}

#[tokio::test]
async fn a_share_of_all_calls_may_be_tried_again() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_UPSTREAM_RETRIES_PER_SECOND", "0"),
        ("NEURONETZ_UPSTREAM_RETRIES_PERCENT", "50"),
        ("NEURONETZ_UPSTREAM_BREAKER_CALLS_MIN", "1000"),
    ]))
    .await;
    let other = another("", &["llama3.2"]).await;
    gateway.add_upstream("other", other.address()).await;
    knows(&gateway, 2).await;
    // Whoever is asked fails: each of these would be tried again.
    for _ in 0..20 {
        assert_eq!(ask(&gateway, "[[status 500]]").await.status, 502);
    }
    assert_eq!(chats(&gateway.ollama) + chats(&other), 20 + 10);
    let mut retried = 0.0;
    for name in ["ollama", "other"] {
        retried += gateway.metric(&format!("gateway_retries_total{{upstream=\"{name}\"}}")).await;
    }
    assert_eq!(retried, 10.0);
}

#[tokio::test]
async fn the_budget_of_retries_bounds_them() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_UPSTREAM_RETRIES_PER_SECOND", "0"),
        ("NEURONETZ_UPSTREAM_RETRIES_PERCENT", "0"),
    ]))
    .await;
    let bad = another("[[status 500]]", &["llama3.2"]).await;
    gateway.add_upstream("bad", bad.address()).await;
    knows(&gateway, 2).await;
    let replies = join_all((0..12).map(|_| ask(&gateway, "hi"))).await;
    let failed = replies.iter().filter(|reply| reply.status == 502).count();
    assert_eq!(failed, chats(&bad));
    assert!(failed > 0);
    assert_eq!(gateway.metric("gateway_retries_total{upstream=\"bad\"}").await, 0.0);
}

#[tokio::test]
async fn a_fallback_is_asked_where_the_first_model_fails() {
    let gateway = TestGateway::start().await;
    let bad = another("[[status 503]]", &["big"]).await;
    gateway.add_upstream("bad", bad.address()).await;
    knows(&gateway, 2).await;
    alias(&gateway, false, "best", &["big", "llama3.2"]).await;
    let asked = with(whole_chat("hi"), "model", json!("best"));
    let reply = eventually("the fallback", || async {
        let reply = post(gateway.address, PATH, Some(&gateway.key), &asked).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(reply.json()["model"], "best");
    assert!(chats(&bad) > 0 && chats(&gateway.ollama) > 0);
}

#[tokio::test]
async fn where_all_slots_are_taken_requests_wait_in_order_and_in_time() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_UPSTREAM_SLOTS", "1"),
        ("NEURONETZ_UPSTREAM_QUEUE_WAIT", "400ms"),
        ("NEURONETZ_UPSTREAM_QUEUE_PER_TENANT_MAX", "1"),
    ]))
    .await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, PATH, &gateway.key, &hanging).await;
    open.until("This").await;
    let both = join_all([ask(&gateway, "hi"), ask(&gateway, "hi")]).await;
    let mut codes: Vec<_> = both.iter().map(tests::Reply::code).collect();
    codes.sort();
    assert_eq!(codes, ["queue_full", "queue_timeout"]);
    for reply in &both {
        assert_eq!(reply.status, 503);
        assert!(!reply.header("retry-after").is_empty());
    }
    // Who gets its turn is told that it waited.
    let waits = ask(&gateway, "hi");
    let ends = async {
        eventually("the queue", || async {
            let depth = gateway.metric("gateway_queue_depth{upstream=\"ollama\"}").await;
            (depth == 1.0).then_some(())
        })
        .await;
        drop(open);
    };
    let (reply, ()) = tokio::join!(waits, ends);
    assert_eq!((reply.status.as_u16(), reply.header("x-queue-position")), (200, "1".to_owned()));
    assert!(reply.header("server-timing").contains("queue;dur="));
    assert!(ask(&gateway, "hi").await.header("x-queue-position").is_empty());
}

#[tokio::test]
async fn a_greedy_tenant_delays_another_by_one_time_of_service() {
    let gateway = TestGateway::with(settings([("NEURONETZ_UPSTREAM_SLOTS", "1")])).await;
    let tenant = gateway.another_tenant("modest", Limits::default(), Policy::default()).await;
    let modest = gateway.key_of(tenant.id).await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut first = Open::post(gateway.address, "/api/chat", &gateway.key, &hanging).await;
    first.until("This").await;
    let mut greedy = Vec::new();
    for _ in 0..200 {
        greedy.push(
            Open::post(gateway.address, "/api/chat", &gateway.key, &whole_chat("greedy")).await,
        );
    }
    let depth = async |wanted: f64| {
        eventually("the queue", || async {
            let depth = gateway.metric("gateway_queue_depth{upstream=\"ollama\"}").await;
            (depth >= wanted).then_some(())
        })
        .await;
    };
    depth(200.0).await;
    let one = Open::post(gateway.address, "/api/chat", &modest, &whole_chat("modest")).await;
    depth(201.0).await;
    drop(first);
    one.end().await;
    let order: Vec<_> = gateway.ollama.requests().iter().map(|seen| seen.body.clone()).collect();
    let at = order.iter().position(|body| body.windows(6).any(|part| part == b"modest")).unwrap();
    let before = order[..at].iter().filter(|body| body.windows(6).any(|part| part == b"greedy"));
    assert!(before.clone().count() <= 1, "{} were served before", before.count());
}

/// What a head says in `server-timing` of one part, in milliseconds.
fn timing(head: &str, part: &str) -> f64 {
    let (_, rest) = head.split_once(&format!("{part};dur=")).unwrap();
    rest.split([',', '\r']).next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_stream_that_waits_is_told_its_place_if_somebody_wants_that() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_UPSTREAM_SLOTS", "1"),
        ("NEURONETZ_UPSTREAM_QUEUE_COMMENTS_EVERY", "50ms"),
        ("NEURONETZ_UPSTREAM_QUEUE_WAIT", "3s"),
    ]))
    .await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, PATH, &gateway.key, &hanging).await;
    open.until("This").await;
    let streamed = with(chat("hi"), "stream", json!(true));
    let mut first = Open::post(gateway.address, PATH, &gateway.key, &streamed).await;
    let told = first.until(": queue position 1").await;
    assert!(told.contains("text/event-stream"), "{told}");
    // The wait until the head went out is said as such, and is not the gateway's own time.
    assert!(timing(&told, "queue") >= 50.0, "{told}");
    assert!(timing(&told, "own") < timing(&told, "queue"), "{told}");
    let mut second = Open::post(gateway.address, PATH, &gateway.key, &streamed).await;
    second.until(": queue position 2").await;
    drop(open);
    for waited in [first, second] {
        let said = waited.end().await;
        assert!(said.contains("\"content\":\"This\"") && said.contains("[DONE]"), "{said}");
    }
    // Who waits for too long is told so in the stream.
    let mut open = Open::post(gateway.address, PATH, &gateway.key, &hanging).await;
    open.until("This").await;
    let waits = Open::post(gateway.address, PATH, &gateway.key, &streamed).await;
    let said = waits.end().await;
    assert!(said.contains(": queue position 1") && said.contains("queue_timeout"), "{said}");
    let events = gateway.audited(4).await;
    let late = events.iter().find(|event| event.outcome == Outcome::Refused).unwrap();
    assert_eq!((late.status, late.code.unwrap().as_str()), (200, "queue_timeout"));
}

#[tokio::test]
async fn an_upstream_that_fails_again_and_again_is_left_alone() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_UPSTREAM_BREAKER_CALLS_MIN", "4"),
        ("NEURONETZ_UPSTREAM_BREAKER_PAUSE", "1s"),
    ]))
    .await;
    // A 500 may be the request's own fault, unless several tenants get it.
    let other = gateway.another_tenant("other", Limits::default(), Policy::default()).await;
    let other = gateway.key_of(other.id).await;
    for key in [&gateway.key, &other, &gateway.key, &other] {
        let reply = post(gateway.address, PATH, Some(key), &whole_chat("[[status 500]]")).await;
        assert_eq!(reply.code(), "upstream_failed");
    }
    let reply = eventually("the breaker", || async {
        let reply = ask(&gateway, "hi").await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    assert_eq!(reply.code(), "upstream_unavailable");
    let wait: u64 = reply.header("retry-after-ms").parse().unwrap();
    assert!(wait <= 1_250, "{wait}");
    assert_eq!(gateway.metric("gateway_breaker_state{upstream=\"ollama\"}").await, 2.0);
    eventually("the end of the pause", || async {
        (ask(&gateway, "hi").await.status == 200).then_some(())
    })
    .await;
    // A client's own mistakes never open it.
    for _ in 0..10 {
        assert_eq!(ask(&gateway, "[[status 400]]").await.status, 400);
    }
    assert_eq!(ask(&gateway, "hi").await.status, 200);
}

#[tokio::test]
async fn one_that_lets_others_wait_is_left_alone_and_one_whose_clients_leave_is_not() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_UPSTREAM_BREAKER_CALLS_MIN", "4"),
        ("NEURONETZ_UPSTREAM_BREAKER_PAUSE", "60s"),
        ("NEURONETZ_UPSTREAM_COLD_FIRST_BYTE_TIMEOUT", "500ms"),
        ("NEURONETZ_UPSTREAM_FIRST_BYTE_TIMEOUT", "500ms"),
    ]))
    .await;
    let state = async || gateway.metric("gateway_breaker_state{upstream=\"ollama\"}").await;
    let silent = with(chat("[[hang-head]]"), "stream", json!(true));
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    // Those who leave, before the first byte and after it.
    for number in 0..8 {
        let (body, begins) = if number % 2 == 0 { (&silent, false) } else { (&hanging, true) };
        let before = gateway.ollama.produced().requests;
        let mut open = Open::post(gateway.address, PATH, &gateway.key, body).await;
        gateway.ollama.until(|done| done.requests > before).await;
        if begins {
            open.until("This").await;
        }
    }
    let events = gateway.audited(8).await;
    assert!(events.iter().all(|event| event.outcome == Outcome::ClientLeft), "{events:#?}");
    assert_eq!(state().await, 0.0);
    assert_eq!(ask(&gateway, "hi").await.status, 200);
    // Five replies have begun: at least as many that never do, of several tenants, are half of all.
    let other = gateway.another_tenant("other", Limits::default(), Policy::default()).await;
    let other = gateway.key_of(other.id).await;
    for key in [&gateway.key, &other].into_iter().cycle().take(6) {
        assert_eq!(state().await, 0.0);
        let reply = post(gateway.address, PATH, Some(key), &silent).await;
        assert_eq!(reply.code(), "upstream_timeout");
    }
    eventually("the breaker", || async { (state().await == 2.0).then_some(()) }).await;
    assert_eq!(ask(&gateway, "hi").await.code(), "upstream_unavailable");
}

#[tokio::test]
async fn every_answer_says_where_its_time_went() {
    let gateway = TestGateway::start().await;
    let change = TenantChange {
        limits: Some(storage::limits::Limits { rpm: Some(1_000), ..Default::default() }),
        ..TenantChange::default()
    };
    gateway.storage.tenants.change(gateway.tenant.id, change).await.unwrap();
    let body: Value = whole_chat("hi");
    eventually("the limit", || async {
        let reply = post(gateway.address, PATH, Some(&gateway.key), &body).await;
        (!reply.header("x-ratelimit-limit-requests").is_empty()).then_some(())
    })
    .await;
    let key = Some(gateway.key.as_str());
    let missing = with(body.clone(), "model", json!("no-such-model"));
    for (reply, is_known) in [
        (post(gateway.address, PATH, key, &body).await, true),
        (post(gateway.address, PATH, key, &missing).await, true),
        (get(gateway.address, "/v1/models", key).await, true),
        (get(gateway.address, "/api/tags", key).await, true),
        (get(gateway.address, "/v1/models", None).await, false),
    ] {
        let timing = reply.header("server-timing");
        for part in ["authenticate;dur=", "admit;dur=", "queue;dur=", "upstream;dur=", "own;dur="] {
            assert!(timing.contains(part), "{}: {timing}", reply.status);
        }
        let limit = reply.header("x-ratelimit-limit-requests");
        assert_eq!(limit == "1000", is_known, "{}: {limit}", reply.status);
    }
    assert!(gateway.metric("gateway_overhead_seconds_count").await >= 5.0);
}

/// What is left of a limit of ten requests a minute, as a reply says.
fn left(reply: &tests::Reply) -> (u16, String) {
    (reply.status.as_u16(), reply.header("x-ratelimit-remaining-requests"))
}

async fn who_came_to_no_upstream_has_used_up_nothing(setup: Setup) {
    let env = [("NEURONETZ_UPSTREAM_SLOTS", "1"), ("NEURONETZ_UPSTREAM_QUEUE_WAIT", "300ms")];
    let Setup { env: mut settings, .. } = settings(env);
    settings.push(("NEURONETZ_UPSTREAM_QUEUE_PER_TENANT_MAX", "1".to_owned()));
    let gateway = TestGateway::with(Setup { env: settings, ..setup }).await;
    let limits = Limits { rpm: Some(10), tpm: Some(100_000), ..Limits::default() };
    let (_, key) = gateway.limited(limits).await;
    let ask = async |words: &str| post(gateway.address, PATH, Some(&key), &whole_chat(words)).await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, PATH, &key, &hanging).await;
    open.until("This").await;
    for _ in 0..10 {
        let both = join_all([ask("hi"), ask("hi")]).await;
        assert!(both.iter().all(|reply| reply.status == 503));
    }
    let reply = ask("hi").await;
    assert_eq!((reply.code().as_str(), left(&reply)), ("queue_timeout", (503, "9".to_owned())));
    drop(open);
    let reply = eventually("the slot", || async {
        let reply = ask("hi").await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(left(&reply), (200, "8".to_owned()));
    // What an upstream has seen counts, whatever became of it; what could not be sent to one does not.
    assert_eq!(left(&ask("[[status 500]]").await), (502, "7".to_owned()));
    gateway.ollama.stop().await;
    // The first one may go through a connection that was kept.
    let first = ask("hi").await;
    for _ in 0..5 {
        let reply = ask("hi").await;
        assert_eq!(reply.code(), "upstream_unavailable");
        assert_eq!(left(&reply), (503, left(&first).1));
    }
}

#[tokio::test]
async fn who_came_to_no_upstream_has_used_up_nothing_alone() {
    who_came_to_no_upstream_has_used_up_nothing(Setup::default()).await;
}

#[tokio::test]
async fn who_came_to_no_upstream_has_used_up_nothing_on_redis() {
    let setup = Setup { postgres: true, redis: true, ..Setup::default() };
    who_came_to_no_upstream_has_used_up_nothing(setup).await;
}
