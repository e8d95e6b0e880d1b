//! Ollama's own dialect, as far as the gateway reads it.

pub mod ps;
pub mod reply;
pub mod request;
pub mod show;
pub mod stream;
pub mod tags;
