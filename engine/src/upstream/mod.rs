//! The way to the model servers: connections, calls, and the question which models there are.
//!
//! | file | what is in it |
//! |---|---|
//! | [`address`] | which addresses are public |
//! | [`client`] | one call, with its time limits |
//! | [`images`] | images that a request names by their address |
//! | `pool` | connections that are kept for the next call |
//! | [`connect`] | a new connection: TCP or TLS, `TCP_NODELAY` |
//! | [`connection`] | one call on it: the request goes out, the reply comes in |
//! | [`reply`] | the reply on the wire: its head, and where its body ends; pure |
//! | [`retry_after`] | how long an upstream asks us to stay away; pure |
//! | [`probe`] | the question which models a server has |

pub mod address;
pub mod client;
pub mod connect;
pub mod connection;
pub mod images;
mod pool;
pub mod probe;
pub mod reply;
pub mod retry_after;
