//! A chat as the body of `/v1/chat/completions`, for an upstream that speaks OpenAI's dialect.
//!
//! What was thought before is `reasoning_content`, as vLLM, SGLang, llama.cpp and DeepSeek read it. OpenAI's own API
//! has no place for it, and its models' thoughts never come here.

use std::{borrow::Cow, fmt, mem};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    body::BodyError,
    json::compact,
    ollama::chat::{Body, Choice, Format, Image, Message, Schema, Think},
};

/// The names of OpenAI's own models that take no `max_tokens` begin with these.
const NEWER_MODELS: [&str; 5] = ["gpt-5", "gpt-6", "o1", "o3", "o4"];

/// What stands before the images of a tool's result, and in the result itself where it has nothing else.
const IMAGES_OF_RESULT: &str = "[From the result of the tool:]";
const IMAGES_FOLLOW: &str = "[The result is shown below.]";

/// As much base64 as tells what kind of file it is.
const MAGIC_CHARS: usize = 16;

/// What a file is, by its first bytes.
enum Media {
    Image(&'static str),
    Audio(&'static str),
}

/// The body. Everything in it is borrowed: an image is copied when it is written, and not before.
#[derive(Serialize)]
struct Chat<'b> {
    model: &'b str,
    messages: Vec<Said<'b>>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'b RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'b RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<&'b RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<&'b RawValue>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop: &'b [Cow<'b, str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'b>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'b RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice<'b>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verbosity: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'b str>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Said<'b> {
    role: &'b str,
    content: Content<'b>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'b str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'b>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'b str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'b> {
    Text(&'b str),
    Parts(Vec<Part<'b>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'b> {
    Text { text: &'b str },
    InputAudio { input_audio: Audio<'b> },
    ImageUrl { image_url: Url<'b> },
}

#[derive(Serialize)]
struct Audio<'b> {
    data: &'b str,
    format: &'static str,
}

#[derive(Serialize)]
struct Url<'b> {
    url: DataUri<'b>,
}

/// A `data:` URI, which is put together where it is written.
struct DataUri<'b> {
    kind: &'static str,
    data: &'b str,
}

#[derive(Serialize)]
struct Call<'b> {
    id: &'b str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Called<'b>,
}

#[derive(Serialize)]
struct Called<'b> {
    name: &'b str,
    arguments: Cow<'b, str>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat<'b> {
    JsonObject,
    JsonSchema { json_schema: &'b Schema<'b> },
}

#[derive(Serialize)]
#[serde(untagged)]
enum ToolChoice<'b> {
    Word(&'static str),
    Named {
        #[serde(rename = "type")]
        kind: &'static str,
        function: Name<'b>,
    },
}

#[derive(Serialize)]
struct Name<'b> {
    name: &'b str,
}

/// Writes it, in a body about as long as `length`.
///
/// # Errors
/// None that a client could cause.
pub(crate) fn write(body: &Body<'_>, model: &str, length: usize) -> Result<Vec<u8>, BodyError> {
    let (options, tools) = (&body.options, body.tools.as_deref());
    let (newer, older) = match limit_name(model) {
        "max_tokens" => (None, options.num_predict),
        _ => (options.num_predict, None),
    };
    let chat = Chat {
        model,
        messages: conversation(&body.messages),
        stream: body.stream,
        stream_options: body.stream.then_some(StreamOptions { include_usage: true }),
        max_tokens: older,
        max_completion_tokens: newer,
        temperature: options.temperature,
        top_p: options.top_p,
        top_k: options.top_k,
        seed: options.seed,
        frequency_penalty: options.frequency_penalty,
        presence_penalty: options.presence_penalty,
        stop: &options.stop,
        response_format: body.format.as_ref().map(format),
        tools,
        // Without tools there is nothing to say of their calls; OpenAI refuses it.
        tool_choice: tools.and_then(|_| choice(&body.choice)),
        parallel_tool_calls: body.parallel_tool_calls.filter(|_| tools.is_some()),
        reasoning_effort: body.effort.as_deref().or(body.think.as_ref().and_then(effort)),
        verbosity: body.verbosity.as_deref(),
        logprobs: body.logprobs,
        top_logprobs: body.top_logprobs,
        user: body.user.as_deref(),
    };
    let mut out = Vec::with_capacity(length + model.len() + 512);
    serde_json::to_writer(&mut out, &chat).map_err(|_| BodyError::internal())?;
    Ok(out)
}

/// The name of the most tokens that a reply may have. Every server knows the older one, and many drop the
/// newer one silently, so that the reply would have no end and a budget none; OpenAI's own reasoning models
/// refuse the older one.
pub(crate) fn limit_name(model: &str) -> &'static str {
    let is_newer = NEWER_MODELS.iter().any(|name| model.starts_with(name));
    if is_newer { "max_completion_tokens" } else { "max_tokens" }
}

/// The messages. A tool's has text only, so images of results are shown by the user behind all results of a turn.
fn conversation<'b>(messages: &'b [Message<'_>]) -> Vec<Said<'b>> {
    let mut out = Vec::with_capacity(messages.len());
    let mut shown: Vec<Part<'b>> = Vec::new();
    for message in messages {
        let parts = match &*message.role {
            "tool" => {
                if !message.images.is_empty() {
                    shown.push(Part::Text { text: IMAGES_OF_RESULT });
                    shown.extend(message.images.iter().map(part));
                }
                Vec::new()
            }
            "user" => mem::take(&mut shown),
            _ if shown.is_empty() => Vec::new(),
            _ => {
                out.push(Said::shown(mem::take(&mut shown)));
                Vec::new()
            }
        };
        out.push(said(message, parts));
    }
    if !shown.is_empty() {
        out.push(Said::shown(shown));
    }
    out
}

/// `before`: what stands in front of its own content.
fn said<'b>(message: &'b Message<'_>, before: Vec<Part<'b>>) -> Said<'b> {
    let calls = message.tool_calls.iter().map(|call| {
        let function = &call.function;
        Call {
            id: call.id.as_deref().unwrap_or_default(),
            kind: "function",
            function: Called { name: &function.name, arguments: compact(function.arguments.get()) },
        }
    });
    let tool_calls = calls.collect();
    let is_result = message.role == "tool";
    Said {
        role: &message.role,
        content: if is_result { result(message) } else { content(message, before) },
        reasoning_content: message.thinking.as_deref().filter(|text| !text.is_empty()),
        tool_calls,
        tool_call_id: message.tool_call_id.as_deref().filter(|_| is_result),
    }
}

fn result<'b>(message: &'b Message<'_>) -> Content<'b> {
    let is_shown = message.content.is_empty() && !message.images.is_empty();
    Content::Text(if is_shown { IMAGES_FOLLOW } else { &message.content })
}

fn content<'b>(message: &'b Message<'_>, before: Vec<Part<'b>>) -> Content<'b> {
    if message.images.is_empty() && before.is_empty() {
        return Content::Text(&message.content);
    }
    let text = (!message.content.is_empty()).then_some(Part::Text { text: &message.content });
    let own = text.into_iter().chain(message.images.iter().map(part));
    Content::Parts(before.into_iter().chain(own).collect())
}

fn part<'b>(image: &'b Image<'_>) -> Part<'b> {
    let data = image.data();
    match media(data) {
        Media::Audio(format) => Part::InputAudio { input_audio: Audio { data, format } },
        Media::Image(kind) => Part::ImageUrl { image_url: Url { url: DataUri { kind, data } } },
    }
}

/// What a file in base64 is. Who cannot be told apart is taken for a picture, as Ollama does.
fn media(data: &str) -> Media {
    let magic = data.get(..MAGIC_CHARS).unwrap_or(data);
    let bytes = STANDARD.decode(magic).unwrap_or_default();
    match &*bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Media::Audio("wav"),
        [b'I', b'D', b'3', ..] | [0xff, 0xfb | 0xf3 | 0xf2, ..] => Media::Audio("mp3"),
        [b'R', b'I', b'F', b'F', ..] => Media::Image("image/webp"),
        [0xff, 0xd8, ..] => Media::Image("image/jpeg"),
        [b'G', b'I', b'F', ..] => Media::Image("image/gif"),
        _ => Media::Image("image/png"),
    }
}

fn format<'b>(format: &'b Format<'_>) -> ResponseFormat<'b> {
    match format {
        Format::Word(_) => ResponseFormat::JsonObject,
        Format::Schema(schema) => ResponseFormat::JsonSchema { json_schema: schema },
    }
}

fn choice<'b>(choice: &'b Choice<'_>) -> Option<ToolChoice<'b>> {
    match choice {
        Choice::Auto | Choice::Never | Choice::Among { .. } => None,
        Choice::Required => Some(ToolChoice::Word("required")),
        Choice::Named(name) => {
            Some(ToolChoice::Named { kind: "function", function: Name { name } })
        }
    }
}

/// To think, without a word on how much, is what such a model does anyway.
fn effort(think: &Think) -> Option<&'static str> {
    match think {
        Think::Switch(true) => None,
        Think::Switch(false) => Some("none"),
        Think::Level("max") => Some("xhigh"),
        Think::Level(level) => Some(level),
    }
}

// === impl Said ===

impl<'b> Said<'b> {
    /// A user's message that shows something.
    fn shown(parts: Vec<Part<'b>>) -> Self {
        Self {
            role: "user",
            content: Content::Parts(parts),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }
}

// === impl DataUri ===

impl fmt::Display for DataUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data:{};base64,{}", self.kind, self.data)
    }
}

impl Serialize for DataUri<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
