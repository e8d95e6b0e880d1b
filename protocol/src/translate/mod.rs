//! From the dialect of a client to that of an upstream, and back.
//!
//! | file | what is in it |
//! |---|---|
//! | [`request`] | a request: what policy must know of it, and what an upstream is to be sent |
//! | `chat_request`, `completion_request`, `embedding_request`, `message_request`, `response_request`, `native_request` | requests of each dialect, read |
//! | `passed` | what has to be another in a request that passes |
//! | [`fields`] | which fields of a request are read, by route; and what becomes of each, which tests ask |
//! | `messages` | the messages of OpenAI's chat |
//! | `history` | messages in the order that model servers take |
//! | `response_items` | the items of OpenAI's responses |
//! | `odd` | what no model server has a place for, told in words |
//! | `tools` | the tools of a request to `/v1/responses`, and their names upstream |
//! | `piece` | what an upstream says, in no dialect |
//! | [`stream`] | a streamed reply on its way |
//! | [`whole`] | a whole reply |
//! | [`long`] | a long whole reply on its way through |
//! | `chat_stream`, `chat_reply` | written as OpenAI's chat |
//! | `completion`, `response`, `message`, `native` | written as OpenAI's completion and response, as Anthropic's message, as Ollama's lines |
//! | `calls` | tool calls in OpenAI's shape |
//!
//! The model server gives no promise that its stream ends well: an error, an end before the end, a line
//! that is no JSON are all failures, and none of them may look like a success to a client. Each is a
//! [`StreamFault`]; nothing of such a line is written, and the caller ends the stream with
//! [`stream::Translation::fail`].

mod calls;
mod chat_reply;
mod chat_request;
mod chat_stream;
mod completion;
mod completion_request;
mod echo;
mod embedding_request;
pub mod fields;
mod history;
pub mod long;
mod message;
mod message_request;
mod messages;
mod native;
mod native_request;
mod odd;
mod passed;
pub(crate) mod piece;
pub mod request;
mod response;
mod response_items;
mod response_request;
pub mod stream;
mod tools;
pub mod whole;

pub use chat_reply::ReplyMeta;
pub use echo::Echo;

use bytes::{Bytes, BytesMut};
use serde_json::json;

use crate::{
    cause::Cause,
    error::Code,
    ndjson::TooLong,
    openai::error::{anthropic_error, ollama_error, openai_error},
    route::Route,
    sse,
};

/// How a client wants its reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// As Ollama gives it on that route.
    Native(Route),
    /// As a chat completion.
    Chat {
        /// Whether a stream ends with a chunk of usage.
        include_usage: bool,
    },
    /// As a completion of plain text.
    Completion {
        /// Whether a stream ends with a chunk of usage.
        include_usage: bool,
        /// The prompt, where it is to stand before the reply.
        echo: Option<String>,
    },
    /// As a list of vectors.
    Embedding {
        /// Whether a vector is its bytes in base64, and not a list of numbers.
        base64: bool,
    },
    /// As a response, which says again a part of its request.
    Response(Box<Echo>),
    /// As a message of Anthropic's.
    Message,
}

/// What tells a client, as the first event of its stream, that there will be no reply.
#[must_use]
pub fn failure(reply: &Reply, code: Code, message: &str, param: Option<&str>) -> Bytes {
    let mut out = BytesMut::new();
    match reply {
        Reply::Message => {
            let event = anthropic_error(code, message, param, None);
            sse::named_event("error", event.as_bytes(), &mut out);
        }
        Reply::Response(_) => {
            let event = json!({
                "type": "error", "code": code.as_str(), "message": message, "param": param,
                "sequence_number": 0,
            });
            sse::named_event("error", event.to_string().as_bytes(), &mut out);
        }
        Reply::Native(_) => {
            out.extend_from_slice(ollama_error(message, param).as_bytes());
            out.extend_from_slice(b"\n");
        }
        Reply::Chat { .. } | Reply::Completion { .. } | Reply::Embedding { .. } => {
            sse::event(openai_error(code, message, param).as_bytes(), &mut out);
        }
    }
    out.freeze()
}

// === impl Reply ===

impl Reply {
    /// Whether a stream of it is one of server-sent events.
    #[must_use]
    pub fn is_sse(&self) -> bool {
        !matches!(self, Self::Native(_))
    }

    /// Whether the client asked to be told the usage at the end of a stream.
    #[must_use]
    pub fn include_usage(&self) -> bool {
        matches!(
            self,
            Self::Chat { include_usage: true } | Self::Completion { include_usage: true, .. }
        )
    }
}

/// Why a stream of the model server's is not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StreamFault {
    /// A line is no JSON object of the shape that is promised.
    #[error("a line is not what the model server's API promises")]
    NotJson,
    /// What a line says is no text.
    #[error("the content of a line is no text that can be translated")]
    Content,
    /// A tool call is none.
    #[error("a tool call has no name, or arguments that are no JSON object")]
    Call,
    /// A line says that the model server failed; who read it knows the cause, where it is a known one.
    #[error("the model server reported an error")]
    UpstreamError,
    /// The stream ended without saying that it is done.
    #[error("the stream broke off")]
    BrokenOff,
    /// A line is longer than the limit.
    #[error("a line is longer than the limit")]
    TooLong,
}

// === impl StreamFault ===

impl StreamFault {
    /// The fault of an upstream that tells an error; keeps its cause, where that is a known one. Apart from the
    /// reading of chunks, which would pay for it.
    #[cold]
    #[inline(never)]
    pub(crate) fn told(error: &[u8], cause: &mut Option<Cause>) -> Self {
        *cause = Cause::read(None, error);
        Self::UpstreamError
    }
}

impl From<TooLong> for StreamFault {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}
