//! Upstreams on SQLite.

use crate::sqlite::Sqlite as Store;

const INSERT: &str = "INSERT INTO upstreams (name, url, kind, created_at) VALUES ($1, $2, $3, $4)";

include!("port.rs");
