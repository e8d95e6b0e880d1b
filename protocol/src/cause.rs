//! Why a model server does not do what it was asked, where that is one of a few known reasons.
//!
//! Every server says it in its own way: by a status, a `type`, a `code`, or only in a sentence. [`Cause::read`]
//! finds the reason and the numbers of tokens, and nothing else: the words that a client reads are written
//! here. Words of an error can be those of a prompt that the server repeats, so that a wrong reason is
//! possible; it changes the code and our words, and never who may do what.
//!
//! Sources: the sentences are those of Ollama (`server/sched.go`, `server/images.go`, `llm/status.go`), llama.cpp
//! (`tools/server/server-context.cpp`, `server-common.cpp`), vLLM (`entrypoints/openai`, `renderers/params.py`),
//! SGLang (`tokenizer_manager.py`), TGI, LM Studio, llama-cpp-python, OpenAI, Azure, OpenRouter, Mistral and
//! Anthropic, read in 2026.

mod context;
mod said;

use std::{borrow::Cow, fmt};

pub use context::Overflow;
use said::Said;

use crate::{
    error::Code,
    route::{Dialect, Route},
};

/// Why a model server does not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The request has more tokens than the model's context.
    Context(Overflow),
    /// The model, or the server as it was started, has no such capability.
    Lacks(Capability),
    /// A filter of the server's did not let the prompt or the reply pass.
    Filtered,
    /// The server, or who stands before it, limits how often we ask.
    RateLimited,
    /// The server has more to do than it takes on.
    Overloaded,
    /// The server reads the model from disk.
    Loading,
    /// The server has too little memory for the model or the request.
    OutOfMemory,
}

/// What a model, or its server, may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// To call tools.
    Tools,
    /// To think before it answers.
    Thinking,
    /// To see images.
    Images,
    /// To hear.
    Audio,
    /// To make embeddings.
    Embeddings,
    /// To answer: an embedding model does not.
    Answers,
    /// To fill in what is missing before a suffix.
    Insert,
    /// To keep to a JSON schema.
    Schema,
}

/// What a server says of one reason, in lower case, and with which statuses it is believed. An error inside a
/// stream has no status.
struct Words {
    cause: Cause,
    statuses: &'static [u16],
    words: &'static [&'static str],
}

const REFUSALS: &[u16] = &[400, 404, 415, 422, 500, 501];
// LM Studio refuses with 400 or 404 what does not fit.
const FAILURES: &[u16] = &[400, 404, 500, 502, 503, 504, 507];
const PAUSES: &[u16] = &[500, 503];

/// The words in `type` and `code`. Unlike a sentence they are the server's alone.
const KINDS: &[(&str, Cause)] = &[
    ("context_length_exceeded", Cause::Context(Overflow::UNKNOWN)),
    ("exceed_context_size_error", Cause::Context(Overflow::UNKNOWN)),
    ("model_context_window_exceeded", Cause::Context(Overflow::UNKNOWN)),
    ("model_max_prompt_tokens_exceeded", Cause::Context(Overflow::UNKNOWN)),
    ("content_filter", Cause::Filtered),
    ("content_policy_violation", Cause::Filtered),
    ("responsibleaipolicyviolation", Cause::Filtered),
    ("overloaded", Cause::Overloaded),
    ("overloaded_error", Cause::Overloaded),
    ("engine_overloaded", Cause::Overloaded),
    ("engine_overloaded_error", Cause::Overloaded),
    ("server_is_overloaded", Cause::Overloaded),
    ("slow_down", Cause::Overloaded),
    ("rate_limit_error", Cause::RateLimited),
    ("rate_limit_exceeded", Cause::RateLimited),
    ("insufficient_quota", Cause::RateLimited),
    ("too_many_requests", Cause::RateLimited),
];

/// The words in sentences; the first that fits counts.
const SENTENCES: &[Words] = &[
    Words {
        cause: Cause::Lacks(Capability::Tools),
        statuses: REFUSALS,
        words: &[
            "does not support tools",
            "does not support tool ",
            "does not support function call",
            "support tool use",
            "tool choice requires",
            "requires --tool-call-parser",
            "tools param requires",
            "tool calling is not supported",
            "function calling is not enabled",
        ],
    },
    Words {
        cause: Cause::Lacks(Capability::Thinking),
        statuses: REFUSALS,
        words: &[
            "does not support thinking",
            "does not support reasoning",
            "think value ",
            "reasoning_effort' is not supported",
        ],
    },
    Words {
        cause: Cause::Lacks(Capability::Images),
        statuses: REFUSALS,
        words: &[
            "does not support vision",
            "does not support images",
            "support image input",
            "does not support multimodal",
            "image input is not supported",
            "vision is not supported",
            "missing data required for image input",
            "is not a multimodal model",
            "at most 0 image",
            "image_url is only supported",
        ],
    },
    Words {
        cause: Cause::Lacks(Capability::Audio),
        statuses: REFUSALS,
        words: &["does not support audio", "audio input is not supported", "at most 0 audio"],
    },
    Words {
        cause: Cause::Lacks(Capability::Embeddings),
        statuses: REFUSALS,
        words: &["does not support embedding", "embeddings are not supported"],
    },
    Words {
        cause: Cause::Lacks(Capability::Answers),
        statuses: REFUSALS,
        words: &[
            "does not support chat",
            "does not support completion",
            "does not support generate",
            "is not a chat model",
        ],
    },
    Words {
        cause: Cause::Lacks(Capability::Insert),
        statuses: REFUSALS,
        words: &[
            "does not support insert",
            "does not support suffix",
            "suffix is not currently supported",
            "infill is not supported",
        ],
    },
    Words {
        cause: Cause::Lacks(Capability::Schema),
        statuses: REFUSALS,
        words: &[
            "does not support structured output",
            "does not support response_format",
            "'json_schema' is not supported",
            "'json_object' is not supported",
            "json_schema is not supported",
            "json_object is not supported",
            "structured outputs are not supported",
        ],
    },
    Words {
        cause: Cause::OutOfMemory,
        statuses: FAILURES,
        words: &[
            "requires more system memory",
            "out of memory",
            "out of device memory",
            "insufficient memory",
            "insufficient system resources",
            "not enough memory",
            "cudamalloc failed",
            "hipmalloc failed",
            "failed to allocate",
            "erroroutofmemory",
            "terminated: signal: killed",
        ],
    },
    Words {
        cause: Cause::Loading,
        statuses: PAUSES,
        words: &[
            "llm server loading model",
            "currently loading",
            "still loading",
            "model is loading",
        ],
    },
    Words {
        cause: Cause::Overloaded,
        statuses: PAUSES,
        words: &[
            "server busy",
            "maximum pending requests exceeded",
            "overloaded",
            "no slots available",
            "queue is full",
            "over capacity",
            "at capacity",
        ],
    },
    Words {
        cause: Cause::RateLimited,
        statuses: PAUSES,
        words: &["rate limit", "rate-limited", "too many requests"],
    },
    Words {
        cause: Cause::Filtered,
        statuses: REFUSALS,
        words: &["content management policy", "content_filter"],
    },
];

// === impl Cause ===

impl Cause {
    /// The reason that a refusal gives, or an error inside a stream, which has no status. None where it is no error,
    /// or gives none of the known reasons.
    #[must_use]
    pub fn read(status: Option<u16>, body: &[u8]) -> Option<Self> {
        let said = Said::read(status, body);
        let status = status.or(said.as_ref().and_then(|said| said.status));
        said.and_then(|said| Self::of(status, &said)).or_else(|| match status? {
            429 => Some(Self::RateLimited),
            529 => Some(Self::Overloaded),
            _ => None,
        })
    }

    fn of(status: Option<u16>, said: &Said) -> Option<Self> {
        let kind = KINDS.iter().find(|(kind, _)| said.kinds.iter().any(|one| one == kind));
        let cause = kind.map(|(_, cause)| *cause).or_else(|| Self::of_sentence(status, said))?;
        Some(match cause {
            Self::Context(_) => Self::Context(Overflow::read(said)),
            other => other,
        })
    }

    fn of_sentence(status: Option<u16>, said: &Said) -> Option<Self> {
        let is_of = |statuses: &[u16]| status.is_none_or(|status| statuses.contains(&status));
        if is_of(context::STATUSES) && said.says(context::WORDS) {
            return Some(Self::Context(Overflow::UNKNOWN));
        }
        // llama.cpp; Ollama says of a model that it cannot read "error loading model".
        if is_of(PAUSES) && said.text.starts_with("loading model") {
            return Some(Self::Loading);
        }
        let found = SENTENCES.iter().find(|one| is_of(one.statuses) && said.says(one.words));
        found.map(|one| one.cause)
    }

    /// The code that a client sees.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Context(_) => Code::ContextLengthExceeded,
            Self::Lacks(_) => Code::CapabilityMissing,
            Self::Filtered => Code::ContentFilter,
            Self::RateLimited => Code::UpstreamRateLimited,
            Self::Overloaded => Code::UpstreamOverloaded,
            Self::Loading => Code::ModelLoading,
            Self::OutOfMemory => Code::UpstreamOutOfMemory,
        }
    }

    /// What a client of that route is told, in our words and those that its programs look for.
    #[must_use]
    pub fn message(self, route: Route) -> Cow<'static, str> {
        match self {
            Self::Context(overflow) => overflow.message(route.dialect()),
            Self::Lacks(capability) => capability.message().into(),
            other => other.code().message().into(),
        }
    }

    /// The field of such a request that is meant, where one is. None where the message begins with words that
    /// programs look for.
    #[must_use]
    pub fn param(self, route: Route) -> Option<&'static str> {
        match self {
            Self::Context(_) if route.dialect() != Dialect::OpenAi => None,
            Self::Context(_) => Some(input(route)),
            Self::Lacks(capability) => Some(capability.param(route)),
            _ => None,
        }
    }

    /// Whether the server refuses this request, or has no time for it, and is well.
    #[must_use]
    pub fn is_of_request(self) -> bool {
        match self {
            Self::Context(_)
            | Self::Lacks(_)
            | Self::Filtered
            | Self::RateLimited
            | Self::Overloaded => true,
            Self::Loading | Self::OutOfMemory => false,
        }
    }
}

/// Where the prompt of such a request stands.
fn input(route: Route) -> &'static str {
    match route {
        Route::OpenAiResponses | Route::OpenAiEmbeddings | Route::OllamaEmbed => "input",
        Route::OpenAiCompletions | Route::OllamaGenerate | Route::OllamaEmbeddings => "prompt",
        _ => "messages",
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lacks(capability) => write!(f, "{} ({capability:?})", self.code()),
            other => other.code().fmt(f),
        }
    }
}

// === impl Capability ===

impl Capability {
    fn message(self) -> &'static str {
        match self {
            Self::Tools => "This model does not support tools.",
            Self::Thinking => "This model does not support thinking.",
            Self::Images => "This model does not support images (vision).",
            Self::Audio => "This model does not support audio.",
            Self::Embeddings => "This model does not support embeddings.",
            Self::Answers => "This model does not support chat or completions.",
            Self::Insert => "This model does not support insertion before a suffix.",
            Self::Schema => "This model does not support structured output.",
        }
    }

    fn param(self, route: Route) -> &'static str {
        let by_dialect = |ollama, anthropic, responses, others| match route.dialect() {
            Dialect::Ollama => ollama,
            Dialect::Anthropic => anthropic,
            Dialect::OpenAi if route == Route::OpenAiResponses => responses,
            Dialect::OpenAi => others,
        };
        match self {
            Self::Tools => "tools",
            Self::Thinking => by_dialect("think", "thinking", "reasoning", "reasoning_effort"),
            Self::Images if route == Route::OllamaGenerate => "images",
            Self::Images | Self::Audio => input(route),
            Self::Embeddings | Self::Answers => "model",
            Self::Insert => "suffix",
            Self::Schema => by_dialect("format", "output_config", "text.format", "response_format"),
        }
    }
}

#[cfg(test)]
mod tests;
