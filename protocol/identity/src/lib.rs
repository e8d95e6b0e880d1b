//! Who is calling and what they may do. Pure: no I/O, no async, no clock; randomness is an argument.
//!
//! | file | what is in it |
//! |---|---|
//! | [`presented`] | how a key is presented: `Authorization: Bearer` |
//! | [`api_key`] | the format of a key: prefix, secret, checksum |
//! | [`hashing`] | what is stored of a key, and how it is compared |
//! | [`principal`] | the proven identity that a request carries |
//! | [`models`] | the rule that says which models a principal may use |
//! | [`limits`] | how much a principal may do |
//! | [`policy`] | how its tenant is served |
//! | [`authorize`] | the decision on one model |

pub mod api_key;
pub mod authorize;
pub mod hashing;
pub mod limits;
pub mod models;
pub mod policy;
pub mod presented;
pub mod principal;
