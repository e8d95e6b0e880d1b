//! What the OpenAPI documents describe is closed: every operation of theirs is called as nobody, as a forger
//! and as a stranger.

use std::net::SocketAddr;

use http::Method;
use identity::{api_key::mint, policy::Policy};
use protocol::name::ModelName;
use serde_json::{Value, json};
use storage::{limits::Limits, tenants::TenantChange};
use tests::{
    Reply, TestGateway,
    client::{request, send},
    get,
};

use crate::{settings, whole_chat, with};

const TOKEN: &str = "an-operators-token-of-forty-characters-00";

/// What somebody with a key of another tenant, who may use another model, is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stranger {
    /// That this model is not allowed.
    Denied,
    /// What is nobody's, or nothing of others.
    Served,
    /// What everybody is told.
    Blocked,
}

/// A right request of that operation, and what a stranger is told; an operation without one fails.
fn case(path: &str) -> (Value, Stranger) {
    let text = json!({ "model": "llama3.2", "prompt": "hi", "input": "hi", "max_tokens": 9 });
    match path {
        "/v1/chat/completions" | "/api/chat" => (whole_chat("hi"), Stranger::Denied),
        "/v1/messages" | "/v1/messages/count_tokens" => {
            (with(whole_chat("hi"), "max_tokens", json!(9)), Stranger::Denied)
        }
        "/v1/completions" | "/v1/embeddings" | "/api/generate" | "/api/embed"
        | "/api/embeddings" | "/api/show" => (text, Stranger::Denied),
        "/v1/responses" => (json!({ "model": "llama3.2", "input": "hi" }), Stranger::Denied),
        "/v1/models/{id}" => (Value::Null, Stranger::Denied),
        "/v1/models" | "/api/tags" | "/api/ps" | "/api/version" => (Value::Null, Stranger::Served),
        "/api/pull"
        | "/api/push"
        | "/api/create"
        | "/api/copy"
        | "/api/delete"
        | "/api/blobs/{digest}" => (text, Stranger::Blocked),
        other => panic!("no case for {other}"),
    }
}

/// Every operation of a document: its path, its method, and whether it is open to everybody.
fn operations(document: &Value) -> Vec<(String, Method, bool)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, operations): (&String, &Value)| {
        let operations = operations.as_object().unwrap().clone();
        let path = path.clone();
        operations.into_iter().map(move |(method, operation)| {
            let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
            (path.clone(), method.to_uppercase().parse().unwrap(), is_open)
        })
    };
    paths.iter().flat_map(of_path).collect()
}

async fn call(
    to: SocketAddr,
    method: &Method,
    path: &str,
    key: Option<&str>,
    body: &Value,
) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(to, request(method.clone(), path, key, body.into())).await
}

#[tokio::test]
async fn the_data_listener_is_closed_to_nobody_forgers_and_strangers() {
    let gateway = TestGateway::start().await;
    let other = gateway.another_tenant("other", Limits::default(), Policy::default()).await;
    let only = identity::models::ModelRule::Only([ModelName::parse("qwen3:8b").unwrap()].into());
    let change = TenantChange { models: Some(only), ..TenantChange::default() };
    gateway.storage.tenants.change(other.id, change).await.unwrap();
    let stranger = gateway.key_of(other.id).await;
    let forged = mint(|buffer| getrandom::fill(buffer).unwrap()).key.expose().to_owned();
    let document = get(gateway.admin, "/admin/v1/openapi-data.json", None).await.json();
    let operations = operations(&document);
    assert!(operations.len() > 20, "{}", operations.len());
    for (described, method, is_open) in operations {
        let path = described.replace("{id}", "llama3.2").replace("{digest}", "sha256:0");
        let ask = async |key: Option<&str>, body: &Value| {
            let reply = call(gateway.address, &method, &path, key, body).await;
            let status = reply.status.as_u16();
            let told = &document["paths"][&described][method.as_str().to_lowercase()];
            assert!(told["responses"][status.to_string()].is_object(), "{path}: {status}");
            (status, reply)
        };
        if is_open {
            assert_eq!(ask(None, &Value::Null).await.0, 200, "{path}");
            continue;
        }
        let (body, told) = case(&described);
        for key in [None, Some(forged.as_str()), Some("nz_forged")] {
            assert_eq!(ask(key, &body).await.0, 401, "{path}");
        }
        let (status, reply) = ask(Some(&stranger), &body).await;
        match told {
            Stranger::Denied => assert_eq!(status, 403, "{path}"),
            Stranger::Blocked => assert_eq!(status, 403, "{path}"),
            Stranger::Served => {
                assert_eq!(status, 200, "{path}");
                assert!(!reply.text().contains("llama3.2"), "{path}: {}", reply.text());
            }
        }
        // It is the stranger who is refused, and not the request.
        let expected = if told == Stranger::Blocked { 403 } else { 200 };
        let (status, reply) = ask(Some(&gateway.key), &body).await;
        assert_eq!(status, expected, "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn the_admin_listener_is_closed_to_nobody_forgers_and_tenants() {
    let gateway = TestGateway::with(settings([("NEURONETZ_ADMIN_TOKEN", TOKEN)])).await;
    let document = get(gateway.admin, "/admin/v1/openapi.json", Some(TOKEN)).await.json();
    let operations = operations(&document);
    assert!(operations.len() > 10, "{}", operations.len());
    for (described, method, is_open) in operations {
        let path = described
            .replace("{scope}", "tenants")
            .replace("{kind}", "tenant")
            .replace("{id}", "acme")
            .replace("{action}", "reset");
        assert!(!path.contains('{'), "no case for {described}");
        let ask =
            async |key: Option<&str>| call(gateway.admin, &method, &path, key, &json!({})).await;
        if is_open {
            assert_eq!(ask(None).await.status, 200, "{path}");
            continue;
        }
        for key in [None, Some("another-token-of-forty-characters-0000000"), Some(&gateway.key)] {
            let reply = ask(key).await;
            assert_eq!(reply.status, 401, "{method} {path}");
            assert_eq!(reply.json()["code"], "operator_unproven", "{path}");
        }
    }
}

#[tokio::test]
async fn a_path_answers_to_the_methods_that_are_described_and_to_no_others() {
    let gateway = TestGateway::with(settings([("NEURONETZ_ADMIN_TOKEN", TOKEN)])).await;
    for (listener, at, fills) in [
        (gateway.admin, "/admin/v1/openapi.json", ["tenants", "acme", "reset"]),
        (gateway.address, "/admin/v1/openapi-data.json", ["", "llama3.2", ""]),
    ] {
        let document = get(gateway.admin, at, Some(TOKEN)).await.json();
        for (described, operations) in document["paths"].as_object().unwrap() {
            let [scope, id, action] = fills;
            let path = described
                .replace("{scope}", scope)
                .replace("{kind}", "tenant")
                .replace("{id}", id)
                .replace("{action}", action);
            // What is blocked is blocked whatever the method.
            if listener == gateway.address
                && path.starts_with("/api/")
                && case(described).1 == Stranger::Blocked
            {
                continue;
            }
            let reply = call(listener, &Method::PATCH, &path, Some(TOKEN), &Value::Null).await;
            assert_eq!(reply.status, 405, "{path}");
            let allowed = reply.header("allow").to_lowercase();
            let mut allowed: Vec<_> = allowed
                .split(',')
                .map(|method| method.trim().to_owned())
                .filter(|method| method != "head" && method != "options")
                .collect();
            allowed.sort();
            let mut methods: Vec<_> = operations.as_object().unwrap().keys().cloned().collect();
            methods.sort();
            assert_eq!(allowed, methods, "{path}");
        }
    }
}
