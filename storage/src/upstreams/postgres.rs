//! Upstreams on Postgres.

use crate::postgres::Postgres as Store;

const INSERT: &str = "INSERT INTO upstreams (name, url, kind, slots, keep_alive, created_at)
    VALUES ($1, $2, CAST($3 AS gateway.upstream_kind), $4, $5, $6)";

include!("port.rs");
