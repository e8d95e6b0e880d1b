//! The items of a request to `/v1/responses`, as messages.
//!
//! A client replays what it got, items of tools that only OpenAI's servers run among them. Calls that have a result
//! stay calls; everything else is told in words. Only what a user shows and the model would not see is refused, and
//! what stands for something that is stored elsewhere.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    messages::{arguments_of, image_of, input_of},
    odd,
    tools::Names,
};
use crate::{
    body::{BodyError, Text},
    json::{self, kind_of, read_object},
    ollama::chat::{Function, Message, ToolCall},
};

#[derive(Default, Deserialize)]
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
    input: Option<&'a RawValue>,
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

/// An item, as a message. Those that stand in one turn are put together later
/// ([`super::history`]).
pub(super) fn item<'a>(
    at: usize,
    raw: &'a RawValue,
    names: &Names,
    out: &mut Vec<Message<'a>>,
) -> Result<(), BodyError> {
    let must = |field: &str, must: &str| BodyError::invalid(format!("input[{at}]{field}"), must);
    let item = Item::read(raw).ok_or_else(|| must("", "an item"))?;
    let kind = item.kind.as_ref().map_or("message", |Text(kind)| kind);
    match kind {
        "message" => out.push(message(at, item)?),
        "function_call" => {
            let name = item.name.ok_or_else(|| must(".name", "a string"))?.0;
            let namespace = item.namespace.as_ref().map(|Text(namespace)| &**namespace);
            let name = names.upstream(namespace, name);
            out.push(called(item.call_id, name, arguments_of(item.arguments)));
        }
        "custom_tool_call" => {
            let name = item.name.ok_or_else(|| must(".name", "a string"))?.0;
            let namespace = item.namespace.as_ref().map(|Text(namespace)| &**namespace);
            let input = item.input.map(RawValue::get).unwrap_or_default();
            let input = json::text_of(input).unwrap_or(Cow::Borrowed(input));
            out.push(called(item.call_id, names.upstream(namespace, name), input_of(&input)));
        }
        "local_shell_call" | "shell_call" | "computer_call" | "apply_patch_call"
        | "tool_search_call" => out.push(built_in(item, names)),
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
            out.push(output(at, item, raw)?);
        }
        // They say nothing to a model; the tools of the first are read with the others.
        "additional_tools"
        | "mcp_list_tools"
        | "mcp_approval_request"
        | "mcp_approval_response"
        | "configuration_update" => {}
        _ if kind.starts_with("input_") => {
            let why = "A part stands in the `content` of a message.";
            return Err(BodyError::unsupported(format!("input[{at}].type"), why));
        }
        _ => out.push(Message::text("assistant", odd::told(kind, &odd::words(raw.get())))),
    }
    Ok(())
}

/// A message, of whoever says it.
fn message<'a>(at: usize, item: Item<'a>) -> Result<Message<'a>, BodyError> {
    let must = |field: &str, must: &str| BodyError::invalid(format!("input[{at}]{field}"), must);
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
    Ok(message)
}

/// A call of a tool that has a type of its own: each has another name for what it is to do.
fn built_in<'a>(item: Item<'a>, names: &Names) -> Message<'a> {
    let kind = item.kind.map(|Text(kind)| kind).unwrap_or_default();
    let asked = item.action.or(item.operation).or(item.actions).or(item.arguments);
    let name = Cow::Owned(kind.trim_end_matches("_call").to_owned());
    called(item.call_id.or(item.id), names.upstream(None, name), arguments_of(asked))
}

/// What a tool gave back.
fn output<'a>(at: usize, item: Item<'a>, raw: &'a RawValue) -> Result<Message<'a>, BodyError> {
    let kind = item.kind.map(|Text(kind)| kind).unwrap_or_default();
    let mut result = Message::text("tool", "");
    let place = Place { field: format!("input[{at}].output"), role: "tool" };
    match item.output {
        Some(output) => place.output(output, &mut result)?,
        None => {
            // The tools that were found, or how it went.
            let name = if kind == "tool_search_output" { "name" } else { "status" };
            result.content = odd::told(&kind, &odd::words_under(raw.get(), &[name])).into();
        }
    }
    let is_own = kind == "local_shell_call_output";
    let id = item.call_id.or(item.id.filter(|_| is_own)).map(|Text(id)| id);
    Ok(Message { tool_call_id: id, ..result })
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

// === impl Item ===

impl<'a> Item<'a> {
    /// Reads one. Of one whose fields are of other types than those of the known kinds only its kind is read.
    fn read(raw: &'a RawValue) -> Option<Self> {
        read_object(raw.get()).or_else(|| {
            let kind = kind_of(raw)?;
            Some(Self { kind: Some(kind), ..Self::default() })
        })
    }
}

/// Where parts stand, and who says them.
struct Place {
    field: String,
    role: &'static str,
}

// === impl Place ===

impl Place {
    /// Whether the client asks by it: what it shows must be seen.
    fn is_asked(&self) -> bool {
        matches!(self.role, "user" | "system")
    }

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
            match read_object::<Part<'a>>(raw.get()) {
                Some(part) => self.part(at, part, raw, &mut texts, message)?,
                None if self.is_asked() => return Err(must()),
                None => texts.push(odd::words(raw.get()).into()),
            }
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
            "input_text" | "output_text" | "text" if part.text.is_some() || self.is_asked() => {
                texts.push(text(part.text)?);
            }
            "refusal" => texts.push(text(part.refusal)?),
            "input_image" | "computer_screenshot" if let Some(Text(uri)) = part.image_url => {
                match image_of(&format!("{field}.image_url"), uri) {
                    Ok(image) => message.images.push(image),
                    Err(error) if self.is_asked() => return Err(error),
                    Err(_) => texts.push(odd::told(&kind, "").into()),
                }
            }
            // What a user shows must be seen; what a model or a tool gave once is told.
            _ if self.is_asked() => {
                let why = "A part is `input_text`, `output_text` or `input_image`.";
                return Err(BodyError::unsupported(format!("{field}.type"), why));
            }
            kind => texts.push(odd::told(kind, &odd::words(raw.get())).into()),
        }
        Ok(())
    }
}
