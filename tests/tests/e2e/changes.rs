//! What other processes change, and how soon it is seen.

use std::net::SocketAddr;

use jiff::Timestamp;
use protocol::{error::Code, outcome::Outcome};
use scripted_ollama::{Model, Script, Scripted};
use serde_json::json;
use storage::revocations::Revocation;
use tests::{Open, Setup, TestGateway, get, patience::eventually, post};

use crate::{chat, on, on_both, whole_chat, with};

on_both! {
    a_revocation_with_a_cut_ends_the_streams_of_its_key_and_of_no_other,
    upstreams_come_and_go,
    a_key_made_elsewhere_works_at_once,
}

async fn a_revocation_with_a_cut_ends_the_streams_of_its_key_and_of_no_other(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let (key, text) = gateway.key(None).await;
    let hanging = with(chat("[[hang 2]]"), "stream", json!(true));
    let mut cut = Open::post(gateway.address, "/v1/chat/completions", &text, &hanging).await;
    let mut whole =
        Open::post(gateway.address, "/api/chat", &text, &whole_chat("[[hang-head]]")).await;
    let mut other = Open::post(gateway.address, "/api/chat", &gateway.key, &hanging).await;
    cut.until(" is").await;
    other.until(" is").await;
    let revocation =
        Revocation { key: key.id, at: Timestamp::now(), reason: "leaked".to_owned(), cut: true };
    gateway.storage.revocations.revoke(revocation).await.unwrap();
    let told = cut.end().await;
    assert!(told.contains("\"code\":\"key_revoked\"") && !told.contains("[DONE]"), "{told}");
    let told = whole.until("revoked").await;
    assert!(told.starts_with("HTTP/1.1 401"), "{told}");
    gateway.ollama.until(|done| done.open == 1).await;
    let events = gateway.audited(2).await;
    assert!(events.iter().all(|event| event.outcome == Outcome::Refused), "{events:#?}");
    assert!(events.iter().all(|event| event.code == Some(Code::KeyRevoked)));
    drop(other);
}

/// An outside console knows one table and one column.
#[tokio::test]
async fn a_row_that_another_program_inserts_revokes_a_key() {
    let gateway = TestGateway::with(crate::on(true)).await;
    let (key, text) = gateway.key(None).await;
    assert_eq!(get(gateway.address, "/v1/models", Some(&text)).await.status, 200);
    let insert = format!("INSERT INTO gateway.revocations (key_id) VALUES ('{}')", key.id);
    gateway.scratch().run(&insert).await.unwrap();
    let refused = eventually("the refusal", || async {
        let reply = get(gateway.address, "/v1/models", Some(&text)).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!((refused.status.as_u16(), refused.code()), (401, "key_revoked".to_owned()));
}

async fn upstreams_come_and_go(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let script = Script { models: vec![Model::named("phi4")], ..Script::default() };
    let second = Scripted::start(script, loopback).await.unwrap();
    let ask = async || {
        let body = with(whole_chat("hi"), "model", json!("phi4"));
        post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &body).await
    };
    assert_eq!(ask().await.code(), "model_not_found");
    gateway.add_upstream("second", second.address()).await;
    eventually("the new upstream", || async { (ask().await.status == 200).then_some(()) }).await;
    let ready = get(gateway.admin, "/readyz", None).await.json();
    assert_eq!(ready["upstreams"].as_array().unwrap().len(), 2);
    gateway.storage.upstreams.remove("second").await.unwrap();
    eventually("the end of the upstream", || async {
        (ask().await.code() == "model_not_found").then_some(())
    })
    .await;
}

async fn a_key_made_elsewhere_works_at_once(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    for _ in 0..3 {
        let (_, text) = gateway.key(None).await;
        assert_eq!(get(gateway.address, "/v1/models", Some(&text)).await.status, 200);
    }
}

/// A stream that is under way, of a key that can be revoked.
async fn streaming(gateway: &TestGateway) -> (Open, storage::keys::Key) {
    let (key, text) = gateway.key(None).await;
    let hanging = with(chat("[[hang 2]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, "/v1/chat/completions", &text, &hanging).await;
    open.until(" is").await;
    (open, key)
}

#[tokio::test]
async fn a_cut_that_nobody_heard_is_made_up_for() {
    let gateway = TestGateway::with(on(true)).await;
    let (cut, key) = streaming(&gateway).await;
    let (mut goes_on, other) = streaming(&gateway).await;
    // Who listens is thrown out, and the row is there before anybody listens again.
    let insert = |key: &storage::keys::Key, cut: bool| {
        format!("INSERT INTO gateway.revocations (key_id, cut) VALUES ('{}', {cut})", key.id)
    };
    gateway.scratch().run_unheard(&insert(&key, true)).await.unwrap();
    gateway.scratch().run(&insert(&other, false)).await.unwrap();
    let told = cut.end().await;
    assert!(told.contains("\"code\":\"key_revoked\"") && !told.contains("[DONE]"), "{told}");
    assert!(!goes_on.until(" is").await.contains("key_revoked"));

    // The same where the whole database was away.
    let (cut, key) = streaming(&gateway).await;
    gateway.lose_database().await;
    eventually("the loss", || async {
        let ready = get(gateway.address, "/readyz", None).await.json();
        (ready["database"] == "unavailable").then_some(())
    })
    .await;
    gateway.find_database().await;
    gateway.scratch().run(&insert(&key, true)).await.unwrap();
    let told = cut.end().await;
    assert!(told.contains("\"code\":\"key_revoked\""), "{told}");
    drop(goes_on);
}
