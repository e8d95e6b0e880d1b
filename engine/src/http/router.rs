//! Which endpoint a path means. An allow-list: what is not on it does not exist.
//!
//! Ollama's server routes on the path after percent-decoding, so the decision is made on the decoded
//! path too: `/api/%70ull` is `/api/pull`. Spellings that some server or proxy behind us could fold
//! into a blocked path (`/API/PULL`, `/api//pull`, `/api/x/../pull`) are told apart from paths that
//! merely do not exist, so that they are refused as what they are.

use hyper::Method;
use percent_encoding::percent_decode_str;
use protocol::route::{Dialect, Route};

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Needs a key.
    Keyed(Route),
    /// `GET /v1/models/{id}`, with the decoded id. Needs a key.
    Model(String),
    /// A server answers, as Ollama says it at its base address.
    Greeting,
    /// The process answers.
    Live,
    /// Database, upstreams and audit answer.
    Ready,
    /// Always blocked; needs a key to be told so.
    Blocked,
}

/// What the router found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The method it answers to (`HEAD` goes with `GET`).
    pub method: Method,
}

/// The paths that mean one thing each; besides, there are the blocked ones and [`MODELS`].
pub(crate) static LISTED: [(&str, Found); 21] = [
    ("/v1/chat/completions", post(Route::OpenAiChat)),
    ("/v1/completions", post(Route::OpenAiCompletions)),
    ("/v1/embeddings", post(Route::OpenAiEmbeddings)),
    ("/v1/responses", post(Route::OpenAiResponses)),
    ("/v1/messages", post(Route::AnthropicMessages)),
    ("/v1/messages/count_tokens", post(Route::AnthropicCount)),
    ("/v1/models", get(Endpoint::Keyed(Route::OpenAiModels))),
    ("/api/chat", post(Route::OllamaChat)),
    ("/api/generate", post(Route::OllamaGenerate)),
    ("/api/embed", post(Route::OllamaEmbed)),
    ("/api/embeddings", post(Route::OllamaEmbeddings)),
    ("/api/show", post(Route::OllamaShow)),
    ("/api/tags", get(Endpoint::Keyed(Route::OllamaTags))),
    ("/api/ps", get(Endpoint::Keyed(Route::OllamaPs))),
    ("/api/version", get(Endpoint::Keyed(Route::OllamaVersion))),
    ("/", get(Endpoint::Greeting)),
    ("/healthz", get(Endpoint::Live)),
    ("/live", get(Endpoint::Live)),
    ("/health/live", get(Endpoint::Live)),
    ("/health", get(Endpoint::Live)),
    ("/readyz", get(Endpoint::Ready)),
];
/// What the rest of is the id of a model.
pub(crate) const MODELS: &str = "/v1/models/";
/// What is always blocked.
pub(crate) const BLOCKED: [&str; 5] =
    ["/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete"];
/// The same, with all below it.
pub(crate) const BLOCKED_BLOBS: &str = "/api/blobs";

const fn post(route: Route) -> Found {
    Found { endpoint: Endpoint::Keyed(route), method: Method::POST }
}

const fn get(endpoint: Endpoint) -> Found {
    Found { endpoint, method: Method::GET }
}

/// Finds what a path (as it stands in the request, without the query) means; `None` where nothing.
#[must_use]
pub fn find(path: &str) -> Option<Found> {
    let path = percent_decode_str(path).decode_utf8().ok()?;
    // What is on the list is not folded first: no blocked path is on it.
    if let Some((_, found)) = LISTED.iter().find(|(listed, _)| *listed == path) {
        return Some(found.clone());
    }
    if is_blocked(&path) {
        return Some(Found { endpoint: Endpoint::Blocked, method: Method::POST });
    }
    let id = path.strip_prefix(MODELS).filter(|id| !id.is_empty())?;
    Some(get(Endpoint::Model(id.to_owned())))
}

/// The dialect in which a path's errors are told.
#[must_use]
pub fn dialect(path: &str) -> Dialect {
    let begins = |with: &[u8]| {
        let mut decoded = percent_decode_str(path);
        with.iter()
            .all(|wanted| decoded.next().is_some_and(|byte| byte.eq_ignore_ascii_case(wanted)))
    };
    if begins(b"/api/") {
        Dialect::Ollama
    } else if begins(b"/v1/messages") {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The route by name, for audit and metrics.
    #[must_use]
    pub fn route(&self) -> Route {
        match self {
            Self::Keyed(route) => *route,
            Self::Model(_) => Route::OpenAiModel,
            Self::Blocked => Route::Blocked,
            Self::Greeting | Self::Live | Self::Ready => Route::Unknown,
        }
    }
}

/// Whether the path is a blocked one, once case, empty and dot segments are folded away.
fn is_blocked(path: &str) -> bool {
    let mut folded = String::with_capacity(path.len());
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment.trim() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    for segment in segments {
        folded.push('/');
        folded.extend(segment.chars().flat_map(char::to_lowercase));
    }
    BLOCKED.contains(&folded.as_str())
        || folded
            .strip_prefix(BLOCKED_BLOBS)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(path: &str) -> Option<Endpoint> {
        find(path).map(|found| found.endpoint)
    }

    #[test]
    fn every_spelling_of_a_blocked_path_is_blocked() {
        for path in [
            "/api/pull",
            "/api//pull",
            "/api/%70ull",
            "/API/PULL",
            "/api/pull/",
            "/api/blobs/../pull",
            "/api/push",
            "/api/create",
            "/api/copy",
            "/api/delete",
            "/api/%64elete",
            "/api/./delete",
            "/api/blobs",
            "/api/blobs/sha256:0",
            "/api/blobs/a/b",
            "//api/blobs/x",
            "/api/x/../pull",
            "/v1/../api/pull",
            "/api\\pull",
            "/api/pull%20",
            "/api%2fpull",
            "/Api/Blobs/x",
        ] {
            assert_eq!(endpoint(path), Some(Endpoint::Blocked), "{path}");
        }
    }

    #[test]
    fn nothing_on_the_list_is_blocked() {
        for (path, found) in &LISTED {
            assert!(!is_blocked(path) && found.endpoint != Endpoint::Blocked, "{path}");
        }
    }

    #[test]
    fn what_is_not_on_the_list_does_not_exist() {
        for path in [
            "",
            "*",
            "//",
            "/.",
            "/api",
            "/api/",
            "/api/tags/",
            "/api/Tags",
            "/api/me",
            "/api/signout",
            "/api/experimental/web_search",
            "/v1",
            "/v1/models/",
            "/v1/responses/resp_1",
            "/v1/messages/batches",
            "/v1/audio/transcriptions",
            "/api/%2570ull",
            "/api/%ff",
            "/metrics",
            "/admin/v1/actors",
            "/api/blobsx",
            "/v1/chat/completions/",
        ] {
            assert_eq!(endpoint(path), None, "{path}");
        }
    }

    #[test]
    fn allowed_paths_are_found_after_decoding() {
        assert_eq!(endpoint("/api/%63hat"), Some(Endpoint::Keyed(Route::OllamaChat)));
        assert_eq!(
            endpoint("/v1/models/ns%2Fm:latest"),
            Some(Endpoint::Model("ns/m:latest".into()))
        );
        assert_eq!(endpoint("/v1/models/ns/m"), Some(Endpoint::Model("ns/m".into())));
        assert_eq!(endpoint("/health/live"), Some(Endpoint::Live));
        assert_eq!(endpoint("/"), Some(Endpoint::Greeting));
    }

    #[test]
    fn errors_are_told_in_the_dialect_of_the_path() {
        for path in ["/api/chat", "/api/nothing", "/%61pi/chat", "/API/PULL"] {
            assert_eq!(dialect(path), Dialect::Ollama, "{path}");
        }
        for path in ["/v1/messages", "/v1/messages/count_tokens"] {
            assert_eq!(dialect(path), Dialect::Anthropic, "{path}");
        }
        for path in ["/v1/models", "/", "", "/api", "/nothing"] {
            assert_eq!(dialect(path), Dialect::OpenAi, "{path}");
        }
    }
}
