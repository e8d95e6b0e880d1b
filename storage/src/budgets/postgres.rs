//! Corrections of budgets on Postgres.

use crate::postgres::Postgres as Store;

include!("port.rs");
