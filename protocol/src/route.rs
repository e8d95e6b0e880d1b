//! The routes of the data listener that need a key, by name.

use std::{fmt, str::FromStr};

use serde::Serialize;

use crate::outcome::words;

words! {
    /// A route of the data listener that needs a key. The word is what the audit and the metrics say.
    Route {
        /// `POST /api/chat`
        OllamaChat = "ollama_chat",
        /// `POST /api/generate`
        OllamaGenerate = "ollama_generate",
        /// `POST /api/embed`
        OllamaEmbed = "ollama_embed",
        /// `POST /api/embeddings`
        OllamaEmbeddings = "ollama_embeddings",
        /// `GET /api/tags`
        OllamaTags = "ollama_tags",
        /// `POST /api/show`
        OllamaShow = "ollama_show",
        /// `GET /api/ps`
        OllamaPs = "ollama_ps",
        /// `GET /api/version`
        OllamaVersion = "ollama_version",
        /// `POST /v1/chat/completions`
        OpenAiChat = "openai_chat",
        /// `POST /v1/completions`
        OpenAiCompletions = "openai_completions",
        /// `POST /v1/embeddings`
        OpenAiEmbeddings = "openai_embeddings",
        /// `POST /v1/responses`
        OpenAiResponses = "openai_responses",
        /// `POST /v1/messages`
        AnthropicMessages = "anthropic_messages",
        /// `POST /v1/messages/count_tokens`
        AnthropicCount = "anthropic_count_tokens",
        /// `GET /v1/models`
        OpenAiModels = "openai_models",
        /// `GET /v1/models/{id}`
        OpenAiModel = "openai_model",
        /// A path that is always blocked, such as `/api/pull`
        Blocked = "blocked",
        /// Anything else
        Unknown = "unknown",
    }
}

words! {
    /// Which dialect a model server speaks. The word is what the database, the command line and JSON say.
    UpstreamKind {
        /// Ollama's own API
        Ollama = "ollama",
        /// OpenAI's API: OpenAI itself, vLLM, the server of llama.cpp, LM Studio
        OpenAi = "openai",
    }
}

/// Which client dialect a route speaks: it decides the shape of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/api/…`: errors are `{"error":"…"}`.
    Ollama,
    /// `/v1/messages…`: errors are `{"type":"error","error":{"type","message"}}`.
    Anthropic,
    /// The rest of `/v1/…`, and everything else: errors are `{"error":{"message","type","param","code"}}`.
    OpenAi,
}

// === impl Route ===

impl Route {
    /// In which dialect its errors are told.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Self::OllamaChat
            | Self::OllamaGenerate
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OllamaTags
            | Self::OllamaShow
            | Self::OllamaPs
            | Self::OllamaVersion
            | Self::Blocked => Dialect::Ollama,
            Self::AnthropicMessages | Self::AnthropicCount => Dialect::Anthropic,
            Self::OpenAiChat
            | Self::OpenAiCompletions
            | Self::OpenAiEmbeddings
            | Self::OpenAiResponses
            | Self::OpenAiModels
            | Self::OpenAiModel
            | Self::Unknown => Dialect::OpenAi,
        }
    }
}
