//! Why model servers refuse, as clients are told: in each dialect, from each kind of server, in our words.

use std::{collections::BTreeSet, net::SocketAddr};

use futures_util::future::join_all;
use identity::policy::Policy;
use protocol::{error::Code, outcome::Outcome};
use scripted_ollama::{MARKER, Model, Script, Scripted};
use serde_json::{Value, json};
use storage::limits::Limits;
use tests::{Reply, Setup, TestGateway, post};

use crate::{chat, routing::knows, whole_chat, with};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const NATIVE: &str = "/api/chat";
const GENERATE: &str = "/api/generate";

/// Where a model is asked, with the field that its prompt stands in and what such a request must have besides.
const PATHS: [&str; 6] = [CHAT, COMPLETIONS, RESPONSES, MESSAGES, NATIVE, GENERATE];

fn body(path: &str, words: &str, stream: bool) -> Value {
    let body = match path {
        RESPONSES => json!({ "model": "llama3.2", "input": words }),
        COMPLETIONS | GENERATE => json!({ "model": "llama3.2", "prompt": words }),
        MESSAGES => with(chat(words), "max_tokens", json!(100)),
        _ => chat(words),
    };
    with(body, "stream", json!(stream))
}

async fn gateway(openai: bool) -> TestGateway {
    TestGateway::with(Setup { openai, ..Setup::default() }).await
}

async fn ask(gateway: &TestGateway, path: &str, words: &str, stream: bool) -> Reply {
    let reply = post(gateway.address, path, Some(&gateway.key), &body(path, words, stream)).await;
    assert!(!reply.text().contains(MARKER), "{path} {words}: {}", reply.text());
    reply
}

/// What the client is told, of a refusal or of the last event of a stream: message, code, param.
fn told(reply: &Reply) -> (String, String, Option<String>) {
    let text = reply.text();
    let last = text.lines().rev().find_map(|line| {
        let line = line.strip_prefix("data: ").unwrap_or(line);
        serde_json::from_str::<Value>(line).ok()
    });
    let last = last.unwrap_or_else(|| panic!("{text}"));
    let error =
        if last["response"].is_object() { &last["response"]["error"] } else { &last["error"] };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match error.as_str() {
        Some(message) => (message.to_owned(), String::new(), None),
        None => (
            word(&error["message"]),
            word(&error["code"]),
            error["param"].as_str().map(str::to_owned),
        ),
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_in_the_words_that_each_dialects_clients_look_for() {
    let openai =
        "This model's maximum context length is 8192 tokens. However, the request has 9000 tokens.";
    let ollama = "the input length exceeds the context length: 9000 tokens > 8192";
    for kind in [false, true] {
        let gateway = gateway(kind).await;
        for (path, words, param) in [
            (CHAT, openai, Some("messages")),
            (COMPLETIONS, openai, Some("prompt")),
            (RESPONSES, openai, Some("input")),
            (MESSAGES, "prompt is too long: 9000 tokens > 8192 maximum", None),
            (NATIVE, ollama, None),
            (GENERATE, ollama, None),
        ] {
            for stream in [false, true] {
                let reply = ask(&gateway, path, "[[refuse context]]", stream).await;
                assert_eq!(reply.status, 400, "{path} {}", reply.text());
                let (message, code, named) = told(&reply);
                assert!(message.starts_with(words), "{path}: {message}");
                assert_eq!(named.as_deref(), param, "{path}");
                assert_eq!(reply.header("x-should-retry"), "false", "{path}");
                if path.starts_with("/v1") {
                    assert_eq!(code, "context_length_exceeded", "{path}");
                }
                if path == MESSAGES {
                    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
                }
            }
        }
        for event in gateway.audited(12).await {
            assert_eq!((event.status, event.outcome), (400, Outcome::Refused));
            assert_eq!(event.code, Some(Code::ContextLengthExceeded));
            assert_eq!(event.usage.total(), 0);
        }
    }
    let counted =
        "gateway_upstream_faults_total{upstream=\"ollama\",kind=\"context_length_exceeded\"}";
    assert_eq!(gateway(true).await.metric(counted).await, 24.0);
}

#[tokio::test]
async fn within_a_stream_the_cause_is_told_too_and_what_was_not_made_is_not_charged() {
    for kind in [false, true] {
        let gateway = gateway(kind).await;
        for path in PATHS {
            for made in [0, 2] {
                let words = format!("[[refuse context]] [[error-line {made}]]");
                let reply = ask(&gateway, path, &words, true).await;
                assert_eq!(reply.status, 200, "{path}");
                let (message, code, _) = told(&reply);
                let wanted = match path {
                    MESSAGES => "prompt is too long: 9000 tokens > 8192 maximum",
                    NATIVE | GENERATE => "the input length exceeds the context length",
                    _ => "This model's maximum context length is 8192 tokens",
                };
                assert!(message.starts_with(wanted), "{path} {made}: {}", reply.text());
                if path.starts_with("/v1") {
                    assert_eq!(code, "context_length_exceeded", "{path}: {}", reply.text());
                }
                for success in ["[DONE]", "message_stop", "response.completed", "\"done\":true"] {
                    assert!(!reply.text().contains(success), "{path}: {}", reply.text());
                }
            }
        }
        let mut charged = 0;
        for event in gateway.audited(PATHS.len() * 2).await {
            assert_eq!((event.status, event.outcome), (200, Outcome::Refused));
            assert_eq!(event.code, Some(Code::ContextLengthExceeded));
            charged += usize::from(event.usage.completion == 2);
            assert!(event.usage.completion == 2 || event.usage.total() == 0, "{event:?}");
        }
        assert_eq!(charged, PATHS.len());
    }
}

#[tokio::test]
async fn an_error_with_the_status_of_a_success_is_a_refusal() {
    for kind in [false, true] {
        let gateway = gateway(kind).await;
        for path in PATHS {
            let words = "[[refuse context]] [[error-line 0]]";
            let reply = ask(&gateway, path, words, false).await;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
            assert!(told(&reply).0.contains("8192"), "{path}: {}", reply.text());
        }
        let events = gateway.audited(PATHS.len()).await;
        assert!(events.iter().all(|event| event.code == Some(Code::ContextLengthExceeded)));
    }
}

#[tokio::test]
async fn the_wait_of_an_unexplained_503_is_told_too() {
    let gateway = gateway(false).await;
    let reply = ask(&gateway, CHAT, "[[status 503]] [[retry-after 9]]", false).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (503, "upstream_unavailable".to_owned()));
    assert_eq!(reply.header("retry-after"), "9");
    // Of a fault it says nothing.
    let reply = ask(&gateway, CHAT, "[[status 500]] [[retry-after 9]]", false).await;
    assert_eq!(reply.header("retry-after"), "");
}

#[tokio::test]
async fn a_reply_that_would_be_too_long_is_told_so_that_the_client_asks_for_fewer_tokens() {
    for kind in [false, true] {
        let gateway = gateway(kind).await;
        let reply = ask(&gateway, MESSAGES, "[[refuse room]]", true).await;
        let (message, ..) = told(&reply);
        let wanted = "input length and `max_tokens` exceed context limit: 180000 + 64000 > 200000";
        assert!(message.starts_with(wanted), "{message}");
        let (message, code, _) = told(&ask(&gateway, CHAT, "[[refuse room]]", false).await);
        assert!(message.contains("180000 tokens and asks for 64000 more"), "{message}");
        assert_eq!(code, "context_length_exceeded");
    }
}

#[tokio::test]
async fn a_limit_of_the_model_server_is_told_with_its_wait() {
    for kind in [false, true] {
        let gateway = gateway(kind).await;
        for path in PATHS {
            for stream in [false, true] {
                let words = "[[refuse limited]] [[retry-after 7]]";
                let reply = ask(&gateway, path, words, stream).await;
                assert_eq!(reply.status, 429, "{path}: {}", reply.text());
                assert_eq!(reply.header("retry-after"), "7", "{path}");
                assert_eq!(reply.header("retry-after-ms"), "7000", "{path}");
                let (message, code, _) = told(&reply);
                assert_eq!(message, Code::UpstreamRateLimited.message(), "{path}");
                if path.starts_with("/v1") {
                    assert_eq!(code, "upstream_rate_limited", "{path}");
                }
                if path == MESSAGES {
                    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
                }
            }
        }
        // Without a wait it is a second; nobody is made to hold for minutes.
        let reply = ask(&gateway, CHAT, "[[refuse limited]]", false).await;
        assert_eq!(reply.header("retry-after"), "1");
        let reply = ask(&gateway, CHAT, "[[refuse limited]] [[retry-after 600]]", false).await;
        assert_eq!(
            (reply.header("retry-after"), reply.header("x-should-retry")),
            ("600".into(), "false".into())
        );
    }
}

#[tokio::test]
async fn each_cause_has_its_code_and_its_place() {
    for kind in [false, true] {
        let gateway = gateway(kind).await;
        for (cause, status, code, message, param, again) in [
            ("tools", 400, "capability_missing", "does not support tools", Some("tools"), "false"),
            (
                "images",
                400,
                "capability_missing",
                "does not support images",
                Some("messages"),
                "false",
            ),
            ("busy", 503, "upstream_overloaded", "too much to do", None, ""),
            ("loading", 503, "model_loading", "is being loaded", None, ""),
            ("memory", 500, "upstream_out_of_memory", "too little memory", None, "false"),
        ] {
            let words = format!("[[refuse {cause}]]");
            for path in PATHS {
                let reply = ask(&gateway, path, &words, false).await;
                assert_eq!(reply.status, status, "{path} {cause}: {}", reply.text());
                assert_eq!(reply.header("x-should-retry"), again, "{path} {cause}");
                let (said, word, named) = told(&reply);
                assert!(said.contains(message), "{path} {cause}: {said}");
                if path.starts_with("/v1") {
                    assert_eq!(word, code, "{path} {cause}");
                }
                if path == CHAT {
                    assert_eq!(named.as_deref(), param, "{cause}");
                }
                let wait = match cause {
                    "busy" => "1",
                    "loading" => "5",
                    _ => "",
                };
                assert_eq!(reply.header("retry-after"), wait, "{path} {cause}");
            }
        }
        // These dialects have no `param`.
        for (path, place) in [(MESSAGES, "messages"), (NATIVE, "messages"), (GENERATE, "images")] {
            let (said, ..) = told(&ask(&gateway, path, "[[refuse images]]", false).await);
            assert!(said.contains(place), "{path}: {said}");
        }
    }
}

#[tokio::test]
async fn whoever_is_limited_busy_or_loading_is_passed_over_where_another_has_the_model() {
    for cause in ["limited", "busy", "loading", "memory"] {
        let gateway = TestGateway::start().await;
        let behave = format!("[[refuse {cause}]]");
        let models = vec![Model::named("shared")];
        let script =
            |behave: String| Script { models: models.clone(), behave, ..Script::default() };
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let bad = Scripted::start(script(behave), loopback).await.unwrap();
        let good = Scripted::start(script(String::new()), loopback).await.unwrap();
        gateway.add_upstream("bad", bad.address()).await;
        gateway.add_upstream("good", good.address()).await;
        knows(&gateway, 3).await;
        let asked = with(whole_chat("hi"), "model", json!("shared"));
        for _ in 0..5 {
            let reply = post(gateway.address, CHAT, Some(&gateway.key), &asked).await;
            assert_eq!(reply.status, 200, "{cause}: {}", reply.text());
        }
    }
}

#[tokio::test]
async fn refusals_and_busy_servers_open_no_breaker() {
    for kind in [false, true] {
        for cause in ["context", "images", "busy", "limited"] {
            for inside in ["", "[[error-line 0]]"] {
                let code = opens_no_breaker(kind, &format!("[[refuse {cause}]] {inside}")).await;
                assert_ne!(code, "upstream_unavailable", "{cause} {inside}");
            }
        }
    }
}

/// Two tenants meet nothing else; the code that they are told.
async fn opens_no_breaker(openai: bool, words: &str) -> String {
    let gateway = gateway(openai).await;
    let other = gateway.another_tenant("other", Limits::default(), Policy::default()).await;
    let keys = [gateway.key.clone(), gateway.key_of(other.id).await];
    let asked = body(CHAT, words, true);
    let all = (0..30).map(|at| post(gateway.address, CHAT, Some(&keys[at % 2]), &asked));
    let codes: BTreeSet<String> = join_all(all).await.iter().map(|reply| told(reply).1).collect();
    assert_eq!(codes.len(), 1, "{words}: {codes:?}");
    // All of them are over, and the next one still comes through.
    let next = post(gateway.address, CHAT, Some(&gateway.key), &body(CHAT, "hi", false)).await;
    assert_eq!(next.status, 200, "{words}: {}", next.text());
    codes.into_iter().next().unwrap_or_default()
}

#[tokio::test]
async fn a_dialect_without_param_names_the_place_in_its_message() {
    let gateway = gateway(true).await;
    for (path, field, value, place) in [
        (MESSAGES, "messages", json!([{ "role": "user", "content": 7 }]), "messages[0].content"),
        (MESSAGES, "tools", json!([{ "type": "bash_20250124", "name": "bash" }]), "tools[0].type"),
        (MESSAGES, "mcp_servers", json!([{ "type": "url", "url": "https://a" }]), "mcp_servers"),
        (NATIVE, "messages", json!([7]), "messages[0]"),
        (NATIVE, "options", json!({ "num_gpu": 1 }), "options.num_gpu"),
    ] {
        let asked = with(body(path, "hi", false), field, value);
        let reply = post(gateway.address, path, Some(&gateway.key), &asked).await;
        assert!(reply.status.is_client_error(), "{path} {field}: {}", reply.text());
        let (message, ..) = told(&reply);
        assert!(message.contains(place), "{path} {field}: {message}");
    }
}
