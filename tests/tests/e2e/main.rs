//! What clients, operators and upstreams can see of a gateway that runs.
//!
//! | file | about |
//! |---|---|
//! | `addresses` | the ways in which a Redis can be addressed |
//! | `admin` | what operators see and change |
//! | `asked` | what others outside are asked, however often the gateway is |
//! | `auth` | who is calling |
//! | `causes` | why model servers refuse, as clients are told |
//! | `breaker` | upstreams that are left alone, and whose faults count |
//! | `blocked` | paths that are blocked, however they are spelled |
//! | `bodies` | bodies that are large or slow |
//! | `connections` | connections to upstreams that say more than they were asked |
//! | `unread` | clients that do not read, and clients that leave |
//! | `histories` | what clients replay
//! | `images` | images that a request names by their address
//! | `input` | heads and bodies that are wrong, too large, too slow, or can be read in two ways |
//! | `native`, `openai` | requests that are right, in both dialects |
//! | `database` | a database that is full, or silent |
//! | `dialects` | every dialect of clients on every kind of upstream |
//! | `described` | what the OpenAPI documents describe
//! | `encodings` | bodies that come packed |
//! | `edge` | what one client may take of a connection, and how long |
//! | `frames` | HTTP/2 frames, written by hand |
//! | `origins` | what a browser can be made to ask for |
//! | `pipelines` | HTTP/1.1 requests one behind another |
//! | `failing` | upstreams and clients that fail |
//! | `floods` | what one client can do for nothing to the log and the audit |
//! | `levers` | what is asked of a model server at the cost of others |
//! | `limits` | limits of tenants and keys |
//! | `loading` | comments while a model is being loaded |
//! | `losses` | what is lost in the middle of a run |
//! | `memory` | how much memory those who use it take |
//! | `models` | what is discovered, and who may use it |
//! | `routing` | several upstreams: who is asked, who waits, who stands in for whom |
//! | `names` | models of servers that speak OpenAI's dialect, and of both kinds of server |
//! | `wire` | HTTP/2, TLS, `HEAD`, `OPTIONS`, what goes upstream |
//! | `bulk` | revocations beside thousands of changes |
//! | `strangers` | wrong keys, and what they cost others |
//! | `budgets` | budgets that learn, limits that only observe, what outlives a crash |
//! | `changes` | what other processes change |
//! | `cluster` | several gateways on one database and one Redis |
//! | `operations` | health, metrics, the end |
//! | `paced` | chunks at the pace of a model |
//! | `prompts` | the prompt log, and how long what was done is kept |
//! | `fields` | fields that nobody reads, and bodies that hold too much |
//! | `commands` | the command line |
//! | `corpus` | what the fuzzers were fed |

mod addresses;
mod admin;
mod asked;
mod auth;
mod blocked;
mod bodies;
mod breaker;
mod budgets;
mod bulk;
mod causes;
mod changes;
mod cluster;
mod commands;
mod connections;
mod corpus;
mod database;
mod described;
mod dialects;
mod edge;
mod encodings;
mod failing;
mod fields;
mod floods;
mod frames;
mod histories;
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
mod odd_replies;
mod openai;
mod operations;
mod origins;
mod paced;
mod pipelines;
mod prompts;
mod routing;
mod strangers;
mod unread;
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
