//! `/v1/chat/completions` → `/api/chat`.
//!
//! Ollama does this itself, with some losses that are mended here: `max_completion_tokens` is
//! honoured, parts of a message stay one message, a tool's result keeps its name when it is given as
//! parts, `developer` is `system`, and `temperature` and `top_p` are sent only when they are given, so
//! that a model's own defaults apply. What cannot be honoured is refused by name.

use std::{borrow::Cow, collections::HashMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    error::Code,
    fields::{BodyError, Fields},
    ollama::request::text_bytes,
};

/// A request, translated.
#[derive(Debug)]
pub struct ChatRequest {
    /// The model, as the client spelled it.
    pub model: String,
    /// Whether a stream is wanted.
    pub stream: bool,
    /// Whether the stream ends with a chunk of usage.
    pub include_usage: bool,
    /// The body for `/api/chat`.
    pub native: Vec<u8>,
    /// About how many bytes of text the upstream has to read, images not counted.
    pub text_bytes: u64,
}

#[derive(Serialize)]
struct Native<'a> {
    model: &'a str,
    messages: Vec<NativeMessage<'a>>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    think: Option<Think>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
    options: Options<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Think {
    No(bool),
    Level(&'static str),
}

#[derive(Default, Serialize)]
struct Options<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    num_predict: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<Vec<String>>,
}

#[derive(Serialize)]
struct NativeMessage<'a> {
    role: Cow<'a, str>,
    content: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<NativeCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct NativeCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    function: NativeFunction,
}

#[derive(Serialize)]
struct NativeFunction {
    index: usize,
    name: String,
    arguments: Box<RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_call_id: Option<Cow<'a, str>>,
    tool_calls: Option<Vec<Call>>,
    #[serde(borrow)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    arguments: String,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    image_url: Option<ImageUrl<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ImageUrl<'a> {
    Object {
        #[serde(borrow)]
        url: Cow<'a, str>,
    },
    Text(#[serde(borrow)] Cow<'a, str>),
}

/// Translates a request.
///
/// # Errors
/// [`BodyError`], with the name of the parameter that it is about.
pub fn chat_request(body: &[u8]) -> Result<ChatRequest, BodyError> {
    let fields = Fields::read(body)?;
    refuse_unsupported(&fields)?;
    let model = fields.model("model")?;
    let stream = fields.get("stream", "`stream` must be true or false.")?.unwrap_or(false);
    let messages: Vec<Message<'_>> =
        fields.get("messages", "`messages` must be a list of messages.")?.unwrap_or_default();
    if messages.is_empty() {
        return Err(BodyError::invalid("messages", "`messages` must not be empty."));
    }
    let native = Native {
        model: &model,
        messages: translate_messages(messages)?,
        stream,
        format: format(&fields)?,
        tools: tools(&fields)?,
        think: think(&fields)?,
        logprobs: fields.get("logprobs", "`logprobs` must be true or false.")?,
        top_logprobs: fields.get("top_logprobs", "`top_logprobs` must be a whole number.")?,
        options: options(&fields)?,
    };
    Ok(ChatRequest {
        native: serde_json::to_vec(&native).map_err(|_| BodyError::new(Code::InvalidJson, None))?,
        stream,
        include_usage: include_usage(&fields)?,
        text_bytes: fields.raw("messages").map_or(0, text_bytes),
        model,
    })
}

/// What Ollama could only ignore, and a client would rely on.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), BodyError> {
    let n: Option<i64> = fields.get("n", "`n` must be a whole number.")?;
    if n.is_some_and(|n| n != 1) {
        return Err(BodyError::unsupported("n", "`n` must be 1: one choice is made per request."));
    }
    if fields.raw("logit_bias").is_some_and(|bias| bias.get() != "{}") {
        return Err(BodyError::unsupported("logit_bias", "`logit_bias` is not supported."));
    }
    for old in ["functions", "function_call"] {
        if fields.raw(old).is_some() {
            return Err(BodyError::unsupported(old, "Use `tools` and `tool_choice` instead."));
        }
    }
    Ok(())
}

fn include_usage(fields: &Fields<'_>) -> Result<bool, BodyError> {
    #[derive(Deserialize)]
    struct StreamOptions {
        include_usage: Option<bool>,
    }
    let options: Option<StreamOptions> =
        fields.get("stream_options", "`stream_options` must be an object.")?;
    Ok(options.and_then(|options| options.include_usage).unwrap_or(false))
}

fn options<'a>(fields: &Fields<'a>) -> Result<Options<'a>, BodyError> {
    let whole = "A number of tokens must be a whole number.";
    let number = |name| match fields.raw(name) {
        Some(raw)
            if raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit()) =>
        {
            Ok(Some(raw))
        }
        Some(_) => Err(BodyError::invalid(name, "The parameter must be a number.")),
        None => Ok(None),
    };
    let newer: Option<i64> = fields.get("max_completion_tokens", whole)?;
    let older: Option<i64> = fields.get("max_tokens", whole)?;
    Ok(Options {
        num_predict: newer.or(older),
        temperature: number("temperature")?,
        top_p: number("top_p")?,
        seed: number("seed")?,
        frequency_penalty: number("frequency_penalty")?,
        presence_penalty: number("presence_penalty")?,
        stop: stop(fields)?,
    })
}

fn stop(fields: &Fields<'_>) -> Result<Option<Vec<String>>, BodyError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    let stop = fields.get("stop", "`stop` must be a string or a list of strings.")?;
    Ok(stop.map(|stop| match stop {
        Stop::One(one) => vec![one],
        Stop::Many(many) => many,
    }))
}

fn format<'a>(fields: &Fields<'a>) -> Result<Option<Cow<'a, RawValue>>, BodyError> {
    #[derive(Deserialize)]
    struct Format<'a> {
        #[serde(borrow)]
        r#type: Cow<'a, str>,
        #[serde(borrow)]
        json_schema: Option<Schema<'a>>,
    }
    #[derive(Deserialize)]
    struct Schema<'a> {
        #[serde(borrow)]
        schema: Option<&'a RawValue>,
    }
    let wanted = "`response_format` must be of type text, json_object or json_schema.";
    let Some(format) = fields.get::<Format<'_>>("response_format", wanted)? else {
        return Ok(None);
    };
    match format.r#type.as_ref() {
        "text" => Ok(None),
        "json_object" => Ok(RawValue::from_string("\"json\"".to_owned()).ok().map(Cow::Owned)),
        "json_schema" => Ok(format.json_schema.and_then(|schema| schema.schema).map(Cow::Borrowed)),
        _ => Err(BodyError::invalid("response_format", wanted)),
    }
}

fn tools<'a>(fields: &Fields<'a>) -> Result<Option<&'a RawValue>, BodyError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Choice {
        Word(String),
        Named(serde::de::IgnoredAny),
    }
    let tools = fields.raw("tools");
    if tools.is_some_and(|tools| !tools.get().starts_with('[')) {
        return Err(BodyError::invalid("tools", "`tools` must be a list."));
    }
    let choice = fields.get("tool_choice", "`tool_choice` must be a string or an object.")?;
    match choice {
        Some(Choice::Word(word)) if word == "none" => Ok(None),
        Some(Choice::Word(word)) if word == "auto" => Ok(tools),
        None => Ok(tools),
        Some(Choice::Word(_) | Choice::Named(_)) => Err(BodyError::unsupported(
            "tool_choice",
            "`tool_choice` must be `auto` or `none`: the model server cannot be made to call a tool.",
        )),
    }
}

fn think(fields: &Fields<'_>) -> Result<Option<Think>, BodyError> {
    let wanted = "`reasoning_effort` must be none, minimal, low, medium, high or max.";
    let effort: Option<String> = fields.get("reasoning_effort", wanted)?;
    Ok(Some(match effort.as_deref() {
        None => return Ok(None),
        Some("none") => Think::No(false),
        Some("minimal" | "low") => Think::Level("low"),
        Some("medium") => Think::Level("medium"),
        Some("high") => Think::Level("high"),
        Some("max" | "xhigh" | "ultra") => Think::Level("max"),
        Some(_) => return Err(BodyError::invalid("reasoning_effort", wanted)),
    }))
}

fn translate_messages(messages: Vec<Message<'_>>) -> Result<Vec<NativeMessage<'_>>, BodyError> {
    // Which function a call was of, by its id, so that its result can say so.
    let mut called: HashMap<String, String> = HashMap::new();
    messages
        .into_iter()
        .map(|message| {
            let has_calls = message.tool_calls.is_some();
            let (content, images) = content(message.content, has_calls)?;
            let calls = message.tool_calls.unwrap_or_default();
            let tool_calls: Vec<_> =
                calls.into_iter().enumerate().map(native_call).collect::<Result<_, _>>()?;
            for call in &tool_calls {
                if let Some(id) = &call.id {
                    called.insert(id.clone(), call.function.name.clone());
                }
            }
            let is_tool = message.role == "tool";
            let by_id = message.tool_call_id.as_deref().and_then(|id| called.get(id)).cloned();
            let tool_name = message.name.map(Cow::into_owned).or(by_id).filter(|_| is_tool);
            let developer = message.role == "developer";
            Ok(NativeMessage {
                role: if developer { Cow::Borrowed("system") } else { message.role },
                content,
                thinking: message.reasoning.or(message.reasoning_content),
                images,
                tool_calls,
                tool_name,
                tool_call_id: message.tool_call_id.filter(|_| is_tool),
            })
        })
        .collect()
}

/// Many clients send back `""` where a call had no arguments.
fn native_call((index, call): (usize, Call)) -> Result<NativeCall, BodyError> {
    let Call { id, function: Function { name, arguments } } = call;
    let text = if arguments.trim().is_empty() { "{}".to_owned() } else { arguments };
    let arguments =
        RawValue::from_string(text).ok().filter(|raw| raw.get().starts_with('{')).ok_or_else(
            || BodyError::invalid("messages", "The arguments of a tool call are no object."),
        )?;
    Ok(NativeCall { id, function: NativeFunction { index, name, arguments } })
}

type Content<'a> = (Cow<'a, str>, Vec<Cow<'a, str>>);

fn content(raw: Option<&RawValue>, has_calls: bool) -> Result<Content<'_>, BodyError> {
    let wrong = || {
        BodyError::invalid(
            "messages",
            "The content of a message must be a string or a list of parts.",
        )
    };
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return if has_calls { Ok((Cow::Borrowed(""), Vec::new())) } else { Err(wrong()) };
    };
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    if let Ok(Text(text)) = serde_json::from_str(raw.get()) {
        return Ok((text, Vec::new()));
    }
    let parts: Vec<Part<'_>> = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
    let (mut text, mut images) = (String::new(), Vec::new());
    for part in parts {
        match (part.r#type.as_ref(), part.text, part.image_url) {
            ("text", Some(more), _) => {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&more);
            }
            ("image_url", _, Some(ImageUrl::Object { url } | ImageUrl::Text(url))) => {
                images.push(image(url)?);
            }
            _ => return Err(BodyError::invalid("messages", "A part must be text or image_url.")),
        }
    }
    Ok((Cow::Owned(text), images))
}

/// The base64 of an image that is given in the request. Others are not fetched: the gateway would
/// go wherever a client sends it.
fn image(url: Cow<'_, str>) -> Result<Cow<'_, str>, BodyError> {
    const WANTED: &str = "An image must be given as data:image/…;base64,…: it is not fetched.";
    let data = url
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(";base64,"))
        .filter(|(kind, _)| {
            matches!(
                *kind,
                "" | "image/jpeg" | "image/jpg" | "image/png" | "image/webp" | "image/gif"
            )
        })
        .map(|(_, data)| data)
        .filter(|data| {
            data.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
        })
        .ok_or_else(|| BodyError::invalid("messages", WANTED))?;
    let start = url.len() - data.len();
    Ok(match url {
        Cow::Borrowed(url) => Cow::Borrowed(&url[start..]),
        Cow::Owned(mut url) => Cow::Owned(url.split_off(start)),
    })
}
