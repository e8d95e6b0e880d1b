//! Anthropic's dialect: a request to `/v1/messages`, borrowed from its body.
//!
//! Source: <https://docs.anthropic.com/en/api/messages>.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    body::Text,
    json::{kind_of, read_object},
};

/// The fields of a request that matter.
pub(crate) const FIELDS: [&str; 19] = [
    "model",
    "messages",
    "system",
    "max_tokens",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "tools",
    "tool_choice",
    "thinking",
    "container",
    "mcp_servers",
    "output_config",
    "output_format",
    "compaction",
    "fallbacks",
    "thread",
];

#[derive(Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) role: Text<'a>,
    #[serde(borrow)]
    pub(crate) content: Option<&'a RawValue>,
}

/// A piece of a message's content, or of a tool's result.
#[derive(Default, Deserialize)]
pub(crate) struct Block<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow)]
    pub(crate) text: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) thinking: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) source: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) input: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) tool_use_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) tool_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) title: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) context: Option<Text<'a>>,
    pub(crate) is_error: Option<bool>,
    #[serde(borrow)]
    pub(crate) content: Option<&'a RawValue>,
}

/// Where an image or a document is.
#[derive(Deserialize)]
pub(crate) struct Source<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow)]
    pub(crate) data: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) description: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) input_schema: Option<&'a RawValue>,
    pub(crate) strict: Option<bool>,
}

/// What a reply must be, and how much is thought for it.
#[derive(Default, Deserialize)]
pub(crate) struct OutputConfig<'a> {
    #[serde(borrow)]
    pub(crate) effort: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) format: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) task_budget: Option<&'a RawValue>,
}

/// The format of a reply.
#[derive(Deserialize)]
pub(crate) struct OutputFormat<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) schema: Option<&'a RawValue>,
}

/// A word, and what belongs to it (`tool_choice`, `thinking`).
#[derive(Deserialize)]
pub(crate) struct Switch<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    pub(crate) disable_parallel_tool_use: Option<bool>,
}

// === impl Block ===

impl<'a> Block<'a> {
    /// Reads one. Of one whose fields are of other types than those of the known kinds only its kind is read.
    pub(crate) fn read(raw: &'a RawValue) -> Option<Self> {
        read_object(raw.get()).or_else(|| {
            let kind = kind_of(raw)?;
            Some(Self { kind, ..Self::default() })
        })
    }
}
