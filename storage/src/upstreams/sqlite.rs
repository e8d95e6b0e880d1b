//! Upstreams on SQLite.

use crate::sqlite::Sqlite as Store;

const INSERT: &str =
    "INSERT INTO upstreams (name, url, kind, slots, created_at) VALUES ($1, $2, $3, $4, $5)";

include!("port.rs");
