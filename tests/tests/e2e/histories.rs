//! What clients replay: none of it ends a session, and what a model server is sent it takes.

use http::Method;
use serde_json::{Value, json};
use tests::{
    Reply, Setup, TestGateway,
    client::{request, send},
    post,
};

use crate::with;

/// Half of a pair, as JavaScript leaves it.
const HALF: &str = r"cut \ud83d";

async fn gateway(openai: bool) -> TestGateway {
    TestGateway::with(Setup { openai, ..Setup::default() }).await
}

/// The body of the last request that the model server got.
fn sent(gateway: &TestGateway) -> Value {
    let requests = gateway.ollama.requests();
    let last = requests.iter().rfind(|seen| seen.method == "POST").unwrap();
    serde_json::from_slice(&last.body).unwrap()
}

async fn asked(gateway: &TestGateway, path: &str, body: &Value) -> Reply {
    let reply = post(gateway.address, path, Some(&gateway.key), body).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply
}

/// What OpenAI's API wants of the messages of a chat: each result behind the turn of its call, each call with a
/// result, no assistant's turn without anything.
fn is_in_order(messages: &Value) {
    let mut waiting: Vec<&str> = Vec::new();
    for message in messages.as_array().unwrap() {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().unwrap();
            let at = waiting.iter().position(|waits| *waits == id);
            waiting.remove(at.unwrap_or_else(|| panic!("{id} in {messages}")));
            continue;
        }
        assert!(waiting.is_empty(), "{waiting:?} in {messages}");
        let calls = message["tool_calls"].as_array();
        waiting.extend(calls.into_iter().flatten().map(|call| call["id"].as_str().unwrap()));
        let is_silent = message["content"] == "" && waiting.is_empty();
        assert!(message["role"] != "assistant" || !is_silent, "{messages}");
    }
    assert!(waiting.is_empty(), "{waiting:?} in {messages}");
}

#[tokio::test]
async fn half_a_pair_is_taken_for_a_mark_in_every_dialect() {
    for openai in [false, true] {
        let gateway = gateway(openai).await;
        let asked = |path: &'static str, body: String| {
            send(gateway.address, request(Method::POST, path, Some(&gateway.key), body.into()))
        };
        let messages = format!(r#""messages":[{{"role":"user","content":"{HALF}"}}]"#);
        for (path, rest) in [
            ("/v1/chat/completions", messages.clone()),
            ("/v1/messages", format!(r#""max_tokens":9,{messages}"#)),
            ("/v1/responses", format!(r#""input":"{HALF}""#)),
            ("/v1/completions", format!(r#""prompt":"{HALF}""#)),
            ("/api/chat", format!(r#""stream":false,{messages}"#)),
            ("/api/generate", format!(r#""stream":false,"prompt":"{HALF}""#)),
        ] {
            let reply = asked(path, format!(r#"{{"model":"llama3.2",{rest}}}"#)).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            let sent = sent(&gateway).to_string();
            assert!(sent.contains("cut \u{fffd}\""), "{path}: {sent}");
        }
        let none =
            asked("/v1/chat/completions", format!(r#"{{"model":"x\ud83d",{messages}}}"#)).await;
        assert!(none.status.is_client_error(), "{}", none.text());
    }
}

#[tokio::test]
async fn a_session_of_claude_code_goes_on_whatever_its_history_holds() {
    let history = json!([
        { "role": "user", "content": "plan it" },
        { "role": "assistant", "content": [
            { "type": "thinking", "thinking": "first", "signature": "s" },
            { "type": "redacted_thinking", "data": "x" },
            { "type": "thinking", "thinking": "second", "signature": "s" },
            { "type": "tool_use", "id": "t1", "name": "ToolSearch", "input": { "query": "plan" } },
            { "type": "server_tool_use", "id": "s1", "name": "web_search", "input": { "query": "x" } },
            { "type": "web_search_tool_result", "tool_use_id": "s1", "content": [] }
        ]},
        { "role": "system", "content": "Agents: AGENTS" },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": "t1",
              "content": [{ "type": "tool_reference", "tool_name": "Draw" }, { "type": "unheard_of" }] },
            { "type": "tool_result", "tool_use_id": "compacted", "content": "old" }
        ]},
        { "role": "assistant", "content": [{ "type": "thinking", "thinking": "cut", "signature": "" }] },
        { "role": "user", "content": "go on" }
    ]);
    let body = json!({
        "model": "llama3.2", "max_tokens": 100, "messages": history,
        "tools": [{ "name": "Draw", "input_schema": { "type": "object" }, "defer_loading": true }]
    });
    for openai in [false, true] {
        let gateway = gateway(openai).await;
        for stream in [false, true] {
            asked(&gateway, "/v1/messages", &with(body.clone(), "stream", stream.into())).await;
            let sent = sent(&gateway);
            let thinking = if openai { "reasoning_content" } else { "thinking" };
            let said = &sent["messages"].to_string();
            assert_eq!(sent["messages"][1][thinking], "first\n\nsecond", "{said}");
            for words in
                ["The tool Draw is available.", "[unheard_of was left out]", "AGENTS", "old"]
            {
                assert!(said.contains(words), "{words} in {said}");
            }
            if openai {
                is_in_order(&sent["messages"]);
            }
        }
    }
}

#[tokio::test]
async fn a_session_of_codex_goes_on_and_calls_its_servers_tools() {
    let tools = json!([
        { "type": "function", "name": "shell", "parameters": { "type": "object" }, "strict": false },
        { "type": "namespace", "name": "mcp__docs__", "description": "Docs", "tools": [
            { "type": "function", "name": "search", "parameters": { "type": "object" } }] },
        { "type": "custom", "name": "apply_patch", "description": "Patches",
          "format": { "type": "grammar", "syntax": "lark", "definition": "start: /.+/" } },
        { "type": "web_search", "external_web_access": false }
    ]);
    let history = json!([
        { "type": "message", "role": "developer", "content": [{ "type": "input_text", "text": "Be quick." }] },
        { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "look" }] },
        { "type": "reasoning", "summary": [], "encrypted_content": "x",
          "content": [{ "type": "reasoning_text", "text": "whole" }] },
        { "type": "function_call", "call_id": "c1", "namespace": "mcp__docs__", "name": "search",
          "arguments": "{\"q\":" },
        { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "I look." }] },
        { "type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin" },
        { "type": "web_search_call", "status": "completed", "action": { "type": "search", "query": "q" } },
        { "type": "function_call_output", "call_id": "c1", "output": "found" },
        { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "call mcp__docs__search" }] }
    ]);
    let body = json!({
        "model": "llama3.2", "instructions": "You are an agent.", "input": history, "tools": tools,
        "tool_choice": "auto", "parallel_tool_calls": false, "store": false
    });
    for openai in [false, true] {
        let gateway = gateway(openai).await;
        let reply = asked(&gateway, "/v1/responses", &body).await.json();
        let called =
            json!({ "type": "function_call", "namespace": "mcp__docs__", "name": "search" });
        let is_called = |item: &Value| {
            called.as_object().unwrap().iter().all(|(name, value)| item[name] == *value)
        };
        assert!(reply["output"].as_array().unwrap().iter().any(is_called), "{reply}");
        assert_eq!(reply["tools"], tools);
        let sent = sent(&gateway);
        let turn = sent["messages"].as_array().unwrap();
        let turn = turn.iter().find(|message| message["tool_calls"].is_array()).unwrap();
        assert_eq!(turn["tool_calls"][0]["function"]["name"], "mcp__docs__search");
        assert!(turn["content"].as_str().unwrap().starts_with("I look."), "{turn}");
        if openai {
            is_in_order(&sent["messages"]);
            assert_eq!(turn["reasoning_content"], "whole");
            assert_eq!(sent["messages"][0]["content"], "You are an agent.\n\nBe quick.");
        }
        let text = asked(&gateway, "/v1/responses", &with(body.clone(), "stream", true.into()))
            .await
            .text();
        let done = text.split("event: response.output_item.done\ndata: ").skip(1);
        let mut done = done.map(|event| {
            serde_json::from_str::<Value>(event.lines().next().unwrap()).unwrap()["item"].clone()
        });
        assert!(done.any(|item| is_called(&item)), "{text}");
        assert!(text.contains("event: response.completed"), "{text}");
    }
}

#[tokio::test]
async fn where_nothing_is_said_no_model_is_loaded() {
    let gateway = gateway(false).await;
    let secret =
        json!([{ "role": "assistant", "content": [{ "type": "redacted_thinking", "data": "x" }] }]);
    for (path, rest, field) in [
        ("/v1/responses", json!({ "input": [] }), "input"),
        ("/v1/responses", json!({ "input": [], "instructions": "a" }), "input"),
        ("/v1/responses", json!({ "input": [{ "type": "reasoning", "summary": [] }] }), "input"),
        ("/v1/messages", json!({ "messages": [], "max_tokens": 5 }), "messages"),
        ("/v1/messages", json!({ "messages": secret, "max_tokens": 5 }), "messages"),
        ("/v1/chat/completions", json!({ "messages": [] }), "messages"),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "assistant", "content": null }] }),
            "messages",
        ),
    ] {
        let body = with(rest, "model", "llama3.2".into());
        let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        assert!(reply.text().contains(&format!("`{field}`")), "{}", reply.text());
    }
    assert!(gateway.ollama.requests().iter().all(|seen| seen.method == "GET"));
}
