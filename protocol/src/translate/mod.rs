//! From OpenAI's dialect to Ollama's and back.
//!
//! | file | what is in it |
//! |---|---|
//! | [`chat_request`] | a request to `/v1/chat/completions` as the body of `/api/chat` |
//! | `messages` | its messages |
//! | [`chat_reply`] | a whole reply of `/api/chat` as a completion |
//! | [`chat_stream`] | the lines of a streamed reply as server-sent events |
//! | `calls` | tool calls, in whole replies and in streams |
//!
//! The model server gives no promise that its stream ends well: an `error` line, an end without a
//! `done` line, a line that is no JSON are all failures, and none of them may look like a success to
//! a client. Each is a [`StreamFault`]; nothing of such a line is written, and the caller ends the
//! stream with [`chat_stream::error_event`].

mod calls;
pub mod chat_reply;
pub mod chat_request;
pub mod chat_stream;
mod messages;

use crate::ndjson::TooLong;

/// Why a stream of the model server's is not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StreamFault {
    /// A line is no JSON object of the shape that is promised.
    #[error("a line is not what the model server's API promises")]
    NotJson,
    /// A line says that the model server failed.
    #[error("the model server reported an error")]
    UpstreamError,
    /// The stream ended without saying that it is done.
    #[error("the stream broke off")]
    BrokenOff,
    /// A line is longer than the limit.
    #[error("a line is longer than the limit")]
    TooLong,
}

impl From<TooLong> for StreamFault {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

/// OpenAI's word for why a reply ended. Its SDKs know a closed set of them, so Ollama's own (`load`,
/// `unload`, none at all) become `stop`.
fn finish_reason(done_reason: Option<&str>, has_calls: bool) -> &'static str {
    match done_reason {
        Some("length") => "length",
        _ if has_calls => "tool_calls",
        _ => "stop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finish_reason_stays_within_the_set_of_openai() {
        assert_eq!(finish_reason(Some("stop"), false), "stop");
        assert_eq!(finish_reason(Some("stop"), true), "tool_calls");
        assert_eq!(finish_reason(Some("length"), true), "length");
        for reason in [Some("load"), Some("unload"), Some("anything"), None] {
            assert_eq!(finish_reason(reason, false), "stop");
        }
    }
}
