//! OpenAI's dialect to Ollama's and back. Pure: ids and times are arguments.
//!
//! | file | what is in it |
//! |---|---|
//! | [`chat_request`] | `/v1/chat/completions` → `/api/chat` |
//! | [`chat_reply`] | a whole reply back |
//! | [`chat_stream`] | a streamed reply back, line by line |

pub mod chat_reply;
pub mod chat_request;
pub mod chat_stream;
#[cfg(test)]
mod tests;

/// Why an upstream's stream cannot be relayed to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// A line is no JSON object.
    #[error("a line is no JSON object")]
    NotJson,
    /// The upstream said that it failed.
    #[error("the upstream reported an error")]
    UpstreamError,
    /// It ended without a last line that says so.
    #[error("the stream broke off")]
    BrokenOff,
    /// A line is too long.
    #[error("a line is too long")]
    TooLong,
}
