//! The tools of a request to `/v1/responses`: as functions, which is all that model servers know, and by the names
//! that the client knows them by.
//!
//! - The functions of a `namespace` (Codex sends one for each MCP server) are functions with a joined name. A call of
//!   one is given back with the `name` and the `namespace` of the client, and so it is replayed.
//! - A `custom` tool takes one text: it is a function with one argument, `input`. A grammar for the text cannot be
//!   enforced, so the model is told it.
//! - The client's own `tool_search` is a function; what it finds is offered from then on.
//!
//! Tools that somebody else would have to run are refused.
//!
//! Source: <https://platform.openai.com/docs/api-reference/responses/create>.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use memchr::memmem;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::chat_request::Function;
use crate::{
    body::{BodyError, Text},
    caps,
    json::{Cursor, read_object},
};

/// The longest name of a function that OpenAI's API takes; its letters are `a-z`, `A-Z`, `0-9`, `_` and `-`.
const NAME_LENGTH_MAX: usize = 64;
/// The parameters of a function that takes one text.
const ONE_TEXT: &str =
    r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}"#;
const SEARCH: &str = "tool_search";
/// The items of a conversation that offer tools.
const OFFERING: [&str; 2] = ["additional_tools", "tool_search_output"];

/// The tools, as functions.
#[derive(Default)]
pub(super) struct Offered<'a> {
    pub(super) functions: Vec<Function<'a>>,
    pub(super) names: Names,
}

/// The tools that the client knows otherwise than the model server, by the names that this one hears.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Names(BTreeMap<String, Known>);

/// A tool as the client knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    kind: Kind,
    namespace: Option<String>,
    name: String,
}

/// What a call of a tool is, to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Function,
    Custom,
    Search,
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
    /// Those of a namespace.
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    format: Option<Grammar<'a>>,
    #[serde(borrow)]
    execution: Option<Text<'a>>,
    external_web_access: Option<bool>,
}

#[derive(Deserialize)]
struct Grammar<'a> {
    #[serde(borrow)]
    syntax: Option<Text<'a>>,
    #[serde(borrow)]
    definition: Option<Text<'a>>,
}

/// What reads the tools, one after another.
struct Reader<'a> {
    offered: Offered<'a>,
    /// The names that the model server hears.
    taken: HashSet<String>,
    /// The tools so far, as the client knows them.
    seen: HashSet<(String, String)>,
}

/// Reads the tools of a request, and those that its items offer.
///
/// # Errors
/// Where one of them is not as OpenAI's API has it, or cannot be run by the client.
pub(super) fn offered<'a>(
    tools: Option<&'a RawValue>,
    input: Option<&'a RawValue>,
) -> Result<Offered<'a>, BodyError> {
    let more = input.map(|input| offered_by_items(input.get())).unwrap_or_default();
    let mut reader =
        Reader { offered: Offered::default(), taken: HashSet::new(), seen: HashSet::new() };
    let mut lists = Vec::new();
    let own = tools.map(|tools| ("tools".to_owned(), tools.get()));
    for (place, raw) in own.into_iter().chain(more) {
        let must = || BodyError::invalid(&*place, "a list of tools");
        let list: Vec<&'a RawValue> = serde_json::from_str(raw).map_err(|_| must())?;
        lists.push((place, list));
    }
    // A function keeps its name: the others find theirs beside it.
    for tool in lists.iter().flat_map(|(_, list)| list) {
        let tool: Option<Tool<'_>> = read_object(tool.get());
        let plain = tool.filter(|tool| tool.kind.0 == "function").and_then(|tool| tool.name);
        reader.taken.extend(plain.map(|Text(name)| name.into_owned()));
    }
    for (place, list) in lists {
        for (at, raw) in list.into_iter().enumerate() {
            reader.tool(&format!("{place}[{at}]"), raw, None)?;
        }
    }
    Ok(reader.offered)
}

/// Whether there is a tool that the client knows otherwise than the model server.
pub(super) fn are_named(tools: Option<&RawValue>, input: Option<&RawValue>) -> bool {
    let mut is_one = false;
    Cursor::new(tools.map(RawValue::get).unwrap_or_default()).items(|cursor, _| {
        cursor.members(|cursor, key| {
            let value = cursor.value();
            is_one |= key == "type" && value != "\"function\"";
        });
    });
    is_one || input.is_some_and(|input| offers(input.get()))
}

fn offers(input: &str) -> bool {
    OFFERING.iter().any(|kind| memmem::find(input.as_bytes(), kind.as_bytes()).is_some())
}

/// The lists of tools in the items of a conversation, with their places.
fn offered_by_items(input: &str) -> Vec<(String, &str)> {
    let mut lists = Vec::new();
    if input.starts_with('[') && offers(input) {
        Cursor::new(input).items(|cursor, at| {
            let (mut is_one, mut tools) = (false, None);
            cursor.members(|cursor, key| {
                let value = cursor.value();
                match &*key {
                    "type" => is_one = OFFERING.contains(&value.trim_matches('"')),
                    "tools" => tools = Some(value),
                    _ => {}
                }
            });
            let list = tools.filter(|list| is_one && list.starts_with('['));
            lists.extend(list.map(|list| (format!("input[{at}].tools"), list)));
        });
    }
    lists
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn tool(
        &mut self,
        place: &str,
        raw: &'a RawValue,
        namespace: Option<&Tool<'a>>,
    ) -> Result<(), BodyError> {
        let must = || BodyError::invalid(place, "a tool with a name");
        let tool: Tool<'a> = read_object(raw.get()).ok_or_else(must)?;
        let is_client = tool.execution.as_ref().is_some_and(|Text(word)| word == "client");
        let kind = match &*tool.kind.0 {
            "function" => Kind::Function,
            "custom" => Kind::Custom,
            SEARCH if is_client && namespace.is_none() => Kind::Search,
            "namespace" if namespace.is_none() => {
                let list = tool.tools.ok_or_else(must)?;
                caps::list(place, list.get(), caps::TOOLS_MAX)?;
                let list: Vec<&'a RawValue> =
                    serde_json::from_str(list.get()).map_err(|_| must())?;
                for (at, raw) in list.into_iter().enumerate() {
                    self.tool(&format!("{place}.tools[{at}]"), raw, Some(&tool))?;
                }
                return Ok(());
            }
            // Codex sends it to everybody: an offer of what was found before, without access to anything.
            "web_search" if tool.external_web_access == Some(false) => return Ok(()),
            _ => {
                let why = "A tool must be one of the client's own: a `function`, a `custom` tool, or a \
                    `namespace` of them. (Codex: `web_search = \"disabled\"`.)";
                return Err(BodyError::unsupported(format!("{place}.type"), why));
            }
        };
        if self.offered.functions.len() == caps::TOOLS_MAX {
            return Err(caps::too_many("tools", caps::TOOLS_MAX));
        }
        self.offer(kind, tool, namespace).ok_or_else(must)
    }

    /// `None` where something of it is missing.
    fn offer(&mut self, kind: Kind, tool: Tool<'a>, namespace: Option<&Tool<'a>>) -> Option<()> {
        let within = match namespace {
            Some(namespace) => Some(namespace.name.as_ref().filter(|name| !name.0.is_empty())?),
            None => None,
        };
        let within = within.map(|Text(name)| &**name);
        let search = || (kind == Kind::Search).then_some(Text(SEARCH.into()));
        let Text(name) = tool.name.filter(|Text(name)| !name.is_empty()).or_else(search)?;
        if !self.seen.insert((within.unwrap_or_default().to_owned(), name.clone().into_owned())) {
            return Some(());
        }
        let mut description = tool.description.map(|Text(text)| text);
        if let Some(grammar) = tool.format.filter(|_| kind == Kind::Custom) {
            description = with_grammar(description.unwrap_or_default(), &grammar);
        }
        let of_all = || Some(namespace?.description.as_ref()?.0.clone());
        let one_text = || serde_json::from_str(ONE_TEXT).ok();
        let known = if kind == Kind::Function && within.is_none() {
            name
        } else {
            let known = joined(within, &name, |name| self.taken.contains(name));
            let namespace = within.map(str::to_owned);
            let own = Known { kind, namespace, name: name.into_owned() };
            self.offered.names.0.insert(known.clone(), own);
            self.taken.insert(known.clone());
            known.into()
        };
        self.offered.functions.push(Function {
            name: known,
            description: description.or_else(of_all),
            parameters: if kind == Kind::Custom { one_text() } else { tool.parameters },
            strict: tool.strict.filter(|_| kind == Kind::Function),
        });
        Some(())
    }
}

/// A description that says what the text must be.
fn with_grammar<'a>(description: Cow<'a, str>, grammar: &Grammar<'a>) -> Option<Cow<'a, str>> {
    let Some(Text(definition)) = &grammar.definition else { return Some(description) };
    let syntax = grammar.syntax.as_ref().map(|Text(syntax)| &**syntax).unwrap_or_default();
    let text =
        format!("{description}\n\n`input` must be as this {syntax} grammar says:\n{definition}");
    Some(text.trim_start().to_owned().into())
}

/// The name of a tool as one of a function, which nothing else has: the same for the same tool, so that a
/// conversation that is replayed reads the same.
fn joined(namespace: Option<&str>, name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let between = match namespace {
        None => "",
        Some(namespace) if namespace.ends_with('_') => "",
        Some(_) => "__",
    };
    let whole = format!("{}{between}{name}", namespace.unwrap_or_default());
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    let plain: String =
        whole.chars().map(|letter| if is_allowed(letter) { letter } else { '_' }).collect();
    if plain == whole && plain.len() <= NAME_LENGTH_MAX && !is_taken(&plain) {
        return plain;
    }
    let namespace = namespace.unwrap_or_default();
    let number = |salt: &u32| fingerprint(&format!("{namespace}\n{name}\n{salt}"));
    let mut names = (0..).map(|salt| {
        let end = format!("_{:08x}", number(&salt));
        let length = plain.len().min(NAME_LENGTH_MAX - end.len());
        format!("{}{end}", &plain[..length])
    });
    // There is one: the numbers are many more than the tools.
    names.find(|name| !is_taken(name)).unwrap_or(plain)
}

/// FNV-1a, which tells names apart and is the same everywhere.
fn fingerprint(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

// === impl Names ===

impl Names {
    /// The name that the model server hears, of a tool that the client knows.
    pub(super) fn upstream<'n>(&self, namespace: Option<&str>, name: Cow<'n, str>) -> Cow<'n, str> {
        let is_it = |known: &&Known| known.name == name && known.namespace.as_deref() == namespace;
        match self.0.iter().find(|(_, known)| is_it(known)) {
            Some((upstream, _)) => upstream.clone().into(),
            None if namespace.is_some() => joined(namespace, &name, |_| false).into(),
            None => name,
        }
    }

    /// What a call of that function is to the client.
    pub(super) fn kind(&self, function: &str) -> Kind {
        self.0.get(function).map_or(Kind::Function, |known| known.kind)
    }

    /// The name that the client knows.
    pub(super) fn client<'n>(&'n self, function: &'n str) -> &'n str {
        self.0.get(function).map_or(function, |known| &known.name)
    }

    /// Says in the client's item of a call how it is called, and with what. `None`: that is not told yet.
    pub(super) fn call(&self, function: &str, arguments: Option<&str>, item: &mut Value) {
        let text = arguments.unwrap_or_default();
        let kind = self.kind(function);
        if kind == Kind::Search {
            item["execution"] = "client".into();
            item["arguments"] = serde_json::from_str(text).unwrap_or_else(|_| json!({}));
            return;
        }
        item["name"] = self.client(function).into();
        let namespace = self.0.get(function).and_then(|known| known.namespace.as_deref());
        if let Some(namespace) = namespace {
            item["namespace"] = namespace.into();
        }
        if kind == Kind::Custom {
            item["input"] = arguments.map(input_of).unwrap_or_default().into();
        } else {
            item["arguments"] = text.into();
        }
    }
}

// === impl Kind ===

impl Kind {
    /// The type of the item that is a call of it.
    pub(super) fn item(self) -> &'static str {
        match self {
            Self::Function => "function_call",
            Self::Custom => "custom_tool_call",
            Self::Search => "tool_search_call",
        }
    }
}

/// The text that a custom tool is called with. A model that minds no schema may give the text itself.
pub(super) fn input_of(arguments: &str) -> String {
    let read: Option<Value> = serde_json::from_str(arguments).ok();
    let input = read.as_ref().and_then(|read| read.get("input")).and_then(Value::as_str);
    input.unwrap_or(arguments).to_owned()
}

#[cfg(test)]
mod tests;
