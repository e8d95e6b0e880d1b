//! The fields that the tables know, one a line, for the test that compares them with the types of the SDKs
//! (`tests/sdk/python/test_fields.py`).
//!
//! A line is a route and a path: `responses text.format[json_schema].schema`. Behind an object or an item of a list
//! stands its type, where it has one. A path that ends with `.*` is decided as a whole: it is refused, or nobody
//! reads it. What messages, items and blocks are made of stands in another file beside it.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::{
    super::fields,
    rows::SECTIONS,
    tables::{Fate, Row, Section, object},
};

const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/sdk/fields/known.txt");

/// Fields whose values are the client's own.
const NOT_ENTERED: [&str; 4] = ["schema", "parameters", "input_schema", "output_schema"];

/// Whether a field holds what was said.
fn is_conversation(section: &str, field: &str) -> bool {
    matches!(field, "messages" | "system") || (section == "responses" && field == "input")
}

/// The path of a value that stands there, its type behind it.
fn labelled(path: &str, value: &Value) -> String {
    let kind = value.get("type").and_then(Value::as_str);
    kind.map_or_else(|| path.to_owned(), |kind| format!("{path}[{kind}]"))
}

/// The paths of all that a value is made of.
fn walk(path: &str, value: &Value, out: &mut BTreeSet<String>) {
    out.insert(path.to_owned());
    let name = path.rsplit(['.', ' ']).next().unwrap_or_default();
    if NOT_ENTERED.contains(&name) {
        return;
    }
    match value {
        Value::Object(members) => {
            let path = labelled(path, value);
            for (name, value) in members {
                walk(&format!("{path}.{name}"), value, out);
            }
            out.insert(path);
        }
        Value::Array(items) => {
            for item in items.iter().filter(|item| item.is_object()) {
                let kind = item.get("type").map_or("[]", |_| "");
                walk(&format!("{path}{kind}"), item, out);
            }
        }
        _ => {}
    }
}

/// What is refused as a whole, where a row is refused wherever it does not pass.
fn refused(section: &Section, row: &Row, with: &str) -> Option<String> {
    let fates = [row.ollama, row.openai];
    let at = fates.iter().find_map(|fate| match fate {
        Fate::Refused(at) => Some(*at),
        _ => None,
    })?;
    if !fates.iter().all(|fate| matches!(fate, Fate::Refused(_) | Fate::Passes)) {
        return None;
    }
    let members = object(with);
    let (field, value) = members.iter().next()?;
    if is_conversation(section.name, field) {
        return None;
    }
    let mut path = format!("{} {field}", section.name);
    let inner = at.strip_prefix(field.as_str()).unwrap_or_default();
    let mut value = value;
    for step in inner.split(['.', '[', ']']).filter(|step| !step.is_empty() && *step != "type") {
        value = match step.parse::<usize>() {
            Ok(index) => value.get(index)?,
            Err(_) => {
                path = format!("{}.{step}", labelled(&path, value));
                value.get(step)?
            }
        };
    }
    let is_whole = value.is_object() || value.as_array().is_some_and(|list| list[0].is_object());
    is_whole.then(|| labelled(&path, value) + ".*")
}

fn known() -> String {
    let mut lines = BTreeSet::new();
    for section in &SECTIONS {
        for name in fields::harmless(section.route) {
            lines.insert(format!("{} {name}.*", section.name));
        }
        for row in section.rows {
            for with in row.asked() {
                if let Some(line) = refused(section, row, &with) {
                    lines.insert(line);
                    continue;
                }
                for (name, value) in &object(&with) {
                    let path = format!("{} {name}", section.name);
                    if is_conversation(section.name, name) {
                        lines.insert(path);
                    } else {
                        walk(&path, value, &mut lines);
                    }
                }
            }
        }
    }
    let lines: Vec<_> = lines.into_iter().collect();
    lines.join("\n") + "\n"
}

#[test]
fn the_list_of_known_fields_is_fresh() {
    let known = known();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(KNOWN, known).unwrap();
        return;
    }
    let found = fs::read_to_string(KNOWN).unwrap();
    assert!(found == known, "tests/sdk/fields/known.txt is stale: run `make docs-api`");
}

#[test]
fn every_field_that_is_read_has_a_row() {
    let mut missing = Vec::new();
    for section in &SECTIONS {
        let of_route = SECTIONS
            .iter()
            .filter(|other| std::ptr::eq(fields::of(other.route), fields::of(section.route)));
        let rows = of_route.flat_map(|section| section.rows).flat_map(Row::asked);
        let asked: BTreeSet<String> =
            rows.flat_map(|with| object(&with).keys().cloned().collect::<Vec<_>>()).collect();
        let fields = fields::of(section.route).iter().filter(|name| !asked.contains(**name));
        missing.extend(fields.map(|name| format!("{} {name}", section.name)));
    }
    assert!(missing.is_empty(), "no row asks for {missing:?}");
}
