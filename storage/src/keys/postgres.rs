//! Keys on Postgres.

use crate::{
    limits::put_limits,
    postgres::{Postgres as Store, Transaction, put_limits},
};

const PUT_LIMITS: &str = put_limits!("key_limits", "key_id", "CAST($6 AS gateway.limit_period)");

include!("port.rs");
