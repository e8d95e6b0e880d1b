//! A chat as the body of `/v1/chat/completions`, for an upstream that speaks OpenAI's dialect.
//!
//! What was thought before is left out: OpenAI's API has no place for it in a request.

use std::{borrow::Cow, collections::VecDeque, fmt};

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

/// As much base64 as tells what kind of file it is.
const MAGIC_CHARS: usize = 16;

/// What a file is, by its first bytes.
enum Media {
    Image(&'static str),
    Audio(&'static str),
}

/// Calls that have no id of their own get one, and their results the same.
#[derive(Default)]
struct Ids {
    /// Name and id of the calls that wait for a result.
    waiting: VecDeque<(String, String)>,
    made: usize,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'b>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<Cow<'b, str>>,
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
    id: String,
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
    let mut ids = Ids::default();
    let (options, tools) = (&body.options, body.tools.as_deref());
    let (newer, older) = match limit_name(model) {
        "max_tokens" => (None, options.num_predict),
        _ => (options.num_predict, None),
    };
    let chat = Chat {
        model,
        messages: body.messages.iter().map(|message| said(message, &mut ids)).collect(),
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

fn said<'b>(message: &'b Message<'_>, ids: &mut Ids) -> Said<'b> {
    let calls = message.tool_calls.iter().map(|call| {
        let function = &call.function;
        Call {
            id: ids.of_call(call.id.as_deref(), &function.name),
            kind: "function",
            function: Called { name: &function.name, arguments: compact(function.arguments.get()) },
        }
    });
    let tool_calls = calls.collect();
    let is_result = message.role == "tool";
    let id = message.tool_call_id.as_deref();
    Said {
        role: &message.role,
        content: content(message),
        tool_calls,
        tool_call_id: is_result.then(|| ids.of_result(id, message.tool_name.as_deref())),
    }
}

fn content<'b>(message: &'b Message<'_>) -> Content<'b> {
    if message.images.is_empty() {
        return Content::Text(&message.content);
    }
    let text = (!message.content.is_empty()).then_some(Part::Text { text: &message.content });
    Content::Parts(text.into_iter().chain(message.images.iter().map(part)).collect())
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

// === impl Ids ===

impl Ids {
    fn of_call(&mut self, id: Option<&str>, name: &str) -> String {
        let id = id.map_or_else(
            || {
                self.made += 1;
                format!("call_{}", self.made)
            },
            str::to_owned,
        );
        self.waiting.push_back((name.to_owned(), id.clone()));
        id
    }

    /// The id of the call that a result belongs to: its own, or that of the first call of its function
    /// that waits, or of the first that waits at all.
    fn of_result<'a>(&mut self, id: Option<&'a str>, name: Option<&str>) -> Cow<'a, str> {
        let by_id = id.and_then(|id| self.waiting.iter().position(|(_, waiting)| waiting == id));
        let by_name =
            || name.and_then(|name| self.waiting.iter().position(|(waiting, _)| waiting == name));
        let waiting = self.waiting.remove(by_id.or_else(by_name).unwrap_or(0));
        match (id, waiting) {
            (Some(id), _) => Cow::Borrowed(id),
            (None, Some((_, waiting))) => Cow::Owned(waiting),
            (None, None) => Cow::Borrowed("call_0"),
        }
    }
}
