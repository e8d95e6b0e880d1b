//! What the programs of `make compare`, `make loadtest` and `make soak` stand on.
//!
//! | module | what is in it |
//! |---|---|
//! | [`process`] | processes that end with what started them |
//! | [`proc`] | what Linux says of processes |
//! | [`seed`] | tenants and keys in the gateway's database |
//! | [`http`] | single requests |
//! | [`out`] | what a program prints |

pub mod http;
pub mod out;
pub mod proc;
pub mod process;
pub mod seed;
