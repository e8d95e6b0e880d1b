//! A request to `/v1/responses`, read.
//!
//! Nothing is stored, so nothing that is stored can be gone on from: what a response is to know of an
//! earlier one stands in its `input`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    chat_request::{choice, functions, level, reasoning, stop},
    echo::Echo,
    response_items::item,
    tools::{self, Names},
};
use crate::{
    body::{BodyError, Fields, Text},
    json::read_object,
    ollama::chat::{Body, Choice, Format, Message, Options, Schema, Think},
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
    let (effort, switch) = reasoning(given)?;
    let think = effort.as_deref().map(|effort| level("reasoning.effort", effort)).transpose()?;
    let (format, verbosity) = format(given)?;
    Ok(Body {
        format,
        verbosity,
        // Ollama alone cuts a prompt that is too long without being asked to.
        truncate: is_word(given, "truncation", "disabled").then_some(false),
        choice: named(choice(given.get("tool_choice"))?, given.get("tool_choice"), &offered.names),
        tools: functions(offered.functions)?,
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
    let (tools, input) = (given.get("tools"), given.get("input"));
    if !tools::are_named(tools, input) {
        return echo;
    }
    // Who cannot read them is told so when the request is written.
    let names = tools::offered(tools, input).map(|offered| offered.names);
    echo.with_names(names.unwrap_or_default())
}

/// The choice, with tools by the names that the model server hears.
fn named<'a>(choice: Choice<'a>, raw: Option<&RawValue>, names: &Names) -> Choice<'a> {
    #[derive(Default, Deserialize)]
    struct Within<'a> {
        #[serde(borrow)]
        namespace: Option<Text<'a>>,
        #[serde(borrow)]
        tools: Option<Vec<Within<'a>>>,
    }
    let within: Option<Within<'_>> = raw.and_then(|raw| read_object(raw.get()));
    let within = within.unwrap_or_default();
    let upstream = |within: Option<&Within<'_>>, name| {
        let namespace = within.and_then(|within| within.namespace.as_ref());
        names.upstream(namespace.map(|Text(namespace)| &**namespace), name)
    };
    match choice {
        Choice::Named(name) => Choice::Named(upstream(Some(&within), name)),
        Choice::Among { names, is_required } => {
            let tools = within.tools.unwrap_or_default();
            let names = names.into_iter().enumerate();
            let names = names.map(|(at, name)| upstream(tools.get(at), name)).collect();
            Choice::Among { names, is_required }
        }
        Choice::Auto | Choice::Never | Choice::Required => choice,
    }
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
