//! The smallest value that a JSON Schema allows: what a model says when it must say JSON.

use serde_json::{Map, Value, json};

/// How deep a schema is followed; one that refers to itself ends in null.
const DEPTH_MAX: usize = 16;

/// What a string says when its schema leaves it free.
const WORD: &str = "scripted";

/// A value that the schema allows; no schema allows any.
pub(crate) fn minimal(schema: &Value) -> Value {
    match schema {
        Value::Object(_) => value(schema, schema, DEPTH_MAX),
        _ => json!({ "scripted": true }),
    }
}

fn value(schema: &Value, root: &Value, depth: usize) -> Value {
    if depth == 0 {
        return Value::Null;
    }
    if let Some(fixed) = schema.get("const").or_else(|| schema.get("enum")?.get(0)) {
        return fixed.clone();
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let target = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.map_or(Value::Null, |target| value(target, root, depth - 1));
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(choice).and_then(|choices| choices.get(0)) {
            return value(first, root, depth - 1);
        }
    }
    let kind = schema.get("type");
    let kind = kind.and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str()));
    match kind {
        Some("object") => object(schema, root, depth),
        None if schema.get("properties").is_some() => object(schema, root, depth),
        Some("array") => array(schema, root, depth),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(0)),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        _ => string(schema),
    }
}

/// The required properties, in the order in which they are declared.
fn object(schema: &Value, root: &Value, depth: usize) -> Value {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| {
        required.is_some_and(|names| names.iter().any(|required| required.as_str() == Some(name)))
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    let members = properties.into_iter().flatten().filter(|(name, _)| is_required(name));
    let members = members.map(|(name, inner)| (name.clone(), value(inner, root, depth - 1)));
    Value::Object(members.collect::<Map<_, _>>())
}

fn array(schema: &Value, root: &Value, depth: usize) -> Value {
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
    let items = schema.get("items").unwrap_or(&Value::Null);
    let least = usize::try_from(least).unwrap_or(usize::MAX).min(DEPTH_MAX);
    Value::Array(vec![value(items, root, depth - 1); least])
}

fn string(schema: &Value) -> Value {
    let bound = |name: &str| {
        schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok())
    };
    let longest = bound("maxLength").unwrap_or(WORD.len());
    let least = bound("minLength").unwrap_or(0).min(1_024);
    let word: String = WORD
        .chars()
        .chain(std::iter::repeat('x'))
        .take(least.max(WORD.len().min(longest)))
        .collect();
    Value::String(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_value_has_what_is_required() {
        let schema = json!({
            "type": "object",
            "$defs": { "side": { "enum": ["left", "right"] } },
            "properties": {
                "city": { "type": "string" },
                "code": { "type": "string", "maxLength": 3 },
                "days": { "type": "integer", "minimum": 2 },
                "side": { "$ref": "#/$defs/side" },
                "tags": { "type": "array", "items": { "type": "boolean" }, "minItems": 2 },
                "more": { "type": "string" },
            },
            "required": ["tags", "side", "days", "code", "city"],
        });
        let expected =
            r#"{"city":"scripted","code":"scr","days":2,"side":"left","tags":[true,true]}"#;
        assert_eq!(minimal(&schema).to_string(), expected);
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({
            "properties": { "next": { "$ref": "#" } }, "required": ["next"],
        });
        assert!(minimal(&schema).to_string().ends_with("null}}}}}}}}"));
        assert_eq!(minimal(&Value::Null).to_string(), r#"{"scripted":true}"#);
    }
}
