//! Who is calling and what they may do. Pure: no I/O, no async, no clock; randomness is an argument.
//!
//! | file | what is in it |
//! |---|---|
//! | [`principal`] | the proven identity that a request carries |
//! | [`models`] | the rule that says which models a principal may use |

pub mod models;
pub mod principal;
