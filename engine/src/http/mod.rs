//! HTTP on the data listener.
//!
//! | file | what is in it |
//! |---|---|
//! | [`listener`] | sockets: accepting, a place for each connection |
//! | `workers` | the threads that serve connections |
//! | [`connection`] | one connection: which protocol, its time limits, its end |
//! | [`tls`] | certificates, and their exchange while running |
//! | `io` | what hyper does not say or show, seen at the edge of a connection |
//! | [`router`] | which endpoint a path means |
//! | [`arrival`] | a request's body, streamed in within its limits |
//! | `gather` | a body that comes in parts, put together |
//! | [`body`] | an answer's body |
//! | `limits` | how limits are told |
//! | [`refusal`] | the one place where a refusal becomes HTTP |

pub mod arrival;
pub mod body;
pub mod connection;
pub(crate) mod gather;
mod io;
pub(crate) mod limits;
pub mod listener;
pub mod refusal;
pub mod router;
pub mod tls;
pub(crate) mod workers;

pub(crate) use io::Seen;
