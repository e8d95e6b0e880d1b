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
//! | [`error`] | the catalogue of refusals: code, status, meaning |
//! | [`telemetry`] | the names of metrics and their labels |

pub mod error;
pub mod id;
pub mod name;
pub mod outcome;
pub mod route;
pub mod secret;
pub mod telemetry;
pub mod usage;
