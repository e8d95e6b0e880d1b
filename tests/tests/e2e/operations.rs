//! Health, metrics, the end.

use engine::{gateway::Ended, phase::Phase};
use futures_util::future::join_all;
use protocol::outcome::Outcome;
use serde_json::json;
use tests::{Open, Setup, TestGateway, get, patience::eventually, post};

use crate::{chat, on_both, settings, whole_chat, with};

on_both! {
    a_stop_under_fifty_streams_loses_no_row,
    streams_that_outlive_their_time_are_cut_and_written_down,
}

fn streamed(words: &str) -> serde_json::Value {
    with(chat(words), "stream", json!(true))
}

async fn a_stop_under_fifty_streams_loses_no_row(setup: Setup) {
    let mut gateway = TestGateway::with(setup).await;
    let body = streamed("[[chunks 30]] [[pace 50]]");
    let opening = (0..50).map(|number| {
        let path = if number % 2 == 0 { "/api/chat" } else { "/v1/chat/completions" };
        Open::post(gateway.address, path, &gateway.key, &body)
    });
    let mut streams = join_all(opening).await;
    for stream in &mut streams {
        stream.until("This").await;
    }
    gateway.stop().await;
    gateway.reaches(Phase::Draining).await;
    // What was begun goes on to its end, every one.
    let ends = join_all(streams.into_iter().map(Open::end)).await;
    let whole = |end: &String| end.contains("\"done\":true") || end.contains("data: [DONE]");
    assert!(ends.iter().all(whole), "{ends:?}");
    assert_eq!(gateway.ended().await, Ended::InOrder { unstored: 0 });
    let events = gateway.audited(50).await;
    assert_eq!(events.len(), 50);
    assert!(events.iter().all(|event| event.outcome == Outcome::Completed));
    assert!(events.iter().all(|event| event.usage.completion == 30 && !event.usage.estimated));
}

async fn streams_that_outlive_their_time_are_cut_and_written_down(setup: Setup) {
    let env = vec![("NEURONETZ_SERVER_DRAIN_TIMEOUT", "300ms".to_owned())];
    let mut gateway = TestGateway::with(Setup { env, ..setup }).await;
    let hanging = streamed("[[hang 2]]");
    let opening = (0..50).map(|_| Open::post(gateway.address, "/api/chat", &gateway.key, &hanging));
    let mut streams = join_all(opening).await;
    for stream in &mut streams {
        stream.until(" is").await;
    }
    let whole = Open::post(
        gateway.address,
        "/v1/chat/completions",
        &gateway.key,
        &whole_chat("[[hang-head]]"),
    )
    .await;
    gateway.ollama.until(|done| done.requests > 51).await;
    gateway.stop().await;
    assert_eq!(gateway.ended().await, Ended::InOrder { unstored: 0 });
    for stream in streams {
        let end = stream.end().await;
        assert!(end.contains("The gateway is stopping."), "{end}");
    }
    let whole = whole.end().await;
    assert!(whole.contains("shutting_down"), "{whole}");
    let events = gateway.audited(51).await;
    let stopped = events.iter().filter(|event| event.outcome == Outcome::Stopped).count();
    assert_eq!((events.len(), stopped), (51, 50));
}

#[tokio::test]
async fn while_it_drains_it_is_not_ready_and_takes_nothing_new() {
    let mut gateway = TestGateway::start().await;
    let mut open =
        Open::post(gateway.address, "/api/chat", &gateway.key, &streamed("[[hang 2]]")).await;
    open.until(" is").await;
    let kept = b"GET /readyz HTTP/1.1\r\nHost: g\r\n\r\n";
    let mut idle = Open::send(gateway.address, kept).await;
    idle.until("\"ready\":true").await;
    gateway.stop().await;
    gateway.reaches(Phase::Draining).await;
    let ready = get(gateway.admin, "/readyz", None).await;
    assert_eq!((ready.status.as_u16(), &ready.json()["status"]), (503, &json!("stopping")));
    assert_eq!(get(gateway.admin, "/healthz", None).await.status, 200);
    eventually("the closed listener", || async {
        tokio::net::TcpStream::connect(gateway.address).await.err().map(drop)
    })
    .await;
    // Told again, it ends at once.
    gateway.stop().await;
    assert_eq!(gateway.ended().await, Ended::AtOnce);
}

#[tokio::test]
async fn health_has_its_aliases_and_needs_no_key() {
    let gateway = TestGateway::start().await;
    for path in ["/healthz", "/live", "/health/live", "/health"] {
        let reply = get(gateway.address, path, None).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["status"]), (200, &json!("ok")), "{path}");
    }
    let ready = get(gateway.admin, "/readyz", None).await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    let ready = ready.json();
    for (part, state) in [("database", "ok"), ("catalog", "ok"), ("status", "ok")] {
        assert_eq!(ready[part], json!(state));
    }
    assert_eq!(ready["upstreams"][0]["status"], json!("up"));
    assert_eq!(ready["audit"]["status"], json!("ok"));
}

#[tokio::test]
async fn a_database_that_is_away_is_named_and_comes_back() {
    let setup = settings([("NEURONETZ_DATABASE_ACQUIRE_TIMEOUT", "300ms")]);
    let gateway = TestGateway::with(Setup { postgres: true, ..setup }).await;
    post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    gateway.lose_database().await;
    eventually("the loss", || async {
        let ready = get(gateway.address, "/readyz", None).await;
        let named = ready.json()["database"] == json!("unavailable");
        (ready.status == 503 && named).then_some(())
    })
    .await;
    gateway.find_database().await;
    eventually("the return", || async {
        (get(gateway.address, "/readyz", None).await.status == 200).then_some(())
    })
    .await;
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    assert_eq!(reply.status, 200);
    gateway.audited(2).await;
}

#[tokio::test]
async fn what_happens_is_counted() {
    let gateway = TestGateway::start().await;
    post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("one two")).await;
    get(gateway.address, "/v1/models", None).await;
    let requests =
        "gateway_requests_total{tenant=\"acme\",model=\"llama3.2:latest\",status=\"200\"}";
    let tokens = |direction: &str| {
        format!(
            "gateway_tokens_total{{tenant=\"acme\",model=\"llama3.2:latest\",direction=\"{direction}\"}}"
        )
    };
    eventually("the counts", || async {
        let counted = gateway.metric(requests).await > 0.9;
        (counted && gateway.metric(&tokens("completion")).await > 6.9).then_some(())
    })
    .await;
    assert!((gateway.metric(&tokens("prompt")).await - 2.0).abs() < 0.1);
    let refused = "gateway_requests_total{tenant=\"-\",model=\"-\",status=\"401\"}";
    assert!(gateway.metric(refused).await > 0.9);
    assert!(gateway.metric("gateway_upstream_up{upstream=\"ollama\"}").await > 0.9);
    assert!((gateway.metric("gateway_catalog_models").await - 4.0).abs() < 0.1);
}

#[tokio::test]
async fn the_admin_listener_asks_for_its_token_where_it_has_one() {
    let token = "a-token-of-more-than-thirty-two-characters";
    let gateway = TestGateway::with(settings([("NEURONETZ_ADMIN_TOKEN", token)])).await;
    assert_eq!(get(gateway.admin, "/metrics", None).await.status, 401);
    assert_eq!(get(gateway.admin, "/metrics", Some("wrong")).await.status, 401);
    assert_eq!(get(gateway.admin, "/metrics", Some(token)).await.status, 200);
    assert_eq!(get(gateway.admin, "/healthz", None).await.status, 200);
    // It is no way to the models.
    assert_eq!(get(gateway.admin, "/v1/models", Some(&gateway.key)).await.status, 401);
    assert_eq!(get(gateway.admin, "/v1/models", Some(token)).await.status, 404);
}

#[tokio::test]
async fn a_full_audit_refuses_and_recovers() {
    let setup = settings([
        ("NEURONETZ_AUDIT_PLACES_MAX", "2"),
        ("NEURONETZ_DATABASE_ACQUIRE_TIMEOUT", "300ms"),
    ]);
    let gateway = TestGateway::with(Setup { postgres: true, ..setup }).await;
    let mut first =
        Open::post(gateway.address, "/api/chat", &gateway.key, &streamed("[[hang 1]]")).await;
    first.until("This").await;
    let mut second =
        Open::post(gateway.address, "/api/chat", &gateway.key, &streamed("[[hang 1]]")).await;
    second.until("This").await;
    let path = "/v1/chat/completions";
    let reply = post(gateway.address, path, Some(&gateway.key), &whole_chat("hi")).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (503, "audit_saturated".to_owned()));
    assert!(!reply.header("retry-after").is_empty());
    drop((first, second));
    eventually("room", || async {
        let reply = post(gateway.address, path, Some(&gateway.key), &whole_chat("hi")).await;
        (reply.status == 200).then_some(())
    })
    .await;
}
