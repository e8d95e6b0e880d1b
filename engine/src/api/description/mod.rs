//! The OpenAPI document of the data listener: `docs/api/data.json`.
//!
//! Made of what the gateway goes by itself: the paths of the router, the catalogue of error codes, and
//! the shapes in `requests.json` and `replies.json`, which tests hold against the fields that are read and
//! against what a running gateway answers.

use http::Method;
use protocol::{
    error::Code,
    route::{Dialect, Route},
};
use serde_json::{Map, Value, json};

use crate::http::router::{self, BLOCKED, BLOCKED_BLOBS, Endpoint, Found, LISTED, MODELS};

#[cfg(test)]
mod tests;

const REQUESTS: &str = include_str!("requests.json");
const REPLIES: &str = include_str!("replies.json");

const ABOUT: &str = "What clients speak: OpenAI's, Anthropic's and Ollama's APIs, whichever kind of model \
    server answers. A `HEAD` goes with every `GET`, and `OPTIONS` with everything. A body \
    may come packed, with `content-encoding: gzip` or `zstd`. Every answer has an `x-request-id`. docs/API.md says field by field what becomes of a request, docs/ERRORS.md what the \
    codes mean.";

/// What an endpoint takes and gives: names of schemas.
struct Shape {
    about: &'static str,
    request: Option<&'static str>,
    reply: &'static str,
    /// What a stream is, and its content type.
    stream: Option<(&'static str, &'static str)>,
}

const SSE: Option<(&str, &str)> = Some(("text/event-stream", "Events"));
const NDJSON: Option<(&str, &str)> = Some(("application/x-ndjson", "Lines"));

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    let model = Found { endpoint: Endpoint::Model("id".to_owned()), method: Method::GET };
    let model = (format!("{MODELS}{{id}}"), model);
    let listed = LISTED.iter().map(|(path, found)| ((*path).to_owned(), found.clone()));
    for (path, found) in listed.chain([model]) {
        let method = found.method.as_str().to_ascii_lowercase();
        paths.insert(path.clone(), json!({ method: operation(&path, &found.endpoint) }));
    }
    let blobs = format!("{BLOCKED_BLOBS}/{{digest}}");
    for path in BLOCKED.into_iter().chain([blobs.as_str()]) {
        paths.insert(path.to_owned(), json!({ "post": operation(path, &Endpoint::Blocked) }));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Neuronetz, data API",
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{ "url": "/" }],
        "security": [{ "key": [] }, { "x-api-key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "A key, `nz_…`" },
                "x-api-key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
            "responses": responses(),
            "schemas": schemas(),
        },
    })
}

fn shape(route: Route) -> Option<Shape> {
    let shape = |about, request, reply, stream| {
        Some(Shape { about, request: Some(request), reply, stream })
    };
    let listing = |about, reply| Some(Shape { about, request: None, reply, stream: None });
    match route {
        Route::OpenAiChat => shape("A chat completion.", "ChatRequest", "ChatReply", SSE),
        Route::OpenAiCompletions => {
            shape("A text is gone on with.", "CompletionRequest", "CompletionReply", SSE)
        }
        Route::OpenAiEmbeddings => {
            shape("Texts as vectors.", "EmbeddingRequest", "EmbeddingReply", None)
        }
        Route::OpenAiResponses => shape("A response.", "ResponseRequest", "ResponseReply", SSE),
        Route::AnthropicMessages => shape("A message.", "MessageRequest", "MessageReply", SSE),
        Route::AnthropicCount => {
            shape("About how many tokens a prompt has.", "CountRequest", "CountReply", None)
        }
        Route::OllamaChat => shape("A chat.", "NativeChatRequest", "NativeChatReply", NDJSON),
        Route::OllamaGenerate => shape("A text.", "GenerateRequest", "GenerateReply", NDJSON),
        Route::OllamaEmbed => shape("Texts as vectors.", "EmbedRequest", "EmbedReply", None),
        Route::OllamaEmbeddings => {
            shape("A text as a vector.", "EmbeddingsRequest", "EmbeddingsReply", None)
        }
        Route::OllamaShow => shape("What a model is.", "ShowRequest", "ShowReply", None),
        Route::OpenAiModels => listing("The models of the key.", "Models"),
        Route::OpenAiModel => listing("One of the models of the key.", "Model"),
        Route::OllamaTags => listing("The models of the key, as Ollama lists them.", "Tags"),
        Route::OllamaPs => listing("Those of them that are loaded.", "Tags"),
        Route::OllamaVersion => listing("The version of the model server.", "Version"),
        Route::Blocked | Route::Unknown => None,
    }
}

fn operation(path: &str, endpoint: &Endpoint) -> Value {
    let route = endpoint.route();
    let (tag, dialect) = match router::dialect(path) {
        Dialect::OpenAi => ("OpenAI", "OpenAi"),
        Dialect::Anthropic => ("Anthropic", "Anthropic"),
        Dialect::Ollama => ("Ollama", "Ollama"),
    };
    let mut operation = json!({ "operationId": id(path) });
    let mut answers = Map::new();
    match (endpoint, shape(route)) {
        (Endpoint::Greeting, _) => {
            operation["summary"] = "A server answers, as Ollama says it.".into();
            let content = json!({ "text/plain": { "schema": { "type": "string" } } });
            let answer = json!({ "description": "What was asked for.", "content": content });
            answers.insert("200".to_owned(), answer);
        }
        (Endpoint::Live, _) => {
            operation["summary"] = "The process answers.".into();
            answers.insert("200".to_owned(), reply("Live", None));
        }
        (Endpoint::Ready, _) => {
            operation["summary"] = "What the gateway can do, part by part.".into();
            answers.insert("200".to_owned(), reply("Ready", None));
            answers.insert("503".to_owned(), reply("Ready", None));
        }
        (_, Some(shape)) => {
            operation["summary"] = shape.about.into();
            if let Some(request) = shape.request {
                operation["requestBody"] = json!({ "required": true, "content": json_of(request) });
            }
            answers.insert("200".to_owned(), reply(shape.reply, shape.stream));
        }
        (_, None) => {
            operation["summary"] = "Always blocked: it changes the model server.".into();
        }
    }
    operation["tags"] = json!([tag]);
    if let Some(name) = path.split_once('{').and_then(|(_, rest)| rest.strip_suffix('}')) {
        operation["parameters"] = json!([{
            "name": name, "in": "path", "required": true,
            "schema": { "type": "string", "minLength": 1 },
        }]);
    }
    if is_open(endpoint) {
        operation["security"] = json!([]);
    }
    for code in Code::ALL.iter().filter(|code| meets(**code, endpoint)) {
        let (status, name) = (code.status().to_string(), format!("{dialect}{}", code.status()));
        let answer = json!({ "$ref": format!("#/components/responses/{name}") });
        answers.entry(status).or_insert(answer);
    }
    answers.sort_keys();
    operation["responses"] = Value::Object(answers);
    operation
}

/// Whether it needs no key.
fn is_open(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Greeting | Endpoint::Live | Endpoint::Ready)
}

/// `/v1/chat/completions` as `v1_chat_completions`.
fn id(path: &str) -> String {
    let plain = path.replace(['{', '}'], "");
    if plain == "/" {
        return "root".to_owned();
    }
    plain.trim_start_matches('/').replace('/', "_")
}

fn json_of(schema: &str) -> Value {
    json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
}

fn reply(schema: &str, stream: Option<(&str, &str)>) -> Value {
    let mut content = json_of(schema);
    if let Some((kind, schema)) = stream {
        content[kind] = json!({ "schema": { "$ref": format!("#/components/schemas/{schema}") } });
    }
    json!({ "description": "What was asked for.", "content": content })
}

/// Whether a request to that endpoint may be refused with that code. No wildcard arm: a new code is
/// described, or is known to stay away.
fn meets(code: Code, endpoint: &Endpoint) -> bool {
    let route = endpoint.route();
    let is_open = is_open(endpoint);
    let has_body = shape(route).is_some_and(|shape| shape.request.is_some());
    let is_of_server = matches!(route, Route::OllamaPs | Route::OllamaVersion);
    let is_sent_on = has_body && route != Route::AnthropicCount;
    match code {
        Code::MalformedRequest | Code::UriTooLong | Code::HeadersTooLarge => true,
        Code::MissingApiKey
        | Code::InvalidApiKey
        | Code::AmbiguousCredentials
        | Code::KeyExpired
        | Code::KeyRevoked
        | Code::TenantSuspended
        | Code::TooManyAttempts
        | Code::TooManyFailures
        | Code::IdentityUnavailable
        | Code::ShuttingDown
        | Code::Internal => !is_open,
        Code::EndpointBlocked => route == Route::Blocked,
        Code::InvalidJson
        | Code::InvalidRequest
        | Code::AmbiguousField
        | Code::ModelRequired
        | Code::InvalidModelName
        | Code::UnsupportedParameter
        | Code::RequestTimeout
        | Code::RequestTooLarge
        | Code::UnsupportedEncoding
        | Code::Overloaded => has_body,
        Code::ModelNotAllowed | Code::ModelNotFound | Code::CloudModelBlocked => {
            has_body || route == Route::OpenAiModel
        }
        Code::OptionNotAllowed => {
            is_sent_on && route.dialect() == Dialect::Ollama && route != Route::OllamaShow
        }
        Code::CatalogUnavailable | Code::AuditSaturated => !is_open && route != Route::Blocked,
        Code::UpstreamUnavailable => is_sent_on || is_of_server,
        // A large body is let in before it is read.
        Code::RateLimitRequests
        | Code::RateLimitTokens
        | Code::Concurrency
        | Code::BudgetExhausted
        | Code::LimitsUnavailable => has_body || is_of_server,
        Code::ImageUnavailable
        | Code::UpstreamRejected
        | Code::ContextLengthExceeded
        | Code::CapabilityMissing
        | Code::ContentFilter
        | Code::UpstreamRateLimited
        | Code::UpstreamOverloaded
        | Code::UpstreamOutOfMemory
        | Code::ModelLoading
        | Code::UpstreamFailed
        | Code::QueueTimeout
        | Code::QueueFull
        | Code::UpstreamTimeout => is_sent_on,
        // A model's id may be spelled so that it leads elsewhere.
        Code::NotFound => matches!(route, Route::OpenAiModel | Route::Blocked),
        // Not of this path and method, only inside of a stream, or not of this listener.
        Code::MethodNotAllowed
        | Code::ReplyUnread
        | Code::OperatorUnproven
        | Code::ChangesForbidden
        | Code::OriginNotAllowed
        | Code::HostNotAllowed
        | Code::NoSuchObject
        | Code::AlreadyThere
        | Code::ChangedMeanwhile
        | Code::InvalidSetting
        | Code::DatabaseUnavailable => false,
    }
}

/// One answer for each status and dialect, with the codes that it may have.
fn responses() -> Map<String, Value> {
    let mut responses = Map::new();
    for dialect in ["OpenAi", "Anthropic", "Ollama"] {
        for code in Code::ALL.iter().filter(|code| is_of_clients(**code)) {
            let status = code.status();
            let same =
                Code::ALL.iter().filter(|other| other.status() == status && is_of_clients(**other));
            let told: Vec<_> = same.map(|code| format!("`{code}`: {}", code.message())).collect();
            let mut headers = json!({ "x-request-id": header("string") });
            if code.retryable() && matches!(status, 429 | 503) {
                headers["retry-after"] = header("integer");
                headers["retry-after-ms"] = header("integer");
            }
            let response = json!({
                "description": told.join("\n\n"),
                "headers": headers,
                "content": json_of(&format!("{dialect}Error")),
            });
            responses.entry(format!("{dialect}{status}")).or_insert(response);
        }
    }
    responses
}

fn header(kind: &str) -> Value {
    json!({ "schema": { "type": kind } })
}

/// Whether clients meet it anywhere.
fn is_of_clients(code: Code) -> bool {
    let keyed = Route::ALL.iter().map(|route| Endpoint::Keyed(*route));
    keyed.chain([Endpoint::Blocked]).any(|endpoint| meets(code, &endpoint))
}

/// The shapes of requests and replies, and of errors.
fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    for text in [REQUESTS, REPLIES] {
        // Held by a test: they are part of the program.
        schemas.extend(serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default());
    }
    let codes: Vec<_> =
        Code::ALL.iter().filter(|code| is_of_clients(**code)).map(|code| code.as_str()).collect();
    let text = json!({ "type": "string" });
    let code = json!({ "enum": codes });
    schemas.insert("ErrorCode".to_owned(), code);
    let code = json!({ "$ref": "#/components/schemas/ErrorCode" });
    for (name, required, error) in [
        (
            "OpenAiError",
            json!(["error"]),
            json!({
                "error": {
                    "type": "object", "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": text, "type": text, "code": code,
                        "param": { "type": ["string", "null"] },
                    },
                },
            }),
        ),
        (
            "AnthropicError",
            json!(["type", "error", "request_id"]),
            json!({
                "type": { "const": "error" },
                "request_id": text,
                "error": {
                    "type": "object", "required": ["type", "message", "code"],
                    "properties": { "type": text, "message": text, "code": code },
                },
            }),
        ),
        ("OllamaError", json!(["error"]), json!({ "error": text })),
    ] {
        let schema = json!({ "type": "object", "required": required, "properties": error });
        schemas.insert(name.to_owned(), schema);
    }
    schemas
}
