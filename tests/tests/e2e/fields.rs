//! Fields that the gateway does not read, and bodies that hold too much.

use http::Method;
use identity::policy::Policy;
use protocol::{caps, levers::Levers};
use serde_json::{Value, json};
use storage::limits::{Budget, LimitPeriod, Limits};
use tests::{Setup, TestGateway, client::ask, post};

use crate::{MODEL, chat, whole_chat, with};

const CHAT: &str = "/v1/chat/completions";

/// A key of a tenant that may use every field, with a budget or none.
async fn trusted(gateway: &TestGateway, name: &str, budget: Option<u64>) -> String {
    let budget = budget.map(|tokens| Budget::new(tokens, LimitPeriod::Total));
    let limits = Limits { budget, ..Limits::default() };
    let policy = Policy { levers: Levers::OPEN, ..Policy::default() };
    let tenant = gateway.another_tenant(name, limits, policy).await;
    gateway.key_of(tenant.id).await
}

fn posted(gateway: &TestGateway) -> usize {
    gateway.ollama.requests().iter().filter(|seen| seen.method == "POST").count()
}

/// The body that the model server got last.
fn last(gateway: &TestGateway) -> Value {
    let seen = gateway.ollama.requests().into_iter().rfind(|seen| seen.method == "POST");
    serde_json::from_slice(&seen.unwrap().body).unwrap()
}

#[tokio::test]
async fn a_field_that_nobody_knows_reaches_no_model_server() {
    for openai in [false, true] {
        let gateway = TestGateway::with(Setup { openai, ..Setup::default() }).await;
        let before = posted(&gateway);
        for (path, base) in [
            (CHAT, whole_chat("hi")),
            ("/v1/completions", json!({ "model": MODEL, "prompt": "hi" })),
            ("/v1/embeddings", json!({ "model": MODEL, "input": "hi" })),
            ("/v1/responses", json!({ "model": MODEL, "input": "hi" })),
            ("/v1/messages", with(chat("hi"), "max_tokens", json!(5))),
            ("/api/chat", whole_chat("hi")),
            ("/api/generate", json!({ "model": MODEL, "prompt": "hi" })),
        ] {
            for field in ["n_predict", "n_cmpl", "priority", "chat_template", "extra_body"] {
                let body = with(base.clone(), field, json!(50_007));
                let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
                assert_eq!(reply.status, 400, "{path} {field}: {}", reply.text());
                assert!(reply.text().contains(field), "{path}: {}", reply.text());
                assert!(reply.text().contains("--options all"), "{path}: {}", reply.text());
            }
        }
        for (path, body) in [
            ("/api/chat", with(whole_chat("hi"), "options", json!({ "n_predict": 50_007 }))),
            (
                "/api/generate",
                json!({ "model": MODEL, "prompt": "hi", "template": "{{ range . }}" }),
            ),
        ] {
            let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        }
        assert_eq!(posted(&gateway), before);
    }
}

#[tokio::test]
async fn a_strict_budget_holds_for_who_may_use_every_field() {
    let gateway = TestGateway::with(Setup { openai: true, ..Setup::default() }).await;
    let key = trusted(&gateway, "trusted", Some(5_000)).await;
    let body = |n_predict: i64| {
        with(with(whole_chat("hi"), "max_tokens", json!(2_000)), "n_predict", json!(n_predict))
    };
    // More than there is: the larger spelling is what is reserved.
    let reply = post(gateway.address, CHAT, Some(&key), &body(50_007)).await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (429, "budget_exhausted"));
    for (n_predict, most) in [(-1, 2_000), (0, 2_000), (5, 2_000), (3_000, 3_000)] {
        let reply = post(gateway.address, CHAT, Some(&key), &body(n_predict)).await;
        assert_eq!(reply.status, 200, "{n_predict}: {}", reply.text());
        let sent = last(&gateway);
        assert_eq!((&sent["max_tokens"], &sent["n_predict"]), (&json!(most), &json!(most)));
    }
    let open = with(whole_chat("hi"), "n_predict", json!(-1));
    assert_eq!(post(gateway.address, CHAT, Some(&key), &open).await.status, 200);
    assert_eq!(last(&gateway)["n_predict"], last(&gateway)["max_tokens"]);
    assert_eq!(last(&gateway)["n_predict"], 1_024);
    let before = posted(&gateway);
    for (field, value) in [
        ("n_cmpl", json!(2)),
        ("models", json!(["another"])),
        ("chat_template", json!("{% for x in range(9) %}{% endfor %}")),
        ("prompt_embeds", json!("QUJD")),
    ] {
        let reply = post(gateway.address, CHAT, Some(&key), &with(chat("hi"), field, value)).await;
        assert_eq!(reply.status, 400, "{field}: {}", reply.text());
    }
    assert_eq!(posted(&gateway), before);
}

#[tokio::test]
async fn a_template_is_refused_where_a_budget_holds_and_token_ids_are_counted() {
    let gateway = TestGateway::start().await;
    let generate = |field: &str, value: Value| {
        let body = json!({ "model": MODEL, "prompt": "hi", "options": { "num_predict": 10 } });
        with(with(body, "stream", json!(false)), field, value)
    };
    let path = "/api/generate";
    let (paying, free) =
        (trusted(&gateway, "paying", Some(200)).await, trusted(&gateway, "free", None).await);
    let template = generate("template", json!("{{ .Prompt }}"));
    assert_eq!(post(gateway.address, path, Some(&paying), &template).await.status, 400);
    assert_eq!(post(gateway.address, path, Some(&free), &template).await.status, 200);
    // A hundred ids of seven bytes each are a hundred tokens, and no two hundred ids fit.
    let context = |count: usize| generate("context", json!(vec![1_280_000; count]));
    let reply = post(gateway.address, path, Some(&paying), &context(100)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = post(gateway.address, path, Some(&paying), &context(200)).await;
    assert_eq!(reply.status, 429, "{}", reply.text());
}

#[tokio::test]
async fn a_body_of_millions_of_messages_is_refused_at_the_bound() {
    let gateway = TestGateway::start().await;
    let before = posted(&gateway);
    let tiny = vec![r#"{"role":"user","content":"a"}"#; 500_000].join(",");
    let body = |field: &str| format!(r#"{{"model":"{MODEL}","{field}":[{tiny}]}}"#);
    for (path, field) in [(CHAT, "messages"), ("/api/chat", "messages"), ("/v1/responses", "input")]
    {
        let body = body(field).into();
        let reply = ask(gateway.address, Method::POST, path, Some(&gateway.key), body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        let said = format!("`{field}` may have at most {} items.", caps::MESSAGES_MAX);
        assert!(reply.text().contains(&said), "{path}: {}", reply.text());
    }
    assert_eq!(posted(&gateway), before);
    // As many as agents send are let through.
    let message = json!({ "role": "user", "content": "a" });
    let long = json!({ "model": MODEL, "stream": false, "messages": vec![message; 2_000] });
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &long).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// What the model server is sent of a request that is answered.
async fn sent(gateway: &TestGateway, path: &str, body: &Value) -> Value {
    let reply = post(gateway.address, path, Some(&gateway.key), body).await;
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text());
    last(gateway)
}

#[tokio::test]
async fn a_schema_reaches_every_server_from_every_dialect() {
    let schema = json!({ "type": "object", "properties": { "town": { "type": "string" } } });
    let format = json!({ "type": "json_schema", "schema": schema });
    for openai in [false, true] {
        let gateway = TestGateway::with(Setup { openai, ..Setup::default() }).await;
        let place = if openai { "/response_format/json_schema/schema" } else { "/format" };
        let message = with(whole_chat("hi"), "max_tokens", json!(5));
        let response = json!({ "model": MODEL, "input": "hi" });
        for (path, base, field, value) in [
            ("/v1/messages", message.clone(), "output_config", json!({ "format": format })),
            ("/v1/messages", message, "output_format", format.clone()),
            (CHAT, whole_chat("hi"), "response_format", format.clone()),
            (
                CHAT,
                whole_chat("hi"),
                "response_format",
                json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } }),
            ),
            ("/v1/responses", response, "text", json!({ "format": format })),
            ("/api/chat", whole_chat("hi"), "format", schema.clone()),
        ] {
            for stream in [false, true] {
                let body = with(with(base.clone(), field, value.clone()), "stream", json!(stream));
                let sent = sent(&gateway, path, &body).await;
                assert_eq!(sent.pointer(place), Some(&schema), "{path} {field}: {sent}");
            }
        }
    }
}

#[tokio::test]
async fn a_format_without_a_schema_reaches_no_model_server() {
    for openai in [false, true] {
        let gateway = TestGateway::with(Setup { openai, ..Setup::default() }).await;
        let before = posted(&gateway);
        let message = with(whole_chat("hi"), "max_tokens", json!(5));
        let format = json!({ "type": "json_schema" });
        for (path, body, named) in [
            (
                "/v1/messages",
                with(message.clone(), "output_config", json!({ "format": format })),
                "output_config.format.schema",
            ),
            (
                "/v1/messages",
                with(message, "output_config", json!({ "unheard_of": 1 })),
                "output_config.unheard_of",
            ),
            (
                CHAT,
                with(whole_chat("hi"), "response_format", format.clone()),
                "response_format.json_schema",
            ),
            (
                "/v1/responses",
                json!({ "model": MODEL, "input": "hi", "text": { "format": format } }),
                "text.format.schema",
            ),
        ] {
            for stream in [false, true] {
                let body = with(body.clone(), "stream", json!(stream));
                let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
                assert_eq!(reply.status, 400, "{path}: {}", reply.text());
                assert!(reply.text().contains(named), "{path}: {}", reply.text());
            }
        }
        assert_eq!(posted(&gateway), before);
    }
}

#[tokio::test]
async fn no_empty_word_to_stop_at_is_written() {
    for openai in [false, true] {
        let gateway = TestGateway::with(Setup { openai, ..Setup::default() }).await;
        let place = if openai { "/stop" } else { "/options/stop" };
        let message = with(whole_chat("hi"), "max_tokens", json!(5));
        let completion = json!({ "model": MODEL, "prompt": "hi", "stream": false });
        let options = json!({ "stop": ["", "END"] });
        let mut bodies = vec![
            ("/v1/messages", with(message.clone(), "stop_sequences", json!(["", "END"])), true),
            ("/v1/messages", with(message, "stop_sequences", json!([""])), false),
        ];
        if openai {
            bodies.push(("/api/chat", with(whole_chat("hi"), "options", options), true));
        } else {
            bodies.push((CHAT, with(whole_chat("hi"), "stop", json!(["", "END"])), true));
            bodies.push((CHAT, with(whole_chat("hi"), "stop", json!("")), false));
            bodies.push(("/v1/completions", with(completion, "stop", json!("")), false));
        }
        for (path, body, has_one) in bodies {
            let sent = sent(&gateway, path, &body).await;
            let expected = has_one.then(|| json!(["END"]));
            assert_eq!(sent.pointer(place), expected.as_ref(), "{path}: {sent}");
        }
    }
}
