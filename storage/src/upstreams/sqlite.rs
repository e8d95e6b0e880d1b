//! Upstreams on SQLite.

use crate::sqlite::Sqlite as Store;

const INSERT: &str = "INSERT INTO upstreams (name, url, kind, slots, keep_alive, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)";

include!("port.rs");
