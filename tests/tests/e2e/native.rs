//! Requests that are right, in Ollama's dialect.

use identity::policy::Policy;
use protocol::{levers::Levers, outcome::Outcome, route::Route};
use serde_json::{Value, json};
use storage::limits::Limits;
use tests::{Setup, TestGateway, get, patience::eventually, post};

use crate::{chat, on_both, whole_chat, with};

on_both! {
    a_streamed_chat_passes_untouched_and_is_audited,
    a_whole_chat_is_audited_with_its_counts,
    every_request_has_its_row_and_the_ledger_their_sums,
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn a_streamed_chat_passes_untouched_and_is_audited(setup: Setup) {
    let script = scripted_ollama::Script {
        fixed_time: Some("2026-11-23T12:00:00Z".parse().unwrap()),
        ..Default::default()
    };
    let gateway = TestGateway::with(Setup { script, ..setup }).await;
    let reply =
        post(gateway.address, "/api/chat", Some(&gateway.key), &chat("hello there friend")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let direct =
        post(gateway.ollama.address(), "/api/chat", None, &chat("hello there friend")).await;
    assert_eq!(reply.text(), direct.text(), "bytes were changed");
    let said = lines(&reply.text());
    assert_eq!(said.len(), 9);
    assert_eq!(said[8]["done"], json!(true));

    let event = gateway.audited_one().await;
    assert_eq!(format!("{}", event.request), reply.header("x-request-id"));
    assert_eq!(
        (event.route, event.status, event.outcome),
        (Route::OllamaChat, 200, Outcome::Completed)
    );
    assert_eq!((event.usage.prompt, event.usage.completion), (3, 8));
    assert!(!event.usage.estimated && event.code.is_none());
    assert_eq!(event.model.unwrap().as_str(), "llama3.2:latest");
    assert_eq!(event.upstream.as_deref(), Some("ollama"));
    assert!(event.first_byte.unwrap() <= event.total);
}

async fn a_whole_chat_is_audited_with_its_counts(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let reply =
        post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("one two three")).await;
    assert_eq!(reply.header("content-type"), "application/json");
    assert!(reply.json()["message"]["content"].as_str().unwrap().contains("one two three"));
    let event = gateway.audited_one().await;
    assert_eq!((event.usage.prompt, event.usage.completion), (3, 8));
}

async fn every_request_has_its_row_and_the_ledger_their_sums(setup: Setup) {
    use storage::ledger::{LedgerBy, LedgerQuery};
    let gateway = TestGateway::with(setup).await;
    for number in 0..20 {
        let body = if number % 2 == 0 { chat("a b") } else { whole_chat("a b") };
        let path = if number % 4 < 2 { "/api/chat" } else { "/v1/chat/completions" };
        let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
        assert_eq!(reply.status, 200);
    }
    let events = gateway.audited(20).await;
    assert_eq!(events.len(), 20);
    assert!(events.iter().all(|event| (event.usage.prompt, event.usage.completion) == (2, 7)));
    let query = LedgerQuery { by: LedgerBy::Tenant, tenant: None, key: None, since: None };
    let sums = gateway.storage.ledger.sums(query).await.unwrap();
    assert_eq!(sums.len(), 1);
    let sum = &sums[0];
    assert_eq!((sum.of.as_str(), sum.requests), ("acme", 20));
    assert_eq!((sum.prompt, sum.completion, sum.estimated), (40, 140, 0));
}

#[tokio::test]
async fn generate_streams_and_is_whole() {
    let gateway = TestGateway::start().await;
    let body = json!({ "model": "llama3.2", "prompt": "hello you" });
    let streamed = post(gateway.address, "/api/generate", Some(&gateway.key), &body).await;
    let said = lines(&streamed.text());
    assert_eq!(said.last().unwrap()["eval_count"], json!(7));
    let whole = with(body, "stream", json!(false));
    let whole = post(gateway.address, "/api/generate", Some(&gateway.key), &whole).await.json();
    assert_eq!(whole["response"], json!("This is the scripted Ollama: hello you"));
    let events = gateway.audited(2).await;
    assert!(events.iter().all(|event| event.route == Route::OllamaGenerate));
    assert!(events.iter().all(|event| (event.usage.prompt, event.usage.completion) == (2, 7)));
}

#[tokio::test]
async fn what_generate_is_asked_passes_byte_for_byte() {
    let script = scripted_ollama::Script {
        fixed_time: Some("2026-11-23T12:00:00Z".parse().unwrap()),
        ..Default::default()
    };
    let gateway = TestGateway::with(Setup { script, ..Setup::default() }).await;
    // A template, and fields that nobody knows, pass for who may use all.
    let policy = Policy { levers: Levers::OPEN, ..Policy::default() };
    let tenant = gateway.another_tenant("trusted", Limits::default(), policy).await;
    let key = gateway.key_of(tenant.id).await;
    for rest in [
        r#""options":{"temperature":1.50,"top_p":1e0,"repeat_penalty":1.10E+0,"seed":9007199254740993}"#,
        r#""raw":true , "x_unknown":{"b":1e2,"a":[2.0,-0.0]}"#,
        r#""suffix":"\u00e9nd","system":"","template":"{{ .Prompt }}""#,
        r#""context":[1,2,128006],"keep_alive":"10m""#,
        r#""images":["AAAA","iVBORw0KGgo="],"keep_alive":6e2"#,
        r#""format":{"type":"object","properties":{"z":{"type":"number"},"a":{"const":1.50}}},"think":false"#,
    ] {
        for stream in ["true", "false"] {
            let body = format!(
                "{{ \"prompt\":\"hi\\u0020there\",\"model\" :\"Library/LLAMA3.2\",{rest},\"stream\":{stream}}}"
            );
            let sent = async |address, key| {
                let body = body.clone().into();
                let reply =
                    tests::client::ask(address, http::Method::POST, "/api/generate", key, body);
                let reply = reply.await;
                assert_eq!(reply.status, 200, "{rest}: {}", reply.text());
                reply.text()
            };
            let through = sent(gateway.address, Some(key.as_str())).await;
            let seen = gateway.ollama.requests().pop().unwrap();
            assert_eq!(seen.body, body.as_bytes(), "the body was changed");
            assert_eq!(
                through,
                sent(gateway.ollama.address(), None).await,
                "the reply was changed"
            );
        }
    }
}

#[tokio::test]
async fn embeddings_of_both_kinds_are_counted() {
    let gateway = TestGateway::start().await;
    let body = json!({ "model": "nomic-embed-text", "input": ["one two", "three"] });
    let reply = post(gateway.address, "/api/embed", Some(&gateway.key), &body).await.json();
    assert_eq!(reply["embeddings"].as_array().unwrap().len(), 2);
    assert_eq!(reply["embeddings"][0].as_array().unwrap().len(), 768);
    let event = gateway.audited_one().await;
    assert_eq!((event.route, event.usage.prompt), (Route::OllamaEmbed, 3));
    let body = json!({ "model": "nomic-embed-text", "prompt": "one two" });
    let reply = post(gateway.address, "/api/embeddings", Some(&gateway.key), &body).await.json();
    assert_eq!(reply["embedding"].as_array().unwrap().len(), 768);
}

#[tokio::test]
async fn thinking_and_tools_pass_and_unknown_fields_of_who_may_use_all() {
    let gateway = TestGateway::start().await;
    let policy = Policy { levers: Levers::OPEN, ..Policy::default() };
    let tenant = gateway.another_tenant("trusted", Limits::default(), policy).await;
    let trusted = gateway.key_of(tenant.id).await;
    let body = with(with(chat("hi"), "model", json!("qwen3:8b")), "x_unknown", json!({ "a": [1] }));
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &body).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    let reply = post(gateway.address, "/api/chat", Some(&trusted), &body).await;
    assert!(lines(&reply.text()).iter().any(|line| line["message"]["thinking"].is_string()));
    let sent = gateway.ollama.requests().pop().unwrap();
    assert_eq!(sent.body, body.to_string().as_bytes(), "the body was changed");
    let tools = json!([{ "type": "function", "function": { "name": "weather", "parameters": {
        "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] } } }]);
    let body = with(whole_chat("what does weather say"), "tools", tools);
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &body).await.json();
    assert_eq!(reply["message"]["tool_calls"][0]["function"]["name"], json!("weather"));
}

#[tokio::test]
async fn a_model_is_loaded_and_shows_in_ps() {
    let gateway = TestGateway::start().await;
    let loaded = async || get(gateway.address, "/api/ps", Some(&gateway.key)).await.json();
    assert_eq!(loaded().await, json!({ "models": [] }));
    let body = json!({ "model": "llama3.2" });
    let reply = post(gateway.address, "/api/generate", Some(&gateway.key), &body).await;
    assert_eq!(reply.json()["done_reason"], json!("load"));
    eventually("a list that is newer than a second", || async {
        (loaded().await["models"][0]["name"] == "llama3.2:latest").then_some(())
    })
    .await;
}

#[tokio::test]
async fn show_tells_what_a_model_can_and_not_how_it_is_prompted() {
    let gateway = TestGateway::start().await;
    let body = json!({ "model": "llama3.2" });
    let reply = post(gateway.address, "/api/show", Some(&gateway.key), &body).await;
    assert_eq!(reply.status, 200);
    assert!(reply.json()["capabilities"].as_array().unwrap().contains(&json!("tools")));
    assert!(!reply.text().contains("UPSTREAM-WORDS"), "{}", reply.text());
    let version = get(gateway.address, "/api/version", Some(&gateway.key)).await;
    assert_eq!(version.json(), json!({ "version": "0.33.0" }));
}

#[tokio::test]
async fn odd_lines_pass_as_they_are() {
    let gateway = TestGateway::start().await;
    for words in ["[[split 7]]", "[[crlf]]", "[[blank]]", "[[no-newline]]", "[[long 300000]]"] {
        let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &chat(words)).await;
        assert_eq!(reply.status, 200);
        let text = reply.text();
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap();
        assert!(last.contains("\"done\":true"), "{words}: {last}");
        assert_eq!(text.contains("\r\n"), words == "[[crlf]]");
    }
    let events = gateway.audited(5).await;
    assert!(events.iter().all(|event| event.outcome == Outcome::Completed));
    assert!(events.iter().all(|event| !event.usage.estimated), "{events:#?}");
}

#[tokio::test]
async fn a_stream_without_counts_is_estimated() {
    let gateway = TestGateway::start().await;
    post(gateway.address, "/api/chat", Some(&gateway.key), &chat("[[no-counts]] a b c")).await;
    let event = gateway.audited_one().await;
    assert_eq!(event.outcome, Outcome::Completed);
    assert_eq!((event.usage.estimated, event.usage.completion), (true, 8));
    assert!(event.usage.prompt > 0);
}
