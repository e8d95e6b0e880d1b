//! What crosses a boundary: ids, dialects, events, error codes. Pure: no I/O, no async, no clock.
//!
//! | file | what is in it |
//! |---|---|
//! | [`id`] | the ids of tenants, keys and requests |
//! | [`secret`] | a text that does not print and is wiped |
//! | [`name`] | model names, spelled the way Ollama will read them |
//! | [`usage`] | prompt and completion tokens |
//! | [`outcome`] | how a request ended |
//! | [`route`] | the inference and read routes, by name |
//! | [`fields`] | the top level of a JSON body, without two ways to read it |
//! | [`ndjson`] | lines of a stream |
//! | [`ollama`] | Ollama's own dialect, as far as the gateway reads it |
//! | [`openai`] | OpenAI's dialect, as far as the gateway writes it |
//! | [`translate`] | the one to the other and back |
//! | [`error`] | the catalogue of refusals: code, status, meaning |
//! | [`telemetry`] | the names of metrics and their labels |

pub mod error;
pub mod fields;
pub mod id;
pub mod name;
pub mod ndjson;
pub mod ollama;
pub mod openai;
pub mod outcome;
pub mod route;
pub mod secret;
pub mod telemetry;
pub mod translate;
pub mod usage;
