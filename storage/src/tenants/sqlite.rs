//! Tenants on SQLite.

use crate::{
    limits::put_limits,
    sqlite::{Sqlite as Store, Transaction, put_limits},
};

const PUT_LIMITS: &str = put_limits!("tenant_limits", "tenant_id", "$6");

include!("port.rs");
