//! What clients, operators and upstreams can see of a gateway that runs.
//!
//! | file | about |
//! |---|---|
//! | `addresses` | the ways in which a Redis can be addressed |
//! | `admin` | what operators see and change |
//! | `auth` | who is calling |
//! | `blocked` | paths that are blocked, however they are spelled |
//! | `images` | images that a request names by their address
//! | `input` | heads and bodies that are wrong, too large, too slow, or can be read in two ways |
//! | `native`, `openai` | requests that are right, in both dialects |
//! | `dialects` | every dialect of clients on every kind of upstream |
//! | `described` | what the OpenAPI documents describe
//! | `failing` | upstreams and clients that fail |
//! | `levers` | what is asked of a model server at the cost of others |
//! | `limits` | limits of tenants and keys |
//! | `loading` | comments while a model is being loaded |
//! | `losses` | what is lost in the middle of a run |
//! | `memory` | how much memory those who use it take |
//! | `models` | what is discovered, and who may use it |
//! | `routing` | several upstreams: who is asked, who waits, who stands in for whom |
//! | `names` | models of servers that speak OpenAI's dialect, and of both kinds of server |
//! | `wire` | HTTP/2, TLS, `HEAD`, `OPTIONS`, what goes upstream |
//! | `budgets` | budgets that learn, limits that only observe, what outlives a crash |
//! | `changes` | what other processes change |
//! | `cluster` | several gateways on one database and one Redis |
//! | `operations` | health, metrics, the end |
//! | `paced` | chunks at the pace of a model |
//! | `prompts` | the prompt log, and how long what was done is kept |
//! | `commands` | the command line |
//! | `corpus` | what the fuzzers were fed |

mod addresses;
mod admin;
mod auth;
mod blocked;
mod budgets;
mod changes;
mod cluster;
mod commands;
mod corpus;
mod described;
mod dialects;
mod failing;
mod images;
mod input;
mod levers;
mod limits;
mod loading;
mod losses;
mod memory;
mod models;
mod names;
mod native;
mod openai;
mod operations;
mod paced;
mod prompts;
mod routing;
mod wire;

use serde_json::{Value, json};
use tests::{Setup, gateway::MODEL};

/// A chat of one message.
fn chat(words: &str) -> Value {
    json!({ "model": MODEL, "messages": [{ "role": "user", "content": words }] })
}

/// The same, whole.
fn whole_chat(words: &str) -> Value {
    with(chat(words), "stream", json!(false))
}

/// A body with one field more, or another one.
fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

/// A gateway on Postgres, or on SQLite.
fn on(postgres: bool) -> Setup {
    Setup { postgres, ..Setup::default() }
}

/// A setup with settings, as environment variables.
fn settings<const N: usize>(env: [(&'static str, &str); N]) -> Setup {
    Setup { env: env.map(|(name, value)| (name, value.to_owned())).to_vec(), ..Setup::default() }
}

/// Makes two tests of each function, one on each database.
macro_rules! on_both {
    ($($test:ident,)+) => {
        mod sqlite {
            $(#[tokio::test] async fn $test() { super::$test(crate::on(false)).await; })+
        }

        mod postgres {
            $(#[tokio::test] async fn $test() { super::$test(crate::on(true)).await; })+
        }
    };
}
use on_both;
