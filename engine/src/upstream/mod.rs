//! The way to the model servers: connections, calls, and the question which models there are.
//!
//! | file | what is in it |
//! |---|---|
//! | [`client`] | one call, with its time limits |
//! | [`pool`] | connections that are kept for the next call |
//! | [`connect`] | a new connection: TCP or TLS, `TCP_NODELAY`, HTTP/1.1 |
//! | [`probe`] | the question which models a server has |

pub mod client;
pub mod connect;
pub mod pool;
pub mod probe;
