//! `/api/tags`: which models an upstream has, read for the catalog and rendered for a client.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::BadReply;
use crate::name::ModelName;

/// A model that an upstream has.
#[derive(Clone, Debug)]
pub struct TagEntry {
    /// Its canonical name.
    pub name: ModelName,
    /// Its name as the upstream spells it.
    pub reported: String,
    /// When it was changed, as the upstream says it (RFC 3339).
    pub modified_at: Option<String>,
    /// The model runs elsewhere: the upstream only passes requests on, whatever it is called.
    pub is_remote: bool,
    /// The whole entry, for a list that a client asks for.
    pub raw: Box<RawValue>,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    models: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Entry {
    name: Option<String>,
    model: Option<String>,
    modified_at: Option<String>,
    remote_host: Option<String>,
    remote_model: Option<String>,
}

/// Reads the list. Entries that name no model are skipped.
///
/// # Errors
/// [`BadReply`] where it is no list.
pub fn parse(body: &[u8]) -> Result<Vec<TagEntry>, BadReply> {
    Ok(entries(body)?.into_iter().filter_map(entry).collect())
}

/// The entry of a model of which no more is known than its name and when it was made.
#[must_use]
pub fn entry_of(name: &str, modified_at: jiff::Timestamp) -> String {
    serde_json::json!({
        "name": name,
        "model": name,
        "modified_at": modified_at.to_string(),
        "size": 0,
        "digest": "",
        "details": details(),
    })
    .to_string()
}

/// The details of a model of which none is known.
pub(super) fn details() -> serde_json::Value {
    serde_json::json!({
        "parent_model": "", "format": "", "family": "", "families": [],
        "parameter_size": "", "quantization_level": "",
    })
}

/// The list of these entries, each given as it stood in the upstream's.
pub fn render<'a>(entries: impl Iterator<Item = &'a str>) -> String {
    let mut list = String::from("{\"models\":[");
    for (at, entry) in entries.enumerate() {
        if at > 0 {
            list.push(',');
        }
        list.push_str(entry);
    }
    list.push_str("]}");
    list
}

/// The entries of a reply of `{"models":[…]}`; Go writes `null` for none.
pub(super) fn entries(body: &[u8]) -> Result<Vec<&RawValue>, BadReply> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(BadReply);
    }
    let list: List<'_> = serde_json::from_slice(body).map_err(|_| BadReply)?;
    Ok(list.models.unwrap_or_default())
}

fn entry(raw: &RawValue) -> Option<TagEntry> {
    let entry: Entry = crate::json::read_object(raw.get())?;
    let reported = entry.model.or(entry.name)?;
    let is_given = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
    Some(TagEntry {
        name: ModelName::parse(&reported).ok()?,
        reported,
        modified_at: entry.modified_at,
        is_remote: is_given(entry.remote_host) || is_given(entry.remote_model),
        raw: raw.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"models":[
        {"name":"Llama3:latest","model":"Llama3:latest","modified_at":"2026-01-02T03:04:05.6Z","size":12345678901,"extra":{"b":1,"a":2.50}},
        {"name":"not a name"},
        {"size":1},
        7,
        {"name":"mine:latest","model":"mine:latest","remote_host":"https://ollama.com:443","remote_model":"x"},
        {"name":"ns/m:q4"}]}"#;

    #[test]
    fn every_entry_with_a_name_is_read() {
        let entries = parse(LIST.as_bytes()).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["llama3:latest", "mine:latest", "ns/m:q4"]);
        assert_eq!(entries[0].reported, "Llama3:latest");
        assert_eq!(entries[0].modified_at.as_deref(), Some("2026-01-02T03:04:05.6Z"));
        let remote: Vec<_> = entries.iter().map(|entry| entry.is_remote).collect();
        assert_eq!(remote, [false, true, false]);
    }

    #[test]
    fn entries_are_rendered_as_they_were() {
        let entries = parse(LIST.as_bytes()).unwrap();
        let list = render(entries.iter().map(|entry| entry.raw.get()));
        assert!(list.contains(r#""extra":{"b":1,"a":2.50}"#));
        assert_eq!(parse(list.as_bytes()).unwrap().len(), 3);
        assert_eq!(render([].into_iter()), r#"{"models":[]}"#);
    }

    #[test]
    fn no_models_is_an_empty_list_and_no_list_is_an_error() {
        assert!(parse(br#"{"models":null}"#).unwrap().is_empty());
        assert!(parse(b"{}").unwrap().is_empty());
        for body in ["", "[]", "[[]]", "<html>", r#"{"models":1}"#] {
            assert_eq!(parse(body.as_bytes()).map(drop), Err(BadReply), "{body}");
        }
    }
}
