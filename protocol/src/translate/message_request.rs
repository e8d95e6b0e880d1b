//! A request to `/v1/messages`, read.
//!
//! A message of Anthropic's may hold several results of tools beside text: each becomes a message of its
//! own, in front of the text. Blocks that only Anthropic's servers make something of stay in a client's history
//! for good, so they are told in words; only what a user shows and the model would not see is refused.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    chat_request::{self, functions, level, stops},
    history,
    messages::{arguments_of, is_base64},
    odd,
};
use crate::{
    anthropic::{Block, FIELDS, Message as Said, OutputConfig, OutputFormat, Source, Switch, Tool},
    body::{BodyError, Fields, Text},
    caps,
    error::Code,
    json::read_object,
    ollama::chat::{
        Body, Choice, Format, Function, Image, Message, Options, Schema, Think, ToolCall,
    },
    prompt::source_not_fetched,
};

pub(crate) type Given<'a> = Fields<'a, { FIELDS.len() }>;

/// Reads all of it.
///
/// # Errors
/// Where something is not as Anthropic's API has it, or cannot be had of the model servers.
pub(super) fn body<'a>(given: &Given<'a>) -> Result<Body<'a>, BodyError> {
    for name in ["container", "mcp_servers", "compaction", "fallbacks", "thread"] {
        if given.get(name).is_some_and(|raw| !matches!(raw.get(), "[]" | "{}")) {
            return Err(BodyError::unsupported(name, "The model servers have nothing like it."));
        }
    }
    let mut messages = Vec::new();
    if let Some(system) = given.get("system") {
        let text = system_text(system)
            .ok_or_else(|| given.must("system", "a string or a list of blocks of text"))?;
        messages.push(Message::text("system", text));
    }
    let must = || given.must("messages", "a list of at least one message");
    let raw = given.get("messages").ok_or_else(must)?;
    let list: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
    if list.is_empty() {
        return Err(must());
    }
    for (at, raw) in list.into_iter().enumerate() {
        message(at, raw, &mut messages)?;
    }
    let stop: Vec<Text<'a>> =
        given.read("stop_sequences", "a list of strings")?.unwrap_or_default();
    let (choice, parallel_tool_calls) = choice(given)?;
    let OutputConfig { effort, format, .. } = output_config(given)?;
    let (think, effort) = think(given, effort.map(|Text(effort)| effort))?;
    Ok(Body {
        format: self::format(given, format)?,
        tools: tools(given)?,
        choice,
        parallel_tool_calls,
        think,
        effort,
        options: Options {
            num_predict: given.most("max_tokens")?,
            temperature: given.number("temperature")?,
            top_p: given.number("top_p")?,
            top_k: given.integer("top_k")?,
            stop: stops(stop),
            ..Options::default()
        },
        ..Body::new(messages, given.flag("stream")?.unwrap_or(false))
    })
}

fn system_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    if raw.get().starts_with('"') {
        return serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|Text(text)| text);
    }
    let blocks: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    let texts: Option<Vec<Cow<'_, str>>> = blocks
        .into_iter()
        .map(|raw| {
            let block: Block<'_> = read_object(raw.get())?;
            block.text.filter(|_| block.kind.0 == "text").map(|Text(text)| text)
        })
        .collect();
    Some(texts?.join("\n").into())
}

fn message<'a>(at: usize, raw: &'a RawValue, out: &mut Vec<Message<'a>>) -> Result<(), BodyError> {
    let must = |field: &str, must: &str| BodyError::invalid(format!("messages[{at}]{field}"), must);
    let said: Said<'a> = read_object(raw.get()).ok_or_else(|| must("", "a message"))?;
    let role = match &*said.role.0 {
        "user" => "user",
        "assistant" => "assistant",
        "system" => "system",
        _ => return Err(must(".role", "`user` or `assistant`")),
    };
    let content = match said.content {
        Some(content) => content,
        None if role == "assistant" => return Ok(()),
        None => return Err(must(".content", "a string or a list of blocks")),
    };
    if content.get().starts_with('"') {
        let text: Text<'a> = serde_json::from_str(content.get())
            .map_err(|_| must(".content", "a string or a list of blocks"))?;
        out.push(Message::text(role, text.0));
        return Ok(());
    }
    let blocks: Vec<&'a RawValue> = serde_json::from_str(content.get())
        .map_err(|_| must(".content", "a string or a list of blocks"))?;
    let mut texts = Vec::new();
    let mut message = Message::text(role, "");
    for (index, raw) in blocks.into_iter().enumerate() {
        let field = format!("messages[{at}].content[{index}]");
        block(&field, raw, &mut texts, &mut message, out)?;
    }
    message.content = joined(texts);
    let says_something = !message.content.is_empty()
        || !message.images.is_empty()
        || !message.tool_calls.is_empty()
        || message.thinking.is_some();
    if says_something {
        out.push(message);
    }
    Ok(())
}

fn block<'a>(
    field: &str,
    raw: &'a RawValue,
    texts: &mut Vec<Cow<'a, str>>,
    message: &mut Message<'a>,
    out: &mut Vec<Message<'a>>,
) -> Result<(), BodyError> {
    let must = |name: &str, must: &str| BodyError::invalid(format!("{field}{name}"), must);
    let block = Block::read(raw).ok_or_else(|| must("", "a block"))?;
    match &*block.kind.0 {
        "text" => texts.push(block.text.ok_or_else(|| must(".text", "a string"))?.0),
        "image" => message.images.push(image(field, block.source)?),
        "thinking" => {
            history::join_thinking(&mut message.thinking, block.thinking.map(|Text(text)| text));
        }
        "tool_use" => {
            let name = block.name.ok_or_else(|| must(".name", "a string"))?.0;
            let index = message.tool_calls.len();
            let id = block.id.map(|Text(id)| id);
            let arguments = arguments_of(block.input);
            message.tool_calls.push(ToolCall { id, function: Function { index, name, arguments } });
        }
        "tool_result" => {
            let id = block.tool_use_id.ok_or_else(|| must(".tool_use_id", "a string"))?.0;
            let mut result = Message::text("tool", "");
            if let Some(content) = block.content {
                result_content(field, content, &mut result)?;
            }
            if block.is_error == Some(true) {
                // No other dialect has a field for it; the model is told.
                result.content = format!("Error: {}", result.content).into();
            }
            result.tool_call_id = Some(id);
            out.push(result);
        }
        _ => {
            let told = odd(&block, raw, &mut message.images);
            // What a user shows and the model would not see is no odd piece of a history.
            if told.is_none() && message.role == "user" {
                let why = "A block is `text`, `image`, `tool_result`, or a `document` or \
                    `search_result` of text.";
                return Err(BodyError::unsupported(format!("{field}.type"), why));
            }
            let told = told.unwrap_or_else(|| odd::told(&block.kind.0, "").into());
            texts.extend(Some(told).filter(|told| !told.is_empty()));
        }
    }
    Ok(())
}

/// The texts of blocks. (One is not copied.)
fn joined<'a>(mut texts: Vec<Cow<'a, str>>) -> Cow<'a, str> {
    if texts.len() == 1 { texts.swap_remove(0) } else { texts.join("\n").into() }
}

/// What is left of a block that only Anthropic's servers make something of, in words, which may be none; `None`
/// where nobody here knows what it is, or it is a file that is not text.
fn odd<'a>(
    block: &Block<'a>,
    raw: &'a RawValue,
    images: &mut Vec<Image<'a>>,
) -> Option<Cow<'a, str>> {
    let kind = &*block.kind.0;
    let told = |words: &str| Some(odd::told(kind, words).into());
    match kind {
        // Nobody but its maker can read the first; the others say nothing to a model.
        "redacted_thinking" | "fallback" | "mcp_tool_listing" => Some(Cow::Borrowed("")),
        // What was said before, in short.
        "compaction" => Some(block.content.and_then(text_of).unwrap_or_default()),
        "tool_reference" => {
            let Text(name) = block.tool_name.as_ref()?;
            Some(format!("The tool {name} is available.").into())
        }
        "document" => document(block, images),
        "search_result" => Some(odd::words(raw.get()).into()),
        "server_tool_use" | "mcp_tool_use" => {
            let name = block.name.as_ref().map(|Text(name)| &**name).unwrap_or_default();
            told(&format!("{name} {}", block.input.map_or("{}", RawValue::get)))
        }
        "container_upload" => told(""),
        "tool_addition" | "tool_removal" => {
            told(&odd::words_under(raw.get(), &["name", "tool_name"]))
        }
        _ if kind.ends_with("_tool_result") => {
            told(&block.content.map(|raw| odd::words(raw.get())).unwrap_or_default())
        }
        _ => None,
    }
}

/// A document of text, or of blocks of text and images.
fn document<'a>(block: &Block<'a>, images: &mut Vec<Image<'a>>) -> Option<Cow<'a, str>> {
    let source: Source<'a> = read_object(block.source?.get())?;
    let title = block.title.as_ref().map(|Text(title)| title.clone());
    let context = block.context.as_ref().map(|Text(context)| context.clone());
    let mut texts: Vec<_> = title.into_iter().chain(context).collect();
    match &*source.kind.0 {
        "text" => texts.push(source.data?.0),
        "content" => {
            let content = source.content?;
            if let Some(text) = text_of(content) {
                texts.push(text);
            } else {
                caps::list("", content.get(), caps::PARTS_MAX).ok()?;
                let blocks: Vec<&'a RawValue> = serde_json::from_str(content.get()).ok()?;
                for raw in blocks {
                    let block: Block<'a> = read_object(raw.get())?;
                    match &*block.kind.0 {
                        "text" => texts.push(block.text?.0),
                        "image" => images.push(image("", block.source).ok()?),
                        _ => return None,
                    }
                }
            }
        }
        _ => return None,
    }
    Some(joined(texts))
}

/// The text of a JSON string.
fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|Text(text)| text)
}

fn result_content<'a>(
    field: &str,
    raw: &'a RawValue,
    result: &mut Message<'a>,
) -> Result<(), BodyError> {
    if !raw.get().starts_with('[') {
        result.content = text_of(raw).unwrap_or_else(|| odd::words(raw.get()).into());
        return Ok(());
    }
    let must = || BodyError::invalid(format!("{field}.content"), "a string or a list of blocks");
    let blocks: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
    let mut texts = Vec::new();
    for raw in blocks {
        let Some(block) = Block::read(raw) else {
            texts.push(odd::words(raw.get()).into());
            continue;
        };
        match &*block.kind.0 {
            "text" if let Some(Text(text)) = block.text => texts.push(text),
            "image" if let Ok(image) = image("", block.source) => result.images.push(image),
            // A tool gives back what it likes: the user can do nothing about it.
            kind => {
                let told = odd(&block, raw, &mut result.images);
                texts.push(told.unwrap_or_else(|| odd::told(kind, &odd::words(raw.get())).into()));
            }
        }
    }
    result.content = joined(texts);
    Ok(())
}

fn image<'a>(field: &str, source: Option<&'a RawValue>) -> Result<Image<'a>, BodyError> {
    let field = format!("{field}.source");
    let must = || BodyError::invalid(field.clone(), "an image in base64");
    let source: Source<'a> = source.and_then(|raw| read_object(raw.get())).ok_or_else(must)?;
    if source.kind.0 == "url" {
        return Err(source_not_fetched(field));
    }
    let Text(uri) = source.data.filter(|_| source.kind.0 == "base64").ok_or_else(must)?;
    if is_base64(&uri) { Ok(Image { uri, start: 0 }) } else { Err(must()) }
}

/// The tools, in OpenAI's shape.
fn tools<'a>(given: &Given<'a>) -> Result<Option<Cow<'a, RawValue>>, BodyError> {
    let Some(raw) = given.get("tools") else { return Ok(None) };
    let list: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| given.must("tools", "a list of tools"))?;
    let mut tools = Vec::with_capacity(list.len());
    for (at, raw) in list.into_iter().enumerate() {
        let must = || given.must(&format!("tools[{at}]"), "a tool with a name and an input_schema");
        let tool: Tool<'_> = read_object(raw.get()).ok_or_else(must)?;
        if tool.kind.is_some_and(|Text(kind)| kind != "custom") {
            let field = format!("tools[{at}].type");
            return Err(BodyError::unsupported(field, "A tool must be one of the client's own."));
        }
        let Text(name) = tool.name.filter(|Text(name)| !name.is_empty()).ok_or_else(must)?;
        let parameters = tool.input_schema.ok_or_else(must)?;
        tools.push(chat_request::Function {
            name,
            description: tool.description.map(|Text(text)| text),
            parameters: Some(parameters),
            strict: tool.strict,
        });
    }
    functions(tools)
}

/// Which tools are to be called, and whether several at once, where it is said.
fn choice<'a>(given: &Given<'a>) -> Result<(Choice<'a>, Option<bool>), BodyError> {
    let Some(raw) = given.get("tool_choice") else { return Ok((Choice::Auto, None)) };
    let must = || given.must("tool_choice", "an object of type `auto`, `any`, `tool` or `none`");
    let choice: Switch<'a> = read_object(raw.get()).ok_or_else(must)?;
    let parallel = choice.disable_parallel_tool_use.map(|is_disabled| !is_disabled);
    let choice = match choice.kind.as_ref().map_or("auto", |Text(kind)| kind) {
        "auto" => Choice::Auto,
        "none" => Choice::Never,
        "any" => Choice::Required,
        "tool" => Choice::Named(choice.name.ok_or_else(must)?.0),
        _ => return Err(must()),
    };
    Ok((choice, parallel))
}

/// Whether to think, and how much: for Ollama, and in the client's own word. Who says that nothing is to be thought
/// is heard before who says how much.
fn think<'a>(
    given: &Given<'_>,
    effort: Option<Cow<'a, str>>,
) -> Result<(Option<Think>, Option<Cow<'a, str>>), BodyError> {
    let much = effort.as_deref().map(|effort| level("output_config.effort", effort)).transpose()?;
    let Some(raw) = given.get("thinking") else { return Ok((much, effort)) };
    let must = || given.must("thinking", "an object of type `enabled`, `adaptive` or `disabled`");
    let thinking: Switch<'_> = read_object(raw.get()).ok_or_else(must)?;
    match thinking.kind.as_ref().map(|Text(kind)| &**kind) {
        None => Ok((much, effort)),
        Some("enabled" | "adaptive") => Ok((much.or(Some(Think::Switch(true))), effort)),
        Some("disabled") => Ok((Some(Think::Switch(false)), None)),
        Some("between_tools") => {
            let why = "Thinking is on or off: `enabled`, `adaptive` or `disabled`.";
            Err(BodyError::unsupported("thinking.type", why))
        }
        Some(_) => Err(must()),
    }
}

fn output_config<'a>(given: &Given<'a>) -> Result<OutputConfig<'a>, BodyError> {
    let Some(raw) = given.get("output_config") else { return Ok(OutputConfig::default()) };
    let must = || given.must("output_config", "an object");
    let config: OutputConfig<'a> = read_object(raw.get()).ok_or_else(must)?;
    if config.task_budget.is_some_and(|raw| raw.get() != "{}") {
        let why = "The model servers know no budget of a task.";
        return Err(BodyError::unsupported("output_config.task_budget", why));
    }
    Ok(config)
}

/// What the reply must be, by `output_config.format` or by the older `output_format`.
fn format<'a>(
    given: &Given<'a>,
    newer: Option<&'a RawValue>,
) -> Result<Option<Format<'a>>, BodyError> {
    let (raw, field) = match (newer, given.get("output_format")) {
        (None, None) => return Ok(None),
        (Some(raw), None) => (raw, "output_config.format"),
        (None, Some(raw)) => (raw, "output_format"),
        (Some(_), Some(_)) => {
            let message = "`output_format` and `output_config.format` are both given.";
            return Err(BodyError::new(Code::AmbiguousField, "output_format", message));
        }
    };
    let must = || BodyError::invalid(field, "an object with `type` and `schema`");
    let format: OutputFormat<'a> = read_object(raw.get()).ok_or_else(must)?;
    match (format.kind.as_ref().map(|Text(kind)| &**kind), format.schema) {
        (None, None) => Ok(None),
        (Some("json_schema"), Some(schema)) if schema.get().starts_with('{') => {
            // Anthropic promises that the reply fits.
            Ok(Some(Format::Schema(Schema { strict: Some(true), ..Schema::new(schema) })))
        }
        (Some("json_schema"), _) => Err(BodyError::invalid(format!("{field}.schema"), "an object")),
        (None, Some(_)) => Err(must()),
        (Some(_), _) => {
            let why = "The format of a reply is `json_schema`.";
            Err(BodyError::unsupported(format!("{field}.type"), why))
        }
    }
}
