//! The list of models that are loaded (`/api/ps`): of the same shape as `/api/tags`.

pub use super::tags::{parse, render};
