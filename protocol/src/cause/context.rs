//! That a request has more tokens than the model's context, in all forms that servers say it and clients read it.

use std::{borrow::Cow, num::NonZeroU32};

use super::said::{Said, tokens};
use crate::{error::Code, route::Dialect};

/// With which statuses a sentence about the context is believed.
pub(super) const STATUSES: &[u16] = &[400, 413, 422, 500];

/// Words of such sentences, in lower case.
pub(super) const WORDS: &[&str] = &[
    "maximum context length",
    "maximum model length of",
    "maximum context limit",
    "maximum prompt length is",
    "maximum allowed input length",
    "maximum number of tokens allowed",
    "model's context length",
    "available context size",
    "max context size",
    "context size has been exceeded",
    "context length exceeded",
    "context_length_exceeded",
    "exceeds the context length",
    "exceed context limit",
    "exceeds the context window",
    "exceed context window",
    "context window exceeds limit",
    "greater than the context length",
    "with context length of only",
    "exceeded model token limit",
    "too large to process",
    "`inputs` tokens + `max_new_tokens` must be",
    "`inputs` must have less than",
    "prompt token count of",
    "prompt is too long",
    "prompt too long; exceeded",
    "input is too long for requested model",
    "reduce the length of the messages",
];

/// Before the size of the context, in the order of their reliability.
const MOST_AFTER: &[&str] = &[
    "maximum context length is ",
    "maximum context length of ",
    "maximum context length (",
    "maximum model length of ",
    "maximum prompt length is ",
    "model's context length (",
    "available context size (",
    "current batch size: ",
    "context length of ",
    "context window of ",
    "exceeded model token limit: ",
    "`max_new_tokens` must be <= ",
    "`inputs` must have less than ",
    "maximum number of tokens allowed (",
    "exceeds the limit of ",
    "n_ctx: ",
    "n_ctx:",
    " tokens > ",
];
const MOST_BEFORE: &[&str] = &[" maximum context length"];

/// Around the number of the prompt's tokens.
const PROMPT_BEFORE: &[&str] = &[
    " in the messages",
    " in your prompt",
    " in the prompt",
    " tokens from the input messages",
    " of text input",
    " input tokens",
    " `inputs` tokens and",
];
const PROMPT_AFTER: &[&str] = &[
    "messages resulted in ",
    "prompt (length ",
    "prompt contains ",
    "request contains ",
    "the input (",
    "request (",
    "input (",
    "input length (",
    "input token count (",
    "prompt token count of ",
    "requested tokens (",
    "(requested: ",
    "keep the first ",
    "n_keep: ",
    "given: ",
    "prompt is too long: ",
    "n_prompt_tokens:",
];

/// Around the number of tokens that were asked for.
const COMPLETION_BEFORE: &[&str] = &[
    " in the completion",
    " tokens for the completion",
    " for the completion",
    " output tokens",
    " in the output",
];
const COMPLETION_AFTER: &[&str] = &["is too large: ", "`inputs` tokens and "];

/// Around the number of both together.
const TOTAL_AFTER: &[&str] = &["you requested a total of ", "you requested "];

/// The least room for a reply, in tokens, with which a client is told to ask for fewer: with less, only a shorter
/// prompt helps. Claude Code asks again for what is left but 1,000, and gives up where that is below 3,000.
const ROOM_MIN: u32 = 4_000;

/// How many tokens there were, and how many there may be. None where the server does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Overflow {
    /// Tokens of the prompt.
    pub prompt: Option<NonZeroU32>,
    /// Tokens that were asked for, where they count.
    pub completion: Option<NonZeroU32>,
    /// The size of the context.
    pub most: Option<NonZeroU32>,
}

// === impl Overflow ===

impl Overflow {
    /// The server says no number.
    pub const UNKNOWN: Self = Self { prompt: None, completion: None, most: None };

    /// The numbers that an error tells.
    pub(super) fn read(said: &Said) -> Self {
        let after = |words: &[&str]| words.iter().find_map(|words| said.number_after(words));
        let before = |words: &[&str]| words.iter().find_map(|words| said.number_before(words));
        // Anthropic's own form, which others repeat: A + B > C.
        if let Some(limits) = said.text.split_once("exceed context limit: ").map(|(_, rest)| rest) {
            let numbers: Vec<NonZeroU32> = limits
                .split(|one: char| !one.is_ascii_digit())
                .filter_map(tokens)
                .take(3)
                .collect();
            if let [prompt, completion, most] = numbers[..] {
                return Self {
                    prompt: Some(prompt),
                    completion: Some(completion),
                    most: Some(most),
                }
                .checked();
            }
        }
        let completion = before(COMPLETION_BEFORE).or_else(|| after(COMPLETION_AFTER));
        let total = || {
            let completion = completion.map_or(0, NonZeroU32::get);
            NonZeroU32::new(after(TOTAL_AFTER)?.get().saturating_sub(completion))
        };
        let prompt = said.prompt.or_else(|| before(PROMPT_BEFORE));
        let prompt = prompt.or_else(|| after(PROMPT_AFTER)).or_else(total);
        let most = said.most.or_else(|| after(MOST_AFTER)).or_else(|| before(MOST_BEFORE));
        Self { prompt, completion, most }.checked()
    }

    /// Without numbers that do not say that the request is too long.
    fn checked(self) -> Self {
        let Self { prompt, completion, most } = self;
        match (prompt, completion, most) {
            // SGLang refuses what is as long as the context, too.
            (Some(prompt), _, Some(most)) if prompt >= most => Self { completion: None, ..self },
            (Some(prompt), Some(completion), Some(most))
                if prompt.saturating_add(completion.get()) >= most =>
            {
                self
            }
            (Some(_), _, Some(_)) => Self { prompt: None, completion: None, most },
            _ => Self { completion: None, ..self },
        }
    }

    /// What a client of that dialect is told.
    ///
    /// Programs look for words: OpenAI's for `maximum context length is N tokens`; Claude Code makes its session
    /// shorter where a message begins with `prompt is too long`, and asks for fewer tokens where it says
    /// ``input length and `max_tokens` exceed context limit: A + B > C``; Ollama's for `exceeds the context length`.
    pub(super) fn message(self, dialect: Dialect) -> Cow<'static, str> {
        match dialect {
            Dialect::OpenAi => self.as_openai(),
            Dialect::Anthropic => self.as_anthropic(),
            Dialect::Ollama => self.as_ollama(),
        }
    }

    fn as_openai(self) -> Cow<'static, str> {
        let Self { prompt, completion, most } = self;
        match (prompt, completion, most) {
            (Some(prompt), Some(completion), Some(most)) => format!(
                "This model's maximum context length is {most} tokens. However, the request has {prompt} tokens and \
                 asks for {completion} more. Shorten it, or ask for fewer."
            )
            .into(),
            (Some(prompt), None, Some(most)) => format!(
                "This model's maximum context length is {most} tokens. However, the request has {prompt} tokens. \
                 Shorten it."
            )
            .into(),
            (_, _, Some(most)) => format!(
                "This model's maximum context length is {most} tokens. The request has more. Shorten it, or ask for \
                 fewer."
            )
            .into(),
            (_, _, None) => Code::ContextLengthExceeded.message().into(),
        }
    }

    fn as_anthropic(self) -> Cow<'static, str> {
        let Self { prompt, completion, most } = self;
        match (prompt, completion, most) {
            (Some(prompt), Some(completion), Some(most))
                if most.get().saturating_sub(prompt.get()) >= ROOM_MIN =>
            {
                format!(
                    "input length and `max_tokens` exceed context limit: {prompt} + {completion} > {most}, decrease \
                     input length or `max_tokens` and try again"
                )
                .into()
            }
            (Some(prompt), completion, Some(most)) => {
                let all = prompt.saturating_add(completion.map_or(0, NonZeroU32::get));
                format!("prompt is too long: {all} tokens > {most} maximum").into()
            }
            (_, _, Some(most)) => {
                format!("prompt is too long: the context of this model is {most} tokens").into()
            }
            (_, _, None) => "prompt is too long for the context of this model".into(),
        }
    }

    fn as_ollama(self) -> Cow<'static, str> {
        const BARE: &str = "the input length exceeds the context length";
        let Self { prompt, completion, most } = self;
        match (prompt, completion, most) {
            (Some(prompt), Some(completion), Some(most)) => {
                format!("{BARE}: {prompt} tokens and {completion} to come > {most}").into()
            }
            (Some(prompt), None, Some(most)) => format!("{BARE}: {prompt} tokens > {most}").into(),
            (_, _, Some(most)) => format!("{BARE}: the model has {most} tokens").into(),
            (_, _, None) => BARE.into(),
        }
    }
}
