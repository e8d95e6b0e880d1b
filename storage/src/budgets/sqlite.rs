//! Corrections of budgets on SQLite.

use crate::sqlite::Sqlite as Store;

include!("port.rs");
