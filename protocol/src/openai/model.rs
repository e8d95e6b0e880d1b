//! Models, as `/v1/models` tells of them.

use serde::Serialize;

/// One model.
#[derive(Debug, Serialize)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: String,
}

/// A list of them.
#[derive(Debug, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

// === impl ModelObject ===

impl ModelObject {
    /// `name` is canonical; `created` is in seconds since 1970. The owner is its namespace.
    #[must_use]
    pub fn new(name: &str, created: i64) -> Self {
        let owner = name.rsplit_once('/').map_or("library", |(path, _)| {
            path.rsplit_once('/').map_or(path, |(_, namespace)| namespace)
        });
        Self { id: name.to_owned(), object: "model", created, owned_by: owner.to_owned() }
    }
}

// === impl ModelList ===

impl ModelList {
    /// An empty list is `[]` and never null.
    #[must_use]
    pub fn new(data: Vec<ModelObject>) -> Self {
        Self { object: "list", data }
    }
}
