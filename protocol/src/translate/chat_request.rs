//! A request to `/v1/chat/completions` as the body of Ollama's `/api/chat`.
//!
//! What the client did not say is not sent: Ollama's own front fills in a temperature and a `top_p`
//! of 1.0, so that the values of the Modelfile never apply through it. What cannot be brought about
//! (`n` above 1, a forced tool call) is refused rather than dropped, because the client would take
//! the reply for what it asked for. Fields that nobody knows are ignored, as OpenAI's SDKs expect.

use std::fmt;

use serde_json::value::RawValue;

use super::messages::messages;
use crate::{
    body::{BodyError, Fields, Text},
    error::Code,
    json::{read_object, write_string},
    ollama::{
        chat::{Body, Format, Options, Think},
        request::{OPENAI_FIELDS, text_bytes},
    },
    openai::chat::{Reasoning, ResponseFormat, StreamOptions, Tool, texts},
};

/// The most alternatives for a token that Ollama tells of.
const TOP_LOGPROBS_MAX: i64 = 20;

/// A request, translated. Its `Debug` leaves the prompt out.
#[derive(Clone, PartialEq, Eq)]
pub struct ChatRequest {
    /// The model, as the client spelled it; never blank.
    pub model: String,
    /// Whether the reply is to be streamed.
    pub stream: bool,
    /// Whether the client wants the usage at the end of the stream. The model server always tells.
    pub include_usage: bool,
    /// The most tokens that the reply may have, where the client says so.
    pub tokens_max: Option<i64>,
    /// How many bytes of text the prompt has, to estimate its tokens where the upstream never says.
    pub text_bytes: u64,
    /// The body for `/api/chat`, with the model as the client spelled it.
    pub native: Vec<u8>,
    /// Where the model's name ends in `native`.
    rest: usize,
}

type Given<'a> = Fields<'a, { OPENAI_FIELDS.len() }>;

/// Translates a request.
///
/// # Errors
/// [`BodyError`] with [`Code::InvalidJson`] where the body is not one JSON object,
/// [`Code::AmbiguousField`] where a field stands there twice or in another case,
/// [`Code::ModelRequired`] where no model is named, [`Code::UnsupportedParameter`] where something
/// is asked for that cannot be had, and [`Code::InvalidRequest`] for everything that is not as
/// OpenAI's API has it.
pub fn chat_request(body: &[u8]) -> Result<ChatRequest, BodyError> {
    let given = Given::of_body(body, &OPENAI_FIELDS)?;
    let model = given.string("model")?.filter(|model| !model.trim().is_empty());
    let model = model.ok_or_else(BodyError::model_required)?.into_owned();
    if given.get("n").is_some() && given.integer("n")? != Some(1) {
        return Err(BodyError::unsupported("n", "Only one choice is made for a request."));
    }
    let stream = given.flag("stream")?.unwrap_or(false);
    let include_usage = match given.get("stream_options") {
        Some(raw) => read_object::<StreamOptions>(raw.get())
            .ok_or_else(|| given.must("stream_options", "an object"))?
            .include_usage
            .unwrap_or(false),
        None => false,
    };
    let options = options(&given)?;
    let tokens_max = options.num_predict;
    let body = Body {
        messages: messages(given.get("messages"))?,
        stream,
        format: format(&given)?,
        tools: tools(&given)?,
        think: think(&given)?,
        logprobs: given.flag("logprobs")?,
        top_logprobs: top_logprobs(&given)?,
        options,
    };
    let mut native = head(&model);
    let rest = native.len();
    serde_json::to_writer(&mut native, &body).map_err(|_| BodyError {
        code: Code::Internal,
        field: None,
        message: Code::Internal.message().into(),
    })?;
    // The brace that opens the rest becomes the comma after the model: the body is not copied.
    native[rest] = b',';
    let text_bytes = given.get("messages").map_or(0, text_bytes);
    Ok(ChatRequest { model, stream, include_usage, tokens_max, text_bytes, native, rest })
}

// === impl ChatRequest ===

impl ChatRequest {
    /// The body for `/api/chat` with another name for the model (an alias resolved, the upstream's
    /// own spelling).
    #[must_use]
    pub fn native_body(&self, model: &str) -> Vec<u8> {
        let mut native = head(model);
        native.extend_from_slice(&self.native[self.rest..]);
        native
    }
}

impl fmt::Debug for ChatRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatRequest")
            .field("model", &self.model)
            .field("stream", &self.stream)
            .field("include_usage", &self.include_usage)
            .field("tokens_max", &self.tokens_max)
            .finish_non_exhaustive()
    }
}

fn head(model: &str) -> Vec<u8> {
    let mut head = b"{\"model\":".to_vec();
    write_string(model, &mut head);
    head
}

fn options<'a>(given: &Given<'a>) -> Result<Options<'a>, BodyError> {
    let stop = match given.get("stop") {
        Some(raw) => {
            texts(raw).ok_or_else(|| given.must("stop", "a string or a list of strings"))?
        }
        None => Vec::new(),
    };
    let tokens_max = given.integer("max_tokens")?;
    Ok(Options {
        num_predict: given.integer("max_completion_tokens")?.or(tokens_max),
        temperature: given.number("temperature")?,
        top_p: given.number("top_p")?,
        seed: given.integer("seed")?,
        frequency_penalty: given.number("frequency_penalty")?,
        presence_penalty: given.number("presence_penalty")?,
        stop,
    })
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
            Ok(schema.map(Format::Schema))
        }
        _ => Err(BodyError::unsupported(
            "response_format.type",
            "The format of a response is `text`, `json_object` or `json_schema`.",
        )),
    }
}

/// The tools, which pass as they stand. Ollama cannot be made to call one, nor kept from it other
/// than by not being told of any.
fn tools<'a>(given: &Given<'a>) -> Result<Option<&'a RawValue>, BodyError> {
    let choice = given.get("tool_choice").map(RawValue::get);
    if !matches!(choice, None | Some("\"auto\"" | "\"none\"")) {
        return Err(BodyError::unsupported(
            "tool_choice",
            "A tool call cannot be forced: `tool_choice` is `auto` or `none`.",
        ));
    }
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
    Ok((!tools.is_empty() && choice != Some("\"none\"")).then_some(raw))
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
    let Some(effort) = effort.or(plain) else { return Ok(None) };
    Ok(Some(match &*effort {
        "none" => Think::Switch(false),
        "minimal" | "low" => Think::Level("low"),
        "medium" => Think::Level("medium"),
        "high" => Think::Level("high"),
        "xhigh" | "ultra" | "max" => Think::Level("max"),
        _ => {
            let must = "`none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`";
            return Err(given.must("reasoning_effort", must));
        }
    }))
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

    fn with(rest: &str) -> String {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"a"}}]{rest}}}"#)
    }

    fn native(rest: &str) -> String {
        let request = chat_request(with(rest).as_bytes()).unwrap();
        String::from_utf8(request.native).unwrap()
    }

    fn refusal(rest: &str) -> (Code, String) {
        let error = chat_request(with(rest).as_bytes()).unwrap_err();
        (error.code, error.field.unwrap_or_default())
    }

    #[test]
    fn what_is_not_said_is_not_sent() {
        let expected = r#"{"model":"m","messages":[{"role":"user","content":"a"}],"stream":false,"options":{}}"#;
        assert_eq!(native(""), expected);
        let nulls = r#","temperature":null,"tools":null,"stop":null,"n":null,"tool_choice":null,
            "max_tokens":null,"response_format":null,"reasoning":null,"stream_options":null"#;
        assert_eq!(native(nulls), expected);
        let unknown = r#","user":"u","logit_bias":{"1":2},"keep_alive":0,"options":{"num_ctx":1}"#;
        assert_eq!(native(unknown), expected);
    }

    #[test]
    fn the_model_can_be_substituted() {
        let request = chat_request(with("").as_bytes()).unwrap();
        assert_eq!(request.native_body("m"), request.native);
        let other = String::from_utf8(request.native_body("a\"b")).unwrap();
        assert_eq!(other, native("").replacen("\"m\"", "\"a\\\"b\"", 1));
    }

    #[test]
    fn the_newer_limit_wins_over_the_older() {
        let rest = r#","max_tokens":5,"max_completion_tokens":7"#;
        assert_eq!(chat_request(with(rest).as_bytes()).unwrap().tokens_max, Some(7));
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
        let mut names = OPENAI_FIELDS.to_vec();
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
        if let Ok(request) = chat_request(body) {
            let native: serde_json::Value = serde_json::from_slice(&request.native).unwrap();
            prop_assert_eq!(&native["model"], &request.model);
            prop_assert_eq!(&native["stream"], &request.stream);
            prop_assert!(native["messages"].as_array().is_some_and(|list| !list.is_empty()));
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
