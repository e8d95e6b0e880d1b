//! Requests that are right, in OpenAI's dialect.

use protocol::{outcome::Outcome, route::Route};
use serde_json::{Value, json};
use tests::{TestGateway, get, post};

use crate::{chat, with};

/// The events of a stream, without `[DONE]`, which must be there.
fn events(text: &str) -> Vec<Value> {
    let mut data: Vec<_> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(data.pop(), Some("data: [DONE]"), "{text}");
    let json = |event: &&str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    data.iter().map(json).collect()
}

fn streamed(words: &str) -> Value {
    with(chat(words), "stream", json!(true))
}

#[tokio::test]
async fn a_stream_is_what_the_sdks_read() {
    let gateway = TestGateway::start().await;
    let body = with(streamed("hello there"), "stream_options", json!({ "include_usage": true }));
    let reply = post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "text/event-stream");
    assert_eq!(reply.header("cache-control"), "no-cache");
    assert_eq!(reply.header("x-accel-buffering"), "no");
    let chunks = events(&reply.text());
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "This is the scripted Ollama: hello there");
    assert_eq!(chunks.iter().filter(|c| !c["choices"][0]["delta"]["role"].is_null()).count(), 1);
    assert!(
        chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["model"] == "llama3.2")
    );
    let [.., finish, usage] = chunks.as_slice() else { panic!("{chunks:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], json!("stop"));
    assert_eq!(
        usage["usage"],
        json!({ "prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9 })
    );
    let event = gateway.audited_one().await;
    assert_eq!((event.route, event.outcome), (Route::OpenAiChat, Outcome::Completed));
    assert_eq!((event.usage.prompt, event.usage.completion), (2, 7));
}

#[tokio::test]
async fn a_whole_reply_is_what_the_sdks_read() {
    let gateway = TestGateway::start().await;
    let body = with(chat("hello there"), "max_tokens", json!(3));
    let reply = post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &body).await;
    assert_eq!(reply.header("content-type"), "application/json");
    let reply = reply.json();
    assert_eq!(reply["object"], json!("chat.completion"));
    assert_eq!(reply["choices"][0]["message"]["content"], json!("This is the"));
    assert_eq!(reply["choices"][0]["finish_reason"], json!("length"));
    assert_eq!(reply["usage"]["total_tokens"], json!(5));
    assert_eq!(gateway.audited_one().await.usage.completion, 3);
}

#[tokio::test]
async fn tools_schemas_and_reasoning_are_translated() {
    let gateway = TestGateway::start().await;
    let ask = async |body: Value| {
        let reply = post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let tools = json!([{ "type": "function", "function": { "name": "weather", "parameters": {
        "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] } } }]);
    let reply = ask(with(chat("what does weather say"), "tools", tools)).await;
    let call = &reply["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], json!("{\"city\":\"scripted\"}"));
    assert_eq!(reply["choices"][0]["finish_reason"], json!("tool_calls"));

    let history = json!([
        { "role": "user", "content": [{ "type": "text", "text": "what" }, { "type": "text", "text": "now" }] },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": call["id"], "content": "rain" },
    ]);
    ask(with(chat(""), "messages", history)).await;

    let schema = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": {
        "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] } } });
    let reply = ask(with(chat("hi"), "response_format", schema)).await;
    assert_eq!(reply["choices"][0]["message"]["content"], json!("{\"n\":0}"));

    let thinking =
        with(with(chat("hi"), "model", json!("qwen3:8b")), "reasoning_effort", json!("high"));
    let reply = ask(thinking).await;
    assert!(reply["choices"][0]["message"]["reasoning"].is_string(), "{reply}");
}

#[tokio::test]
async fn a_stream_of_any_cut_is_the_same_stream() {
    let gateway = TestGateway::start().await;
    for words in ["[[split 1]]", "[[split 13]]", "[[crlf]]", "[[blank]]", "[[no-newline]]"] {
        let body = streamed(&format!("{words} ü € 𝄞"));
        let reply = post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &body).await;
        let text: String = events(&reply.text())
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, "This is the scripted Ollama: ü € 𝄞", "{words}");
    }
}

#[tokio::test]
async fn models_are_listed_and_told_of() {
    let gateway = TestGateway::start().await;
    let list = get(gateway.address, "/v1/models", Some(&gateway.key)).await.json();
    assert_eq!(list["object"], json!("list"));
    assert_eq!(list["data"].as_array().unwrap().len(), 4);
    for id in ["llama3.2", "llama3.2:latest", "LLAMA3.2", "qwen3%3A8b"] {
        let one = get(gateway.address, &format!("/v1/models/{id}"), Some(&gateway.key)).await;
        assert_eq!(one.status, 200, "{id}: {}", one.text());
        assert_eq!(one.json()["object"], json!("model"));
    }
    let none = get(gateway.address, "/v1/models/no-such", Some(&gateway.key)).await;
    assert_eq!((none.status.as_u16(), none.code()), (404, "model_not_found".to_owned()));
}
