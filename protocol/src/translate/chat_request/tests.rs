use proptest::prelude::*;

use super::*;
use crate::{
    error::Code,
    levers::Levers,
    route::{Route, UpstreamKind},
    translate::request::{Request, Target},
};

const TARGET: Target<'static> =
    Target { kind: UpstreamKind::Ollama, model: None, tokens_max: None, levers: &Levers::OPEN };

fn with(rest: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"a"}}]{rest}}}"#)
}

fn written(body: &[u8]) -> Result<Vec<u8>, BodyError> {
    let outgoing = Request::read(Route::OpenAiChat, body)?.write(&TARGET)?;
    Ok(outgoing.body.unwrap())
}

fn native(rest: &str) -> String {
    String::from_utf8(written(with(rest).as_bytes()).unwrap()).unwrap()
}

fn refusal(rest: &str) -> (Code, String) {
    let error = written(with(rest).as_bytes()).unwrap_err();
    (error.code, error.field.unwrap_or_default())
}

#[test]
fn what_is_not_said_is_not_sent() {
    let expected =
        r#"{"model":"m","messages":[{"role":"user","content":"a"}],"stream":false,"options":{}}"#;
    assert_eq!(native(""), expected);
    let nulls = r#","temperature":null,"tools":null,"stop":null,"n":null,"tool_choice":null,
        "max_tokens":null,"response_format":null,"reasoning":null,"stream_options":null"#;
    assert_eq!(native(nulls), expected);
    let unknown = r#","user":"u","logit_bias":{},"keep_alive":0,"options":{"num_ctx":1}"#;
    assert_eq!(native(unknown), expected);
}

#[test]
fn the_newer_limit_wins_over_the_older() {
    let rest = r#","max_tokens":5,"max_completion_tokens":7"#;
    let body = with(rest);
    let request = Request::read(Route::OpenAiChat, body.as_bytes()).unwrap();
    assert_eq!(request.tokens_max, Some(7));
    assert!(native(rest).contains(r#""num_predict":7"#));
    assert!(native(r#","max_tokens":5.0"#).contains(r#""num_predict":5}"#));
}

#[test]
fn an_effort_becomes_thinking() {
    for (effort, think) in [
        ("none", "false"),
        ("minimal", "\"low\""),
        ("low", "\"low\""),
        ("medium", "\"medium\""),
        ("high", "\"high\""),
        ("xhigh", "\"max\""),
        ("ultra", "\"max\""),
        ("max", "\"max\""),
    ] {
        let expected = format!(r#""think":{think}"#);
        assert!(native(&format!(r#","reasoning_effort":"{effort}""#)).contains(&expected));
        let rest = format!(r#","reasoning":{{"effort":"{effort}"}},"reasoning_effort":"low""#);
        assert!(native(&rest).contains(&expected));
    }
}

#[test]
fn what_cannot_be_had_is_refused_and_not_dropped() {
    let function = r#"{"type":"function","function":{"name":"f"}}"#;
    for (rest, field) in [
        (r#","n":2"#.to_owned(), "n"),
        (r#","n":0"#.to_owned(), "n"),
        (r#","tool_choice":"required""#.to_owned(), "tool_choice"),
        (format!(r#","tools":[{function}],"tool_choice":{function}"#), "tool_choice"),
        (format!(r#","tools":[{function},{{"type":"custom"}}]"#), "tools[1].type"),
        (r#","response_format":{"type":"grammar"}"#.to_owned(), "response_format.type"),
        (r#","logit_bias":{"1":2}"#.to_owned(), "logit_bias"),
        (r#","functions":[{"name":"f"}]"#.to_owned(), "functions"),
        (r#","modalities":["text","audio"]"#.to_owned(), "modalities"),
        (r#","web_search_options":{"a":1}"#.to_owned(), "web_search_options"),
    ] {
        let (code, at) = refusal(&rest);
        assert_eq!((code, at.as_str()), (Code::UnsupportedParameter, field), "{rest}");
    }
}

/// The `response_format` that a server of OpenAI's dialect is sent; `None`: the body passes as it came.
fn format_sent(format: &str) -> Result<Option<String>, (Code, String)> {
    let body = with(&format!(r#","response_format":{format}"#));
    let target = Target { kind: UpstreamKind::OpenAi, ..TARGET };
    let request = Request::read(Route::OpenAiChat, body.as_bytes()).unwrap();
    let outgoing = request.write(&target);
    let outgoing = outgoing.map_err(|error| (error.code, error.field.unwrap_or_default()))?;
    Ok(outgoing.body.map(|sent| {
        let sent: serde_json::Value = serde_json::from_slice(&sent).unwrap();
        sent["response_format"].to_string()
    }))
}

#[test]
fn a_schema_stands_where_every_server_reads_it() {
    let wrong = |field: &str| Err((Code::InvalidRequest, field.to_owned()));
    let moved = |schema: &str| {
        let schema = format!(r#"{{"name":"reply","schema":{schema}}}"#);
        Ok(Some(format!(r#"{{"type":"json_schema","json_schema":{schema}}}"#)))
    };
    for (format, expected) in [
        (r#"{"type":"text"}"#, Ok(None)),
        (r#"{"type":"json_object"}"#, Ok(None)),
        (r#"{"type":"json_object","schema":{ }}"#, Ok(None)),
        (r#"{"type":"json_object","schema":null}"#, Ok(None)),
        (r#"{"type":"json_schema","json_schema":{"schema":{}}}"#, Ok(None)),
        (r#"{"type":"structural_tag","format":{"x":1}}"#, Ok(None)),
        (r#""auto""#, Ok(None)),
        (r#"{"type":"json_object","schema":{"a":1}}"#, moved(r#"{"a":1}"#)),
        (r#"{"type":"json_schema","schema":{"a":1}}"#, moved(r#"{"a":1}"#)),
        (r#"{"type":"json_schema","schema":{},"json_schema":null}"#, moved("{}")),
        ("{ }", Ok(Some("null".to_owned()))),
        (r#"{"type":"json_schema"}"#, wrong("response_format.json_schema")),
        (r#"{"type":"json_schema","json_schema":{}}"#, wrong("response_format.json_schema")),
        (
            r#"{"type":"json_schema","json_schema":{"schema":null}}"#,
            wrong("response_format.json_schema"),
        ),
        (r#"{"type":"json_schema","schema":true}"#, wrong("response_format.schema")),
        (
            r#"{"type":"json_schema","json_schema":{"schema":"a"}}"#,
            wrong("response_format.json_schema.schema"),
        ),
        (r#"{"type":"json_schema","json_schema":5}"#, wrong("response_format")),
        (r#"{"schema":{"a":1}}"#, wrong("response_format")),
        (r#"{"type":"text","type":"json_schema"}"#, wrong("response_format")),
    ] {
        assert_eq!(format_sent(format), expected, "{format}");
    }
}

#[test]
fn no_empty_word_ends_a_reply() {
    for (stop, expected) in [
        (r#""""#, r#""options":{}"#),
        (r#"[]"#, r#""options":{}"#),
        (r#"["",""]"#, r#""options":{}"#),
        (r#"["","END"," "]"#, r#""options":{"stop":["END"," "]}"#),
    ] {
        let sent = native(&format!(r#","stop":{stop}"#));
        assert!(sent.contains(expected), "{stop}: {sent}");
    }
}

#[test]
fn thinking_is_switched_in_the_words_of_every_server() {
    for (rest, think) in [
        (r#""reasoning":{"enabled":false}"#, Some("false")),
        (r#""reasoning":{"enabled":true,"effort":"low"}"#, Some(r#""low""#)),
        (r#""reasoning":{"mode":"standard","exclude":false}"#, None),
        (r#""thinking":{"type":"disabled"}"#, Some("false")),
        (r#""thinking":{"type":"enabled","budget_tokens":9}"#, Some("true")),
        (r#""thinking":{"type":"auto"}"#, None),
        (r#""enable_thinking":true"#, Some("true")),
        (r#""chat_template_kwargs":{"enable_thinking":false}"#, Some("false")),
        (r#""chat_template_kwargs":{"thinking":true}"#, Some("true")),
        (r#""chat_template_kwargs":{"thinking_budget":9}"#, None),
        (r#""enable_thinking":true,"reasoning_effort":"none""#, Some("false")),
    ] {
        let sent = native(&format!(",{rest}"));
        let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent.get("think").map(ToString::to_string).as_deref(), think, "{rest}");
    }
}

#[test]
fn only_tools_that_may_be_called_are_sent() {
    let tools = r#","tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}]"#;
    let choice = |choice: &str| with(&format!(r#"{tools},"tool_choice":{choice}"#));
    let allowed = |mode: &str, tools: &str| {
        choice(&format!(r#"{{"type":"allowed_tools","allowed_tools":{{{mode}"tools":{tools}}}}}"#))
    };
    let sent = written(allowed("", r#"[{"type":"function","name":"g"}]"#).as_bytes()).unwrap();
    let sent = String::from_utf8(sent).unwrap();
    assert!(sent.contains(r#""name":"g""#) && !sent.contains(r#""name":"f""#), "{sent}");
    let sent = written(allowed("", "[]").as_bytes()).unwrap();
    assert!(!String::from_utf8(sent).unwrap().contains("\"tools\""));
    for word in ["auto", "none"] {
        assert!(written(choice(&format!(r#"{{"type":"{word}"}}"#)).as_bytes()).is_ok(), "{word}");
    }
    assert!(written(choice("{ }").as_bytes()).is_ok());
    for (body, field) in [
        (allowed("", r#"[{"type":"function","name":"h"}]"#), "tool_choice.tools"),
        (allowed("", r#"[{"type":"mcp","server_label":"s"}]"#), "tool_choice.tools"),
        (allowed(r#""mode":"any","#, "[]"), "tool_choice.mode"),
        (choice(r#"{"type":"allowed_tools"}"#), "tool_choice.tools"),
        (choice(r#"{"type":"required"}"#), "tool_choice"),
        (choice(r#"{"type":"mcp","name":"f"}"#), "tool_choice.type"),
        (choice(r#"{"type":"custom","custom":{"name":"f"}}"#), "tool_choice.type"),
    ] {
        let error = written(body.as_bytes()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{body}");
    }
}

#[test]
fn a_wrong_type_is_refused_by_name() {
    for (rest, field) in [
        (r#","stream":"yes""#, "stream"),
        (r#","stream_options":[true]"#, "stream_options"),
        (r#","temperature":"0""#, "temperature"),
        (r#","seed":1.5"#, "seed"),
        (r#","stop":[1]"#, "stop"),
        (r#","stop":5"#, "stop"),
        (r#","max_tokens":"5""#, "max_tokens"),
        (r#","response_format":"json""#, "response_format"),
        (
            r#","response_format":{"type":"json_schema","json_schema":{"schema":1}}"#,
            "response_format.json_schema.schema",
        ),
        (r#","tools":{}"#, "tools"),
        (r#","tools":[{"type":"function"}]"#, "tools[0]"),
        (r#","reasoning_effort":"huge""#, "reasoning_effort"),
        (r#","reasoning":"high""#, "reasoning"),
        (r#","top_logprobs":21"#, "top_logprobs"),
        (r#","logprobs":5"#, "logprobs"),
    ] {
        let (code, at) = refusal(rest);
        assert_eq!((code, at.as_str()), (Code::InvalidRequest, field), "{rest}");
    }
    assert_eq!(refusal(r#","MODEL":"x""#), (Code::AmbiguousField, "model".to_owned()));
    assert_eq!(refusal(r#","tools":[],"tools":[]"#), (Code::AmbiguousField, "tools".to_owned()));
}

#[test]
fn a_tool_choice_of_none_hides_the_tools() {
    let tools = r#","tools":[{"type":"function","function":{"name":"f"}}]"#;
    assert!(native(&format!(r#"{tools},"tool_choice":"auto""#)).contains("\"tools\""));
    assert!(!native(&format!(r#"{tools},"tool_choice":"none""#)).contains("\"tools\""));
}

/// JSON in which the names and words that matter come up often.
fn json() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "user",
        "assistant",
        "tool",
        "text",
        "image_url",
        "function",
        "json_schema",
        "auto",
        "data:image/png;base64,QUJD",
        "{\\\"a\\\":1}",
        "c",
        "",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        (-9_i64..99).prop_map(|number| number.to_string()),
        words.prop_map(|word| format!("\"{word}\"")),
    ];
    let mut names = FIELDS.to_vec();
    names.extend(["role", "content", "type", "text", "tool_calls", "function", "name", "id"]);
    names.extend(["arguments", "tool_call_id", "image_url", "url", "json_schema", "schema"]);
    let names = prop::sample::select(names);
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::btree_map(names.clone(), inner, 0..6).prop_map(|fields| {
                let field = |(name, value)| format!("\"{name}\":{value}");
                let fields: Vec<_> = fields.into_iter().map(field).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

fn check(body: &[u8]) -> Result<(), TestCaseError> {
    for kind in [UpstreamKind::Ollama, UpstreamKind::OpenAi] {
        let Ok(request) = Request::read(Route::OpenAiChat, body) else { return Ok(()) };
        let Ok(outgoing) = request.write(&Target { kind, ..TARGET }) else { continue };
        let Some(sent) = outgoing.body else { continue };
        let sent: serde_json::Value = serde_json::from_slice(&sent).unwrap();
        prop_assert_eq!(&sent["model"], &*request.model);
        if kind == UpstreamKind::Ollama {
            prop_assert_eq!(&sent["stream"], request.stream);
            prop_assert!(sent["messages"].as_array().is_some_and(|list| !list.is_empty()));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_body_is_translated_to_json_or_refused(messages in json(), rest in json()) {
        let rest = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let rest = rest.filter(|rest| !rest.is_empty()).map_or(String::new(), |r| format!(",{r}"));
        check(format!(r#"{{"model":"m","messages":{messages}{rest}}}"#).as_bytes())?;
        check(with(&rest).as_bytes())?;
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
        check(&body)?;
    }
}

#[test]
fn what_is_seldom_there_stands_behind_the_rest() {
    let seldom = [
        &UNSUPPORTED[..],
        &["modalities", "enable_thinking", "top_k", "min_p", "typical_p", "repeat_penalty"],
        &["repetition_penalty", "repeat_last_n"],
    ]
    .concat();
    for name in seldom {
        let at = FIELDS.iter().position(|field| *field == name);
        assert!(at.is_some_and(|at| at >= SELDOM), "{name}");
    }
    assert_eq!(FIELDS[SELDOM - 1], "top_logprobs");
}
