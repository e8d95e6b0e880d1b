use super::*;
use crate::{
    levers::Levers,
    route::{Route, UpstreamKind},
    translate::{
        Reply, ReplyMeta,
        request::{Request, Target},
        stream::Translation,
        whole::whole,
    },
};

const TOOLS: &str = r#"[
    {"type":"function","name":"shell"},
    {"type":"namespace","name":"mcp__docs__","description":"d","tools":[{"type":"function","name":"search"}]},
    {"type":"custom","name":"patch"},
    {"type":"tool_search","execution":"client","description":"t","parameters":{"type":"object"}}]"#;

/// A reply to a request with these tools, in which a model server calls that function.
fn replies(function: &str, arguments: &str) -> [(UpstreamKind, Value); 4] {
    let body = format!(r#"{{"model":"m","input":"a","tools":{TOOLS}}}"#);
    let reply = Request::read(Route::OpenAiResponses, body.as_bytes()).unwrap().reply;
    let meta = || ReplyMeta { id: "1".to_owned(), created: 1, model: "m".to_owned() };
    let object: Value = serde_json::from_str(arguments).unwrap();
    let call = json!([{ "id": "c", "function": { "name": function, "arguments": object } }]);
    let line = json!({ "message": { "content": "", "tool_calls": call }, "done": false });
    let done = json!({ "message": { "content": "" }, "done": true, "done_reason": "stop" });
    let whole_line = json!({ "message": { "content": "", "tool_calls": call }, "done": true });
    let called = json!([{ "index": 0, "id": "c", "type": "function",
        "function": { "name": function, "arguments": arguments } }]);
    let chunk = json!({ "choices": [{ "delta": { "tool_calls": called } }] });
    let end = json!({ "choices": [{ "delta": {}, "finish_reason": "tool_calls" }] });
    let completion = json!({ "choices": [{ "message": { "tool_calls": called }, "finish_reason": "tool_calls" }] });
    let item = |response: &Value| response["output"][0].clone();
    let whole_of = |kind, text: &Value| {
        let (reply, _) = whole(text.to_string().as_bytes(), kind, &reply, &meta(), 1).unwrap();
        item(&serde_json::from_slice(&reply).unwrap())
    };
    let streamed = |kind, text: String| {
        let mut stream = Translation::new(kind, reply.clone(), meta(), 1).unwrap();
        let (mut out, fault) = {
            let (bytes, fault) = stream.push(text.into());
            (bytes.to_vec(), fault)
        };
        assert!(fault.is_none());
        out.extend_from_slice(&stream.end().0);
        let text = String::from_utf8(out).unwrap();
        let last = text.lines().rfind(|line| line.starts_with("data: ")).unwrap();
        let completed: Value = serde_json::from_str(&last["data: ".len()..]).unwrap();
        let done = text.split("event: response.output_item.done\ndata: ").nth(1).unwrap();
        let done: Value = serde_json::from_str(done.lines().next().unwrap()).unwrap();
        assert_eq!(done["item"], item(&completed["response"]));
        assert_eq!(completed["response"]["tools"], serde_json::from_str::<Value>(TOOLS).unwrap());
        item(&completed["response"])
    };
    let (ollama, openai) = (UpstreamKind::Ollama, UpstreamKind::OpenAi);
    [
        (ollama, whole_of(ollama, &whole_line)),
        (openai, whole_of(openai, &completion)),
        (ollama, streamed(ollama, format!("{line}\n{done}\n"))),
        (openai, streamed(openai, format!("data: {chunk}\n\ndata: {end}\n\ndata: [DONE]\n\n"))),
    ]
}

#[test]
fn a_call_is_given_back_as_the_client_knows_its_tool() {
    for (function, arguments, expected) in [
        ("shell", "{}", json!({ "type": "function_call", "name": "shell", "arguments": "{}" })),
        (
            "mcp__docs__search",
            r#"{"q":1}"#,
            json!({ "type": "function_call", "name": "search", "namespace": "mcp__docs__",
                "arguments": "{\"q\":1}" }),
        ),
        (
            "patch",
            r#"{"input":"a\nb"}"#,
            json!({ "type": "custom_tool_call", "name": "patch", "input": "a\nb" }),
        ),
        (
            "tool_search",
            r#"{"query":"mail"}"#,
            json!({ "type": "tool_search_call", "execution": "client", "arguments": { "query": "mail" } }),
        ),
        (
            "unheard_of",
            "{}",
            json!({ "type": "function_call", "name": "unheard_of", "arguments": "{}" }),
        ),
    ] {
        for (kind, item) in replies(function, arguments) {
            let Value::Object(mut item) = item else { panic!("{item}") };
            assert_eq!(item["call_id"], "c");
            item.retain(|name, _| !matches!(name.as_str(), "id" | "status" | "call_id"));
            assert_eq!(Value::from(item), expected, "{function} of {kind}");
        }
    }
}

#[test]
fn a_choice_among_tools_means_those_of_the_namespace() {
    let choice = r#"{"type":"allowed_tools","mode":"auto","tools":[
        {"type":"function","name":"search","namespace":"mcp__docs__"},{"type":"custom","name":"patch"}]}"#;
    let body = format!(r#"{{"model":"m","input":"a","tools":{TOOLS},"tool_choice":{choice}}}"#);
    let request = Request::read(Route::OpenAiResponses, body.as_bytes()).unwrap();
    for kind in [UpstreamKind::Ollama, UpstreamKind::OpenAi] {
        let levers = &Levers::OPEN;
        let target = Target { kind, model: Some("m"), tokens_max: None, levers };
        let written = request.write(&target).unwrap().body.unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        let tools = written["tools"].as_array().unwrap().iter();
        let names: Vec<_> = tools.map(|tool| tool["function"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["mcp__docs__search", "patch"]);
    }
}

#[test]
fn a_custom_tool_is_streamed_as_its_text() {
    let body = format!(r#"{{"model":"m","input":"a","tools":{TOOLS}}}"#);
    let reply = Request::read(Route::OpenAiResponses, body.as_bytes()).unwrap().reply;
    let meta = ReplyMeta { id: "1".to_owned(), created: 1, model: "m".to_owned() };
    let mut stream = Translation::new(UpstreamKind::OpenAi, reply, meta, 1).unwrap();
    let part = |call: Value| {
        let chunk = json!({ "choices": [{ "delta": { "tool_calls": [call] } }] });
        format!("data: {chunk}\n\n")
    };
    let begun =
        json!({ "index": 0, "id": "c", "function": { "name": "patch", "arguments": "{\"in" } });
    let more = json!({ "index": 0, "function": { "arguments": "put\":\"x\"}" } });
    let end = json!({ "choices": [{ "delta": {}, "finish_reason": "tool_calls" }] });
    let text = format!("{}{}data: {end}\n\ndata: [DONE]\n\n", part(begun), part(more));
    let (bytes, _) = stream.push(text.into());
    let mut out = bytes.to_vec();
    out.extend_from_slice(&stream.end().0);
    let text = String::from_utf8(out).unwrap();
    assert!(!text.contains("function_call_arguments"), "{text}");
    let kinds: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let at =
        kinds.iter().position(|kind| *kind == "response.custom_tool_call_input.delta").unwrap();
    assert_eq!(
        kinds[at..at + 3],
        [
            "response.custom_tool_call_input.delta",
            "response.custom_tool_call_input.done",
            "response.output_item.done"
        ]
    );
    assert!(text.contains(r#""input":"x""#), "{text}");
}

#[test]
fn a_joined_name_is_one_of_a_function_and_nobody_elses() {
    let free = |_: &str| false;
    for (namespace, name, expected) in [
        (Some("mcp__docs__"), "search", "mcp__docs__search"),
        (Some("mcp__docs"), "search", "mcp__docs__search"),
        (None, "patch", "patch"),
    ] {
        assert_eq!(joined(namespace, name, free), expected);
    }
    let names = [
        joined(Some("a"), "b", |name| name == "a__b"),
        joined(Some("a.b"), "c", free),
        joined(Some("a_b"), "c/é", free),
        joined(Some(&"n".repeat(70)), "one", free),
        joined(Some(&"n".repeat(70)), "two", free),
    ];
    for (at, name) in names.iter().enumerate() {
        assert!(!names[..at].contains(name), "{name}");
        assert!(name.len() <= NAME_LENGTH_MAX, "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
    }
    assert_eq!(names[0], joined(Some("a"), "b", |name| name == "a__b"));
    assert_ne!(joined(Some("a"), "b", |name| name == "a__b" || name == names[0]), names[0]);
}

#[test]
fn only_tools_that_the_client_runs_are_offered() {
    let refused = |tool: &str| {
        let raw = format!("[{tool}]");
        offered(serde_json::from_str(&raw).ok(), None).err().and_then(|error| error.field)
    };
    for tool in [
        r#"{"type":"web_search"}"#,
        r#"{"type":"web_search","external_web_access":true}"#,
        r#"{"type":"local_shell"}"#,
        r#"{"type":"image_generation"}"#,
        r#"{"type":"mcp","server_label":"a","server_url":"https://example.com"}"#,
        r#"{"type":"tool_search"}"#,
        r#"{"type":"tool_search","execution":"server"}"#,
    ] {
        assert_eq!(refused(tool).as_deref(), Some("tools[0].type"), "{tool}");
    }
    for tool in [r#"{"type":"function"}"#, r#"{"type":"namespace","name":"a"}"#, "1"] {
        assert_eq!(refused(tool).as_deref(), Some("tools[0]"), "{tool}");
    }
    let nested = r#"{"type":"namespace","name":"a","tools":[{"type":"namespace","name":"b"}]}"#;
    assert_eq!(refused(nested).as_deref(), Some("tools[0].tools[0].type"));
    let unnamed = r#"{"type":"namespace","tools":[{"type":"function","name":"b"}]}"#;
    assert_eq!(refused(unnamed).as_deref(), Some("tools[0].tools[0]"));
    assert_eq!(refused(r#"{"type":"web_search","external_web_access":false}"#), None);
}

#[test]
fn a_text_without_its_object_is_the_text() {
    for (arguments, input) in [(r#"{"input":"a"}"#, "a"), ("a", "a"), (r#"{"b":1}"#, r#"{"b":1}"#)]
    {
        assert_eq!(input_of(arguments), input);
    }
}

#[test]
fn a_reply_without_such_tools_costs_nothing() {
    let body = r#"{"model":"m","input":"a","tools":[{"type":"function","name":"f"}]}"#;
    let request = Request::read(Route::OpenAiResponses, body.as_bytes()).unwrap();
    let Reply::Response(echo) = request.reply else { panic!() };
    assert_eq!(*echo.names(), Names::default());
}

#[test]
fn a_tool_of_no_namespace_is_not_one_of_a_namespace() {
    let tools = r#"[{"type":"function","name":"search"},
        {"type":"namespace","name":"n","tools":[{"type":"function","name":"search"}]}]"#;
    let Offered { names, .. } = offered(serde_json::from_str(tools).ok(), None).unwrap();
    assert_eq!(names.upstream(None, "search".into()), "search");
    assert_eq!(names.upstream(Some("n"), "search".into()), "n__search");
    assert_eq!(names.upstream(Some("gone"), "search".into()), "gone__search");
}

#[test]
fn namespaces_hold_no_more_tools_than_a_list() {
    let tools = |count: usize| {
        let tools: Vec<_> =
            (0..count).map(|at| format!(r#"{{"type":"function","name":"f{at}"}}"#)).collect();
        let list = tools.join(",");
        format!(
            r#"[{{"type":"namespace","name":"a","tools":[{list}]}},{{"type":"namespace","name":"b","tools":[{list}]}}]"#
        )
    };
    for (count, is_taken) in [(caps::TOOLS_MAX / 2, true), (caps::TOOLS_MAX / 2 + 1, false)] {
        let tools = tools(count);
        assert_eq!(offered(serde_json::from_str(&tools).ok(), None).is_ok(), is_taken, "{count}");
    }
}
