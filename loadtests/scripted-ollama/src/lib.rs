//! A model server that behaves on the wire like Ollama, without a model.
//!
//! It stands in for Ollama in tests, in the demo and under load: the same routes, the same
//! framing (one HTTP chunk a line), the same order of keys, the same texts of refusal. Its
//! answers are deterministic, and words in the prompt make it misbehave in every way a model
//! server can (`README.md` beside this crate has the table).
//!
//! | module | what |
//! |---|---|
//! | [`script`] | what to serve and how: models, pace, faults; read from TOML |
//! | [`server`] | the listener and its door, [`Scripted`] |
//! | [`state`] | counters, the log of requests, waiting for either |
//! | `routes` | which path does what |
//! | `catalog` | the installed models, and the requests that change them |
//! | `ask`, `ask/*` | a request read as Go's decoder reads it, in one neutral form |
//! | `directives` | the words in a prompt that steer an answer |
//! | `plan`, `schema` | what will be said |
//! | `shape` | how it looks on each surface, streamed and whole |
//! | `reply`, `lines` | a body; a streamed answer as a body, with its faults |
//! | `embed` | embeddings |
//! | `go`, `object`, `name`, `clock`, `failure`, `socket` | Go's JSON, names, time, refusals, resets |

mod ask;
mod catalog;
mod clock;
mod directives;
mod embed;
mod failure;
mod go;
mod lines;
mod name;
mod object;
mod plan;
mod refusals;
mod reply;
mod routes;
mod schema;
pub mod script;
pub mod server;
mod shape;
mod socket;
pub mod state;

pub use failure::MARKER;
pub use script::{Model, Script, ScriptError};
pub use server::Scripted;
pub use state::{OfModel, Produced, Seen};
