//! OpenAI's dialect: the shapes that its SDKs send and want back.
//!
//! | file | what is in it |
//! |---|---|
//! | `chat` | the messages of a request to `/v1/chat/completions` |
//! | `reply` | what is read of a reply |
//! | `said`, `calls` | texts that come as lists; tool calls, put together from their parts |
//! | [`stream`] | a stream that passes through |
//! | `write` | a chat as the body of a request |
//! | [`model`] | the list of models and its objects |
//! | [`error`] | the body of an error, in this dialect and in Ollama's |

pub(crate) mod calls;
pub(crate) mod chat;
pub mod error;
pub mod model;
pub(crate) mod reply;
pub(crate) mod said;
pub mod stream;
pub(crate) mod write;
