//! Upstreams and clients that fail.

use protocol::{error::Code, outcome::Outcome};
use serde_json::json;
use tests::{Open, Setup, TestGateway, patience::eventually, post};

use crate::{chat, on_both, settings, whole_chat, with};

on_both! {
    a_client_that_leaves_ends_the_upstreams_work_and_is_charged_by_estimate,
}

fn streamed(words: &str) -> serde_json::Value {
    with(chat(words), "stream", json!(true))
}

#[tokio::test]
async fn an_upstreams_refusal_is_told_in_our_words() {
    let gateway = TestGateway::start().await;
    for (words, status, code) in [
        ("[[status 400]]", 400, "upstream_rejected"),
        ("[[status 401]]", 502, "upstream_failed"),
        ("[[status 403]]", 502, "upstream_failed"),
        ("[[status 404]]", 404, "model_not_found"),
        ("[[status 429]]", 429, "upstream_rate_limited"),
        ("[[status 500]]", 502, "upstream_failed"),
        ("[[status 503]]", 503, "upstream_unavailable"),
        ("[[html 502]]", 502, "upstream_failed"),
    ] {
        for path in ["/v1/chat/completions", "/api/chat"] {
            for body in [streamed(words), whole_chat(words)] {
                let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
                assert_eq!(reply.status, status, "{words} {path}: {}", reply.text());
                assert!(!reply.text().contains("UPSTREAM-WORDS"), "{}", reply.text());
                assert!(reply.header("x-request-id").starts_with("req_"));
                if path.starts_with("/v1") {
                    assert_eq!(reply.code(), code, "{words}");
                }
            }
        }
    }
    let events = gateway.audited(32).await;
    assert!(events.iter().all(|event| event.outcome != Outcome::Completed));
    assert!(events.iter().all(|event| event.usage.completion == 0));
}

#[tokio::test]
async fn a_stream_that_breaks_off_never_looks_like_a_success() {
    let gateway = TestGateway::start().await;
    let faults = ["[[error-line 3]]", "[[reset 3]]", "[[cut 3]]", "[[eof 3]]", "[[half 3]]"];
    for words in faults {
        let native = Open::post(gateway.address, "/api/chat", &gateway.key, &streamed(words)).await;
        let native = native.end().await;
        assert_eq!(native.matches("\"done\":false").count(), 3, "{words}: {native}");
        assert!(!native.contains("\"done\":true"), "{words}: {native}");
        assert!(native.contains("{\"error\":\"The model server failed.\"}"), "{words}: {native}");
        assert!(!native.contains("UPSTREAM-WORDS"), "{words}: {native}");

        let path = "/v1/chat/completions";
        let ours = Open::post(gateway.address, path, &gateway.key, &streamed(words)).await;
        let ours = ours.end().await;
        assert_eq!(ours.matches("\"content\"").count(), 3, "{words}: {ours}");
        assert!(ours.contains("\"code\":\"upstream_failed\""), "{words}: {ours}");
        for success in ["[DONE]", "\"finish_reason\":\"", "UPSTREAM-WORDS"] {
            assert!(!ours.contains(success), "{words}: {ours}");
        }
    }
    let events = gateway.audited(faults.len() * 2).await;
    for event in events {
        assert_eq!((event.status, event.outcome), (200, Outcome::UpstreamFailed));
        assert_eq!(event.code, Some(Code::UpstreamFailed));
        assert!(event.usage.estimated && event.usage.completion == 3, "{event:?}");
    }
}

#[tokio::test]
async fn a_whole_reply_that_breaks_off_is_refused() {
    let gateway = TestGateway::start().await;
    let body = with(streamed("[[cut 0]]"), "stream", json!(true));
    let reply = Open::post(gateway.address, "/api/chat", &gateway.key, &body).await.end().await;
    assert!(reply.contains("{\"error\":"), "{reply}");
}

#[tokio::test]
async fn time_limits_are_told_and_audited() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_UPSTREAM_COLD_FIRST_BYTE_TIMEOUT", "600ms"),
        ("NEURONETZ_UPSTREAM_FIRST_BYTE_TIMEOUT", "300ms"),
        ("NEURONETZ_UPSTREAM_GAP_TIMEOUT", "300ms"),
    ]))
    .await;
    // No first byte.
    let body = streamed("[[hang-head]]");
    let reply = post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &body).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (504, "upstream_timeout".to_owned()));
    // A gap.
    let reply =
        Open::post(gateway.address, "/api/chat", &gateway.key, &streamed("[[hang 2]]")).await;
    let reply = reply.end().await;
    assert_eq!(reply.matches("\"done\":false").count(), 2, "{reply}");
    assert!(reply.contains("did not answer in time"), "{reply}");
    let events = gateway.audited(2).await;
    assert!(events.iter().all(|event| event.outcome == Outcome::TimedOut), "{events:#?}");
    assert!(events.iter().all(|event| event.code == Some(Code::UpstreamTimeout)));
    gateway.ollama.until(|done| done.open == 0).await;
}

#[tokio::test]
async fn the_total_time_limit_ends_a_stream_that_never_pauses() {
    let gateway =
        TestGateway::with(settings([("NEURONETZ_UPSTREAM_TOTAL_TIMEOUT", "500ms")])).await;
    let words = "[[chunks 100000]] [[pace 20]]";
    let reply = Open::post(gateway.address, "/api/chat", &gateway.key, &streamed(words)).await;
    let reply = reply.end().await;
    assert!(reply.contains("did not answer in time"), "{reply}");
    assert_eq!(gateway.audited_one().await.outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn a_cold_model_may_take_longer_than_a_loaded_one() {
    let setup = settings([
        ("NEURONETZ_UPSTREAM_COLD_FIRST_BYTE_TIMEOUT", "20s"),
        ("NEURONETZ_UPSTREAM_FIRST_BYTE_TIMEOUT", "300ms"),
    ]);
    let script = scripted_ollama::Script {
        cold_load: std::time::Duration::from_millis(900),
        ..Default::default()
    };
    let gateway = TestGateway::with(Setup { script, ..setup }).await;
    let cold = post(gateway.address, "/api/chat", Some(&gateway.key), &streamed("hi")).await;
    assert_eq!(cold.status, 200, "{}", cold.text());
    let slow = streamed("[[first 5000]]");
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &slow).await;
    assert_eq!(reply.status, 504, "{}", reply.text());
}

async fn a_client_that_leaves_ends_the_upstreams_work_and_is_charged_by_estimate(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    for path in ["/api/chat", "/v1/chat/completions"] {
        let words = streamed("[[hang 2]] one two");
        let mut open = Open::post(gateway.address, path, &gateway.key, &words).await;
        open.until(" is").await;
        gateway.ollama.until(|done| done.open == 1).await;
        drop(open);
        gateway.ollama.until(|done| done.open == 0).await;
    }
    let events = gateway.audited(2).await;
    for event in events {
        assert_eq!((event.status, event.outcome), (200, Outcome::ClientLeft), "{event:?}");
        assert!(event.usage.estimated && event.usage.completion == 2, "{event:?}");
        assert!(event.usage.prompt > 0 && event.code.is_none());
    }
    eventually("the delay as a metric", || async {
        (gateway.metric("gateway_cancel_seconds_count").await > 1.9).then_some(())
    })
    .await;
    // Connections that had nothing to do, or were read to their end, do not count.
    post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    gateway.ollama.stop().await;
    let cancelled = gateway.metric("gateway_cancel_seconds_count").await;
    assert!((cancelled - 2.0).abs() < 0.1, "{cancelled}");
    assert!(gateway.metric("gateway_streams_open").await < 0.1);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_byte_ends_the_upstreams_work_too() {
    let gateway = TestGateway::start().await;
    for body in [streamed("[[hang-head]]"), whole_chat("[[hang-head]]")] {
        let before = gateway.ollama.produced().requests;
        let open = Open::post(gateway.address, "/api/chat", &gateway.key, &body).await;
        gateway.ollama.until(|done| done.requests > before).await;
        let connections = gateway.ollama.produced().connections;
        drop(open);
        gateway.ollama.until(|done| done.connections < connections).await;
    }
    let events = gateway.audited(2).await;
    for event in events {
        assert_eq!((event.status, event.outcome), (499, Outcome::ClientLeft), "{event:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_is_503_and_another_one_takes_over() {
    let setup = settings([("NEURONETZ_UPSTREAM_CONNECT_TIMEOUT", "500ms")]);
    let gateway = TestGateway::with(setup).await;
    let second = scripted_ollama::Scripted::start(
        scripted_ollama::Script::default(),
        std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
    )
    .await
    .unwrap();
    gateway.add_upstream("second", second.address()).await;
    eventually("both upstreams", || async {
        let ready = tests::get(gateway.admin, "/readyz", None).await.json();
        let up =
            ready["upstreams"].as_array()?.iter().filter(|part| part["status"] == "up").count();
        (up == 2).then_some(())
    })
    .await;
    gateway.ollama.stop().await;
    for _ in 0..4 {
        let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    second.stop().await;
    let reply =
        post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &streamed("hi")).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (503, "upstream_unavailable".to_owned()));
    assert!(!reply.header("retry-after").is_empty());
}
