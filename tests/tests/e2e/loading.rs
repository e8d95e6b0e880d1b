//! Comments while a model is being loaded, so that nothing between cuts a stream that is idle.

use std::time::Duration;

use protocol::outcome::Outcome;
use serde_json::{Value, json};
use tests::{Open, Setup, TestGateway, post};

use crate::{chat, settings, with};

/// The dialects of server-sent events, each with a stream of its own and what ends it.
fn dialects(words: &str) -> [(&'static str, Value, &'static str); 4] {
    let stream = |body: Value| with(body, "stream", json!(true));
    [
        ("/v1/chat/completions", stream(chat(words)), "[DONE]"),
        ("/v1/completions", stream(json!({ "model": "llama3.2", "prompt": words })), "[DONE]"),
        (
            "/v1/responses",
            stream(json!({ "model": "llama3.2", "input": words })),
            "response.completed",
        ),
        ("/v1/messages", stream(with(chat(words), "max_tokens", json!(100))), "message_stop"),
    ]
}

async fn gateway<const N: usize>(openai: bool, more: [(&'static str, &str); N]) -> TestGateway {
    let mut setup = settings([("NEURONETZ_UPSTREAM_LOADING_COMMENTS_EVERY", "50ms")]);
    setup.env.extend(more.map(|(name, value)| (name, value.to_owned())));
    TestGateway::with(Setup { openai, ..setup }).await
}

async fn said(gateway: &TestGateway, path: &str, body: &Value) -> String {
    Open::post(gateway.address, path, &gateway.key, body).await.end().await
}

#[tokio::test]
async fn a_stream_whose_model_is_loading_is_told_so_in_every_dialect() {
    for openai in [false, true] {
        let gateway = gateway(openai, []).await;
        for (path, body, end) in dialects("[[first 600]] hello there") {
            let text = said(&gateway, path, &body).await;
            assert!(text.contains("200 OK") && text.contains("text/event-stream"), "{text}");
            let (before, after) = text.rsplit_once(": loading\n\n").unwrap();
            assert!(!before.contains("data:"), "a comment after the first byte: {text}");
            assert!(after.contains("data:") && after.contains(end), "{text}");
        }
        for event in gateway.audited(4).await {
            assert_eq!((event.status, event.outcome), (200, Outcome::Completed), "{event:?}");
            assert_eq!((event.usage.completion, event.usage.estimated), (7, false), "{event:?}");
            let first = event.first_byte.unwrap();
            assert!(first >= Duration::from_millis(600), "a comment is no first byte: {first:?}");
        }
    }
}

#[tokio::test]
async fn what_fails_after_a_comment_is_an_event_and_no_success() {
    for openai in [false, true] {
        let gateway = gateway(openai, []).await;
        for (path, body, end) in dialects("[[first 300]] [[status 500]]") {
            let text = said(&gateway, path, &body).await;
            assert!(text.contains("200 OK") && text.contains(": loading\n\n"), "{text}");
            assert!(text.contains("upstream_failed"), "{path}: {text}");
            assert!(!text.contains(end) && !text.contains("UPSTREAM-WORDS"), "{path}: {text}");
        }
        for event in gateway.audited(4).await {
            assert_eq!((event.status, event.outcome), (200, Outcome::UpstreamFailed), "{event:?}");
            assert_eq!(event.code.unwrap().as_str(), "upstream_failed");
        }
    }
}

#[tokio::test]
async fn a_model_that_is_never_loaded_ends_with_the_limit_of_time() {
    for (words, is_head) in [("[[hang-head]]", false), ("[[hang 0]]", true)] {
        let limits = [
            ("NEURONETZ_UPSTREAM_COLD_FIRST_BYTE_TIMEOUT", "500ms"),
            ("NEURONETZ_UPSTREAM_GAP_TIMEOUT", "500ms"),
        ];
        for openai in [false, true] {
            let gateway = gateway(openai, limits).await;
            for (path, body, end) in dialects(words) {
                let text = said(&gateway, path, &body).await;
                assert!(text.contains(": loading\n\n"), "{is_head} {path}: {text}");
                assert!(text.contains("upstream_timeout"), "{is_head} {path}: {text}");
                assert!(!text.contains(end), "{is_head} {path}: {text}");
            }
            for event in gateway.audited(4).await {
                assert_eq!((event.status, event.outcome), (200, Outcome::TimedOut), "{event:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_a_model_is_loading_ends_the_upstreams_work() {
    let gateway = gateway(false, []).await;
    let [(path, body, _), ..] = dialects("[[hang-head]]");
    let mut open = Open::post(gateway.address, path, &gateway.key, &body).await;
    open.until(": loading").await;
    let connections = gateway.ollama.produced().connections;
    drop(open);
    gateway.ollama.until(|done| done.connections < connections).await;
    let event = gateway.audited_one().await;
    assert_eq!((event.status, event.outcome), (200, Outcome::ClientLeft), "{event:?}");
}

#[tokio::test]
async fn neither_ollamas_lines_nor_whole_replies_have_comments() {
    let gateway = gateway(false, []).await;
    let key = Some(gateway.key.as_str());
    let streamed = post(gateway.address, "/api/chat", key, &chat("[[first 300]]")).await;
    assert_eq!(streamed.header("content-type"), "application/x-ndjson");
    let is_line = |line: &str| serde_json::from_str::<Value>(line).is_ok();
    assert!(streamed.text().lines().all(is_line), "{}", streamed.text());
    let whole = post(gateway.address, "/v1/chat/completions", key, &chat("[[first 300]]")).await;
    assert_eq!(whole.json()["object"], "chat.completion");
    let late = post(gateway.address, "/api/chat", key, &chat("[[first 300]] [[status 500]]")).await;
    assert_eq!(late.status, 502);
}

#[tokio::test]
async fn nothing_is_told_unless_somebody_wants_that() {
    let gateway = TestGateway::start().await;
    let [(path, body, end), ..] = dialects("[[first 300]]");
    let text = said(&gateway, path, &body).await;
    assert!(text.contains(end) && !text.contains(": loading"), "{text}");
    let [(path, body, _), ..] = dialects("[[first 300]] [[status 500]]");
    assert_eq!(post(gateway.address, path, Some(&gateway.key), &body).await.status, 502);
}
