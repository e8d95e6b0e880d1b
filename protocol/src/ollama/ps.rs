//! `/api/ps`: which models an upstream has loaded, filtered by name.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{BadReply, tags};
use crate::name::ModelName;

/// A model that an upstream has loaded.
#[derive(Clone, Debug)]
pub struct PsEntry {
    /// Its canonical name.
    pub name: ModelName,
    /// Its name as the upstream spells it.
    pub reported: String,
    /// The whole entry.
    pub raw: Box<RawValue>,
}

#[derive(Deserialize)]
struct Entry {
    name: Option<String>,
    model: Option<String>,
}

// === impl PsEntry ===

impl PsEntry {
    /// The entry with the model spelled like this: as it came, where the upstream spells it so.
    #[must_use]
    pub fn spelled(&self, name: &str) -> Cow<'_, str> {
        if self.reported == name {
            return self.raw.get().into();
        }
        let Ok(mut entry) = serde_json::from_str::<Map<String, Value>>(self.raw.get()) else {
            return self.raw.get().into();
        };
        for field in ["name", "model"] {
            if let Some(spelled) = entry.get_mut(field) {
                *spelled = name.into();
            }
        }
        Value::Object(entry).to_string().into()
    }
}

/// Reads the list. Entries that name no model are skipped.
///
/// # Errors
/// [`BadReply`] where it is no list.
pub fn parse(body: &[u8]) -> Result<Vec<PsEntry>, BadReply> {
    Ok(tags::entries(body)?.into_iter().filter_map(entry).collect())
}

/// The list of these entries, each given as it stood in the upstream's.
pub fn render<'a>(entries: impl Iterator<Item = &'a str>) -> String {
    tags::render(entries)
}

/// The list without the models that `is_visible` does not name.
///
/// # Errors
/// [`BadReply`] where it is no list.
pub fn filter(body: &[u8], is_visible: impl Fn(&ModelName) -> bool) -> Result<String, BadReply> {
    let mut entries = parse(body)?;
    entries.retain(|entry| is_visible(&entry.name));
    Ok(render(entries.iter().map(|entry| entry.raw.get())))
}

fn entry(raw: &RawValue) -> Option<PsEntry> {
    let entry: Entry = crate::json::read_object(raw.get())?;
    let reported = entry.model.or(entry.name)?;
    let name = ModelName::parse(&reported).ok()?;
    Some(PsEntry { name, reported, raw: raw.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_models_remain() {
        let body = br#"{"models":[{"name":"A","size":1},{"model":"b:latest"},{"name":""},{}]}"#;
        let visible = filter(body, |name| name.as_str() == "a:latest");
        assert_eq!(visible.as_deref(), Ok(r#"{"models":[{"name":"A","size":1}]}"#));
        assert_eq!(filter(body, |_| false).as_deref(), Ok(r#"{"models":[]}"#));
        assert_eq!(filter(b"[]", |_| true), Err(BadReply));
    }

    #[test]
    fn an_entry_is_as_it_came_unless_its_model_is_spelled_otherwise() {
        let body = br#"{"models":[{"name":"Org/M:q4","model":"Org/M:q4", "size":1.50}]}"#;
        let entry = parse(body).unwrap().remove(0);
        assert_eq!(entry.spelled("Org/M:q4"), entry.raw.get());
        assert_eq!(
            entry.spelled("org/M:Q4"),
            r#"{"name":"org/M:Q4","model":"org/M:Q4","size":1.50}"#
        );
    }
}
