//! Limits of tenants and keys, as clients meet them.

use futures_util::future::join_all;
use protocol::{error::Code, outcome::Outcome};
use serde_json::json;
use storage::{
    keys::KeyChange,
    limits::{Budget, LimitPeriod, Limits},
};
use tests::{Open, Reply, Setup, TestGateway, patience::eventually, post};

use crate::{chat, on_both, settings, whole_chat, with};

on_both! {
    exactly_as_many_as_the_limit_are_let_in,
    a_changed_limit_is_seen,
    five_hundred_streams_never_pass_a_budget,
    a_budget_is_read_from_the_ledger_by_whoever_starts_next,
}

const PATH: &str = "/v1/chat/completions";

/// A key with limits.
async fn limited(gateway: &TestGateway, limits: Limits) -> String {
    gateway.limited(limits).await.1
}

fn rpm(limit: u64) -> Limits {
    Limits { rpm: Some(limit), ..Limits::default() }
}

async fn ask(gateway: &TestGateway, key: &str, words: &str) -> Reply {
    post(gateway.address, PATH, Some(key), &whole_chat(words)).await
}

async fn exactly_as_many_as_the_limit_are_let_in(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let key = limited(&gateway, rpm(10)).await;
    let replies = join_all((0..30).map(|_| ask(&gateway, &key, "hi"))).await;
    let (granted, refused): (Vec<_>, Vec<_>) =
        replies.iter().partition(|reply| reply.status == 200);
    assert_eq!((granted.len(), refused.len()), (10, 20));
    let mut left: Vec<u64> = granted
        .iter()
        .map(|reply| reply.header("x-ratelimit-remaining-requests").parse().unwrap())
        .collect();
    left.sort_unstable();
    assert_eq!(left, (0..10).collect::<Vec<_>>());
    for reply in refused {
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (429, "rate_limit_requests"));
        assert_eq!(reply.header("x-ratelimit-limit-requests"), "10");
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), "0");
        assert!(reply.header("x-ratelimit-reset-requests").ends_with('s'));
        let wait: u64 = reply.header("retry-after-ms").parse().unwrap();
        assert!((50_000..=60_500).contains(&wait), "{wait}");
        assert!(reply.text().contains("The key's limit of 10 requests per minute is reached."));
    }
    // What was refused has not come to the model server, and is written down.
    let chats = gateway.ollama.requests().iter().filter(|seen| seen.path == "/api/chat").count();
    assert_eq!(chats, 10);
    let events = gateway.audited(30).await;
    let refused = events.iter().filter(|event| event.outcome == Outcome::Refused);
    assert!(refused.clone().all(|event| event.code == Some(Code::RateLimitRequests)));
    assert_eq!(refused.count(), 20);
}

async fn a_changed_limit_is_seen(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    assert_eq!(ask(&gateway, &gateway.key, "hi").await.status, 200);
    for (limit, status) in [(0, 429), (1_000, 200)] {
        gateway.limit_tenant(rpm(limit)).await;
        eventually("the new limit", || async {
            (ask(&gateway, &gateway.key, "hi").await.status == status).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_tenants_limit_is_for_all_of_its_keys() {
    let gateway = TestGateway::start().await;
    gateway.limit_tenant(rpm(4)).await;
    let mut granted = 0;
    for _ in 0..3 {
        let key = limited(&gateway, rpm(3)).await;
        for _ in 0..3 {
            let reply = ask(&gateway, &key, "hi").await;
            granted += u32::from(reply.status == 200);
            assert!(reply.status == 200 || reply.text().contains("The tenant's limit of 4"));
        }
    }
    assert_eq!(granted, 4);
}

#[tokio::test]
async fn a_slot_is_free_when_a_request_is_over_however_it_ends() {
    let gateway = TestGateway::start().await;
    let key = limited(&gateway, Limits { concurrency: Some(2), ..Limits::default() }).await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut first = Open::post(gateway.address, "/api/chat", &key, &hanging).await;
    let mut second = Open::post(gateway.address, PATH, &key, &hanging).await;
    first.until("This").await;
    second.until("This").await;
    let reply = ask(&gateway, &key, "hi").await;
    assert_eq!((reply.status.as_u16(), reply.code()), (429, "concurrency".to_owned()));
    assert!(!reply.header("retry-after").is_empty());
    // Another key of the tenant has nothing to do with it.
    assert_eq!(ask(&gateway, &gateway.key, "hi").await.status, 200);
    drop(first);
    eventually("the slot", || async {
        (ask(&gateway, &key, "hi").await.status == 200).then_some(())
    })
    .await;
    for words in ["[[status 500]]", "[[cut 1]]", "hi", "hi"] {
        let body = with(chat(words), "stream", json!(true));
        let _ = Open::post(gateway.address, "/api/chat", &key, &body).await.end().await;
    }
    eventually("the same slot", || async {
        (ask(&gateway, &key, "hi").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tokens_are_set_aside_and_corrected() {
    let gateway =
        TestGateway::with(settings([("NEURONETZ_LIMITS_COMPLETION_TOKENS_DEFAULT", "500")])).await;
    let key = limited(&gateway, Limits { tpm: Some(1_000), ..Limits::default() }).await;
    // Each sets more than 500 aside and uses 8: one after another there is room for many.
    for _ in 0..20 {
        let reply = ask(&gateway, &key, "hi there").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), "1000");
    }
    // Two at once set aside more than there is.
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, PATH, &key, &hanging).await;
    open.until("This").await;
    let reply = ask(&gateway, &key, "hi").await;
    assert_eq!((reply.status.as_u16(), reply.code()), (429, "rate_limit_tokens".to_owned()));
    // A client that says how much it wants needs no more than that.
    let small = with(whole_chat("hi"), "max_tokens", json!(5));
    assert_eq!(post(gateway.address, PATH, Some(&key), &small).await.status, 200);
    // What is more than the limit will never be let in, and says so.
    let large = with(whole_chat("hi"), "max_tokens", json!(5_000));
    let reply = post(gateway.address, PATH, Some(&key), &large).await;
    assert_eq!(reply.header("x-should-retry"), "false");
    assert!(reply.header("retry-after").is_empty() && reply.text().contains("needs more than"));
}

fn daily(tokens: u64) -> Limits {
    Limits { budget: Some(Budget::new(tokens, LimitPeriod::Day)), ..Limits::default() }
}

async fn five_hundred_streams_never_pass_a_budget(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    // A request sets aside half the bytes of its prompt and ten tokens, and may use all of those.
    let key = limited(&gateway, daily(3_000)).await;
    let body = with(
        with(chat("[[chunks 50]] [[pace 20]]"), "stream", json!(true)),
        "max_tokens",
        json!(10),
    );
    let asked = (0..500).map(|_| post(gateway.address, PATH, Some(&key), &body));
    let replies = join_all(asked).await;
    let granted = replies.iter().filter(|reply| reply.status == 200).count();
    assert!((20..300).contains(&granted), "{granted}");
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (429, "budget_exhausted"));
        assert_eq!(reply.header("x-budget-limit-tokens"), "3000");
        assert_eq!(reply.header("x-should-retry"), "false");
        assert!(reply.text().contains("tokens per day is reached"), "{}", reply.text());
    }
    let events = gateway.audited(500).await;
    let used: u64 = events.iter().map(|event| event.usage.total()).sum();
    assert!(used <= 3_000, "{used} of 3000");
    assert!(events.iter().all(|event| event.usage.completion <= 10));
}

async fn a_budget_is_read_from_the_ledger_by_whoever_starts_next(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let (key, text) = gateway.key(None).await;
    for _ in 0..5 {
        assert_eq!(ask(&gateway, &text, "one two").await.status, 200);
    }
    gateway.audited(5).await;
    // 5 × 9 tokens have been used before there was a budget.
    let change = KeyChange { limits: Some(daily(100)), ..KeyChange::default() };
    gateway.storage.keys.change(key.id, change).await.unwrap();
    let small = with(whole_chat("hi"), "max_tokens", json!(5));
    let told = eventually("the budget", || async {
        let reply = post(gateway.address, PATH, Some(&text), &small).await;
        let left = reply.header("x-budget-remaining-tokens");
        (!left.is_empty()).then_some(reply)
    })
    .await;
    assert_eq!(told.status, 200, "{}", told.text());
    let left: u64 = told.header("x-budget-remaining-tokens").parse().unwrap();
    assert!(left < 55, "{left} of 100 are left after 45 were used");
    assert!(told.header("x-budget-reset").ends_with('s'));
}

#[tokio::test]
async fn under_a_budget_a_reply_gets_no_more_than_was_set_aside() {
    let gateway =
        TestGateway::with(settings([("NEURONETZ_LIMITS_COMPLETION_TOKENS_DEFAULT", "4")])).await;
    let key = limited(&gateway, daily(10_000)).await;
    let native = with(whole_chat("one two three"), "options", json!({ "num_predict": -1 }));
    for (path, body) in
        [("/api/chat", &native), ("/api/chat", &whole_chat("hi")), (PATH, &whole_chat("hi"))]
    {
        let reply = post(gateway.address, path, Some(&key), body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().contains("\"length\""), "{path}: {}", reply.text());
    }
    let events = gateway.audited(3).await;
    assert!(events.iter().all(|event| event.usage.completion == 4), "{events:#?}");
    // Without a budget the same passes as it is.
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &native).await;
    assert!(!reply.text().contains("\"length\""), "{}", reply.text());
}

#[tokio::test]
async fn where_the_ledger_is_away_a_budget_cannot_be_checked() {
    let gateway = TestGateway::with(Setup { postgres: true, ..Setup::default() }).await;
    let key = limited(&gateway, daily(1_000_000)).await;
    let ledger = async |from: &str, to: &str| {
        let rename = format!("ALTER TABLE gateway.{from} RENAME TO {to}");
        gateway.scratch().run(&rename).await.unwrap();
    };
    // The database is there and knows the key; what was used cannot be read.
    ledger("usage_ledger", "elsewhere").await;
    let reply = ask(&gateway, &key, "hi").await;
    assert_eq!((reply.status.as_u16(), reply.code()), (503, "limits_unavailable".to_owned()));
    assert!(!reply.header("retry-after").is_empty());
    // Who has no budget needs no ledger.
    assert_eq!(ask(&gateway, &gateway.key, "hi").await.status, 200);
    ledger("elsewhere", "usage_ledger").await;
    eventually("the ledger", || async {
        (ask(&gateway, &key, "hi").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_limits_nothing_is_told_of_them() {
    let gateway = TestGateway::start().await;
    let reply = ask(&gateway, &gateway.key, "hi").await;
    assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("x-ratelimit")));
    assert!(reply.header("x-budget-limit-tokens").is_empty());
}
