//! OpenAI's dialect: the shapes that its SDKs send and want back.
//!
//! | file | what is in it |
//! |---|---|
//! | `chat` | the messages of a request to `/v1/chat/completions` |
//! | [`model`] | the list of models and its objects |
//! | [`error`] | the body of an error, in this dialect and in Ollama's |

pub(crate) mod chat;
pub mod error;
pub mod model;
