//! What is discovered, and who may use it.

use identity::models::ModelRule;
use protocol::name::ModelName;
use scripted_ollama::{Model, Script};
use serde_json::{Value, json};
use storage::{keys::KeyChange, tenants::TenantChange};
use tests::{Setup, TestGateway, get, patience::eventually, post};

use crate::{chat, on_both, settings, with};

on_both! {
    a_key_sees_and_uses_its_effective_models_and_no_others,
    a_tenants_rule_holds_until_a_key_has_its_own,
}

fn ask_for(model: &str) -> Value {
    with(with(chat("hi"), "model", json!(model)), "stream", json!(false))
}

fn only(models: &[&str]) -> ModelRule {
    ModelRule::Only(models.iter().map(|name| ModelName::parse(name).unwrap()).collect())
}

async fn listed(gateway: &TestGateway, key: &str) -> Vec<String> {
    let list = get(gateway.address, "/v1/models", Some(key)).await.json();
    list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
}

async fn tagged(gateway: &TestGateway, key: &str) -> Vec<String> {
    let list = get(gateway.address, "/api/tags", Some(key)).await.json();
    list["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn a_key_sees_and_uses_its_effective_models_and_no_others(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let (_, narrow) = gateway.key(Some(&["llama3.2", "not-installed"])).await;
    for key in [&narrow, &gateway.key] {
        assert_eq!(listed(&gateway, key).await, tagged(&gateway, key).await);
    }
    assert_eq!(listed(&gateway, &narrow).await, ["llama3.2:latest"]);
    assert_eq!(listed(&gateway, &gateway.key).await.len(), 4);
    for spelling in [
        "llama3.2",
        "LLAMA3.2:latest",
        "library/llama3.2",
        "registry.ollama.ai/library/llama3.2:latest",
        " llama3.2 ",
        "llama3.2:local",
        "https://registry.ollama.ai/library/llama3.2",
    ] {
        let reply = post(gateway.address, "/api/chat", Some(&narrow), &ask_for(spelling)).await;
        assert_eq!(reply.status, 200, "{spelling}: {}", reply.text());
    }
    // What exists for others and what does not exist at all get the same answer.
    let mut texts = Vec::new();
    for model in ["secret-model", "SECRET-MODEL:latest", "library/secret-model", "no-such-model"] {
        let reply =
            post(gateway.address, "/v1/chat/completions", Some(&narrow), &ask_for(model)).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (403, "model_not_allowed".to_owned()));
        texts.push(reply.text());
        let one = get(gateway.address, &format!("/v1/models/{model}"), Some(&narrow)).await;
        assert_eq!(one.status, 403, "{model}");
        let show = json!({ "model": model });
        assert_eq!(post(gateway.address, "/api/show", Some(&narrow), &show).await.status, 403);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    let asked = gateway.ollama.requests();
    assert!(asked.iter().all(|seen| !String::from_utf8_lossy(&seen.body).contains("ecret")));
}

async fn a_tenants_rule_holds_until_a_key_has_its_own(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let (own, own_text) = gateway.key(Some(&["qwen3:8b"])).await;
    let change = TenantChange { models: Some(only(&["llama3.2"])), ..TenantChange::default() };
    gateway.storage.tenants.change(gateway.tenant.id, change).await.unwrap();
    eventually("the tenant's rule", || async {
        (listed(&gateway, &gateway.key).await == ["llama3.2:latest"]).then_some(())
    })
    .await;
    assert_eq!(listed(&gateway, &own_text).await, ["qwen3:8b"]);
    let change = KeyChange { models: Some(Some(ModelRule::All)), ..KeyChange::default() };
    gateway.storage.keys.change(own.id, change).await.unwrap();
    eventually("the key's rule", || async {
        (listed(&gateway, &own_text).await.len() == 4).then_some(())
    })
    .await;
    let change = KeyChange { models: Some(Some(ModelRule::default())), ..KeyChange::default() };
    gateway.storage.keys.change(own.id, change).await.unwrap();
    eventually("no rule at all", || async {
        listed(&gateway, &own_text).await.is_empty().then_some(())
    })
    .await;
    let list = get(gateway.address, "/v1/models", Some(&own_text)).await.json();
    assert_eq!(list["data"], json!([]));
}

#[tokio::test]
async fn cloud_models_are_refused_unless_allowed() {
    let script = || Script {
        models: vec![
            Model::named("gpt-oss:20b-cloud"),
            Model::named("llama3.2"),
            // It runs elsewhere, whatever it is called.
            Model { remote_host: "https://ollama.com".to_owned(), ..Model::named("mine") },
        ],
        ..Script::default()
    };
    let gateway = TestGateway::with(Setup { script: script(), ..Setup::default() }).await;
    assert_eq!(listed(&gateway, &gateway.key).await, ["llama3.2:latest"]);
    for model in ["gpt-oss:20b-cloud", "GPT-OSS:20B-CLOUD", "llama3.2:cloud", "x:cloud"] {
        let reply =
            post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &ask_for(model))
                .await;
        assert_eq!((reply.status.as_u16(), reply.code()), (403, "cloud_model_blocked".to_owned()));
    }
    let reply =
        post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &ask_for("mine")).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (404, "model_not_found".to_owned()));
    let allowed = settings([("NEURONETZ_CATALOG_ALLOW_CLOUD_MODELS", "true")]);
    let gateway = TestGateway::with(Setup { script: script(), ..allowed }).await;
    assert_eq!(listed(&gateway, &gateway.key).await.len(), 3);
    for model in ["gpt-oss:20b-cloud", "mine"] {
        let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &ask_for(model)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

#[tokio::test]
async fn a_catalog_that_was_never_filled_refuses() {
    let setup = settings([("NEURONETZ_UPSTREAMS", "ollama=http://127.0.0.1:9")]);
    let gateway = TestGateway::with(setup).await;
    for reply in [
        get(gateway.address, "/v1/models", Some(&gateway.key)).await,
        post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &ask_for("llama3.2"))
            .await,
    ] {
        assert_eq!((reply.status.as_u16(), reply.code()), (503, "catalog_unavailable".to_owned()));
        assert!(!reply.header("retry-after").is_empty());
    }
    // Who may not is told so all the same.
    let (_, none) = gateway.key(Some(&[])).await;
    let reply =
        post(gateway.address, "/v1/chat/completions", Some(&none), &ask_for("llama3.2")).await;
    assert_eq!(reply.status, 403);
    assert!(
        gateway.metric("gateway_fail_closed_total{reason=\"catalog_unavailable\"}").await > 1.9
    );
    let ready = get(gateway.address, "/readyz", None).await;
    assert_eq!((ready.status.as_u16(), &ready.json()["catalog"]), (503, &json!("unavailable")));
}

#[tokio::test]
async fn a_catalog_that_has_grown_stale_refuses() {
    let setup = settings([
        ("NEURONETZ_CATALOG_POLL_INTERVAL", "200ms"),
        ("NEURONETZ_CATALOG_STALE_AFTER", "1s"),
    ]);
    let gateway = TestGateway::with(setup).await;
    assert_eq!(listed(&gateway, &gateway.key).await.len(), 4);
    gateway.ollama.stop().await;
    eventually("the refusal", || async {
        let reply = get(gateway.address, "/v1/models", Some(&gateway.key)).await;
        (reply.status == 503 && reply.code() == "catalog_unavailable").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_installed_and_removed_is_seen() {
    let gateway = TestGateway::with(settings([("NEURONETZ_CATALOG_POLL_INTERVAL", "200ms")])).await;
    let delete = json!({ "model": "qwen3:8b" });
    post(gateway.ollama.address(), "/api/delete", None, &delete).await;
    eventually("the removal", || async {
        (listed(&gateway, &gateway.key).await.len() == 3).then_some(())
    })
    .await;
    let reply =
        post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &ask_for("qwen3:8b"))
            .await;
    assert_eq!((reply.status.as_u16(), reply.code()), (404, "model_not_found".to_owned()));
}
