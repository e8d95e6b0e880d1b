//! The load of `make loadtest`, by goose: users with a key that is limited, and users that stream.
//!
//! `loadtests/locustfile.py` is the same for those who prefer locust. Both read `GATEWAY_KEY` and
//! `GATEWAY_KEY_LIMITED` from the environment; the rest is said on goose's own command line.

use std::{env, sync::OnceLock, time::Duration};

use goose::{
    goose::{GooseMethod, GooseResponse},
    prelude::*,
};
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";
const MODEL: &str = "llama3.2";
/// A stream of twenty chunks, 5 ms apart: what a chat looks like, and short enough for many.
const STREAM: &str = "[[chunks 20]] [[pace 5]] tell me more";

/// How long a user waits between two requests: without that, so few cores measure only each other.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_millis(150);

static KEYS: OnceLock<[String; 2]> = OnceLock::new();

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = |name: &str| env::var(name).map_err(|_| format!("{name} is not set"));
    let _ = KEYS.set([key("GATEWAY_KEY_LIMITED")?, key("GATEWAY_KEY")?]);
    GooseAttack::initialize()?
        .register_scenario(
            scenario!("limited")
                .set_weight(1)?
                .set_wait_time(WAIT_MIN, WAIT_MAX)?
                .register_transaction(transaction!(limited)),
        )
        .register_scenario(
            scenario!("streaming")
                .set_weight(1)?
                .set_wait_time(WAIT_MIN, WAIT_MAX)?
                .register_transaction(transaction!(streaming)),
        )
        .execute()
        .await?;
    Ok(())
}

/// One short question with a key that is limited. To be refused is what is expected of it: 429, with
/// the code and the wait that the SDKs read.
async fn limited(user: &mut GooseUser) -> TransactionResult {
    let body = json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": "hi" }],
    });
    let mut goose = ask(user, 0, "limited", &body).await?;
    let response = goose.response?;
    let status = response.status().as_u16();
    let waits = response.headers().contains_key("retry-after-ms");
    let headers = response.headers().clone();
    let text = response.text().await.unwrap_or_default();
    let refused = status == 429 && waits && text.contains("rate_limit_requests");
    if status == 200 || refused {
        return user.set_success(&mut goose.request);
    }
    user.set_failure(
        "neither let in nor refused as it should be",
        &mut goose.request,
        Some(&headers),
        Some(&text),
    )
}

/// A stream, read to its end.
async fn streaming(user: &mut GooseUser) -> TransactionResult {
    let body = json!({
        "model": MODEL,
        "stream": true,
        "messages": [{ "role": "user", "content": STREAM }],
    });
    let mut goose = ask(user, 1, "stream", &body).await?;
    let response = goose.response?;
    let headers = response.headers().clone();
    let text = response.text().await.unwrap_or_default();
    if text.contains("data: [DONE]") {
        return user.set_success(&mut goose.request);
    }
    user.set_failure("the stream is not whole", &mut goose.request, Some(&headers), Some(&text))
}

async fn ask(
    user: &mut GooseUser,
    key: usize,
    name: &str,
    body: &Value,
) -> Result<GooseResponse, Box<TransactionError>> {
    let key = KEYS.get().map_or("", |keys| keys[key].as_str());
    let builder = user.get_request_builder(&GooseMethod::Post, PATH)?.bearer_auth(key).json(body);
    let request = GooseRequest::builder()
        .method(GooseMethod::Post)
        .path(PATH)
        .name(name)
        .set_request_builder(builder)
        .build();
    user.request(request).await
}
