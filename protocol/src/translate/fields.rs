//! Which fields of a request are read, for whoever describes them.

#[cfg(test)]
mod known;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod tables;

use super::{chat_request, completion_request, embedding_request, response_request};
use crate::{anthropic, ollama, route::Route, strangers};

/// The fields that are read of a request's body on that route. Ollama's own routes share one list.
#[must_use]
pub fn of(route: Route) -> &'static [&'static str] {
    match route {
        Route::OpenAiChat => &chat_request::FIELDS,
        Route::OpenAiCompletions => &completion_request::FIELDS,
        Route::OpenAiEmbeddings => &embedding_request::FIELDS,
        Route::OpenAiResponses => &response_request::FIELDS,
        Route::AnthropicMessages | Route::AnthropicCount => &anthropic::FIELDS,
        Route::OllamaChat
        | Route::OllamaGenerate
        | Route::OllamaEmbed
        | Route::OllamaEmbeddings
        | Route::OllamaShow => &ollama::request::FIELDS,
        Route::OllamaTags
        | Route::OllamaPs
        | Route::OllamaVersion
        | Route::OpenAiModels
        | Route::OpenAiModel
        | Route::Blocked
        | Route::Unknown => &[],
    }
}

/// The fields that may stand in such a body besides, though nobody here reads them. Every other one is refused,
/// unless the tenant may use all ([`LoadOptions::All`](crate::levers::LoadOptions::All)).
#[must_use]
pub fn harmless(route: Route) -> &'static [&'static str] {
    match route {
        Route::OpenAiChat => strangers::CHAT,
        Route::OpenAiCompletions => strangers::COMPLETION,
        Route::OpenAiEmbeddings => strangers::EMBEDDING,
        Route::OpenAiResponses => strangers::RESPONSE,
        Route::AnthropicMessages | Route::AnthropicCount => strangers::MESSAGE,
        Route::OllamaChat
        | Route::OllamaGenerate
        | Route::OllamaEmbed
        | Route::OllamaEmbeddings
        | Route::OllamaShow => strangers::NATIVE,
        Route::OllamaTags
        | Route::OllamaPs
        | Route::OllamaVersion
        | Route::OpenAiModels
        | Route::OpenAiModel
        | Route::Blocked
        | Route::Unknown => &[],
    }
}
