//! One client that does for nothing what all pay for: lines of the log, rows of the audit, places in it.

use futures_util::future::join_all;
use identity::policy::Policy;
use protocol::error::Code;
use serde_json::json;
use storage::{audit::AuditQuery, limits::Limits};
use tests::{Kept, Open, Setup, TestGateway, get, log, patience::eventually, post};

use crate::{chat, on_both, settings, whole_chat, with};

on_both! {
    five_hundred_refusals_are_a_few_rows_that_say_how_many_they_were,
}

/// Rows that one caller gets for requests without tokens: five seconds of ten, and a second or two of the test.
const ROWS_MAX: usize = 120;

async fn five_hundred_refusals_are_a_few_rows_that_say_how_many_they_were(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let (key, text) = gateway.limited(Limits { rpm: Some(1), ..Limits::default() }).await;
    let flood = async |count: usize| {
        let mut kept = Kept::open(gateway.address).await;
        for _ in 0..count {
            let _ = kept.post("/v1/chat/completions", &text, &whole_chat("hi")).await;
        }
    };
    join_all((0..5).map(|_| flood(100))).await;
    let events = gateway.audited(500).await;
    assert_eq!(events.iter().map(|event| event.requests).sum::<u32>(), 500);
    assert!(events.len() <= ROWS_MAX, "{} rows", events.len());
    assert_eq!(events.iter().filter(|event| event.status == 200).count(), 1);
    let refused = events.iter().filter(|event| event.status == 429);
    assert!(refused.clone().all(|event| event.code == Some(Code::RateLimitRequests)));
    assert!(refused.clone().all(|event| event.key == Some(key.id)));
    // The metrics say the same, and so does the ledger.
    let counted = gateway.metric("gateway_audit_folded_total").await;
    let folded: u32 = refused.map(|event| event.requests).sum::<u32>();
    assert!(counted > 300.0 && counted <= f64::from(folded), "{counted} of {folded}");
    let of_model =
        "gateway_requests_total{tenant=\"acme\",model=\"llama3.2:latest\",status=\"429\"}";
    assert!((gateway.metric(of_model).await - 499.0).abs() < 0.5);
    let by = storage::ledger::LedgerBy::Key;
    let query = storage::ledger::LedgerQuery { by, tenant: None, key: Some(key.id), since: None };
    let sums = gateway.storage.ledger.sums(query).await.unwrap();
    assert_eq!(sums.iter().map(|sum| sum.requests).sum::<u64>(), 500);
}

#[tokio::test]
async fn what_is_folded_is_stored_by_a_stop() {
    let mut gateway = TestGateway::start().await;
    let (_, text) = gateway.limited(Limits { rpm: Some(0), ..Limits::default() }).await;
    let mut kept = Kept::open(gateway.address).await;
    for _ in 0..200 {
        let _ = kept.post("/api/chat", &text, &whole_chat("hi")).await;
    }
    drop(kept);
    gateway.stop().await;
    gateway.ended().await;
    let all = AuditQuery { limit: 10_000, ..AuditQuery::default() };
    let events = gateway.storage.audit.query(all).await.unwrap();
    assert_eq!(events.iter().map(|event| event.requests).sum::<u32>(), 200);
}

#[tokio::test]
async fn lists_of_models_in_a_loop_are_folded_too() {
    let gateway = TestGateway::start().await;
    for _ in 0..300 {
        let reply = get(gateway.address, "/v1/models", Some(&gateway.key)).await;
        assert_eq!(reply.status, 200);
    }
    let events = gateway.audited(300).await;
    assert_eq!(events.iter().map(|event| event.requests).sum::<u32>(), 300);
    assert!(events.len() <= ROWS_MAX, "{} rows", events.len());
}

#[tokio::test]
async fn a_refusal_that_goes_on_is_a_line_of_the_log_when_it_begins() {
    let log = log::keep();
    let setup = settings([("NEURONETZ_AUDIT_PLACES_MAX", "2")]);
    let gateway = TestGateway::with(setup).await;
    let streamed = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = Open::post(gateway.address, "/api/chat", &gateway.key, &streamed).await;
        stream.until("This").await;
        held.push(stream);
    }
    let mut kept = Kept::open(gateway.address).await;
    for _ in 0..500 {
        let reply = kept.post("/api/chat", &gateway.key, &whole_chat("hi")).await;
        assert_eq!(reply.status, 503);
    }
    let text = log.text();
    let lines = |level: &str| {
        let is_one = |line: &&str| line.contains(level) && line.contains("audit_saturated");
        text.lines().filter(is_one).count()
    };
    assert_eq!(lines(" WARN "), 1);
    assert_eq!(lines(" DEBUG "), 499);
    // None of them has a row, since there is no place; all of them are counted.
    let folded = gateway.metric("gateway_audit_folded_total").await;
    let dropped = gateway.metric("gateway_audit_dropped_total{reason=\"full\"}").await;
    assert!((folded + dropped - 500.0).abs() < 0.5, "{folded} and {dropped}");
    // Who asks whether it is ready hears that it is not.
    let ready = get(gateway.address, "/readyz", None).await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    drop(held);
    eventually("readiness", || async {
        (get(gateway.address, "/readyz", None).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_tenant_that_holds_its_share_of_the_audit_shuts_nobody_out() {
    let gateway = TestGateway::with(settings([("NEURONETZ_AUDIT_PLACES_MAX", "30")])).await;
    let other = gateway.another_tenant("other", Limits::default(), Policy::default()).await;
    let other = gateway.key_of(other.id).await;
    let streamed = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut stream = Open::post(gateway.address, "/api/chat", &gateway.key, &streamed).await;
        stream.until("This").await;
        held.push(stream);
    }
    let chat = whole_chat("hi");
    let reply = post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &chat).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (503, "audit_saturated".to_owned()));
    for _ in 0..5 {
        let reply = post(gateway.address, "/v1/chat/completions", Some(&other), &chat).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(get(gateway.address, "/readyz", None).await.status, 200);
    assert!(gateway.metric("gateway_audit_dropped_total{reason=\"share\"}").await > 0.5);
}
