//! HTTP on the data listener.
//!
//! | file | what is in it |
//! |---|---|
//! | [`listener`] | sockets: accepting |
//! | `places` | a place for each connection, so many of one client |
//! | `workers` | the threads that serve connections |
//! | [`connection`] | one connection: which protocol, its time limits, its end |
//! | [`tls`] | certificates, and their exchange while running |
//! | `socket` | a client's socket, and how long it may take nothing |
//! | `quiet` | how long a connection may have no request |
//! | `seen` | what the edge of a connection knows of its requests |
//! | `io`, `framing` | HTTP/1.1: what hyper does not say or show; where requests begin and end |
//! | `frames`, `streams` | HTTP/2: frames without progress, counted; streams whose client takes nothing |
//! | [`router`] | which endpoint a path means |
//! | [`arrival`] | a request's body, streamed in within its limits |
//! | `unpack` | bodies that come packed, unpacked within bounds |
//! | `cors` | what a browser is told that shows a page of another origin |
//! | `room` | room in memory for bodies, with a share for each tenant |
//! | `gather` | a body that comes in parts, put together |
//! | [`body`] | an answer's body |
//! | `limits` | how limits are told |
//! | [`refusal`] | the one place where a refusal becomes HTTP |

pub mod arrival;
pub mod body;
pub mod connection;
pub(crate) mod cors;
mod frames;
mod framing;
pub(crate) mod gather;
mod io;
pub(crate) mod limits;
pub mod listener;
mod places;
mod quiet;
pub mod refusal;
pub(crate) mod room;
pub mod router;
mod seen;
mod socket;
mod streams;
pub mod tls;
pub(crate) mod unpack;
pub(crate) mod workers;

pub(crate) use seen::Seen;
