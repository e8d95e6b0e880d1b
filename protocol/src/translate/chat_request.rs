//! A request to `/v1/chat/completions`, read.
//!
//! What the client did not say is not sent: Ollama's own front fills in a temperature and a `top_p`
//! of 1.0, so that the values of the Modelfile never apply through it. What cannot be brought about
//! is refused rather than dropped, because the client would take the reply for what it asked for. Which other
//! fields may stand there, [`crate::strangers`] says.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::messages::messages;
use crate::{
    anthropic::Switch,
    body::{BodyError, Fields, Text},
    json::read_object,
    ollama::chat::{Body, Choice, Format, Options, Schema, Think},
    openai::chat::{
        AllowedTools, Reasoning, ResponseFormat, StreamOptions, Tool, ToolChoice, texts,
    },
    strangers,
};

/// The fields of a request to `/v1/chat/completions` that matter; those that are seldom there come last.
pub(crate) const FIELDS: [&str; 38] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "n",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning",
    "reasoning_effort",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "functions",
    "function_call",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
    "verbosity",
    "moderation",
    "documents",
    "enable_thinking",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repetition_penalty",
    "repeat_last_n",
];

/// Where those begin that are seldom there.
pub(crate) const SELDOM: usize = 21;

/// What Ollama cannot be asked for.
const UNSUPPORTED: [&str; 8] = [
    "logit_bias",
    "functions",
    "function_call",
    "audio",
    "prediction",
    "web_search_options",
    "moderation",
    "documents",
];

/// The most alternatives for a token that Ollama tells of.
const TOP_LOGPROBS_MAX: i64 = 20;

pub(crate) type Given<'a> = Fields<'a, { FIELDS.len() }>;

/// Whether the client wants the usage at the end of the stream.
pub(super) fn include_usage<const N: usize>(given: &Fields<'_, N>) -> Result<bool, BodyError> {
    let Some(raw) = given.get("stream_options") else { return Ok(false) };
    let options: Option<StreamOptions> = read_object(raw.get());
    let options = options.ok_or_else(|| given.must("stream_options", "an object"))?;
    Ok(options.include_usage.unwrap_or(false))
}

/// There is one choice, or none is named.
pub(super) fn one_choice<const N: usize>(given: &Fields<'_, N>) -> Result<(), BodyError> {
    if given.get("n").is_some() && given.integer("n")? != Some(1) {
        return Err(BodyError::unsupported("n", "Only one choice is made for a request."));
    }
    Ok(())
}

/// The most tokens that the reply may have, where the client says so.
pub(super) fn tokens_max(given: &Given<'_>) -> Result<Option<u64>, BodyError> {
    let older = given.most("max_tokens")?;
    let said = given.most("max_completion_tokens")?.or(older);
    // `None` is less than any number.
    Ok(said.max(strangers::most(given)?))
}

/// Reads all of it.
///
/// # Errors
/// Where something is not as OpenAI's API has it, or cannot be had of Ollama.
pub(super) fn body<'a>(given: &Given<'a>) -> Result<Body<'a>, BodyError> {
    if given.has_from(SELDOM) {
        check(given)?;
    }
    Ok(Body {
        format: format(given)?,
        tools: tools(given)?,
        choice: choice(given.get("tool_choice"))?,
        think: think(given)?,
        logprobs: given.flag("logprobs")?,
        top_logprobs: top_logprobs(given)?,
        options: options(given, SELDOM, tokens_max(given)?)?,
        ..Body::new(messages(given.get("messages"))?, given.flag("stream")?.unwrap_or(false))
    })
}

/// Refuses what cannot be had.
fn check(given: &Given<'_>) -> Result<(), BodyError> {
    for name in UNSUPPORTED {
        let asks = |raw: &&RawValue| !matches!(raw.get(), "{}" | "[]");
        if given.get(name).filter(asks).is_some() {
            return Err(BodyError::unsupported(name, "The model server has nothing like it."));
        }
    }
    let modalities: Option<Vec<Text<'_>>> = given.read("modalities", "a list of strings")?;
    if modalities.unwrap_or_default().iter().any(|Text(one)| one != "text") {
        return Err(BodyError::unsupported("modalities", "A reply is text."));
    }
    Ok(())
}

/// How the reply is drawn, in the words of OpenAI's API and of the servers that speak it. `seldom`: where the fields
/// begin that are seldom there.
pub(super) fn options<'a, const N: usize>(
    given: &Fields<'a, N>,
    seldom: usize,
    tokens_max: Option<u64>,
) -> Result<Options<'a>, BodyError> {
    let mut options = Options {
        num_predict: tokens_max,
        temperature: given.number("temperature")?,
        top_p: given.number("top_p")?,
        seed: given.integer("seed")?,
        frequency_penalty: given.number("frequency_penalty")?,
        presence_penalty: given.number("presence_penalty")?,
        stop: stop(given)?,
        ..Options::default()
    };
    if given.has_from(seldom) {
        options.top_k = given.integer("top_k")?;
        options.min_p = given.number("min_p")?;
        options.typical_p = given.number("typical_p")?;
        // vLLM's and SGLang's word comes after llama.cpp's, which is Ollama's.
        let penalty = given.number("repeat_penalty")?;
        options.repeat_penalty = penalty.or(given.number("repetition_penalty")?);
        options.repeat_last_n = given.integer("repeat_last_n")?;
    }
    Ok(options)
}

/// The words at which a reply ends.
pub(super) fn stop<'a, const N: usize>(
    given: &Fields<'a, N>,
) -> Result<Vec<Cow<'a, str>>, BodyError> {
    let Some(raw) = given.get("stop") else { return Ok(Vec::new()) };
    let mut words =
        texts(raw).ok_or_else(|| given.must("stop", "a string or a list of strings"))?;
    words.retain(|word| !word.is_empty());
    Ok(words)
}

/// The words of a list. An empty one is no word: Ollama would end the reply at once.
pub(super) fn stops(list: Vec<Text<'_>>) -> Vec<Cow<'_, str>> {
    list.into_iter().map(|Text(word)| word).filter(|word| !word.is_empty()).collect()
}

/// What a reply is to be.
pub(super) enum Wanted<'a> {
    Text,
    Object,
    Schema(&'a RawValue),
    /// A schema in the place where llama.cpp has it.
    SchemaOutside(&'a RawValue),
    /// Something else.
    Other,
}

/// What a `response_format` asks for. Beside OpenAI's shape that of llama.cpp is read, which has the schema next to
/// the type (<https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>): servers that do not know
/// it would answer in prose.
pub(super) fn wanted(raw: &RawValue) -> Result<Wanted<'_>, BodyError> {
    let must = || BodyError::invalid("response_format", "an object with `type`");
    let format: ResponseFormat<'_> = read_object(raw.get()).ok_or_else(must)?;
    let inside = format.json_schema.and_then(|json_schema| json_schema.schema);
    let is_empty = inside.is_none() && format.schema.is_none();
    let Some(Text(kind)) = format.kind else {
        return if is_empty { Ok(Wanted::Text) } else { Err(must()) };
    };
    if inside.is_some() && format.schema.is_some() {
        let why = "The schema stands in `response_format.json_schema` already.";
        return Err(BodyError::unsupported("response_format.schema", why));
    }
    let object = |place: &str, schema: &RawValue| {
        let is_object = schema.get().starts_with('{');
        if is_object { Ok(()) } else { Err(BodyError::invalid(place, "an object")) }
    };
    match (&*kind, inside, format.schema) {
        ("text", ..) => Ok(Wanted::Text),
        ("json_schema", Some(schema), _) => {
            object("response_format.json_schema.schema", schema)?;
            Ok(Wanted::Schema(schema))
        }
        ("json_schema" | "json_object", _, Some(schema)) => {
            object("response_format.schema", schema)?;
            let is_any = kind == "json_object" && schema.get()[1..].trim_start().starts_with('}');
            Ok(if is_any { Wanted::Object } else { Wanted::SchemaOutside(schema) })
        }
        ("json_schema", None, None) => {
            let must = "an object with a `schema`";
            Err(BodyError::invalid("response_format.json_schema", must))
        }
        ("json_object", ..) => Ok(Wanted::Object),
        _ => Ok(Wanted::Other),
    }
}

fn format<'a>(given: &Given<'a>) -> Result<Option<Format<'a>>, BodyError> {
    let Some(raw) = given.get("response_format") else { return Ok(None) };
    match wanted(raw)? {
        Wanted::Text => Ok(None),
        Wanted::Object => Ok(Some(Format::Word("json"))),
        Wanted::Schema(schema) | Wanted::SchemaOutside(schema) => {
            Ok(Some(Format::Schema(Schema::new(schema))))
        }
        Wanted::Other => Err(BodyError::unsupported(
            "response_format.type",
            "The format of a response is `text`, `json_object` or `json_schema`.",
        )),
    }
}

/// The tools, which pass as they stand.
fn tools<'a>(given: &Given<'a>) -> Result<Option<Cow<'a, RawValue>>, BodyError> {
    let Some(raw) = given.get("tools") else { return Ok(None) };
    let tools: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| given.must("tools", "a list of tools"))?;
    for (at, tool) in tools.iter().enumerate() {
        let must = || given.must(&format!("tools[{at}]"), "a function with a name");
        let tool: Tool<'_> = read_object(tool.get()).ok_or_else(must)?;
        let Some(Text(kind)) = tool.kind else { return Err(must()) };
        if kind != "function" {
            let field = format!("tools[{at}].type");
            return Err(BodyError::unsupported(field, "A tool must be a `function`."));
        }
        if tool.function.is_none_or(|function| function.name.0.is_empty()) {
            return Err(must());
        }
    }
    Ok((!tools.is_empty()).then_some(Cow::Borrowed(raw)))
}

/// A function of another dialect, in the shape of the chat's.
#[derive(Serialize)]
pub(super) struct Function<'a> {
    pub(super) name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<Cow<'a, str>>,
    /// The schema of its parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameters: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) strict: Option<bool>,
}

/// Tools of another dialect, in the shape of the chat's.
///
/// # Errors
/// None that a client could cause.
pub(super) fn functions(
    tools: Vec<Function<'_>>,
) -> Result<Option<Cow<'static, RawValue>>, BodyError> {
    #[derive(Serialize)]
    struct Tool<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        function: Function<'a>,
    }
    if tools.is_empty() {
        return Ok(None);
    }
    let tools = tools.into_iter().map(|function| Tool { kind: "function", function });
    let raw = serde_json::value::to_raw_value(&tools.collect::<Vec<_>>());
    raw.map(|raw| Some(Cow::Owned(raw))).map_err(|_| BodyError::internal())
}

fn not_called() -> BodyError {
    let why = "A tool that is to be called is a `function`.";
    BodyError::unsupported("tool_choice.type", why)
}

/// Which tools are to be called: a word, the name of a function, or the names of those that may be.
pub(super) fn choice<'a>(raw: Option<&'a RawValue>) -> Result<Choice<'a>, BodyError> {
    let Some(raw) = raw else { return Ok(Choice::Auto) };
    let must = || BodyError::invalid("tool_choice", "`auto`, `none`, `required` or a function");
    match raw.get() {
        "\"auto\"" => return Ok(Choice::Auto),
        "\"none\"" => return Ok(Choice::Never),
        "\"required\"" => return Ok(Choice::Required),
        _ => {}
    }
    let named: ToolChoice<'a> = read_object(raw.get()).ok_or_else(must)?;
    match named.kind.as_ref().map(|Text(kind)| &**kind) {
        None if raw.get().as_bytes()[1..].trim_ascii_start() == b"}" => Ok(Choice::Auto),
        // The newer API has the name beside the type.
        Some("custom") if named.custom.is_some() => Err(not_called()),
        None | Some("function" | "custom") => {
            let name = named.function.map(|function| function.name).or(named.name);
            Ok(Choice::Named(name.ok_or_else(must)?.0))
        }
        Some("auto") => Ok(Choice::Auto),
        Some("none") => Ok(Choice::Never),
        Some("required") => Ok(Choice::Required),
        Some("allowed_tools") => {
            let beside = AllowedTools { mode: named.mode, tools: named.tools };
            allowed(named.allowed_tools.unwrap_or(beside))
        }
        Some(_) => Err(not_called()),
    }
}

/// The tools that may be called.
fn allowed(allowed: AllowedTools<'_>) -> Result<Choice<'_>, BodyError> {
    let is_required = match allowed.mode.as_ref().map(|Text(mode)| &**mode) {
        None | Some("auto") => false,
        Some("required") => true,
        Some(_) => return Err(BodyError::invalid("tool_choice.mode", "`auto` or `required`")),
    };
    let must = || BodyError::invalid("tool_choice.tools", "a list of functions with names");
    let mut names = Vec::new();
    for raw in allowed.tools.ok_or_else(must)? {
        let tool: ToolChoice<'_> = read_object(raw.get()).ok_or_else(must)?;
        let name = tool.function.map(|function| function.name).or(tool.name);
        names.push(name.ok_or_else(must)?.0);
    }
    Ok(Choice::Among { names, is_required })
}

/// Those tools alone that may be called.
///
/// # Errors
/// Where one that may be called is not there.
pub(super) fn among<'a>(
    tools: Option<&RawValue>,
    names: &[Cow<'_, str>],
) -> Result<Option<Cow<'a, RawValue>>, BodyError> {
    let tools: Vec<&RawValue> = match tools {
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| BodyError::internal())?,
        None => Vec::new(),
    };
    let name = |raw: &&RawValue| {
        let tool: Option<Tool<'_>> = read_object(raw.get());
        tool.and_then(|tool| tool.function).map(|function| function.name.0.into_owned())
    };
    let named: Vec<_> = tools.iter().map(name).collect();
    let is_there = |wanted: &Cow<'_, str>| named.iter().flatten().any(|name| name == wanted);
    if !names.iter().all(is_there) {
        return Err(BodyError::invalid("tool_choice.tools", "among the `tools`"));
    }
    let is_allowed = |name: &Option<String>| {
        name.as_ref().is_some_and(|name| names.contains(&Cow::Borrowed(name)))
    };
    let kept: Vec<_> =
        tools.iter().zip(&named).filter(|(_, name)| is_allowed(name)).map(|(raw, _)| raw).collect();
    if kept.is_empty() {
        return Ok(None);
    }
    let raw = serde_json::value::to_raw_value(&kept).map_err(|_| BodyError::internal())?;
    Ok(Some(Cow::Owned(raw)))
}

fn think(given: &Given<'_>) -> Result<Option<Think>, BodyError> {
    let (effort, switch) = reasoning(given)?;
    if let Some(effort) = effort {
        return level("reasoning.effort", &effort).map(Some);
    }
    if let Some(effort) = given.string("reasoning_effort")? {
        return level("reasoning_effort", &effort).map(Some);
    }
    let mut switch = switch;
    if given.has_from(SELDOM) {
        switch = switch.or(given.flag("enable_thinking")?);
    }
    if !given.strangers().is_empty() {
        switch = switch.or(switched(given));
    }
    Ok(switch.map(Think::Switch))
}

/// How much is to be thought, and whether at all.
///
/// # Errors
/// Where something is asked for that no model server does.
pub(super) fn reasoning<'a, const N: usize>(
    given: &Fields<'a, N>,
) -> Result<(Option<Cow<'a, str>>, Option<bool>), BodyError> {
    let Some(raw) = given.get("reasoning") else { return Ok((None, None)) };
    let must = || given.must("reasoning", "an object");
    let reasoning: Reasoning<'a> = read_object(raw.get()).ok_or_else(must)?;
    if reasoning.mode.is_some_and(|Text(mode)| mode != "standard") {
        let why = "The model server has one mode of reasoning.";
        return Err(BodyError::unsupported("reasoning.mode", why));
    }
    if reasoning.exclude == Some(true) {
        return Err(BodyError::unsupported("reasoning.exclude", "What is thought is told."));
    }
    Ok((reasoning.effort.map(|Text(effort)| effort), reasoning.enabled))
}

/// Whether to think, as DeepSeek (`thinking`) and the templates of vLLM, SGLang and llama.cpp are told
/// (`chat_template_kwargs`).
fn switched(given: &Given<'_>) -> Option<bool> {
    #[derive(Deserialize)]
    struct Template {
        enable_thinking: Option<bool>,
        thinking: Option<bool>,
    }
    let kind = given.get("thinking").and_then(|raw| read_object::<Switch<'_>>(raw.get()));
    let kind = kind.and_then(|switch| switch.kind);
    let of_kind = kind.and_then(|Text(kind)| match &*kind {
        "disabled" => Some(false),
        "enabled" | "adaptive" => Some(true),
        _ => None,
    });
    let template = given.get("chat_template_kwargs");
    let template = template.and_then(|raw| read_object::<Template>(raw.get()));
    of_kind.or(template.and_then(|template| template.enable_thinking.or(template.thinking)))
}

/// An effort as Ollama's switch or level.
pub(super) fn level(field: &str, effort: &str) -> Result<Think, BodyError> {
    Ok(match effort {
        "none" => Think::Switch(false),
        "minimal" | "low" => Think::Level("low"),
        "medium" => Think::Level("medium"),
        "high" => Think::Level("high"),
        "xhigh" | "ultra" | "max" => Think::Level("max"),
        _ => {
            let must = "`none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`";
            return Err(BodyError::invalid(field, must));
        }
    })
}

fn top_logprobs(given: &Given<'_>) -> Result<Option<i64>, BodyError> {
    let number = given.integer("top_logprobs")?;
    if number.is_some_and(|number| !(0..=TOP_LOGPROBS_MAX).contains(&number)) {
        return Err(given.must("top_logprobs", "a whole number from 0 to 20"));
    }
    Ok(number)
}

#[cfg(test)]
mod tests;
