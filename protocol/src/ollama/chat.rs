//! A chat, as it is written for an upstream that speaks Ollama's dialect. All dialects are read into it;
//! for one that speaks OpenAI's, [`crate::openai::write`] writes it.
//!
//! Only what is set is written: a temperature that the client did not give must not be sent, because
//! it would override the one in the Modelfile. None of these types has a `Debug`: they are prompts.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Everything but the model, which is written before it.
#[derive(Serialize)]
pub(crate) struct Body<'a> {
    pub(crate) messages: Vec<Message<'a>>,
    /// Always written: Ollama streams where it is missing.
    pub(crate) stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<Format<'a>>,
    /// In OpenAI's shape, which is Ollama's, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tools: Option<Cow<'a, RawValue>>,
    /// Whether a prompt that is too long is cut; none: Ollama does so by itself, OpenAI's dialect does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) truncate: Option<bool>,
    /// Ollama has no word for it, nor for the four that follow.
    #[serde(skip)]
    pub(crate) choice: Choice<'a>,
    #[serde(skip)]
    pub(crate) parallel_tool_calls: Option<bool>,
    /// How much to think, in the word of an OpenAI client; `think` is what Ollama makes of it.
    #[serde(skip)]
    pub(crate) effort: Option<Cow<'a, str>>,
    #[serde(skip)]
    pub(crate) verbosity: Option<Cow<'a, str>>,
    #[serde(skip)]
    pub(crate) user: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) think: Option<Think>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_logprobs: Option<i64>,
    pub(crate) options: Options<'a>,
}

/// Whether tools are to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    /// As the model finds fit.
    #[default]
    Auto,
    /// None of them.
    Never,
    /// Some tool.
    Required,
    /// This one.
    Named(Cow<'a, str>),
    /// As the model finds fit, or some tool if `is_required`, but of these only.
    Among { names: Vec<Cow<'a, str>>, is_required: bool },
}

#[derive(Default, Serialize)]
pub(crate) struct Message<'a> {
    pub(crate) role: Cow<'a, str>,
    pub(crate) content: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thinking: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) images: Vec<Image<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_call_id: Option<Cow<'a, str>>,
}

/// An image (or a sound) in base64: the end of a `data:` URI, which is too large to be copied.
pub(crate) struct Image<'a> {
    pub(crate) uri: Cow<'a, str>,
    /// Where the data begins in `uri`.
    pub(crate) start: usize,
}

#[derive(Serialize)]
pub(crate) struct ToolCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Cow<'a, str>>,
    pub(crate) function: Function<'a>,
}

#[derive(Serialize)]
pub(crate) struct Function<'a> {
    pub(crate) index: usize,
    pub(crate) name: Cow<'a, str>,
    /// An object, in the client's order and spelling.
    pub(crate) arguments: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Format<'a> {
    Word(&'static str),
    /// Ollama is told nothing but the schema itself.
    #[serde(serialize_with = "schema_alone")]
    Schema(Schema<'a>),
}

/// What a reply must be, with all that OpenAI's API says of it.
#[derive(Serialize)]
pub(crate) struct Schema<'a> {
    pub(crate) name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Cow<'a, str>>,
    pub(crate) schema: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Think {
    Switch(bool),
    Level(&'static str),
}

#[derive(Default, Serialize)]
pub(crate) struct Options<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) num_predict: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_k: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) typical_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repeat_penalty: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repeat_last_n: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frequency_penalty: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) presence_penalty: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stop: Vec<Cow<'a, str>>,
}

// === impl Body ===

impl<'a> Body<'a> {
    /// A chat of these messages, with nothing else said.
    pub(crate) fn new(messages: Vec<Message<'a>>, stream: bool) -> Self {
        Self {
            messages,
            stream,
            format: None,
            tools: None,
            truncate: None,
            choice: Choice::Auto,
            parallel_tool_calls: None,
            effort: None,
            verbosity: None,
            user: None,
            think: None,
            logprobs: None,
            top_logprobs: None,
            options: Options::default(),
        }
    }
}

fn schema_alone<S: Serializer>(schema: &Schema<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    schema.schema.serialize(serializer)
}

// === impl Schema ===

impl<'a> Schema<'a> {
    /// A schema without a name, of which OpenAI's API wants one.
    pub(crate) fn new(schema: &'a RawValue) -> Self {
        Self { name: "reply".into(), description: None, schema, strict: None }
    }
}

// === impl Message ===

impl<'a> Message<'a> {
    /// A message of plain text.
    pub(crate) fn text(role: &'static str, content: impl Into<Cow<'a, str>>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

// === impl Image ===

impl Image<'_> {
    /// The data alone.
    pub(crate) fn data(&self) -> &str {
        self.uri.get(self.start..).unwrap_or_default()
    }
}

impl Serialize for Image<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.data())
    }
}
