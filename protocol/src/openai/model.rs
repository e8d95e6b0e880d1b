//! The list of models and its objects, as `/v1/models` gives them.

use serde::{Deserialize, Serialize};

use crate::ollama::BadReply;

/// Who owns a model that names nobody: what Ollama says of its own library.
const OWNER_DEFAULT: &str = "library";

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: String,
}

/// The list of models. An empty one is `[]`, where Ollama writes `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// A model as a server lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// Its name there.
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub created: Option<i64>,
}

#[derive(Deserialize)]
struct ListedModels {
    data: Option<Vec<serde_json::Value>>,
}

/// Reads the list of a server. What has no name is skipped.
///
/// # Errors
/// [`BadReply`] where it is no list.
pub fn parse(body: &[u8]) -> Result<Vec<Listed>, BadReply> {
    let list: ListedModels = serde_json::from_slice(body).map_err(|_| BadReply)?;
    let models = list.data.unwrap_or_default().into_iter();
    Ok(models.filter_map(|model| serde_json::from_value(model).ok()).collect())
}

// === impl ModelObject ===

impl ModelObject {
    /// The model of this name, created (or changed) at that time, in seconds since 1970.
    #[must_use]
    pub fn new(name: &str, created: i64) -> Self {
        let owner = name.rsplit('/').nth(1).filter(|owner| !owner.is_empty());
        let owner = owner.unwrap_or(OWNER_DEFAULT);
        Self { id: name.to_owned(), object: "model", created, owned_by: owner.to_owned() }
    }
}

// === impl ModelList ===

impl ModelList {
    /// The list of these models.
    #[must_use]
    pub fn new(data: Vec<ModelObject>) -> Self {
        Self { object: "list", data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_a_server_is_read_and_what_has_no_name_is_skipped() {
        let list =
            br#"{"object":"list","data":[{"id":"Org/M","created":3,"x":1},{"created":1},1]}"#;
        let expected = vec![Listed { id: "Org/M".to_owned(), created: Some(3) }];
        assert_eq!(parse(list), Ok(expected));
        assert_eq!(parse(br#"{"data":null}"#), Ok(Vec::new()));
        assert!(parse(b"[]").is_err() && parse(b"x").is_err());
    }

    #[test]
    fn a_list_is_what_the_sdks_read() {
        let models = vec![ModelObject::new("llama3:latest", 7), ModelObject::new("h/ns/m:q4", 0)];
        let expected = concat!(
            r#"{"object":"list","data":["#,
            r#"{"id":"llama3:latest","object":"model","created":7,"owned_by":"library"},"#,
            r#"{"id":"h/ns/m:q4","object":"model","created":0,"owned_by":"ns"}]}"#
        );
        assert_eq!(serde_json::to_string(&ModelList::new(models)).unwrap(), expected);
        let empty = serde_json::to_string(&ModelList::new(vec![])).unwrap();
        assert_eq!(empty, r#"{"object":"list","data":[]}"#);
    }
}
