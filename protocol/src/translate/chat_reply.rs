//! A whole native reply → `chat.completion`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::usage::Usage;

/// What the upstream does not know of a reply.
#[derive(Clone, Debug)]
pub struct ReplyMeta {
    /// `chatcmpl-…`, unique.
    pub id: String,
    /// Seconds since 1970.
    pub created: i64,
    /// The model, as the client spelled it.
    pub model: String,
}

/// What came is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's reply cannot be understood")]
pub struct ReplyError;

/// A native reply, or a line of a streamed one.
#[derive(Deserialize)]
pub(super) struct NativeReply<'a> {
    #[serde(borrow)]
    pub(super) message: Option<NativeMessage<'a>>,
    #[serde(default)]
    pub(super) done: bool,
    #[serde(borrow)]
    pub(super) done_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) logprobs: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) prompt_eval_count: u64,
    #[serde(default)]
    pub(super) eval_count: u64,
}

#[derive(Default, Deserialize)]
pub(super) struct NativeMessage<'a> {
    #[serde(borrow, default)]
    pub(super) content: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) thinking: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Vec<NativeCall<'a>>,
}

#[derive(Deserialize)]
pub(super) struct NativeCall<'a> {
    pub(super) id: Option<String>,
    #[serde(borrow)]
    pub(super) function: NativeFunction<'a>,
}

#[derive(Deserialize)]
pub(super) struct NativeFunction<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
}

/// A tool call, as OpenAI writes it.
#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    index: usize,
    id: Cow<'a, str>,
    r#type: &'static str,
    function: ToolFunction<'a>,
}

#[derive(Serialize)]
struct ToolFunction<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Serialize)]
pub(super) struct Logprobs<'a> {
    pub(super) content: &'a RawValue,
}

#[derive(Serialize)]
pub(super) struct UsageBody {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: [Choice<'a>; 1],
    usage: UsageBody,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    message: Message<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

/// What OpenAI calls the build that answered; Ollama writes the same.
pub(super) const FINGERPRINT: &str = "fp_ollama";

/// Translates a whole reply. Thinking goes out as `reasoning` (Ollama's and OpenRouter's word) and as
/// `reasoning_content` (vLLM's and DeepSeek's): clients read the one or the other.
///
/// # Errors
/// [`ReplyError`] where it is no reply, or an error.
pub fn chat_reply(native: &[u8], meta: &ReplyMeta) -> Result<(Vec<u8>, Usage), ReplyError> {
    let reply: NativeReply<'_> = serde_json::from_slice(native).map_err(|_| ReplyError)?;
    if reply.error.is_some() {
        return Err(ReplyError);
    }
    let message = reply.message.ok_or(ReplyError)?;
    let usage =
        Usage { prompt: reply.prompt_eval_count, completion: reply.eval_count, estimated: false };
    let tool_calls: Vec<_> = message
        .tool_calls
        .iter()
        .enumerate()
        .map(|(index, call)| ToolCall::new(call, index, &meta.id))
        .collect();
    let finish_reason = finish_reason(reply.done_reason.as_deref(), !tool_calls.is_empty());
    let completion = Completion {
        id: &meta.id,
        object: "chat.completion",
        created: meta.created,
        model: &meta.model,
        system_fingerprint: FINGERPRINT,
        choices: [Choice {
            index: 0,
            message: Message {
                role: "assistant",
                content: &message.content,
                reasoning: &message.thinking,
                reasoning_content: &message.thinking,
                tool_calls,
            },
            logprobs: reply.logprobs.map(|content| Logprobs { content }),
            finish_reason,
        }],
        usage: usage.into(),
    };
    Ok((serde_json::to_vec(&completion).map_err(|_| ReplyError)?, usage))
}

/// OpenAI's word for why a reply ended.
pub(super) fn finish_reason(done_reason: Option<&str>, called: bool) -> &'static str {
    match done_reason {
        Some("length") => "length",
        _ if called => "tool_calls",
        _ => "stop",
    }
}

// === impl ToolCall ===

impl<'a> ToolCall<'a> {
    /// `index` counts the calls of the whole reply; an id that is missing is made from the reply's.
    pub(super) fn new(call: &'a NativeCall<'a>, index: usize, reply_id: &str) -> Self {
        let id = match &call.id {
            Some(id) if !id.is_empty() => Cow::Borrowed(id.as_str()),
            _ => Cow::Owned(format!("call_{}_{index}", reply_id.trim_start_matches("chatcmpl-"))),
        };
        let arguments = call.function.arguments.map_or("{}", RawValue::get);
        let arguments = if arguments == "null" { "{}" } else { arguments };
        let function = ToolFunction { name: &call.function.name, arguments };
        Self { index, id, r#type: "function", function }
    }
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            total_tokens: usage.total(),
        }
    }
}
