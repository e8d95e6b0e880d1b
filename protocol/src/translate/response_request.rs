//! A request to `/v1/responses`, read.
//!
//! Nothing is stored, so nothing that is stored can be gone on from: what a response is to know of an
//! earlier one stands in its `input`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    chat_request::{self, choice, functions, level, reasoning, stop},
    echo::Echo,
    messages::{arguments, content_text, image_of},
};
use crate::{
    body::{BodyError, Fields, Text},
    json::read_object,
    ollama::chat::{Body, Format, Function, Message, Options, Schema, Think, ToolCall},
};

/// The fields of a request that matter.
pub(crate) const FIELDS: [&str; 29] = [
    "model",
    "input",
    "instructions",
    "stream",
    "max_output_tokens",
    "temperature",
    "top_p",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "metadata",
    "previous_response_id",
    "conversation",
    "background",
    "prompt",
    "user",
    "truncation",
    "include",
    "top_logprobs",
    "moderation",
    "prompt_cache_options",
    "max_tokens",
    "seed",
    "stop",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
];

/// What a response says again.
const ECHOED: [&str; 11] = [
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "user",
];

pub(crate) type Given<'a> = Fields<'a, { FIELDS.len() }>;

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    role: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    call_id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    summary: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    image_url: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    strict: Option<bool>,
}

#[derive(Deserialize)]
struct TextOptions<'a> {
    #[serde(borrow)]
    format: Option<TextFormat<'a>>,
    #[serde(borrow)]
    verbosity: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct TextFormat<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    strict: Option<bool>,
}

/// Reads all of it.
///
/// # Errors
/// Where something is not as OpenAI's API has it, or cannot be had without storing it.
pub(super) fn body<'a>(given: &Given<'a>) -> Result<Body<'a>, BodyError> {
    for name in ["previous_response_id", "conversation", "background", "prompt"] {
        if given.get(name).is_some_and(|raw| raw.get() != "false") {
            let why = "Responses are not stored: send what was said before as `input`.";
            return Err(BodyError::unsupported(name, why));
        }
    }
    check(given)?;
    let mut messages = Vec::new();
    if let Some(instructions) = given.string("instructions")? {
        messages.push(Message::text("system", instructions));
    }
    let must = || given.must("input", "a string or a list of items");
    let input = given.get("input").ok_or_else(must)?;
    if input.get().starts_with('"') {
        let text: Text<'a> = serde_json::from_str(input.get()).map_err(|_| must())?;
        messages.push(Message::text("user", text.0));
    } else {
        let items: Vec<&'a RawValue> = serde_json::from_str(input.get()).map_err(|_| must())?;
        for (at, raw) in items.into_iter().enumerate() {
            item(at, raw, &mut messages)?;
        }
    }
    if messages.is_empty() {
        return Err(must());
    }
    let (effort, switch) = reasoning(given)?;
    let think = effort.as_deref().map(|effort| level("reasoning.effort", effort)).transpose()?;
    let (format, verbosity) = format(given)?;
    Ok(Body {
        format,
        verbosity,
        // Ollama alone cuts a prompt that is too long without being asked to.
        truncate: is_word(given, "truncation", "disabled").then_some(false),
        tools: tools(given)?,
        choice: choice(given.get("tool_choice"))?,
        parallel_tool_calls: given.flag("parallel_tool_calls")?,
        think: think.or(switch.map(Think::Switch)),
        effort,
        user: given.string("user")?,
        options: Options {
            num_predict: tokens_max(given)?,
            temperature: given.number("temperature")?,
            top_p: given.number("top_p")?,
            top_k: given.integer("top_k")?,
            seed: given.integer("seed")?,
            frequency_penalty: given.number("frequency_penalty")?,
            presence_penalty: given.number("presence_penalty")?,
            stop: stop(given)?,
            ..Options::default()
        },
        ..Body::new(messages, given.flag("stream")?.unwrap_or(false))
    })
}

/// The most tokens that the response may have, where the client says so; some say it by the older name.
pub(super) fn tokens_max(given: &Given<'_>) -> Result<Option<u64>, BodyError> {
    let older = given.most("max_tokens")?;
    Ok(given.most("max_output_tokens")?.or(older))
}

/// Refuses what OpenAI's servers do and no model server does.
fn check(given: &Given<'_>) -> Result<(), BodyError> {
    let asks = |name: &str| given.get(name).is_some_and(|raw| !matches!(raw.get(), "{}" | "[]"));
    if asks("moderation") {
        return Err(BodyError::unsupported("moderation", "The model servers do not moderate."));
    }
    let include: Option<Vec<Text<'_>>> = given.read("include", "a list of strings")?;
    let has_logprobs = |Text(one): &Text<'_>| one == "message.output_text.logprobs";
    if include.unwrap_or_default().iter().any(has_logprobs) {
        let why = "A response tells no `logprobs`: ask at `/v1/chat/completions`.";
        return Err(BodyError::unsupported("include", why));
    }
    if given.integer("top_logprobs")?.is_some_and(|number| number > 0) {
        let why = "A response tells no `logprobs`: ask at `/v1/chat/completions`.";
        return Err(BodyError::unsupported("top_logprobs", why));
    }
    #[derive(Deserialize)]
    struct CacheOptions {
        prewarm: Option<bool>,
    }
    let cache = given.get("prompt_cache_options").map(|raw| read_object::<CacheOptions>(raw.get()));
    match cache {
        Some(None) => Err(given.must("prompt_cache_options", "an object")),
        Some(Some(CacheOptions { prewarm: Some(true) })) => {
            let why = "A request is for a reply; there is no cache to be warmed.";
            Err(BodyError::unsupported("prompt_cache_options.prewarm", why))
        }
        _ => Ok(()),
    }
}

/// Whether a field is that word.
fn is_word(given: &Given<'_>, name: &str, word: &str) -> bool {
    given.get(name).is_some_and(|raw| raw.get().trim_matches('"') == word)
}

/// What the response is to say again.
pub(super) fn echo(given: &Given<'_>) -> Echo {
    let mut echo = Echo::default();
    for name in ECHOED {
        if let Some(raw) = given.get(name) {
            echo.push(name, raw);
        }
    }
    echo
}

fn item<'a>(at: usize, raw: &'a RawValue, out: &mut Vec<Message<'a>>) -> Result<(), BodyError> {
    let must = |field: &str, must: &str| BodyError::invalid(format!("input[{at}]{field}"), must);
    let item: Item<'a> = read_object(raw.get()).ok_or_else(|| must("", "an item"))?;
    let kind = item.kind.map_or(Cow::Borrowed("message"), |Text(kind)| kind);
    match &*kind {
        "message" => {
            let role = item.role.ok_or_else(|| must(".role", "a string"))?.0;
            let role = match &*role {
                "user" => "user",
                "assistant" => "assistant",
                "system" | "developer" => "system",
                _ => return Err(must(".role", "`user`, `assistant`, `system` or `developer`")),
            };
            let content = item.content.ok_or_else(|| must(".content", "a string or a list"))?;
            // What was thought stands before what was said, in an item of its own.
            let is_thought = |last: &Message<'a>| {
                last.thinking.is_some() && last.content.is_empty() && last.tool_calls.is_empty()
            };
            let thought = out.pop_if(|last| role == "assistant" && is_thought(last));
            let mut message = thought.unwrap_or_else(|| Message::text(role, ""));
            parts(&format!("input[{at}].content"), content, &mut message)?;
            out.push(message);
        }
        "function_call" => {
            let name = item.name.ok_or_else(|| must(".name", "a string"))?.0;
            let text = item.arguments.map(|Text(text)| text).unwrap_or_default();
            let arguments =
                arguments(&text).ok_or_else(|| must(".arguments", "the text of a JSON object"))?;
            let id = item.call_id.map(|Text(id)| id);
            // Calls of one turn stand one after another.
            let is_turn = out.last().is_some_and(|last| last.role == "assistant");
            if !is_turn {
                out.push(Message::text("assistant", ""));
            }
            if let Some(turn) = out.last_mut() {
                let index = turn.tool_calls.len();
                turn.tool_calls
                    .push(ToolCall { id, function: Function { index, name, arguments } });
            }
        }
        "function_call_output" => {
            let id = item.call_id.ok_or_else(|| must(".call_id", "a string"))?.0;
            let output = item.output.ok_or_else(|| must(".output", "a string or a list"))?;
            let mut result = Message::text("tool", "");
            parts(&format!("input[{at}].output"), output, &mut result)?;
            let mut calls = out.iter().rev().flat_map(|message| &message.tool_calls);
            let call = calls.find(|call| call.id.as_deref() == Some(&*id));
            result.tool_name = call.map(|call| call.function.name.clone());
            result.tool_call_id = Some(id);
            out.push(result);
        }
        // What was thought comes before what was said.
        "reasoning" => {
            let text = item.summary.and_then(content_text).filter(|text| !text.is_empty());
            if let Some(text) = text {
                let thinking = Some(text);
                out.push(Message { thinking, ..Message::text("assistant", "") });
            }
        }
        _ => {
            let why = "An item is a message, a function call, its output or reasoning.";
            return Err(BodyError::unsupported(format!("input[{at}].type"), why));
        }
    }
    Ok(())
}

fn parts<'a>(field: &str, raw: &'a RawValue, message: &mut Message<'a>) -> Result<(), BodyError> {
    let must = || BodyError::invalid(field, "a string or a list of parts");
    if raw.get().starts_with('"') {
        message.content = serde_json::from_str::<Text<'a>>(raw.get()).map_err(|_| must())?.0;
        return Ok(());
    }
    let list: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
    let mut texts = Vec::new();
    for (at, raw) in list.into_iter().enumerate() {
        let part: Part<'a> = read_object(raw.get()).ok_or_else(must)?;
        let field = format!("{field}[{at}]");
        let text = |text: Option<Text<'a>>| {
            text.map(|Text(text)| text)
                .ok_or_else(|| BodyError::invalid(format!("{field}.text"), "a string"))
        };
        match &*part.kind.0 {
            "input_text" | "output_text" | "text" => texts.push(text(part.text)?),
            "refusal" => texts.push(text(part.refusal)?),
            "input_image" => {
                let field = format!("{field}.image_url");
                let uri = part.image_url.ok_or_else(|| BodyError::invalid(&*field, "a URL"))?.0;
                message.images.push(image_of(&field, uri)?);
            }
            _ => {
                let why = "A part is `input_text`, `output_text` or `input_image`.";
                return Err(BodyError::unsupported(format!("{field}.type"), why));
            }
        }
    }
    message.content = texts.join("\n").into();
    Ok(())
}

/// The tools, in the shape of the chat's.
fn tools<'a>(given: &Given<'a>) -> Result<Option<Cow<'a, RawValue>>, BodyError> {
    let Some(raw) = given.get("tools") else { return Ok(None) };
    let list: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| given.must("tools", "a list of tools"))?;
    let mut tools = Vec::with_capacity(list.len());
    for (at, raw) in list.into_iter().enumerate() {
        let must = || given.must(&format!("tools[{at}]"), "a function with a name");
        let tool: Tool<'_> = read_object(raw.get()).ok_or_else(must)?;
        if tool.kind.0 != "function" {
            let field = format!("tools[{at}].type");
            return Err(BodyError::unsupported(field, "A tool must be a `function`."));
        }
        let Text(name) = tool.name.filter(|Text(name)| !name.is_empty()).ok_or_else(must)?;
        tools.push(chat_request::Function {
            name,
            description: tool.description.map(|Text(text)| text),
            parameters: tool.parameters,
            strict: tool.strict,
        });
    }
    functions(tools)
}

/// What the text is to be, and how long-winded.
fn format<'a>(given: &Given<'a>) -> Result<(Option<Format<'a>>, Option<Cow<'a, str>>), BodyError> {
    let Some(raw) = given.get("text") else { return Ok((None, None)) };
    let options: TextOptions<'a> =
        read_object(raw.get()).ok_or_else(|| given.must("text", "an object"))?;
    let verbosity = options.verbosity.map(|Text(verbosity)| verbosity);
    let Some(format) = options.format else { return Ok((None, verbosity)) };
    let format = match format.kind.as_ref().map(|Text(kind)| &**kind) {
        None if format.schema.is_none() => None,
        Some("text") => None,
        None => return Err(given.must("text.format", "an object with `type`")),
        Some("json_object") => Some(Format::Word("json")),
        Some("json_schema") => {
            let schema = format.schema.filter(|schema| schema.get().starts_with('{'));
            let schema = schema.ok_or_else(|| given.must("text.format.schema", "an object"))?;
            let mut schema = Schema::new(schema);
            if let Some(Text(name)) = format.name {
                schema.name = name;
            }
            schema.description = format.description.map(|Text(text)| text);
            schema.strict = format.strict;
            Some(Format::Schema(schema))
        }
        Some(_) => {
            let why = "The format of a text is `text`, `json_object` or `json_schema`.";
            return Err(BodyError::unsupported("text.format.type", why));
        }
    };
    Ok((format, verbosity))
}
