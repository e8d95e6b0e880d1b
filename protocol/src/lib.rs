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
//! | [`cause`] | why a model server refuses, in the forms of all of them |
//! | [`error`] | the catalogue of refusals: code, status, meaning |
//! | [`telemetry`] | the names of metrics and their labels |
//! | [`ndjson`] | lines out of chunks |
//! | [`sse`] | server-sent events, written and read |
//! | `body` | the fields of a request body, each found once |
//! | [`caps`] | how many of each thing a request body may hold |
//! | `strangers` | fields of a request that are not read, and which of them may pass |
//! | `surrogate` | halves of surrogate pairs in JSON |
//! | `media` | how many tokens a sound or a video has |
//! | [`levers`] | what a request can ask of a model server at the cost of others |
//! | `json` | JSON as text: escaping, splicing, depth |
//! | [`prompt`] | what a prompt is made of: text, images, images behind URLs |
//! | `anthropic` | Anthropic's dialect: requests |
//! | [`ollama`] | Ollama's dialect: inspected requests, reply lines, filtered lists |
//! | [`openai`] | OpenAI's dialect: requests, models, errors |
//! | [`translate`] | from OpenAI's dialect to Ollama's and back |
//! | `golden` | requests, replies and streams with what must become of them (tests) |

mod anthropic;
mod body;
pub mod caps;
pub mod cause;
pub mod error;
#[cfg(test)]
mod golden;
pub mod id;
mod json;
pub mod levers;
mod media;
pub mod name;
pub mod ndjson;
pub mod ollama;
pub mod openai;
pub mod outcome;
pub mod prompt;
pub mod route;
pub mod secret;
pub mod sse;
mod strangers;
mod surrogate;
pub mod telemetry;
pub mod translate;
pub mod usage;
