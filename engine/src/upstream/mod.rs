//! The way to the model servers: connections, calls, and the question which models there are.
//!
//! | file | what is in it |
//! |---|---|
//! | [`address`] | which addresses are public
//! | [`client`] | one call, with its time limits |
//! | [`images`] | images that a request names by their address
//! | [`pool`] | connections that are kept for the next call |
//! | [`connect`] | a new connection: TCP or TLS, `TCP_NODELAY`, HTTP/1.1 |
//! | [`probe`] | the question which models a server has |

pub mod address;
pub mod client;
pub mod connect;
pub mod images;
pub mod pool;
pub mod probe;
