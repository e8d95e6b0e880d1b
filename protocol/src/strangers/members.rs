//! The members that the objects of a request may have, where what is read of them, or passes, is known.

use std::borrow::Cow;

use super::not_listed;
use crate::{
    body::{BodyError, Fields},
    json::Cursor,
    levers::{Levers, LoadOptions},
};

/// What a member of an object may be.
#[derive(Clone, Copy)]
pub(super) enum Holds {
    /// No object and no list.
    Plain,
    Anything,
    /// An object with these members.
    Object(&'static [Member]),
}

/// A member that may be used.
pub(super) type Member = (&'static str, Holds);

/// Members that are no objects and no lists.
macro_rules! plain {
    ($($name:literal),* $(; $($more:expr),* $(,)?)?) => {
        &[$(($name, Holds::Plain)),* $(, $($more),*)?]
    };
}

/// Objects of which only these members may be used.
pub(super) const MEMBERS: [(&str, &[Member]); 9] = [
    ("stream_options", plain!["include_usage", "include_obfuscation", "continuous_usage_stats"]),
    (
        "reasoning",
        plain!["effort", "summary", "generate_summary", "context", "mode", "exclude", "enabled"],
    ),
    (
        "thinking",
        plain!["type", "budget_tokens", "clear_thinking", "display"; ("block_binding", Holds::Anything)],
    ),
    (
        "chat_template_kwargs",
        plain![
            "enable_thinking",
            "thinking",
            "reasoning_effort",
            "thinking_budget",
            "preserve_thinking",
            "clear_thinking"
        ],
    ),
    ("response_format", RESPONSE_FORMAT),
    ("text", plain!["verbosity"; ("format", Holds::Object(FORMAT))]),
    (
        "output_config",
        plain!["effort"; ("format", Holds::Object(FORMAT)), ("task_budget", Holds::Anything)],
    ),
    ("output_format", FORMAT),
    ("tool_choice", TOOL_CHOICE),
];

/// Those of them that may stand in a body that passes to a server of OpenAI's dialect, though its dialect has them
/// not.
pub(super) const OBJECTS_ELSEWHERE: [&str; 3] = ["reasoning", "thinking", "chat_template_kwargs"];

const FORMAT: &[Member] =
    plain!["type", "name", "description", "strict"; ("schema", Holds::Anything)];

/// OpenAI's; and, of the types that only other servers know, vLLM's, SGLang's and TGI's.
const RESPONSE_FORMAT: &[Member] = plain![
    "type", "grammar", "pattern";
    ("json_schema", Holds::Object(FORMAT)),
    ("schema", Holds::Anything),
    ("format", Holds::Anything),
    ("structures", Holds::Anything),
    ("triggers", Holds::Anything),
    ("value", Holds::Anything),
];

const TOOL_CHOICE: &[Member] = plain![
    "type", "name", "mode", "namespace", "server_label", "disable_parallel_tool_use";
    ("function", Holds::Object(plain!["name"])),
    ("custom", Holds::Object(plain!["name"])),
    ("allowed_tools", Holds::Object(plain!["mode"; ("tools", Holds::Anything)])),
    ("tools", Holds::Anything),
];

/// The members of a function of the client's own, in the dialects whose tools do not pass: Anthropic's, and the
/// newer one of OpenAI.
const TOOL: [&str; 17] = [
    "type",
    "name",
    "description",
    "parameters",
    "input_schema",
    "strict",
    "cache_control",
    "defer_loading",
    "eager_input_streaming",
    "input_examples",
    "allowed_callers",
    "output_schema",
    "async",
    "format",
    "tools",
    "function",
    "custom",
];

/// That the client's own functions have members only that are known.
///
/// # Errors
/// `unsupported_parameter`, with the place of the member that is not.
pub(crate) fn check_tools<const N: usize>(
    given: &Fields<'_, N>,
    levers: &Levers,
) -> Result<(), BodyError> {
    let tools = given.get("tools").filter(|_| levers.options == LoadOptions::Safe);
    let Some(tools) = tools else { return Ok(()) };
    let mut refused = None;
    Cursor::new(tools.get()).items(|cursor, at| {
        let (mut stranger, mut is_function) = (None, true);
        cursor.members(|cursor, name| {
            let value = cursor.value();
            if name == "type" {
                is_function = matches!(value, "null" | "\"function\"" | "\"custom\"");
            } else if value != "null" && !TOOL.contains(&&*name) {
                stranger.get_or_insert(name);
            }
        });
        if let Some(name) = stranger.filter(|_| is_function && refused.is_none()) {
            refused = Some(format!("tools[{at}].{name}"));
        }
    });
    refused.map_or(Ok(()), |place| Err(not_listed(&place)))
}

/// The first member of an object that is not among `members`, or not what it may be.
pub(super) fn unlisted<'a>(object: &'a str, members: &[Member]) -> Option<Cow<'a, str>> {
    let mut found = None;
    Cursor::new(object).members(|cursor, name| {
        let value = cursor.value();
        let stranger = match members.iter().find(|(member, _)| *member == name) {
            Some((_, Holds::Anything)) => None,
            Some((_, Holds::Object(members))) if value.starts_with('{') => {
                unlisted(value, members).map(|inner| format!("{name}.{inner}").into())
            }
            Some(_) if !value.starts_with(['{', '[']) => None,
            None if value == "null" => None,
            _ => Some(name),
        };
        if found.is_none() {
            found = stranger;
        }
    });
    found
}
