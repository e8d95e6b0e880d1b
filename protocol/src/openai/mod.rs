//! OpenAI's dialect, as far as the gateway writes it.

pub mod error;
pub mod model;
