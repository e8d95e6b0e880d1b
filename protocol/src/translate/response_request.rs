//! A request to `/v1/responses`, read.
//!
//! Nothing is stored, so nothing that is stored can be gone on from: what a response is to know of an
//! earlier one stands in its `input`.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    chat_request::{choice, functions, level},
    echo::Echo,
    response_items::item,
    tools::{self, Names},
};
use crate::{
    body::{BodyError, Fields, Text},
    json::read_object,
    ollama::chat::{Body, Choice, Format, Message, Options, Schema},
    openai::chat::Reasoning,
};

/// The fields of a request that matter.
pub(crate) const FIELDS: [&str; 18] = [
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
struct TextOptions<'a> {
    #[serde(borrow)]
    format: Option<TextFormat<'a>>,
}

#[derive(Deserialize)]
struct TextFormat<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
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
    let mut messages = Vec::new();
    if let Some(instructions) = given.string("instructions")? {
        messages.push(Message::text("system", instructions));
    }
    let must = || given.must("input", "a string or a list of items");
    let input = given.get("input").ok_or_else(must)?;
    let offered = tools::offered(given.get("tools"), Some(input))?;
    if input.get().starts_with('"') {
        let text: Text<'a> = serde_json::from_str(input.get()).map_err(|_| must())?;
        messages.push(Message::text("user", text.0));
    } else {
        let items: Vec<&'a RawValue> = serde_json::from_str(input.get()).map_err(|_| must())?;
        let before = messages.len();
        for (at, raw) in items.into_iter().enumerate() {
            item(at, raw, &offered.names, &mut messages)?;
        }
        if messages.len() == before {
            return Err(given.must("input", "a list in which something is said"));
        }
    }
    let reasoning: Option<Reasoning<'a>> = match given.get("reasoning") {
        Some(raw) => {
            Some(read_object(raw.get()).ok_or_else(|| given.must("reasoning", "an object"))?)
        }
        None => None,
    };
    let effort = reasoning.and_then(|reasoning| reasoning.effort);
    Ok(Body {
        format: format(given)?,
        choice: named(choice(given.get("tool_choice"))?, given.get("tool_choice"), &offered.names),
        tools: functions(offered.functions)?,
        parallel_tool_calls: given.flag("parallel_tool_calls")?,
        think: effort.as_ref().map(|Text(effort)| level(effort)).transpose()?,
        effort: effort.map(|Text(effort)| effort),
        user: given.string("user")?,
        options: Options {
            num_predict: given.most("max_output_tokens")?,
            temperature: given.number("temperature")?,
            top_p: given.number("top_p")?,
            ..Options::default()
        },
        ..Body::new(messages, given.flag("stream")?.unwrap_or(false))
    })
}

/// What the response is to say again.
pub(super) fn echo(given: &Given<'_>) -> Echo {
    let mut echo = Echo::default();
    for name in ECHOED {
        if let Some(raw) = given.get(name) {
            echo.push(name, raw);
        }
    }
    let (tools, input) = (given.get("tools"), given.get("input"));
    if !tools::are_named(tools, input) {
        return echo;
    }
    // Who cannot read them is told so when the request is written.
    let names = tools::offered(tools, input).map(|offered| offered.names);
    echo.with_names(names.unwrap_or_default())
}

/// The choice, with a tool by the name that the model server hears.
fn named<'a>(choice: Choice<'a>, raw: Option<&RawValue>, names: &Names) -> Choice<'a> {
    #[derive(Deserialize)]
    struct Within<'a> {
        #[serde(borrow)]
        namespace: Option<Text<'a>>,
    }
    let Choice::Named(name) = choice else { return choice };
    let within: Option<Within<'_>> = raw.and_then(|raw| read_object(raw.get()));
    let within = within.and_then(|within| within.namespace);
    let within = within.as_ref().map(|Text(namespace)| &**namespace);
    Choice::Named(names.upstream(within, name))
}

fn format<'a>(given: &Given<'a>) -> Result<Option<Format<'a>>, BodyError> {
    let Some(raw) = given.get("text") else { return Ok(None) };
    let options: TextOptions<'a> =
        read_object(raw.get()).ok_or_else(|| given.must("text", "an object"))?;
    let Some(format) = options.format else { return Ok(None) };
    match &*format.kind.0 {
        "text" => Ok(None),
        "json_object" => Ok(Some(Format::Word("json"))),
        "json_schema" => {
            let schema = format.schema.filter(|schema| schema.get().starts_with('{'));
            let schema = schema.ok_or_else(|| given.must("text.format.schema", "an object"))?;
            let mut schema = Schema::new(schema);
            if let Some(Text(name)) = format.name {
                schema.name = name;
            }
            schema.description = format.description.map(|Text(text)| text);
            schema.strict = format.strict;
            Ok(Some(Format::Schema(schema)))
        }
        _ => {
            let why = "The format of a text is `text`, `json_object` or `json_schema`.";
            Err(BodyError::unsupported("text.format.type", why))
        }
    }
}
