//! What a request can ask of a model server at the cost of others.

use http::Method;
use identity::policy::Policy;
use protocol::{
    error::Code,
    levers::{Levers, LoadOptions},
    outcome::Outcome,
};
use serde_json::{Value, json};
use storage::limits::Limits;
use tests::{
    Reply, Setup, TestGateway,
    client::{ask, request, send_trusted},
    get, post,
};

use crate::{chat, on_both, whole_chat, with};

on_both! {
    who_may_not_unload_a_model_leaves_it_to_others,
    what_a_tenant_may_ask_is_its_own,
}

/// A key of a tenant of its own, with these levers.
async fn key(gateway: &TestGateway, name: &str, levers: Levers) -> String {
    let policy = Policy { levers, ..Policy::default() };
    let tenant = gateway.another_tenant(name, Limits::default(), policy).await;
    gateway.key_of(tenant.id).await
}

/// Sends a body as it is spelled.
async fn raw(gateway: &TestGateway, path: &str, key: &str, body: &str) -> Reply {
    ask(gateway.address, Method::POST, path, Some(key), body.to_owned().into()).await
}

/// The body that the model server got last.
fn last(gateway: &TestGateway) -> String {
    let seen = gateway.ollama.requests().into_iter().rfind(|seen| seen.method == "POST");
    String::from_utf8(seen.unwrap().body.to_vec()).unwrap()
}

fn posted(gateway: &TestGateway) -> usize {
    gateway.ollama.requests().iter().filter(|seen| seen.method == "POST").count()
}

async fn loaded(gateway: &TestGateway) -> Value {
    get(gateway.address, "/api/ps", Some(&gateway.key)).await.json()["models"].clone()
}

async fn who_may_not_unload_a_model_leaves_it_to_others(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let key = &gateway.key;
    post(gateway.address, "/api/chat", Some(key), &whole_chat("hi")).await;
    let orders = [
        ("/api/generate", r#"{"model":"llama3.2","keep_alive":0}"#),
        ("/api/generate", r#"{"model":"LLAMA3.2:latest","prompt":"","keep_alive":"0s"}"#),
        ("/api/generate", r#"{"model":"llama3.2","keep_alive":0.9}"#),
        ("/api/generate", r#"{"model":"llama3.2","keep_alive":"\u0030"}"#),
        ("/api/chat", r#"{"model":"llama3.2","messages":[],"keep_alive":"1ms"}"#),
        ("/api/chat", r#"{"model":"llama3.2","messages":null,"keep_alive":-0}"#),
        ("/api/embed", r#"{"model":"llama3.2","input":[],"keep_alive":0}"#),
    ];
    let before = posted(&gateway);
    for (path, order) in orders {
        let reply = raw(&gateway, path, key, order).await;
        assert_eq!(reply.status, 403, "{order}: {}", reply.text());
        let told = json!({ "error": "`keep_alive`: This key may not unload models." });
        assert_eq!(reply.json(), told);
    }
    for (body, status) in [
        (r#"{"model":"llama3.2","KEEP_ALIVE":0}"#, 400),
        (r#"{"model":"llama3.2","keep_alive":"5m","keep_alive":0}"#, 400),
        (r#"{"model":"llama3.2","keep_alive":"at once"}"#, 400),
    ] {
        assert_eq!(raw(&gateway, "/api/generate", key, body).await.status, status, "{body}");
    }
    assert_eq!(posted(&gateway), before, "an order reached the model server");
    // Beside a question it is passed over, and so is every other time that takes it from others.
    for (said, sent) in [
        ("0", "null"),
        ("\"0s\"", "null"),
        ("60", "null"),
        ("\"10m\"", "\"10m\""),
        ("1800.0", "1800.0"),
        ("-1", "\"1800s\""),
        ("\"24h\"", "\"1800s\""),
    ] {
        let asked = |value: &str| {
            format!(r#"{{"model":"llama3.2", "prompt":"hi","keep_alive": {value} ,"seed":1.50}}"#)
        };
        let reply = raw(&gateway, "/api/generate", key, &asked(said)).await;
        assert_eq!(reply.status, 200, "{said}: {}", reply.text());
        assert_eq!(last(&gateway), asked(sent));
    }
    assert_eq!(loaded(&gateway).await[0]["name"], "llama3.2:latest");
    let events = gateway.audited(orders.len() + 11).await;
    let refused = events.iter().filter(|event| event.code == Some(Code::OptionNotAllowed));
    assert_eq!(refused.clone().count(), orders.len());
    assert!(refused.clone().all(|event| (event.status, event.outcome) == (403, Outcome::Refused)));
}

async fn what_a_tenant_may_ask_is_its_own(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let open = key(&gateway, "trusted", Levers::OPEN).await;
    post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    let body = r#"{"model":"llama3.2","prompt":"hi","keep_alive":0,"options":{"num_gpu":0,"num_ctx":1000000}}"#;
    assert_eq!(raw(&gateway, "/api/generate", &open, body).await.status, 200);
    assert_eq!(last(&gateway), body);
    let order = json!({ "model": "llama3.2", "keep_alive": 0 });
    let reply = post(gateway.address, "/api/generate", Some(&open), &order).await;
    assert_eq!(reply.json()["done_reason"], "unload");
    assert_eq!(loaded(&gateway).await, json!([]));
}

#[tokio::test]
async fn the_context_is_held_to_what_is_allowed_on_every_route() {
    let gateway = TestGateway::start().await;
    let held = Levers { num_ctx_max: Some(4_096), ..Levers::default() };
    let key = key(&gateway, "held", held).await;
    for (path, rest) in [
        ("/api/chat", r#""messages":[{"role":"user","content":"hi"}]"#),
        ("/api/generate", r#""prompt":"hi""#),
        ("/api/embed", r#""input":"hi""#),
        ("/api/embeddings", r#""prompt":"hi""#),
    ] {
        let model = if path.starts_with("/api/embed") { "nomic-embed-text" } else { "llama3.2" };
        let body = |options: &str| {
            format!(r#"{{"model":"{model}",{rest},"options":{{"seed":1,{options}}}}}"#)
        };
        for (said, sent) in [
            (r#""num_ctx":4097"#, r#""num_ctx":4096"#),
            (r#""num_ctx":1e6"#, r#""num_ctx":4096"#),
            (r#""num_ctx": 131072 ,"stop":["}"]"#, r#""num_ctx": 4096 ,"stop":["}"]"#),
            (r#""num_ctx":4096"#, r#""num_ctx":4096"#),
            (r#""num_ctx":2048.0"#, r#""num_ctx":2048.0"#),
            (r#""num_ctx":null"#, r#""num_ctx":null"#),
        ] {
            let reply = raw(&gateway, path, &key, &body(said)).await;
            assert_eq!(reply.status, 200, "{path} {said}: {}", reply.text());
            assert_eq!(last(&gateway), body(sent), "{path}");
        }
        let before = posted(&gateway);
        for (said, status) in [
            (r#""NUM_CTX":131072"#, 400),
            (r#""num_ctx":1,"num_ctx":131072"#, 400),
            (r#""num_ctx":"131072""#, 400),
            (r#""num_gpu":0"#, 403),
            (r#""num_thread":1"#, 403),
            (r#""num_batch":1"#, 403),
            (r#""main_gpu":1"#, 403),
            (r#""use_mmap":false"#, 403),
            (r#""use_mlock":true"#, 403),
            (r#""draft_num_predict":1"#, 403),
            (r#""Num_GPU":0"#, 400),
        ] {
            let reply = raw(&gateway, path, &key, &body(said)).await;
            assert_eq!(reply.status, status, "{path} {said}: {}", reply.text());
        }
        assert_eq!(posted(&gateway), before, "{path}");
    }
}

#[tokio::test]
async fn a_context_and_options_can_be_forbidden_or_free_apart() {
    let gateway = TestGateway::start().await;
    let forbidden = Levers { num_ctx_max: Some(0), options: LoadOptions::All, ..Levers::default() };
    let forbidden = key(&gateway, "forbidden", forbidden).await;
    let body = |options: Value| with(whole_chat("hi"), "options", options);
    for (options, key, status) in [
        (json!({ "num_ctx": 1 }), &forbidden, 403),
        (json!({ "num_gpu": 1, "num_thread": 2 }), &forbidden, 200),
        (json!({ "num_ctx": 1_000_000 }), &gateway.key, 200),
        (json!({ "num_gpu": 1 }), &gateway.key, 403),
    ] {
        let reply = post(gateway.address, "/api/chat", Some(key), &body(options.clone())).await;
        assert_eq!(reply.status, status, "{options}: {}", reply.text());
    }
    // Where the most tokens are set besides, both are.
    let budget = storage::limits::Budget::new(1_000_000, storage::limits::LimitPeriod::Total);
    let limits = Limits { budget: Some(budget), ..Limits::default() };
    let levers = Levers { num_ctx_max: Some(2_048), ..Levers::default() };
    let policy = Policy { levers, ..Policy::default() };
    let tenant = gateway.another_tenant("paying", limits, policy).await;
    let paying = gateway.key_of(tenant.id).await;
    let said = r#"{"model":"llama3.2","prompt":"hi","keep_alive":-1,"options":{"num_ctx":9999}}"#;
    assert_eq!(raw(&gateway, "/api/generate", &paying, said).await.status, 200);
    let sent = r#"{"model":"llama3.2","prompt":"hi","keep_alive":"1800s","options":{"num_ctx":2048,"num_predict":1024}}"#;
    assert_eq!(last(&gateway), sent);
}

#[tokio::test]
async fn a_model_is_shown_whole_to_who_is_trusted_with_it_and_filtered_otherwise() {
    let gateway = TestGateway::start().await;
    let trusted = Levers { trusted_show: true, ..Levers::default() };
    let trusted = key(&gateway, "trusted", trusted).await;
    let body = json!({ "model": "llama3.2" });
    let show = |key| request(Method::POST, "/api/show", key, body.to_string().into());
    let whole = send_trusted(gateway.address, show(Some(trusted.as_str()))).await;
    let direct = send_trusted(gateway.ollama.address(), show(None)).await;
    assert_eq!((whole.status.as_u16(), whole.text()), (200, direct.text()));
    assert!(["system", "template", "modelfile"].iter().all(|name| whole.json()[name].is_string()));
    let filtered = post(gateway.address, "/api/show", Some(&gateway.key), &body).await;
    let filtered = filtered.json();
    let mut names: Vec<_> = filtered.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["capabilities", "details", "license", "model_info", "modified_at"]);
}

#[tokio::test]
async fn where_there_is_nothing_to_load_the_gateway_answers_as_ollama_would() {
    let gateway = TestGateway::with(Setup { openai: true, ..Setup::default() }).await;
    let open = key(&gateway, "trusted", Levers::OPEN).await;
    for (path, empty, at) in [
        ("/api/chat", with(chat(""), "messages", json!([])), "/message/content"),
        ("/api/generate", json!({ "model": "llama3.2" }), "/response"),
    ] {
        for (body, key, reason) in [
            (empty.clone(), &gateway.key, "load"),
            (with(empty.clone(), "keep_alive", json!("10m")), &gateway.key, "load"),
            (with(empty.clone(), "keep_alive", json!(0)), &open, "unload"),
        ] {
            let reply = post(gateway.address, path, Some(key), &body).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            let reply = reply.json();
            assert_eq!((&reply["done"], &reply["done_reason"]), (&json!(true), &json!(reason)));
            assert_eq!(
                (&reply["model"], reply.pointer(at)),
                (&json!("llama3.2"), Some(&json!("")))
            );
        }
        let unload = with(empty, "keep_alive", json!(0));
        let reply = post(gateway.address, path, Some(&gateway.key), &unload).await;
        assert_eq!(reply.status, 403, "{path}: {}", reply.text());
    }
    let model = json!({ "model": "llama3.2" });
    let show = post(gateway.address, "/api/show", Some(&open), &model).await.json();
    assert_eq!((&show["capabilities"], &show["model_info"]), (&json!([]), &json!({})));
    assert_eq!(show["details"]["family"], "");
    assert_eq!(loaded(&gateway).await, json!([]));
    let version = get(gateway.address, "/api/version", Some(&gateway.key)).await.json();
    assert_eq!(version, json!({ "version": env!("CARGO_PKG_VERSION") }));
    assert!(gateway.ollama.requests().iter().all(|seen| seen.path == "/v1/models"));
}
