//! A request to `/v1/responses`, read.
//!
//! Nothing is stored, so nothing that is stored can be gone on from: what a response is to know of an
//! earlier one stands in its `input`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    chat_request::{choice, functions, level},
    echo::Echo,
    messages::{arguments_of, image_of, input_of},
    odd,
    tools::{self, Names},
};
use crate::{
    body::{BodyError, Fields, Text},
    json::{self, read_object},
    ollama::chat::{Body, Choice, Format, Function, Message, Options, Schema, ToolCall},
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
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    role: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    call_id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    namespace: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<Text<'a>>,
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow)]
    actions: Option<&'a RawValue>,
    #[serde(borrow)]
    operation: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    summary: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    image_url: Option<Text<'a>>,
}

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

/// An item, as a message. Those that stand in one turn are put together later
/// ([`history`]).
fn item<'a>(
    at: usize,
    raw: &'a RawValue,
    names: &Names,
    out: &mut Vec<Message<'a>>,
) -> Result<(), BodyError> {
    let must = |field: &str, must: &str| BodyError::invalid(format!("input[{at}]{field}"), must);
    let item: Item<'a> = read_object(raw.get()).ok_or_else(|| must("", "an item"))?;
    let kind = item.kind.as_ref().map_or("message", |Text(kind)| kind);
    match kind {
        "message" => {
            let role = item.role.ok_or_else(|| must(".role", "a string"))?.0;
            let role = match &*role {
                "user" => "user",
                "assistant" => "assistant",
                "system" | "developer" => "system",
                _ => return Err(must(".role", "`user`, `assistant`, `system` or `developer`")),
            };
            let mut message = Message::text(role, "");
            match item.content {
                Some(content) => {
                    let place = Place { field: format!("input[{at}].content"), role };
                    place.parts(content, &mut message)?;
                }
                None if role == "assistant" => {}
                None => return Err(must(".content", "a string or a list")),
            }
            out.push(message);
        }
        "function_call" => {
            let name = item.name.ok_or_else(|| must(".name", "a string"))?.0;
            let namespace = item.namespace.as_ref().map(|Text(namespace)| &**namespace);
            let name = names.upstream(namespace, name);
            out.push(called(item.call_id, name, arguments_of(item.arguments)));
        }
        "custom_tool_call" => {
            let name = item.name.ok_or_else(|| must(".name", "a string"))?.0;
            let namespace = item.namespace.as_ref().map(|Text(namespace)| &**namespace);
            let input = item.input.map(|Text(input)| input).unwrap_or_default();
            out.push(called(item.call_id, names.upstream(namespace, name), input_of(&input)));
        }
        // The tools that somebody runs on OpenAI's side of the client, each with its own name for what it is to do.
        "local_shell_call" | "shell_call" | "computer_call" | "apply_patch_call"
        | "tool_search_call" => {
            let asked = item.action.or(item.operation).or(item.actions).or(item.arguments);
            let name = Cow::Owned(kind.trim_end_matches("_call").to_owned());
            let name = names.upstream(None, name);
            out.push(called(item.call_id.or(item.id), name, arguments_of(asked)));
        }
        "mcp_call" => {
            let name = item.name.ok_or_else(|| must(".name", "a string"))?.0;
            let id = item.id.or(item.call_id).map(|Text(id)| id);
            let said = item.output.or(item.error).map(RawValue::get).unwrap_or_default();
            let result = json::text_of(said).unwrap_or_else(|| odd::words(said).into());
            let call_id = id.clone().map(Text);
            out.push(called(call_id, name, arguments_of(item.arguments)));
            out.push(Message { tool_call_id: id, ..Message::text("tool", result) });
        }
        // What was thought comes before what was said.
        "reasoning" => {
            let content = item.content.map(thoughts).filter(|text| !text.is_empty());
            let thinking = content.or(item.summary.map(thoughts)).filter(|text| !text.is_empty());
            out.push(Message {
                thinking: thinking.map(Cow::Owned),
                ..Message::text("assistant", "")
            });
        }
        "item_reference" | "compaction_trigger" => {
            let why = "Responses are not stored: send the item itself, as it came.";
            return Err(BodyError::unsupported(format!("input[{at}].type"), why));
        }
        _ if kind.ends_with("_output") && kind != "program_output" => {
            let mut result = Message::text("tool", "");
            let place = Place { field: format!("input[{at}].output"), role: "tool" };
            match item.output {
                Some(output) => place.output(output, &mut result)?,
                // The tools that were found, or how it went.
                None => {
                    let names: &[&str] =
                        if kind == "tool_search_output" { &["name"] } else { &["status"] };
                    result.content = odd::told(kind, &odd::words_under(raw.get(), names)).into();
                }
            }
            let is_own = kind == "local_shell_call_output";
            let id = item.call_id.or(item.id.filter(|_| is_own)).map(|Text(id)| id);
            out.push(Message { tool_call_id: id, ..result });
        }
        // They say nothing to a model; the tools of the first are read with the others.
        "additional_tools"
        | "mcp_list_tools"
        | "mcp_approval_request"
        | "mcp_approval_response"
        | "configuration_update" => {}
        _ => out.push(Message::text("assistant", odd::told(kind, &odd::words(raw.get())))),
    }
    Ok(())
}

fn called<'a>(id: Option<Text<'a>>, name: Cow<'a, str>, arguments: Box<RawValue>) -> Message<'a> {
    let id = id.map(|Text(id)| id).filter(|id| !id.is_empty());
    let call = ToolCall { id, function: Function { index: 0, name, arguments } };
    Message { tool_calls: vec![call], ..Message::text("assistant", "") }
}

/// The texts of what was thought, or of its summary.
fn thoughts(raw: &RawValue) -> String {
    odd::words_under(raw.get(), &["text"])
}

/// Where parts stand, and who says them.
struct Place {
    field: String,
    role: &'static str,
}

impl Place {
    /// What a tool gave back: a text, parts, or whatever else.
    fn output<'a>(&self, raw: &'a RawValue, result: &mut Message<'a>) -> Result<(), BodyError> {
        if raw.get().starts_with(['"', '[']) {
            return self.parts(raw, result);
        }
        let screen: Option<Part<'a>> = read_object(raw.get());
        match screen.filter(|part| part.image_url.is_some()) {
            Some(part) => self.part(0, part, raw, &mut Vec::new(), result),
            None => {
                let words = odd::words(raw.get());
                result.content = if words.is_empty() { raw.get().into() } else { words.into() };
                Ok(())
            }
        }
    }

    fn parts<'a>(&self, raw: &'a RawValue, message: &mut Message<'a>) -> Result<(), BodyError> {
        let must = || BodyError::invalid(&*self.field, "a string or a list of parts");
        if raw.get().starts_with('"') {
            message.content = serde_json::from_str::<Text<'a>>(raw.get()).map_err(|_| must())?.0;
            return Ok(());
        }
        let list: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
        let mut texts = Vec::new();
        for (at, raw) in list.into_iter().enumerate() {
            let part: Part<'a> = read_object(raw.get()).ok_or_else(must)?;
            self.part(at, part, raw, &mut texts, message)?;
        }
        message.content = match texts.len() {
            1 => texts.swap_remove(0),
            _ => texts.join("\n").into(),
        };
        Ok(())
    }

    fn part<'a>(
        &self,
        at: usize,
        part: Part<'a>,
        raw: &'a RawValue,
        texts: &mut Vec<Cow<'a, str>>,
        message: &mut Message<'a>,
    ) -> Result<(), BodyError> {
        let field = format!("{}[{at}]", self.field);
        let text = |text: Option<Text<'a>>| {
            text.map(|Text(text)| text)
                .ok_or_else(|| BodyError::invalid(format!("{field}.text"), "a string"))
        };
        let kind = part.kind.map_or(Cow::Borrowed(""), |Text(kind)| kind);
        match &*kind {
            "input_text" | "output_text" | "text" => texts.push(text(part.text)?),
            "refusal" => texts.push(text(part.refusal)?),
            "input_image" | "computer_screenshot" if part.image_url.is_some() => {
                let field = format!("{field}.image_url");
                let uri = part.image_url.ok_or_else(|| BodyError::invalid(&*field, "a URL"))?.0;
                message.images.push(image_of(&field, uri)?);
            }
            // What a user shows must be seen; what a model or a tool gave once is told.
            _ if matches!(self.role, "user" | "system") => {
                let why = "A part is `input_text`, `output_text` or `input_image`.";
                return Err(BodyError::unsupported(format!("{field}.type"), why));
            }
            kind => texts.push(odd::told(kind, &odd::words(raw.get())).into()),
        }
        Ok(())
    }
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
