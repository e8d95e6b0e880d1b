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
