//! Every dialect of clients on every kind of upstream.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use protocol::outcome::Outcome;
use scripted_ollama::Script;
use serde_json::{Value, json};
use tests::{
    Setup, TestGateway,
    client::{request, send},
    get, post,
};

use crate::{chat, whole_chat, with};

const SAID: &str = "This is the scripted Ollama: hello there";

/// A gateway in front of an upstream that speaks OpenAI's dialect, or Ollama's.
async fn gateway(openai: bool) -> TestGateway {
    TestGateway::with(Setup { openai, ..Setup::default() }).await
}

async fn ask(gateway: &TestGateway, path: &str, body: &Value) -> tests::Reply {
    let reply = post(gateway.address, path, Some(&gateway.key), body).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply
}

/// The data of all events, with their kinds.
fn events(text: &str) -> Vec<(String, Value)> {
    let read = |event: &str| {
        let mut kind = String::new();
        let mut data = Value::Null;
        for line in event.lines() {
            match line.split_once(": ") {
                Some(("event", said)) => said.clone_into(&mut kind),
                Some(("data", "[DONE]")) => data = "[DONE]".into(),
                Some(("data", said)) => data = serde_json::from_str(said).unwrap(),
                _ => panic!("{event}"),
            }
        }
        (kind, data)
    };
    text.split("\n\n").filter(|event| !event.is_empty()).map(read).collect()
}

/// All texts that stand at that place of the events, together.
fn text_at(events: &[(String, Value)], at: &str) -> String {
    events.iter().filter_map(|(_, data)| data.pointer(at)?.as_str()).collect()
}

fn streamed(body: &Value) -> Value {
    with(body.clone(), "stream", json!(true))
}

async fn chats(gateway: &TestGateway) {
    let body = chat("hello there");
    let whole = ask(gateway, "/v1/chat/completions", &body).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], SAID);
    assert_eq!(whole["usage"]["total_tokens"], 9);
    let stream = ask(gateway, "/v1/chat/completions", &streamed(&body)).await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let said = events(&stream.text());
    assert_eq!(text_at(&said, "/choices/0/delta/content"), SAID);
    assert!(said.iter().all(|(_, data)| data["usage"].is_null()), "nobody asked for the usage");
    assert_eq!(said.last().unwrap().1, "[DONE]");
    let told = with(streamed(&body), "stream_options", json!({ "include_usage": true }));
    let said = events(&ask(gateway, "/v1/chat/completions", &told).await.text());
    assert_eq!(said[said.len() - 2].1["usage"]["total_tokens"], 9);
}

async fn completions(gateway: &TestGateway) {
    let body = json!({ "model": "llama3.2", "prompt": "hello there" });
    let whole = ask(gateway, "/v1/completions", &body).await.json();
    assert_eq!(
        (&whole["object"], &whole["choices"][0]["text"]),
        (&json!("text_completion"), &json!(SAID))
    );
    let said = events(&ask(gateway, "/v1/completions", &streamed(&body)).await.text());
    assert_eq!(text_at(&said, "/choices/0/text"), SAID);
    assert_eq!(said.last().unwrap().1, "[DONE]");
}

async fn embeddings(gateway: &TestGateway) {
    let body = json!({ "model": "nomic-embed-text", "input": ["a", "b"], "dimensions": 8 });
    let floats = ask(gateway, "/v1/embeddings", &body).await.json();
    let vectors: Vec<Vec<f32>> = (0..2)
        .map(|at| serde_json::from_value(floats["data"][at]["embedding"].clone()).unwrap())
        .collect();
    assert!(vectors.iter().all(|vector| vector.len() == 8) && vectors[0] != vectors[1]);
    let body = with(body, "encoding_format", json!("base64"));
    let coded = ask(gateway, "/v1/embeddings", &body).await.json();
    let bytes = STANDARD.decode(coded["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let read: Vec<f32> =
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(read, vectors[0]);
    let body = json!({ "model": "nomic-embed-text", "input": "a", "dimensions": 8 });
    let native = ask(gateway, "/api/embed", &body).await.json();
    let read: Vec<f32> = serde_json::from_value(native["embeddings"][0].clone()).unwrap();
    assert_eq!(read, vectors[0]);
    let body = json!({ "model": "nomic-embed-text", "prompt": "a" });
    let legacy = ask(gateway, "/api/embeddings", &body).await.json();
    assert!(legacy["embedding"].as_array().is_some_and(|vector| !vector.is_empty()));
}

async fn responses(gateway: &TestGateway) {
    let body = json!({ "model": "llama3.2", "input": "hello there", "metadata": { "a": "b" } });
    let whole = ask(gateway, "/v1/responses", &body).await.json();
    assert_eq!(whole["output"][0]["content"][0]["text"], SAID);
    assert_eq!((&whole["status"], &whole["store"]), (&json!("completed"), &json!(false)));
    assert_eq!(
        (&whole["metadata"]["a"], &whole["usage"]["total_tokens"]),
        (&json!("b"), &json!(9))
    );
    let said = events(&ask(gateway, "/v1/responses", &streamed(&body)).await.text());
    assert_eq!(said.first().unwrap().0, "response.created");
    assert_eq!(said.last().unwrap().0, "response.completed");
    let deltas: Vec<_> =
        said.iter().filter(|(kind, _)| kind == "response.output_text.delta").cloned().collect();
    assert_eq!(text_at(&deltas, "/delta"), SAID);
    assert!(said.iter().enumerate().all(|(at, (_, data))| data["sequence_number"] == at));
}

async fn messages(gateway: &TestGateway) {
    let body = with(chat("hello there"), "max_tokens", json!(100));
    let whole = ask(gateway, "/v1/messages", &body).await.json();
    assert_eq!(whole["content"], json!([{ "type": "text", "text": SAID }]));
    assert_eq!((&whole["stop_reason"], &whole["role"]), (&json!("end_turn"), &json!("assistant")));
    assert_eq!(whole["usage"], json!({ "input_tokens": 2, "output_tokens": 7 }));
    let said = events(&ask(gateway, "/v1/messages", &streamed(&body)).await.text());
    let kinds: Vec<_> = said.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds[..2], ["message_start", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(text_at(&said, "/delta/text"), SAID);
    let short = with(body.clone(), "max_tokens", json!(3));
    assert_eq!(ask(gateway, "/v1/messages", &short).await.json()["stop_reason"], "max_tokens");
    let counted = ask(gateway, "/v1/messages/count_tokens", &body).await;
    assert!(counted.json()["input_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
    assert_eq!(counted.header("x-estimated"), "true");
}

async fn native(gateway: &TestGateway) {
    let whole = ask(gateway, "/api/chat", &whole_chat("hello there")).await.json();
    assert_eq!((&whole["message"]["content"], &whole["done"]), (&json!(SAID), &json!(true)));
    assert_eq!((&whole["prompt_eval_count"], &whole["eval_count"]), (&json!(2), &json!(7)));
    for (path, body, at) in [
        ("/api/chat", chat("hello there"), "/message/content"),
        ("/api/generate", json!({ "model": "llama3.2", "prompt": "hello there" }), "/response"),
    ] {
        let stream = ask(gateway, path, &body).await;
        assert_eq!(stream.header("content-type"), "application/x-ndjson");
        let lines: Vec<Value> =
            stream.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said: String = lines.iter().filter_map(|line| line.pointer(at)?.as_str()).collect();
        assert_eq!(said, SAID);
        let last = lines.last().unwrap();
        assert_eq!((&last["done"], &last["eval_count"]), (&json!(true), &json!(7)));
    }
}

/// Every dialect, once through.
async fn all(gateway: &TestGateway) {
    chats(gateway).await;
    completions(gateway).await;
    embeddings(gateway).await;
    responses(gateway).await;
    messages(gateway).await;
    native(gateway).await;
    for event in gateway.audited(18).await {
        assert_eq!((event.status, event.outcome), (200, Outcome::Completed), "{event:?}");
        assert!(!event.usage.estimated || event.usage.completion == 0, "{event:?}");
    }
}

#[tokio::test]
async fn every_dialect_is_answered_by_ollama() {
    all(&gateway(false).await).await;
}

#[tokio::test]
async fn every_dialect_is_answered_by_a_server_of_openais() {
    let gateway = gateway(true).await;
    all(&gateway).await;
    assert!(gateway.ollama.requests().iter().all(|seen| seen.path.starts_with("/v1/")));
    let models = get(gateway.address, "/v1/models/llama3.2", Some(&gateway.key)).await;
    assert_eq!(models.json()["id"], "llama3.2:latest");
    let tags = get(gateway.address, "/api/tags", Some(&gateway.key)).await.json();
    assert!(tags["models"].as_array().is_some_and(|list| !list.is_empty()));
}

#[tokio::test]
async fn a_stream_says_what_it_is_in_every_dialect() {
    for openai in [false, true] {
        let gateway = gateway(openai).await;
        let chat = with(chat("hi"), "max_tokens", json!(100));
        let input = json!({ "model": "llama3.2", "input": "hi" });
        let prompt = json!({ "model": "llama3.2", "prompt": "hi" });
        for (path, body, kind) in [
            ("/v1/chat/completions", &chat, "text/event-stream"),
            ("/v1/completions", &prompt, "text/event-stream"),
            ("/v1/responses", &input, "text/event-stream"),
            ("/v1/messages", &chat, "text/event-stream"),
            ("/api/chat", &chat, "application/x-ndjson"),
            ("/api/generate", &prompt, "application/x-ndjson"),
        ] {
            let reply = ask(&gateway, path, &streamed(body)).await;
            let (cache, buffering) =
                if kind == "text/event-stream" { ("no-cache", "no") } else { ("", "") };
            assert_eq!(reply.header("content-type"), kind, "{path}");
            assert_eq!(reply.header("cache-control"), cache, "{path}");
            assert_eq!(reply.header("x-accel-buffering"), buffering, "{path}");
            assert!(reply.header("content-length").is_empty(), "{path}");
            let whole = ask(&gateway, path, &with(body.clone(), "stream", json!(false))).await;
            assert_eq!(whole.header("content-type"), "application/json", "{path}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_a_failure_in_every_dialect() {
    for openai in [false, true] {
        for fault in ["error-line", "reset", "cut", "eof", "half"] {
            breaks_off(openai, &format!("[[{fault} 2]]")).await;
        }
    }
}

async fn breaks_off(openai: bool, words: &str) {
    let gateway = gateway(openai).await;
    let chat = with(chat(words), "max_tokens", json!(100));
    let input = json!({ "model": "llama3.2", "input": words });
    let prompt = json!({ "model": "llama3.2", "prompt": words });
    for (path, body, failed, ended) in [
        ("/v1/chat/completions", &chat, "upstream_failed", "[DONE]"),
        ("/v1/completions", &prompt, "upstream_failed", "[DONE]"),
        ("/v1/responses", &input, "response.failed", "response.completed"),
        ("/v1/messages", &chat, "event: error", "message_stop"),
        ("/api/chat", &chat, "{\"error\":", "\"done\":true"),
        ("/api/generate", &prompt, "{\"error\":", "\"done\":true"),
    ] {
        let text = ask(&gateway, path, &streamed(body)).await.text();
        assert!(text.contains(failed), "{words} {openai} {path}: {text}");
        assert!(!text.contains(ended), "{words} {openai} {path}: {text}");
        assert!(!text.contains("UPSTREAM-WORDS"), "{words} {openai} {path}: {text}");
    }
    let events = gateway.audited(6).await;
    assert!(events.iter().all(|event| event.outcome == Outcome::UpstreamFailed), "{events:?}");
}

#[tokio::test]
async fn an_upstream_is_proven_to_with_its_own_key_and_never_with_the_clients() {
    let script = Script { api_key: Some("key-of-upstream".to_owned()), ..Script::default() };
    for (key, status) in [("key-of-upstream", 200), ("another", 503)] {
        let env = vec![("NEURONETZ_UPSTREAM_KEYS", format!("ollama={key}"))];
        let setup = Setup { openai: true, script: script.clone(), env, ..Setup::default() };
        let gateway = TestGateway::with(setup).await;
        let body = chat("hello there");
        let reply = post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &body).await;
        // Where it does not know us, its models are not known.
        assert_eq!(reply.status, status, "{}", reply.text());
        for seen in gateway.ollama.requests() {
            assert_eq!(seen.headers["authorization"], format!("Bearer {key}"));
        }
    }
}

#[tokio::test]
async fn anthropics_clients_present_their_key_and_read_errors_in_their_own_way() {
    let gateway = gateway(false).await;
    let body = with(chat("hi"), "max_tokens", json!(10));
    let with_key = |key: &str| {
        let mut asked = request(Method::POST, "/v1/messages", None, body.to_string().into());
        asked.headers_mut().insert("x-api-key", key.parse().unwrap());
        send(gateway.address, asked)
    };
    assert_eq!(with_key(&gateway.key).await.status, 200);
    let refused = with_key("sk-ant-1").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    let unknown = with(body.clone(), "model", json!("nothing"));
    let reply = post(gateway.address, "/v1/messages", Some(&gateway.key), &unknown).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["type"]), (404, &json!("error")));
    assert_eq!(reply.json()["error"]["type"], "not_found_error");
    // Where their SDKs look for it.
    assert_eq!(reply.header("request-id"), reply.header("x-request-id"));
    assert_eq!(reply.json()["request_id"], reply.header("request-id"));
    assert_eq!(
        with_key(&gateway.key).await.header("request-id").len(),
        reply.header("request-id").len()
    );
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name() {
    let gateway = gateway(false).await;
    let input = json!({ "model": "llama3.2", "input": "a" });
    for (path, body, param) in [
        ("/v1/chat/completions", with(chat("a"), "n", json!(2)), "n"),
        ("/v1/chat/completions", with(chat("a"), "logit_bias", json!({ "1": 2 })), "logit_bias"),
        (
            "/v1/responses",
            with(input.clone(), "previous_response_id", json!("r")),
            "previous_response_id",
        ),
        ("/v1/completions", json!({ "model": "llama3.2", "prompt": ["a", "b"] }), "prompt"),
        ("/v1/embeddings", json!({ "model": "llama3.2", "input": [1, 2] }), "input"),
    ] {
        let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code()),
            (400, "unsupported_parameter".to_owned())
        );
        assert_eq!(reply.json()["error"]["param"], param, "{path}");
    }
    assert_eq!(
        gateway.ollama.produced().requests,
        gateway.ollama.requests().iter().filter(|seen| seen.method == "GET").count() as u64
    );
}

#[tokio::test]
async fn no_upstream_is_sent_the_url_of_an_image() {
    let user = |part: Value| json!([{ "role": "user", "content": [part] }]);
    let url = "http://169.254.169.254/latest/meta-data";
    let chat = user(json!({ "type": "image_url", "image_url": { "url": url } }));
    let response = user(json!({ "type": "input_image", "image_url": url }));
    let message = user(json!({ "type": "image", "source": { "type": "url", "url": url } }));
    for openai in [false, true] {
        let gateway = gateway(openai).await;
        let before = gateway.ollama.produced().requests;
        for (path, field, value) in [
            ("/v1/chat/completions", "messages", &chat),
            ("/v1/responses", "input", &response),
            ("/v1/messages", "messages", &message),
        ] {
            let body = json!({ "model": "llama3.2", "max_tokens": 9, field: value });
            let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
            assert!(reply.text().contains("unsupported_parameter"), "{}", reply.text());
        }
        assert_eq!(gateway.ollama.produced().requests, before);
    }
}
