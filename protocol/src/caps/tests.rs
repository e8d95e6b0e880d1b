use super::*;
use crate::{route::Route, translate::request::Request};

fn many(item: &str, count: usize) -> String {
    vec![item; count].join(",")
}

/// What is said against a body, if anything is.
fn refusal(route: Route, body: &str) -> Option<(Code, Option<String>)> {
    let error = Request::read(route, body.as_bytes()).err();
    error.map(|error| (error.code, error.field))
}

/// A list in a body: the route, what stands before its items, one of them, what stands behind them, how many there
/// may be, and the field that a refusal names.
type Case = (Route, &'static str, &'static str, &'static str, usize, &'static str);

const CHAT: Route = Route::OpenAiChat;
const SAID: &str = r#"{"role":"user","content":"a"}"#;
const TEXT: &str = r#""a""#;

#[rustfmt::skip]
const LISTS: &[Case] = &[
    (CHAT, r#"{"model":"m","messages":["#, SAID, "]}", MESSAGES_MAX, "messages"),
    (Route::OllamaChat, r#"{"model":"m","messages":["#, SAID, "]}", MESSAGES_MAX, "messages"),
    (Route::AnthropicMessages, r#"{"model":"m","max_tokens":1,"messages":["#, SAID, "]}", MESSAGES_MAX, "messages"),
    (Route::OpenAiResponses, r#"{"model":"m","input":["#, SAID, "]}", MESSAGES_MAX, "input"),
    (Route::OpenAiEmbeddings, r#"{"model":"m","input":["#, TEXT, "]}", INPUTS_MAX, "input"),
    (Route::OllamaEmbed, r#"{"model":"m","input":["#, TEXT, "]}", INPUTS_MAX, "input"),
    (Route::OpenAiCompletions, r#"{"model":"m","prompt":["#, TEXT, "]}", PROMPTS_MAX, "prompt"),
    (Route::OpenAiCompletions, r#"{"model":"m","prompt":["#, "[1]", "]}", PROMPTS_MAX, "prompt"),
    (CHAT, r#"{"model":"m","messages":[],"tools":["#, "1", "]}", TOOLS_MAX, "tools"),
    (CHAT, r#"{"model":"m","messages":[],"stop":["#, TEXT, "]}", STOPS_MAX, "stop"),
    (CHAT, r#"{"model":"m","messages":[{"role":"user","content":["#, "1", "]}]}", PARTS_MAX, "messages[0]"),
    (CHAT, r#"{"model":"m","messages":[{"role":"assistant","tool_calls":["#, "1", "]}]}", PARTS_MAX, "messages[0]"),
    (Route::OllamaChat, r#"{"model":"m","messages":[{"role":"user","images":["#, TEXT, "]}]}", PARTS_MAX, "messages[0]"),
    (Route::AnthropicMessages, r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"content":["#, "1", "]}]}]}", PARTS_MAX, "messages[0]"),
    (Route::OllamaGenerate, r#"{"model":"m","prompt":"a","images":["#, TEXT, "]}", PARTS_MAX, "images"),
    (Route::OllamaGenerate, r#"{"model":"m","prompt":"a","options":{"stop":["#, TEXT, "]}}", STOPS_MAX, "options.stop"),
];

#[test]
fn no_list_of_a_body_is_longer_than_its_bound() {
    for (route, before, item, after, max, field) in LISTS {
        let body = |count| format!("{before}{}{after}", many(item, count));
        assert_eq!(refusal(*route, &body(*max)), None, "{route} {field}");
        let over = Some((Code::InvalidRequest, Some((*field).to_owned())));
        assert_eq!(refusal(*route, &body(*max + 1)), over, "{route} {field}");
    }
}

#[test]
fn the_parts_of_all_messages_are_counted_together() {
    let message = format!(r#"{{"role":"user","content":[{}]}}"#, many("1", 1_000));
    let body = |count| format!(r#"{{"model":"m","messages":[{}]}}"#, many(&message, count));
    assert_eq!(refusal(Route::OpenAiChat, &body(PARTS_ALL_MAX / 1_000)), None);
    let over = Some((Code::InvalidRequest, Some("messages".to_owned())));
    assert_eq!(refusal(Route::OpenAiChat, &body(PARTS_ALL_MAX / 1_000 + 1)), over);
}

#[test]
fn no_object_has_more_keys_than_its_bound() {
    let keys = |count: usize| {
        let keys: Vec<_> = (0..count).map(|at| format!(r#""k{at}":":""#)).collect();
        format!(r#"{{"model":"m","messages":[],"metadata":{{"x":{{{}}}}}}}"#, keys.join(","))
    };
    assert_eq!(refusal(Route::OpenAiChat, &keys(KEYS_MAX)), None);
    let over = Some((Code::InvalidRequest, None));
    assert_eq!(refusal(Route::OpenAiChat, &keys(KEYS_MAX + 1)), over);
}

#[test]
fn the_refusal_names_the_bound() {
    let body = format!(r#"{{"model":"m","messages":[{}]}}"#, many("{}", MESSAGES_MAX + 1));
    let error = Request::read(Route::OpenAiChat, body.as_bytes()).map(drop).unwrap_err();
    assert_eq!(error.message, "`messages` may have at most 4096 items.");
}

#[test]
fn a_name_that_is_written_with_escapes_is_counted_too() {
    let body = format!(r#"{{"model":"m","mess\u0061ges":[{}]}}"#, many("{}", MESSAGES_MAX + 1));
    let over = Some((Code::InvalidRequest, Some("messages".to_owned())));
    assert_eq!(refusal(Route::OpenAiChat, &body), over);
}

#[test]
fn lists_of_what_is_no_message_are_as_long_as_they_like() {
    let ids = many("1", 100_000);
    for (route, body) in [
        (Route::OllamaGenerate, format!(r#"{{"model":"m","prompt":"a","context":[{ids}]}}"#)),
        (Route::OpenAiCompletions, format!(r#"{{"model":"m","prompt":[{ids}]}}"#)),
        (
            Route::OpenAiChat,
            format!(
                r#"{{"model":"m","messages":[],"tools":[{{"function":{{"parameters":{{"enum":[{ids}]}}}}}}]}}"#
            ),
        ),
        (
            Route::OllamaChat,
            format!(
                r#"{{"model":"m","messages":[{{"tool_calls":[{{"function":{{"arguments":{{"ids":[{ids}]}}}}}}]}}]}}"#
            ),
        ),
    ] {
        assert_eq!(refusal(route, &body), None);
    }
}

#[test]
fn what_is_nested_as_deep_as_may_be_is_read() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(check(nested(DEPTH_MAX).as_bytes()), Ok(()));
    assert_eq!(check(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err().code, Code::InvalidJson);
    assert_eq!(check("[],".repeat(500).as_bytes()), Ok(()));
    assert_eq!(check(b"\"\\"), Ok(()));
}
