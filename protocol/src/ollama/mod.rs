//! Ollama's own dialect: what is read of its requests and replies.
//!
//! | file | what is in it |
//! |---|---|
//! | [`request`] | what policy must know of a native body that passes through |
//! | [`reply`] | what accounting must know of a reply line |
//! | `chat` | the body of `/api/chat`, as it is written for an upstream |
//! | [`order`] | requests that ask for nothing but that a model be loaded or unloaded |
//! | [`tags`], [`ps`], [`show`] | the read routes, filtered |

pub(crate) mod chat;
pub mod order;
pub mod ps;
pub mod reply;
pub mod request;
pub mod show;
pub mod stream;
pub mod tags;

/// A reply of the model server is not what its API promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model server's reply is not what its API promises")]
pub struct BadReply;
