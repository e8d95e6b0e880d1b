//! The model server of a demo without one: it says again what it was told, word by word, as Ollama does.
//!
//! It keeps to the part of Ollama's API that a chat needs (<https://docs.ollama.com/api>). It listens on loopback
//! alone, for the gateway of the demo.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The only model, as Ollama spells one.
pub(super) const MODEL: &str = "echo:latest";

/// The longest request, in bytes.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most words of an answer.
const WORDS_MAX: usize = 200;
/// The time between two words: an answer is seen to stream.
const PACE: Duration = Duration::from_millis(40);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The server while it runs.
pub(super) struct Echo {
    address: SocketAddr,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

// === impl Echo ===

impl Echo {
    /// Starts the server on a free port.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(super::ANY).await?;
        let address = listener.local_addr()?;
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(accept(listener, tasks.clone(), stopping.clone()));
        Ok(Self { address, tasks, stopping })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, answers that are under way included.
    pub(super) async fn stop(self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(listener: TcpListener, tasks: TaskTracker, stopping: CancellationToken) {
    while let Some(accepted) = stopping.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => _ = tasks.spawn(serve(stream, stopping.clone())),
            Err(error) => tracing::debug!(%error, "a connection to the echo failed"),
        }
    }
}

async fn serve(stream: TcpStream, stopping: CancellationToken) {
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Some(Err(error)) = stopping.run_until_cancelled(connection).await {
        tracing::debug!(%error, "a connection to the echo broke");
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let (model, at) = (MODEL, Timestamp::now());
    let details = json!({ "family": "echo", "families": ["echo"], "format": "none" });
    let reply = match (&head.method, head.uri.path()) {
        (&Method::GET, "/api/tags") => json!({ "models": [{ "name": model, "model": model,
            "modified_at": at, "size": 0, "digest": "0".repeat(64), "details": details }] }),
        (&Method::GET, "/api/ps") => json!({ "models": [] }),
        (&Method::GET, "/api/version") => json!({ "version": env!("CARGO_PKG_VERSION") }),
        (&Method::POST, "/api/show") => json!({ "details": details, "model_info": {},
            "capabilities": ["completion"], "modified_at": at }),
        (&Method::POST, path @ ("/api/chat" | "/api/generate")) => {
            let is_chat = path == "/api/chat";
            let asked = match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
                Ok(body) => serde_json::from_slice(&body.to_bytes()).unwrap_or_default(),
                Err(_) => Value::Null,
            };
            return Ok(said(&asked, is_chat));
        }
        (&Method::POST, "/api/embed" | "/api/embeddings") => {
            let error = json!({ "error": format!("{model} does not support embeddings") });
            return Ok(whole(StatusCode::BAD_REQUEST, &error));
        }
        _ => return Ok(whole(StatusCode::NOT_FOUND, &json!({ "error": "not found" }))),
    };
    Ok(whole(StatusCode::OK, &reply))
}

fn whole(status: StatusCode, reply: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(reply.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a chat or a prompt: at once, or a word at a time.
fn said(asked: &Value, is_chat: bool) -> Response<Body> {
    let prompt = if is_chat { last(asked) } else { asked["prompt"].as_str().unwrap_or_default() };
    let most = asked["options"]["num_predict"].as_u64().and_then(|most| usize::try_from(most).ok());
    let most = most.unwrap_or(WORDS_MAX).min(WORDS_MAX);
    let all: Vec<&str> = ["You", "said:"].into_iter().chain(prompt.split_whitespace()).collect();
    let words: Vec<String> = all.iter().take(most).map(|word| format!("{word} ")).collect();
    let usage = json!({
        "done": true,
        "done_reason": if words.len() < all.len() { "length" } else { "stop" },
        "prompt_eval_count": prompt.split_whitespace().count(),
        "eval_count": words.len(),
    });
    if asked["stream"] == false {
        return whole(StatusCode::OK, &line(&words.concat(), usage, is_chat));
    }
    let mut lines: Vec<Value> =
        words.iter().map(|word| line(word, json!({ "done": false }), is_chat)).collect();
    lines.push(line("", usage, is_chat));
    let paced = stream::iter(lines).then(|line| async move {
        tokio::time::sleep(PACE).await;
        Ok(Frame::data(Bytes::from(format!("{line}\n"))))
    });
    let mut response = Response::new(StreamBody::new(paced).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

/// The text of the last message.
fn last(asked: &Value) -> &str {
    let messages = asked["messages"].as_array();
    let last = messages.and_then(|messages| messages.last());
    last.and_then(|message| message["content"].as_str()).unwrap_or_default()
}

/// A line of a reply; `rest`: what else it has.
fn line(text: &str, rest: Value, is_chat: bool) -> Value {
    let mut line = rest;
    line["model"] = MODEL.into();
    line["created_at"] = Timestamp::now().to_string().into();
    if is_chat {
        line["message"] = json!({ "role": "assistant", "content": text });
    } else {
        line["response"] = text.into();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(response: Response<Body>) -> String {
        let body = response.into_body().collect().await.unwrap_or_else(|never| match never {});
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_again_what_it_was_told_at_once_or_word_by_word() {
        let asked = json!({ "messages": [{ "role": "user", "content": "Why so blue?" }] });
        let streamed = text(said(&asked, true)).await;
        let lines: Vec<Value> =
            streamed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let words: String =
            lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
        assert_eq!((words.as_str(), lines.len()), ("You said: Why so blue? ", 6));
        let last = &lines[5];
        assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
        assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&json!(3), &json!(5)));
        let asked = json!({ "prompt": "a b", "stream": false, "options": { "num_predict": 3 } });
        let whole: Value = serde_json::from_str(&text(said(&asked, false)).await).unwrap();
        assert_eq!(
            (&whole["response"], &whole["done_reason"]),
            (&json!("You said: a "), &json!("length"))
        );
    }
}
