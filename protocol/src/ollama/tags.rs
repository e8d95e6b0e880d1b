//! The list of models that an Ollama server has (`/api/tags`).

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::name::ModelName;

/// One model of the list.
#[derive(Debug)]
pub struct TagEntry {
    /// Its canonical name.
    pub name: ModelName,
    /// Its name as the server spells it.
    pub reported: String,
    /// When it was last changed, as the server writes it (RFC 3339).
    pub modified_at: Option<String>,
    /// The entry, byte for byte.
    pub raw: Box<RawValue>,
}

#[derive(Deserialize)]
struct List {
    models: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    modified_at: Option<String>,
}

/// Reads a list. Entries whose names are none are passed over: nobody could ask for them.
///
/// # Errors
/// Where it is no list.
pub fn parse(body: &[u8]) -> Result<Vec<TagEntry>, serde_json::Error> {
    let list: List = serde_json::from_slice(body)?;
    let entries = list.models.unwrap_or_default().into_iter().filter_map(|raw| {
        let entry: Entry = serde_json::from_str(raw.get()).ok()?;
        let name = ModelName::parse(&entry.name).ok()?;
        Some(TagEntry { name, reported: entry.name, modified_at: entry.modified_at, raw })
    });
    Ok(entries.collect())
}

/// Writes a list of entries, each as it came.
pub fn render<'a>(entries: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::from("{\"models\":[");
    for (index, entry) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(entry);
    }
    out.push_str("]}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_bytes_and_bad_names_are_passed_over() -> Result<(), serde_json::Error> {
        let body = br#"{"models":[{"name":"A:x", "size":1e3},{"name":"../b"},{"size":1}]}"#;
        let entries = parse(body)?;
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].name.as_str(), "a:x");
        let text = render(entries.iter().map(|entry| entry.raw.get()));
        assert_eq!(text, r#"{"models":[{"name":"A:x", "size":1e3}]}"#);
        assert!(parse(br#"{"models":null}"#)?.is_empty());
        assert!(parse(b"[]").is_err());
        Ok(())
    }
}
