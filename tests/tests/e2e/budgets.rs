//! Budgets that learn, limits that only observe, and what outlives a crash.

use std::process::Command;

use futures_util::future::join_all;
use identity::policy::{Exhausted, Policy, Reserve};
use protocol::id::KeyId;
use serde_json::{Value, json};
use storage::{
    audit::AuditEvent,
    keys::KeyChange,
    limits::{Budget, LimitPeriod, Limits, Observed},
    tenants::TenantChange,
};
use tests::{Process, Setup, TestGateway, patience::eventually, post};

use crate::{chat, on_both, settings, whole_chat, with};

const PATH: &str = "/v1/chat/completions";

on_both! {
    a_limit_that_is_observed_counts_and_refuses_nothing,
    kill_9_loses_at_most_what_was_not_settled,
}

fn streamed(words: &str) -> Value {
    with(chat(words), "stream", json!(true))
}

fn daily(tokens: u64) -> Limits {
    Limits { budget: Some(Budget::new(tokens, LimitPeriod::Day)), ..Limits::default() }
}

async fn a_limit_that_is_observed_counts_and_refuses_nothing(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let observed = Observed { rpm: true, concurrency: true, ..Observed::default() };
    let limits = Limits { rpm: Some(2), concurrency: Some(0), observed, ..Limits::default() };
    let (key, text) = gateway.limited(limits).await;
    for left in [1, 0, 0, 0] {
        let reply = post(gateway.address, PATH, Some(&text), &whole_chat("hi")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), left.to_string());
    }
    let would = |limit: &str| {
        format!("gateway_limit_refusals_total{{scope=\"key\",limit=\"{limit}\",mode=\"observe\"}}")
    };
    assert_eq!(gateway.metric(&would("rpm")).await, 2.0);
    assert_eq!(gateway.metric(&would("concurrency")).await, 4.0);
    // It bites as soon as it is meant to.
    let limits = Limits { observed: Observed::default(), ..limits };
    let change = KeyChange { limits: Some(limits), ..KeyChange::default() };
    gateway.storage.keys.change(key.id, change).await.unwrap();
    let reply = eventually("the limit", || async {
        let reply = post(gateway.address, PATH, Some(&text), &whole_chat("hi")).await;
        (reply.status == 429).then_some(reply)
    })
    .await;
    assert_eq!(reply.code(), "rate_limit_requests");
}

/// A tenant that learns, with a budget, and a key that has had twenty short replies.
async fn learned(exhausted: Exhausted, tokens: u64) -> (TestGateway, KeyId, String) {
    let gateway =
        TestGateway::with(settings([("NEURONETZ_LIMITS_COMPLETION_TOKENS_DEFAULT", "2000")])).await;
    let policy = Policy { reserve: Reserve::Learned, exhausted, ..Policy::default() };
    let change = TenantChange { policy: Some(policy), ..TenantChange::default() };
    gateway.storage.tenants.change(gateway.tenant.id, change).await.unwrap();
    let (key, text) = gateway.limited(daily(1_000_000)).await;
    for _ in 0..20 {
        let reply = post(gateway.address, PATH, Some(&text), &streamed("[[chunks 10]] hi")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    leave(&gateway, key.id, &text, 20, tokens).await;
    (gateway, key.id, text)
}

/// The chats that were let in, the newest first, once there are so many.
async fn chats(gateway: &TestGateway, count: usize) -> Vec<AuditEvent> {
    eventually("the chats", || async {
        let mut events = gateway.audited(count).await;
        events.retain(|event| event.route.as_str().ends_with("chat") && event.status == 200);
        (events.len() >= count).then_some(events)
    })
    .await
}

/// Leaves a key, which has chatted so many times, so many tokens of its budget beyond what it has used.
async fn leave(gateway: &TestGateway, key: KeyId, text: &str, chatted: usize, tokens: u64) {
    let used: u64 = chats(gateway, chatted).await.iter().map(|event| event.usage.total()).sum();
    let change = KeyChange { limits: Some(daily(used + tokens)), ..KeyChange::default() };
    gateway.storage.keys.change(key, change).await.unwrap();
    eventually("the budget", || async {
        let reply = tests::get(gateway.address, "/v1/models", Some(text)).await;
        (reply.header("x-budget-limit-tokens") == (used + tokens).to_string()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_learns_starts_many_and_is_stopped_where_the_budget_ends() {
    let (gateway, id, key) = learned(Exhausted::Stop, 1_200).await;
    // Set aside in full, not one of them could begin: each may have 2000 tokens.
    let body = streamed("[[chunks 200]] [[pace 2]] hi");
    let replies = (0..10).map(|_| post(gateway.address, PATH, Some(&key), &body));
    let replies = join_all(replies).await;
    let granted: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
    assert!(granted.len() > 1, "{} began", granted.len());
    let stopped = granted.iter().filter(|reply| reply.text().contains("\"length\"")).count();
    assert!(stopped > 0, "none was stopped");
    assert!(granted.iter().all(|reply| reply.text().contains("[DONE]")));
    let events = chats(&gateway, 20 + granted.len()).await;
    let used: u64 = events.iter().take(granted.len()).map(|event| event.usage.total()).sum();
    assert!((500..=1_200).contains(&used), "{used} of 1200");
    // Ollama's dialect says so, too.
    leave(&gateway, id, &key, 20 + granted.len(), 400).await;
    let native = post(gateway.address, "/api/chat", Some(&key), &streamed("[[chunks 500]]")).await;
    assert_eq!(native.status, 200, "{}", native.text());
    let last = native.text().lines().last().unwrap().to_owned();
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("length")));
}

#[tokio::test]
async fn who_may_finish_is_charged_beyond_the_budget() {
    let (gateway, _, key) = learned(Exhausted::Finish, 100).await;
    let reply = post(gateway.address, PATH, Some(&key), &streamed("[[chunks 300]] hi")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(!reply.text().contains("\"length\"") && reply.text().contains("[DONE]"));
    let events = chats(&gateway, 21).await;
    assert_eq!(events[0].usage.completion, 300);
    let reply = post(gateway.address, PATH, Some(&key), &streamed("hi")).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (429, "budget_exhausted".to_owned()));
}

async fn kill_9_loses_at_most_what_was_not_settled(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let (_, key) = gateway.limited(daily(1_000)).await;
    let mut process = Process::start(gateway.env().to_vec()).await;
    let small = with(whole_chat("one two three"), "max_tokens", json!(20));
    for _ in 0..10 {
        let reply = post(process.address, PATH, Some(&key), &small).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let used: u64 = gateway.audited(10).await.iter().map(|event| event.usage.total()).sum();
    // One is under way, with what it has set aside.
    let hanging = with(streamed("[[hang 1]]"), "max_tokens", json!(500));
    let mut open = tests::Open::post(process.address, PATH, &key, &hanging).await;
    open.until("This").await;
    process.kill();
    let next = Process::start(gateway.env().to_vec()).await;
    let reply = post(next.address, PATH, Some(&key), &small).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let left: u64 = reply.header("x-budget-remaining-tokens").parse().unwrap();
    // What was settled counts; what was under way is lost, and nothing else. This one holds 20 tokens
    // and one for each byte of its prompt.
    let held = 1_000 - used - left;
    assert!((20..100).contains(&held), "{held} are held after {used} were used");
}

#[tokio::test]
async fn no_part_of_a_prompt_escapes_a_budget() {
    let gateway = TestGateway::with(Setup::default()).await;
    let (_, key) = gateway.limited(daily(1_000)).await;
    let long = "image ".repeat(300);
    let tool = json!([{ "type": "function", "function": { "name": "f", "description": long } }]);
    let images = json!([{ "role": "user", "content": "a", "images": ["QUJD"] }]);
    let format = json!({ "type": "json_schema", "schema": { "description": long } });
    for (path, field, value) in [
        (PATH, "messages", json!([{ "role": "user", "content": long }])),
        (PATH, "tools", tool.clone()),
        ("/v1/responses", "instructions", json!(long)),
        ("/v1/messages", "output_config", json!({ "format": format })),
        ("/v1/messages", "output_format", format),
        ("/api/generate", "system", json!(long)),
        ("/api/chat", "tools", tool),
        // An image is taken for 1536 tokens.
        ("/api/chat", "messages", images),
    ] {
        let body = json!({ "model": "llama3.2", "messages": [{ "role": "user", "content": "a" }],
            "max_tokens": 9, "max_output_tokens": 9, "options": { "num_predict": 9 } });
        let body = match path {
            PATH | "/api/chat" | "/v1/messages" => body,
            "/api/generate" => with(body, "prompt", json!("a")),
            _ => with(body, "input", json!("a")),
        };
        let reply =
            post(gateway.address, path, Some(&key), &with(body.clone(), field, value)).await;
        assert_eq!(reply.status, 429, "{path} {field}: {}", reply.text());
        let reply = post(gateway.address, path, Some(&key), &body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    // Ollama has nothing like it.
    let gateway = TestGateway::with(Setup { openai: true, ..Setup::default() }).await;
    let (_, key) = gateway.limited(daily(1_000)).await;
    for (words, status) in [(&*long, 429), ("a", 200)] {
        let body = with(with(whole_chat("a"), "max_tokens", json!(9)), "documents", json!([words]));
        let reply = post(gateway.address, PATH, Some(&key), &body).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
}

#[test]
fn what_is_wrong_on_the_command_line_is_said() {
    let run = |arguments: &[&str]| {
        let output = Command::new(tests::binary("neuronetz")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["tenant", "set", "x", "--weight", "0"]);
    assert!(code == Some(2) && said.contains("1..="), "{said}");
    let (code, said) = run(&["limits", "set", "--tenant", "x", "--observe", "speed"]);
    assert!(code == Some(2) && said.contains("concurrency"), "{said}");
}
