//! A request to `/api/chat`, `/api/generate` or one of the embedding routes, read for an upstream that
//! speaks OpenAI's dialect.
//!
//! Options that OpenAI's API has no word for (`num_ctx`, `repeat_penalty`, …) are of no meaning there and
//! left out; what changes what is asked (`raw`, `suffix`, `context`, `template`) is refused.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    chat_request::stops,
    messages::{arguments_of, is_base64},
};
use crate::{
    body::{BodyError, Text},
    json::{self, read_object, written},
    ollama::{
        chat::{Body, Format, Function, Image, Message, Options, Schema, Think, ToolCall},
        request::{Given, Inspected, options_of},
    },
    openai::chat::texts,
    route::Route,
};

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    role: Text<'a>,
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    images: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
    #[serde(borrow)]
    tool_name: Option<Text<'a>>,
    #[serde(borrow)]
    tool_call_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Called<'a>,
}

#[derive(Deserialize)]
struct Called<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// What the servers of OpenAI's dialect have not.
const NOT_TAKEN: [&str; 8] =
    ["raw", "suffix", "context", "template", "width", "height", "steps", "_debug_render_only"];

/// The body of `/v1/embeddings`.
#[derive(Serialize)]
struct Embedding<'b> {
    model: &'b str,
    input: Vec<Cow<'b, str>>,
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<i64>,
}

/// Reads all of it as a chat.
///
/// # Errors
/// Where something is not as Ollama's API has it, or OpenAI's API has nothing like it.
pub(super) fn body<'a>(
    inspected: &Inspected<'a>,
    route: Route,
    stream: bool,
) -> Result<Body<'a>, BodyError> {
    let given = inspected.fields();
    for name in NOT_TAKEN {
        let asks = |raw: &&RawValue| !matches!(raw.get(), "false" | "\"\"" | "[]");
        if given.get(name).filter(asks).is_some() {
            let why = "The server of this model has nothing like it.";
            return Err(BodyError::unsupported(name, why));
        }
    }
    let messages = if route == Route::OllamaChat { chat(given)? } else { generate(given)? };
    Ok(Body {
        format: format(given)?,
        tools: given.get("tools").filter(|raw| json::is_filled(raw.get())).map(Cow::Borrowed),
        think: think(given)?,
        logprobs: given.flag("logprobs")?,
        top_logprobs: given.integer("top_logprobs")?,
        options: options(given)?,
        ..Body::new(messages, stream)
    })
}

/// The body of `/v1/embeddings`.
///
/// # Errors
/// Where there is nothing to embed.
pub(super) fn embedding(
    inspected: &Inspected<'_>,
    route: Route,
    model: &str,
) -> Result<Vec<u8>, BodyError> {
    let given = inspected.fields();
    let name = if route == Route::OllamaEmbed { "input" } else { "prompt" };
    let input = given.get(name).and_then(texts);
    let input = input.ok_or_else(|| given.must(name, "a string or a list of strings"))?;
    let dimensions = given.integer("dimensions")?;
    let body = Embedding { model, input, encoding_format: "float", dimensions };
    let length: usize = body.input.iter().map(|text| text.len() + 8).sum();
    written(&body, length + length / 8 + 256)
}

fn chat<'a>(given: &Given<'a>) -> Result<Vec<Message<'a>>, BodyError> {
    let must = || given.must("messages", "a list of at least one message");
    let raw = given.get("messages").ok_or_else(must)?;
    let list: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
    if list.is_empty() {
        return Err(must());
    }
    let read = |(at, raw): (usize, &'a RawValue)| {
        let field = format!("messages[{at}]");
        let said: Said<'a> = read_object(raw.get())
            .ok_or_else(|| BodyError::invalid(&*field, "a message of Ollama's API"))?;
        message(&field, said)
    };
    list.into_iter().enumerate().map(read).collect()
}

fn message<'a>(field: &str, said: Said<'a>) -> Result<Message<'a>, BodyError> {
    let text = |text: Option<Text<'a>>| text.map(|Text(text)| text);
    let calls = said.tool_calls.unwrap_or_default().into_iter().enumerate().map(|(index, call)| {
        let Called { name: Text(name), arguments } = call.function;
        let arguments = arguments_of(arguments);
        let id = text(call.id).filter(|id| !id.is_empty());
        ToolCall { id, function: Function { index, name, arguments } }
    });
    Ok(Message {
        content: text(said.content).unwrap_or_default(),
        thinking: text(said.thinking),
        images: images(field, said.images)?,
        tool_calls: calls.collect(),
        tool_name: text(said.tool_name),
        tool_call_id: text(said.tool_call_id),
        role: said.role.0.to_lowercase().into(),
    })
}

fn images<'a>(field: &str, list: Option<Vec<Text<'a>>>) -> Result<Vec<Image<'a>>, BodyError> {
    let read = |(at, Text(uri)): (usize, Text<'a>)| {
        let must = || BodyError::invalid(format!("{field}.images[{at}]"), "an image in base64");
        if is_base64(&uri) { Ok(Image { uri, start: 0 }) } else { Err(must()) }
    };
    list.unwrap_or_default().into_iter().enumerate().map(read).collect()
}

fn generate<'a>(given: &Given<'a>) -> Result<Vec<Message<'a>>, BodyError> {
    let mut messages = Vec::new();
    if let Some(system) = given.string("system")?.filter(|system| !system.is_empty()) {
        messages.push(Message::text("system", system));
    }
    let prompt = given.string("prompt")?.filter(|prompt| !prompt.is_empty());
    let prompt = prompt.ok_or_else(|| given.must("prompt", "a string"))?;
    let images = images("", given.read("images", "a list of images in base64")?)?;
    messages.push(Message { images, ..Message::text("user", prompt) });
    Ok(messages)
}

fn options<'a>(given: &Given<'a>) -> Result<Options<'a>, BodyError> {
    let Some(raw) = given.get("options") else { return Ok(Options::default()) };
    let options = options_of(raw)?;
    let stop: Vec<Text<'a>> = options.read("stop", "a list of strings")?.unwrap_or_default();
    Ok(Options {
        num_predict: options.most("num_predict")?,
        temperature: options.number("temperature")?,
        top_p: options.number("top_p")?,
        top_k: options.integer("top_k")?,
        seed: options.integer("seed")?,
        frequency_penalty: options.number("frequency_penalty")?,
        presence_penalty: options.number("presence_penalty")?,
        stop: stops(stop),
        ..Options::default()
    })
}

fn format<'a>(given: &Given<'a>) -> Result<Option<Format<'a>>, BodyError> {
    let Some(raw) = given.get("format") else { return Ok(None) };
    match raw.get() {
        "\"\"" => Ok(None),
        "\"json\"" => Ok(Some(Format::Word("json"))),
        schema if schema.starts_with('{') => Ok(Some(Format::Schema(Schema::new(raw)))),
        _ => Err(given.must("format", "`json` or a JSON Schema")),
    }
}

fn think(given: &Given<'_>) -> Result<Option<Think>, BodyError> {
    let Some(raw) = given.get("think") else { return Ok(None) };
    Ok(Some(match raw.get() {
        "true" => Think::Switch(true),
        "false" => Think::Switch(false),
        "\"low\"" => Think::Level("low"),
        "\"medium\"" => Think::Level("medium"),
        "\"high\"" => Think::Level("high"),
        "\"max\"" => Think::Level("max"),
        _ => return Err(given.must("think", "true, false, `low`, `medium`, `high` or `max`")),
    }))
}
