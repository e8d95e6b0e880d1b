//! Both directions, on what Ollama really sends and SDKs really ask.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    StreamFault,
    chat_reply::{ReplyMeta, chat_reply},
    chat_request::chat_request,
    chat_stream::{ChatStream, error_event},
};
use crate::{error::Code, ndjson::Lines, usage::Usage};

fn meta() -> ReplyMeta {
    ReplyMeta { id: "chatcmpl-1".into(), created: 7, model: "m".into() }
}

fn native(request: &Value) -> Value {
    match chat_request(request.to_string().as_bytes()) {
        Ok(request) => serde_json::from_slice(&request.native).unwrap_or(Value::Null),
        Err(error) => json!({ "code": error.code.as_str(), "field": error.field }),
    }
}

fn with(extra: Value) -> Value {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    if let (Some(request), Value::Object(extra)) = (request.as_object_mut(), extra) {
        request.extend(extra);
    }
    request
}

#[test]
fn a_plain_request_says_no_more_than_it_was_told() {
    assert_eq!(
        native(&with(json!({}))),
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": false, "options": {}})
    );
}

#[test]
fn every_parameter_finds_its_place() {
    let request = with(json!({
        "stream": true, "max_tokens": 5, "max_completion_tokens": 9, "temperature": 0, "top_p": 0.50,
        "seed": 9_007_199_254_740_993_u64, "frequency_penalty": 0.1, "presence_penalty": -1,
        "stop": "x", "reasoning_effort": "minimal", "response_format": {"type": "json_object"},
        "logprobs": true, "top_logprobs": 2, "user": "u", "metadata": {}, "store": false, "n": 1,
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto",
        "parallel_tool_calls": true, "logit_bias": {},
    }));
    assert_eq!(
        native(&request),
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true,
            "format": "json", "tools": [{"type": "function", "function": {"name": "f"}}],
            "think": "low", "logprobs": true, "top_logprobs": 2,
            "options": {"num_predict": 9, "temperature": 0, "top_p": 0.50,
                "seed": 9_007_199_254_740_993_u64, "frequency_penalty": 0.1,
                "presence_penalty": -1, "stop": ["x"]}})
    );
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (extra, code, field) in [
        (json!({"n": 2}), Code::UnsupportedParameter, "n"),
        (json!({"tool_choice": "required"}), Code::UnsupportedParameter, "tool_choice"),
        (json!({"tool_choice": {"type": "function"}}), Code::UnsupportedParameter, "tool_choice"),
        (json!({"logit_bias": {"1": 2}}), Code::UnsupportedParameter, "logit_bias"),
        (json!({"functions": []}), Code::UnsupportedParameter, "functions"),
        (json!({"messages": []}), Code::InvalidRequest, "messages"),
        (json!({"messages": "hi"}), Code::InvalidRequest, "messages"),
        (json!({"messages": [{"role": "user", "content": 7}]}), Code::InvalidRequest, "messages"),
        (json!({"messages": [{"role": "user"}]}), Code::InvalidRequest, "messages"),
        (json!({"temperature": "hot"}), Code::InvalidRequest, "temperature"),
        (json!({"max_tokens": 1.5}), Code::InvalidRequest, "max_tokens"),
        (json!({"stream": "yes"}), Code::InvalidRequest, "stream"),
        (json!({"reasoning_effort": "huge"}), Code::InvalidRequest, "reasoning_effort"),
        (json!({"response_format": {"type": "xml"}}), Code::InvalidRequest, "response_format"),
        (json!({"stop": [1]}), Code::InvalidRequest, "stop"),
        (json!({"tools": {}}), Code::InvalidRequest, "tools"),
        (json!({"Messages": []}), Code::AmbiguousField, "Messages"),
    ] {
        assert_eq!(
            native(&with(extra.clone())),
            json!({"code": code.as_str(), "field": field}),
            "{extra}"
        );
    }
}

#[test]
fn parts_stay_one_message_and_images_are_taken_from_the_request_only() {
    let part = |url: &str| {
        with(json!({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "b"}]}]}))
    };
    assert_eq!(
        native(&part("data:image/png;base64,AAA="))["messages"],
        json!([{"role": "user", "content": "a\nb", "images": ["AAA="]}])
    );
    for url in [
        "https://a/b.png",
        "file:///etc/passwd",
        "data:image/png;base64,A\"B",
        "data:text/html;base64,AA",
    ] {
        assert_eq!(native(&part(url))["code"], "invalid_request", "{url}");
    }
}

#[test]
fn a_round_of_tools_keeps_names_ids_and_the_order_of_arguments() {
    let request = with(json!({"messages": [
        {"role": "developer", "content": "d"},
        {"role": "assistant", "content": null, "reasoning_content": "t", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"z\":1,\"a\":1.50}"}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]}]}));
    let Ok(request) = chat_request(request.to_string().as_bytes()) else { panic!("refused") };
    let text = String::from_utf8_lossy(&request.native);
    assert!(text.contains(r#"{"role":"system","content":"d"}"#), "{text}");
    assert!(text.contains(r#""thinking":"t","tool_calls":[{"id":"c1","function":{"index":0,"name":"f","arguments":{"z":1,"a":1.50}}},{"id":"c2","function":{"index":1,"name":"g","arguments":{}}}]"#), "{text}");
    assert!(
        text.contains(r#"{"role":"tool","content":"r","tool_name":"f","tool_call_id":"c1"}"#),
        "{text}"
    );
    let bad = with(json!({"messages": [{"role": "assistant", "tool_calls": [
        {"id": "c", "function": {"name": "f", "arguments": "[1]"}}]}]}));
    assert_eq!(native(&bad)["code"], "invalid_request");
}

#[test]
fn a_schema_keeps_the_order_of_its_keys() {
    let body = br#"{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":
        {"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","b":1,"a":2}}}}"#;
    let Ok(request) = chat_request(body) else { panic!("refused") };
    let text = String::from_utf8_lossy(&request.native).into_owned();
    assert!(text.contains(r#""format":{"type":"object","b":1,"a":2}"#), "{text}");
}

#[test]
fn a_whole_reply_is_translated() {
    let native =
        br#"{"model":"x","message":{"role":"assistant","content":"hi","thinking":"t","tool_calls":
        [{"function":{"index":0,"name":"f","arguments":{"a":1}}}]},"done":true,"done_reason":"stop",
        "prompt_eval_count":3,"eval_count":2}"#;
    let Ok((body, usage)) = chat_reply(native, &meta()) else { panic!("no reply") };
    assert_eq!(usage, Usage { prompt: 3, completion: 2, estimated: false });
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    assert_eq!(
        body,
        json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m",
            "system_fingerprint": "fp_ollama", "choices": [{"index": 0, "message": {
                "role": "assistant", "content": "hi", "reasoning": "t", "reasoning_content": "t",
                "tool_calls": [{"index": 0, "id": "call_1_0", "type": "function",
                    "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
                "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
    );
    assert!(chat_reply(br#"{"error":"UPSTREAM-WORDS"}"#, &meta()).is_err());
    assert!(chat_reply(b"<html>", &meta()).is_err());
}

/// The events of a stream, read back; panics on one that is no SSE or no JSON.
fn events(parts: &[&[u8]], include_usage: bool) -> (Vec<Value>, Option<StreamFault>) {
    let (mut lines, mut chat) = (Lines::default(), ChatStream::new(meta(), include_usage));
    let mut out = BytesMut::new();
    let mut run = || {
        for part in parts {
            lines.push(Bytes::copy_from_slice(part));
            while let Some(line) = lines.next_line().map_err(|_| StreamFault::TooLong)? {
                chat.line(&line, &mut out)?;
            }
        }
        if let Some(line) = lines.finish() {
            chat.line(&line, &mut out)?;
        }
        chat.end(&mut out)
    };
    let fault = run().err();
    let text = String::from_utf8_lossy(&out).into_owned();
    assert!(text.is_empty() || text.ends_with("\n\n"), "{text}");
    let events = text.split_terminator("\n\n").map(|event| {
        let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("no event: {event}"));
        assert!(!data.contains('\n'), "{data}");
        if data == "[DONE]" {
            json!("[DONE]")
        } else {
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"))
        }
    });
    (events.collect(), fault)
}

fn deltas(stream: &str) -> Vec<Value> {
    let (events, fault) = events(&[stream.as_bytes()], false);
    assert_eq!(fault, None, "{stream}");
    let delta = |event: &Value| match event["choices"][0].as_object() {
        Some(choice) if choice["finish_reason"].is_string() => choice["finish_reason"].clone(),
        Some(choice) => choice["delta"].clone(),
        None => event.clone(),
    };
    events.iter().map(delta).collect()
}

const DONE: &str = r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":3,"eval_count":2}"#;

#[test]
fn a_stream_says_the_role_once_and_ends_in_order() {
    let stream = format!(
        "{{\"message\":{{\"role\":\"assistant\",\"content\":\"a\"}},\"done\":false}}\n\
        {{\"message\":{{\"role\":\"assistant\",\"content\":\"\\u2028b\"}},\"done\":false}}\r\n\n{DONE}"
    );
    assert_eq!(
        deltas(&stream),
        [
            json!({"role": "assistant", "content": "a"}),
            json!({"content": "\u{2028}b"}),
            json!("stop"),
            json!("[DONE]")
        ]
    );
    let (events, _) = events(&[stream.as_bytes()], true);
    assert_eq!(events[3]["choices"], json!([]));
    assert_eq!(
        events[3]["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
    );
    assert_eq!(events[0]["id"], "chatcmpl-1");
}

#[test]
fn thinking_comes_before_what_is_said() {
    let stream = format!("{{\"message\":{{\"thinking\":\"t\",\"content\":\"a\"}}}}\n{DONE}\n");
    assert_eq!(
        deltas(&stream)[..2],
        [
            json!({"role": "assistant", "content": "", "reasoning": "t", "reasoning_content": "t"}),
            json!({"content": "a"})
        ]
    );
}

#[test]
fn tool_calls_are_counted_over_lines_and_on_the_last_one() {
    let call = |name: &str| {
        format!(r#"{{"id":"{name}","function":{{"index":0,"name":"{name}","arguments":{{}}}}}}"#)
    };
    let stream = format!(
        "{{\"message\":{{\"content\":\"\",\"tool_calls\":[{}]}}}}\n{{\"message\":{{\"content\":\"\",\"tool_calls\":[{}]}},\"done\":true,\"done_reason\":\"stop\"}}\n",
        call("f"),
        call("g")
    );
    let deltas = deltas(&stream);
    assert_eq!(deltas[0]["tool_calls"][0]["index"], 0);
    assert_eq!(deltas[1]["tool_calls"][0]["index"], 1);
    assert_eq!(deltas[1]["tool_calls"][0]["id"], "g");
    assert_eq!(deltas[2], "tool_calls");
}

#[test]
fn an_empty_answer_still_has_a_role_and_an_end() {
    assert_eq!(
        deltas(DONE),
        [json!({"role": "assistant", "content": ""}), json!("stop"), json!("[DONE]")]
    );
    assert_eq!(deltas(&DONE.replace("\"stop\"", "\"length\""))[1], "length");
    assert_eq!(deltas(&DONE.replace("\"stop\"", "\"unload\""))[1], "stop");
}

#[test]
fn a_stream_that_fails_is_never_finished() {
    let first = "{\"message\":{\"content\":\"a\"}}\n";
    for (rest, fault) in [
        ("", StreamFault::BrokenOff),
        ("{\"error\":\"UPSTREAM-WORDS\"}\n", StreamFault::UpstreamError),
        ("{\"mess", StreamFault::NotJson),
        ("[1]\n", StreamFault::NotJson),
    ] {
        let (events, got) = events(&[first.as_bytes(), rest.as_bytes()], true);
        assert_eq!(got, Some(fault), "{rest}");
        assert_eq!(events.len(), 1, "{rest}");
    }
    let mut out = BytesMut::new();
    error_event(Code::UpstreamFailed, "failed", &mut out);
    let text = String::from_utf8_lossy(&out);
    assert!(
        text.starts_with("data: {\"error\":{\"message\":\"failed\"") && text.ends_with("}}\n\n"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_the_same_events_come(cuts in prop::collection::vec(0_usize..400, 0..10)) {
        let stream = format!("{{\"message\":{{\"content\":\"é\",\"thinking\":\"ü\"}}}}\r\n\n{{\"message\":{{\"content\":\"日本\"}}}}\n{DONE}");
        let bytes = stream.as_bytes();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut parts = Vec::new();
        let mut start = 0;
        for cut in cuts {
            parts.push(&bytes[start..cut]);
            start = cut;
        }
        parts.push(&bytes[start..]);
        prop_assert_eq!(events(&parts, true), events(&[bytes], true));
        let bytewise: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(events(&bytewise, true), events(&[bytes], true));
    }

    #[test]
    fn no_line_makes_the_translation_panic_or_write_what_is_no_event(
        content in ".{0,20}", thinking in ".{0,20}", reason in ".{0,8}", done: bool, count in any::<u64>(), junk in "[\\[{}\":a,0-9\\\\]{0,30}",
    ) {
        let line = json!({"message": {"content": content, "thinking": thinking}, "done": done, "done_reason": reason, "eval_count": count});
        let stream = format!("{line}\n{junk}\n{line}\n");
        let _ = events(&[stream.as_bytes()], true);
        let _ = chat_reply(junk.as_bytes(), &meta());
        let _ = chat_reply(line.to_string().as_bytes(), &meta());
        let _ = chat_request(junk.as_bytes());
    }
}
