//! Which path does what.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::ask::{self, Ask};
use crate::catalog;
use crate::directives::Directives;
use crate::embed;
use crate::failure::{Failure, MARKER};
use crate::lines::Lines;
use crate::plan::Plan;
use crate::reply::{self, Reply};
use crate::shape::{self, Shape};
use crate::state::{OfModel, Seen, State};

/// Requests that `/scripted/requests` tells.
const TOLD_MAX: usize = 16;

/// Answers a request. `reset` is the connection's: set, it ends with a TCP reset.
pub(crate) async fn answer(
    state: Arc<State>,
    reset: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> Reply {
    let (parts, body) = request.into_parts();
    let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
    let Ok(body) = body.collect().await else {
        return reply::text(StatusCode::BAD_REQUEST, "the body broke off");
    };
    let body = body.to_bytes();
    saw(&state, &parts, &path, &body);
    if parts.headers.contains_key("origin") {
        // What Ollama does with an origin that is not its own, `OLLAMA_ORIGINS` unset.
        return reply::text(StatusCode::FORBIDDEN, "");
    }
    let is_openai = path.starts_with("/v1/");
    if let Some(key) = &state.script.api_key {
        let said = parts.headers.get("authorization").and_then(|said| said.to_str().ok());
        if said.and_then(|said| said.strip_prefix("Bearer ")) != Some(key) {
            let failure = Failure::new(StatusCode::UNAUTHORIZED, "wrong key");
            return failure.into_reply(is_openai);
        }
    }
    let text = String::from_utf8_lossy(&body);
    let result = match (&parts.method, path.as_str()) {
        (&Method::POST, "/api/chat") => say(&state, &reset, ask::native::chat(&text)).await,
        (&Method::POST, "/api/generate") => say(&state, &reset, ask::native::generate(&text)).await,
        (&Method::POST, "/v1/chat/completions") => {
            say(&state, &reset, ask::openai::chat(&text)).await
        }
        (&Method::POST, "/v1/completions") => {
            say(&state, &reset, ask::openai::completion(&text)).await
        }
        (&Method::POST, "/api/embed") => embedding(&state, embed::embed(&text)).await,
        (&Method::POST, "/api/embeddings") => embedding(&state, embed::legacy(&text)).await,
        (&Method::POST, "/v1/embeddings") => embedding(&state, embed::openai(&text)).await,
        (&Method::POST, "/api/show") => catalog::show(&state, &text),
        (&Method::GET | &Method::HEAD, other) => read(&state, other),
        (_, "/api/pull" | "/api/push" | "/api/create" | "/api/copy" | "/api/delete") => {
            catalog::mutate(&state, &path, &text)
        }
        (_, other) if other.starts_with("/api/blobs/") => catalog::mutate(&state, &path, &text),
        _ => Ok(reply::text(StatusCode::NOT_FOUND, format!("404 page not found {MARKER}"))),
    };
    result.unwrap_or_else(|failure| failure.into_reply(is_openai))
}

fn saw(state: &State, parts: &Parts, path: &str, body: &Bytes) {
    state.count(|produced| produced.requests += 1);
    state.came_by(path);
    state.saw(Seen {
        method: parts.method.to_string(),
        path: path.to_owned(),
        headers: parts.headers.clone(),
        body: body.clone(),
    });
}

fn read(state: &State, path: &str) -> Result<Reply, Failure> {
    Ok(match path {
        "/" => reply::text(StatusCode::OK, "Ollama is running"),
        "/api/version" => reply::json(format!("{{\"version\":\"{}\"}}", state.script.version)),
        "/api/tags" => catalog::tags(state),
        "/api/ps" => catalog::ps(state),
        "/scripted/requests" => reply::json(seen(state)),
        "/v1/models" => catalog::openai_list(state),
        other => match other.strip_prefix("/v1/models/") {
            Some(id) => return catalog::openai_one(state, id),
            None => reply::text(StatusCode::NOT_FOUND, format!("404 page not found {MARKER}")),
        },
    })
}

/// The newest requests with a body, the last one last: what a test in another process wants to see.
fn seen(state: &State) -> String {
    let log = state.log();
    let with_body: Vec<_> = log.iter().filter(|seen| !seen.body.is_empty()).collect();
    let newest = &with_body[with_body.len().saturating_sub(TOLD_MAX)..];
    let told = newest.iter().map(|seen| {
        let body = serde_json::from_slice::<Value>(&seen.body);
        let body = body.unwrap_or_else(|_| String::from_utf8_lossy(&seen.body).into());
        json!({ "path": seen.path, "body": body })
    });
    Value::from_iter(told).to_string()
}

/// The words that the script has for every request.
fn script_words(state: &State) -> Directives {
    let mut words = Directives::default();
    words.read(&state.script.behave);
    words
}

async fn say(
    state: &Arc<State>,
    reset: &Arc<AtomicBool>,
    ask: Result<Ask, Failure>,
) -> Result<Reply, Failure> {
    let mut ask = ask?;
    if state.script.n_predict {
        ask.limit = ask.n_predict.or(ask.limit);
    }
    let mut words = script_words(state);
    words.read(&ask.last);
    let Some((model, canonical)) = catalog::find(state, &ask.model) else {
        return Err(Failure::model_not_found(&format!("model '{}' not found", ask.model)));
    };
    if let Some(lifecycle) = ask.lifecycle {
        match lifecycle {
            ask::Lifecycle::Load => drop(state.load(&canonical)),
            ask::Lifecycle::Unload => state.unload(&canonical),
        }
        let reason = lifecycle.reason();
        let body = shape::lifecycle(ask.surface, &ask.model, reason, &state.clock);
        return Ok(reply::json(body.freeze()));
    }
    before(state, &words, state.load(&canonical)).await?;
    // What a line of a stream says is, whole, an error with the status of a success.
    if let (false, Some(refusal), Some(_)) = (ask.stream, words.refusal, words.fault) {
        let mut reply = Failure::refusal(refusal).into_reply(ask.surface.is_openai());
        *reply.status_mut() = StatusCode::OK;
        return Ok(reply);
    }
    let plan = Plan::new(&ask, model, &words, &state.script);
    let id = state.produced().borrow().requests;
    let shape = Shape::new(plan, &state.clock, id, !words.no_counts);
    if ask.stream {
        let content_type = shape.content_type();
        let lines = Lines::new(shape, Arc::clone(state), words, Arc::clone(reset));
        return Ok(reply::stream(lines, content_type));
    }
    let count = shape.plan().count();
    let pace = words.pace.unwrap_or(state.script.pace);
    let mut making =
        Making { state, plan: shape.plan(), pace, begun: Instant::now(), is_done: false };
    tokio::time::sleep(pace.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))).await;
    making.is_done = true;
    drop(making);
    state.count(|produced| {
        produced.pieces += count as u64;
        produced.prompt_tokens += shape.plan().prompt_tokens;
    });
    Ok(reply::json(shape.whole(&state.clock).freeze()))
}

/// A whole answer that is being made. Dropped before its end, it has made what its pace allows until then.
struct Making<'a> {
    state: &'a State,
    plan: &'a Plan,
    pace: Duration,
    begun: Instant,
    is_done: bool,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let count = self.plan.count() as u64;
        let made = self.begun.elapsed().as_millis() / self.pace.as_millis().max(1);
        let so_far = u64::try_from(made).unwrap_or(u64::MAX).min(count);
        let (pieces, left_pieces) = if self.is_done { (count, 0) } else { (so_far, so_far) };
        let prompt_tokens = self.plan.prompt_tokens;
        let said = OfModel { answers: 1, prompt_tokens, pieces, left_pieces };
        self.state.said(&self.plan.model, said);
    }
}

async fn embedding(
    state: &Arc<State>,
    asked: Result<embed::Asked, Failure>,
) -> Result<Reply, Failure> {
    let asked = asked?;
    let words = asked.directives(script_words(state));
    before(state, &words, false).await?;
    embed::answer(state, &asked)
}

/// What comes before the first byte: waits, and refusals on request.
async fn before(state: &State, words: &Directives, is_cold: bool) -> Result<(), Failure> {
    if words.hang_head {
        std::future::pending::<()>().await;
    }
    let cold = if is_cold { state.script.cold_load } else { Duration::ZERO };
    let wait = cold + words.first_byte.unwrap_or(state.script.first_byte);
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    let status = |code| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(code) = words.html {
        return Err(Failure::page(status(code)));
    }
    let refused = match (words.status, words.refusal, words.fault) {
        (Some(code), ..) => Failure::new(status(code), "the script says so"),
        (None, Some(refusal), None) => Failure::refusal(refusal),
        _ => return Ok(()),
    };
    Err(refused.retry_after(words.retry_after))
}
