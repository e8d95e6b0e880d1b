//! A request for an answer, in one form for all surfaces.
//!
//! Reading is strict where Ollama is strict: a gateway that translates wrongly gets the refusal
//! that the real server would give.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::object::{self, Object};

pub(crate) mod native;
pub(crate) mod openai;

/// Which of its faces the server was asked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// `/api/chat`
    Chat,
    /// `/api/generate`
    Generate,
    /// `/v1/chat/completions`
    OpenAiChat { include_usage: bool },
    /// `/v1/completions`
    OpenAiCompletion { include_usage: bool },
}

/// What was asked.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) surface: Surface,
    /// The model as the client spelled it.
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// Words in all messages, which this server takes for tokens.
    pub(crate) prompt_tokens: u64,
    /// The last message, which is echoed and may hold magic words.
    pub(crate) last: String,
    /// A user wrote it: only then are tools called.
    pub(crate) last_is_user: bool,
    pub(crate) tools: Vec<Tool>,
    /// A JSON Schema, or null for any JSON.
    pub(crate) format: Option<Value>,
    pub(crate) think: Option<bool>,
    /// Chunks that the answer may have.
    pub(crate) limit: Option<usize>,
    /// The same, as llama.cpp also calls it in OpenAI's dialect.
    pub(crate) n_predict: Option<usize>,
    /// Nothing was said: the model is only to come or go.
    pub(crate) lifecycle: Option<Lifecycle>,
}

/// What a request without words does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// Load the model.
    Load,
    /// Unload it.
    Unload,
}

/// A tool that the model may call.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// The JSON Schema of its arguments.
    pub(crate) parameters: Value,
}

// === impl Surface ===

impl Surface {
    pub(crate) fn is_openai(self) -> bool {
        matches!(self, Self::OpenAiChat { .. } | Self::OpenAiCompletion { .. })
    }
}

// === impl Lifecycle ===

impl Lifecycle {
    /// The `done_reason` of its answer.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Unload => "unload",
        }
    }
}

/// Words, which stand for tokens.
pub(crate) fn words(text: &str) -> u64 {
    text.split_ascii_whitespace().count() as u64
}

/// A positive number of chunks; everything else means no limit.
fn limit(number: Option<i64>) -> Option<usize> {
    number.and_then(|number| usize::try_from(number).ok()).filter(|&limit| limit > 0)
}

fn tools(list: &[&RawValue]) -> Result<Vec<Tool>, Failure> {
    list.iter().map(|raw| tool(raw)).collect()
}

fn tool(raw: &RawValue) -> Result<Tool, Failure> {
    let outer = Object::from_raw("ChatRequest.tools", raw)?;
    let function = outer.object("function", "ChatRequest.tools.function")?;
    let Some(function) = function else {
        return Ok(Tool { name: String::new(), parameters: Value::Null });
    };
    let parameters = function.object("parameters", "ChatRequest.tools.function.parameters")?;
    if let Some(parameters) = parameters {
        properties_are_objects(&parameters)?;
    }
    let parameters = function.get("parameters").map(object::parse).transpose()?;
    Ok(Tool { name: function.string("name")?, parameters: parameters.unwrap_or_default() })
}

/// Ollama takes nothing but an object for a property, though JSON Schema allows `true`.
fn properties_are_objects(parameters: &Object<'_>) -> Result<(), Failure> {
    let at = "ChatRequest.tools.function.parameters.properties";
    let properties = parameters.object("properties", at)?;
    let Some(raw) = parameters.get("properties").filter(|_| properties.is_some()) else {
        return Ok(());
    };
    let by_name: serde_json::Map<String, Value> = object::parse(raw)?;
    match by_name.values().all(Value::is_object) {
        true => Ok(()),
        false => Err(Failure::bad_request(&format!(
            "json: cannot unmarshal value into Go struct field {at} of type api.ToolProperty"
        ))),
    }
}
