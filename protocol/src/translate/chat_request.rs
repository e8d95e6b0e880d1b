//! A request to `/v1/chat/completions`, read.
//!
//! What the client did not say is not sent: Ollama's own front fills in a temperature and a `top_p`
//! of 1.0, so that the values of the Modelfile never apply through it. What cannot be brought about
//! is refused rather than dropped, because the client would take the reply for what it asked for. Which other
//! fields may stand there, [`crate::strangers`] says.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::messages::messages;
use crate::{
    body::{BodyError, Fields, Text},
    json::read_object,
    ollama::chat::{Body, Choice, Format, Options, Schema, Think},
    openai::chat::{Reasoning, ResponseFormat, StreamOptions, Tool, ToolChoice, texts},
    strangers,
};

/// The fields of a request to `/v1/chat/completions` that matter.
pub(crate) const FIELDS: [&str; 29] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "n",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning",
    "reasoning_effort",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "functions",
    "function_call",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
    "verbosity",
];

/// What Ollama cannot be asked for.
const UNSUPPORTED: [&str; 6] =
    ["logit_bias", "functions", "function_call", "audio", "prediction", "web_search_options"];

/// The most alternatives for a token that Ollama tells of.
const TOP_LOGPROBS_MAX: i64 = 20;

pub(crate) type Given<'a> = Fields<'a, { FIELDS.len() }>;

/// Whether the client wants the usage at the end of the stream.
pub(super) fn include_usage<const N: usize>(given: &Fields<'_, N>) -> Result<bool, BodyError> {
    let Some(raw) = given.get("stream_options") else { return Ok(false) };
    let options: Option<StreamOptions> = read_object(raw.get());
    let options = options.ok_or_else(|| given.must("stream_options", "an object"))?;
    Ok(options.include_usage.unwrap_or(false))
}

/// There is one choice, or none is named.
pub(super) fn one_choice<const N: usize>(given: &Fields<'_, N>) -> Result<(), BodyError> {
    if given.get("n").is_some() && given.integer("n")? != Some(1) {
        return Err(BodyError::unsupported("n", "Only one choice is made for a request."));
    }
    Ok(())
}

/// The most tokens that the reply may have, where the client says so.
pub(super) fn tokens_max(given: &Given<'_>) -> Result<Option<u64>, BodyError> {
    let older = given.most("max_tokens")?;
    let said = given.most("max_completion_tokens")?.or(older);
    // `None` is less than any number.
    Ok(said.max(strangers::most(given)?))
}

/// Reads all of it.
///
/// # Errors
/// Where something is not as OpenAI's API has it, or cannot be had of Ollama.
pub(super) fn body<'a>(given: &Given<'a>) -> Result<Body<'a>, BodyError> {
    for name in UNSUPPORTED {
        let asks = |raw: &&RawValue| !matches!(raw.get(), "{}" | "[]");
        if given.get(name).filter(asks).is_some() {
            return Err(BodyError::unsupported(name, "The model server has nothing like it."));
        }
    }
    let modalities: Option<Vec<Text<'_>>> = given.read("modalities", "a list of strings")?;
    if modalities.unwrap_or_default().iter().any(|Text(one)| one != "text") {
        return Err(BodyError::unsupported("modalities", "A reply is text."));
    }
    Ok(Body {
        format: format(given)?,
        tools: tools(given)?,
        choice: choice(given.get("tool_choice"))?,
        think: think(given)?,
        logprobs: given.flag("logprobs")?,
        top_logprobs: top_logprobs(given)?,
        options: options(given)?,
        ..Body::new(messages(given.get("messages"))?, given.flag("stream")?.unwrap_or(false))
    })
}

fn options<'a>(given: &Given<'a>) -> Result<Options<'a>, BodyError> {
    Ok(Options {
        num_predict: tokens_max(given)?,
        temperature: given.number("temperature")?,
        top_p: given.number("top_p")?,
        seed: given.integer("seed")?,
        frequency_penalty: given.number("frequency_penalty")?,
        presence_penalty: given.number("presence_penalty")?,
        stop: stop(given)?,
        ..Options::default()
    })
}

/// The words at which a reply ends.
pub(super) fn stop<'a, const N: usize>(
    given: &Fields<'a, N>,
) -> Result<Vec<Cow<'a, str>>, BodyError> {
    let Some(raw) = given.get("stop") else { return Ok(Vec::new()) };
    texts(raw).ok_or_else(|| given.must("stop", "a string or a list of strings"))
}

fn format<'a>(given: &Given<'a>) -> Result<Option<Format<'a>>, BodyError> {
    let Some(raw) = given.get("response_format") else { return Ok(None) };
    let must = || given.must("response_format", "an object with `type`");
    let format: ResponseFormat<'a> = read_object(raw.get()).ok_or_else(must)?;
    let Some(Text(kind)) = format.kind else { return Err(must()) };
    match &*kind {
        "text" => Ok(None),
        "json_object" => Ok(Some(Format::Word("json"))),
        "json_schema" => {
            let schema = format.json_schema.and_then(|json_schema| json_schema.schema);
            if schema.is_some_and(|schema| !schema.get().starts_with('{')) {
                return Err(given.must("response_format.json_schema.schema", "an object"));
            }
            Ok(schema.map(|schema| Format::Schema(Schema::new(schema))))
        }
        _ => Err(BodyError::unsupported(
            "response_format.type",
            "The format of a response is `text`, `json_object` or `json_schema`.",
        )),
    }
}

/// The tools, which pass as they stand.
fn tools<'a>(given: &Given<'a>) -> Result<Option<Cow<'a, RawValue>>, BodyError> {
    let Some(raw) = given.get("tools") else { return Ok(None) };
    let tools: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| given.must("tools", "a list of tools"))?;
    for (at, tool) in tools.iter().enumerate() {
        let must = || given.must(&format!("tools[{at}]"), "a function with a name");
        let tool: Tool<'_> = read_object(tool.get()).ok_or_else(must)?;
        let Some(Text(kind)) = tool.kind else { return Err(must()) };
        if kind != "function" {
            let field = format!("tools[{at}].type");
            return Err(BodyError::unsupported(field, "A tool must be a `function`."));
        }
        if tool.function.is_none_or(|function| function.name.0.is_empty()) {
            return Err(must());
        }
    }
    Ok((!tools.is_empty()).then_some(Cow::Borrowed(raw)))
}

/// A function of another dialect, in the shape of the chat's.
#[derive(Serialize)]
pub(super) struct Function<'a> {
    pub(super) name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<Cow<'a, str>>,
    /// The schema of its parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameters: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) strict: Option<bool>,
}

/// Tools of another dialect, in the shape of the chat's.
///
/// # Errors
/// None that a client could cause.
pub(super) fn functions(
    tools: Vec<Function<'_>>,
) -> Result<Option<Cow<'static, RawValue>>, BodyError> {
    #[derive(Serialize)]
    struct Tool<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        function: Function<'a>,
    }
    if tools.is_empty() {
        return Ok(None);
    }
    let tools = tools.into_iter().map(|function| Tool { kind: "function", function });
    let raw = serde_json::value::to_raw_value(&tools.collect::<Vec<_>>());
    raw.map(|raw| Some(Cow::Owned(raw))).map_err(|_| BodyError::internal())
}

/// Which tools are to be called: a word, or the name of a function.
pub(super) fn choice<'a>(raw: Option<&'a RawValue>) -> Result<Choice<'a>, BodyError> {
    let Some(raw) = raw else { return Ok(Choice::Auto) };
    let must = || BodyError::invalid("tool_choice", "`auto`, `none`, `required` or a function");
    match raw.get() {
        "\"auto\"" => return Ok(Choice::Auto),
        "\"none\"" => return Ok(Choice::Never),
        "\"required\"" => return Ok(Choice::Required),
        _ => {}
    }
    let named: ToolChoice<'a> = read_object(raw.get()).ok_or_else(must)?;
    // The newer API has the name beside the type.
    let name = named.function.map(|function| function.name).or(named.name).ok_or_else(must)?;
    Ok(Choice::Named(name.0))
}

fn think(given: &Given<'_>) -> Result<Option<Think>, BodyError> {
    let effort = match given.get("reasoning") {
        Some(raw) => {
            let reasoning: Reasoning<'_> =
                read_object(raw.get()).ok_or_else(|| given.must("reasoning", "an object"))?;
            reasoning.effort.map(|Text(effort)| effort)
        }
        None => None,
    };
    let plain = given.string("reasoning_effort")?;
    effort.or(plain).map(|effort| level(&effort)).transpose()
}

/// An effort as Ollama's switch or level.
pub(super) fn level(effort: &str) -> Result<Think, BodyError> {
    Ok(match effort {
        "none" => Think::Switch(false),
        "minimal" | "low" => Think::Level("low"),
        "medium" => Think::Level("medium"),
        "high" => Think::Level("high"),
        "xhigh" | "ultra" | "max" => Think::Level("max"),
        _ => {
            let must = "`none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`";
            return Err(BodyError::invalid("reasoning_effort", must));
        }
    })
}

fn top_logprobs(given: &Given<'_>) -> Result<Option<i64>, BodyError> {
    let number = given.integer("top_logprobs")?;
    if number.is_some_and(|number| !(0..=TOP_LOGPROBS_MAX).contains(&number)) {
        return Err(given.must("top_logprobs", "a whole number from 0 to 20"));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
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
        let expected = r#"{"model":"m","messages":[{"role":"user","content":"a"}],"stream":false,"options":{}}"#;
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
        assert_eq!(
            refusal(r#","tools":[],"tools":[]"#),
            (Code::AmbiguousField, "tools".to_owned())
        );
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
}
