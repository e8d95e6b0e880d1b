//! A JSON object read as Go's decoder reads it into a struct.
//!
//! Keys match without regard to case, the last of several wins, `null` says nothing, unknown
//! keys are ignored, and a wrong type is refused in Go's own words. A gateway whose reading
//! differs can be made to check one model and run another, so the stand-in must read alike.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess};
use serde_json::value::RawValue;

use crate::failure::Failure;

/// The fields of an object, in their order, not yet read.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    /// The Go struct that the errors name, `ChatRequest.messages`.
    at: &'static str,
    fields: Fields<'a>,
}

#[derive(Debug)]
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// Go's name for what a value is.
pub(crate) fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'"') => "string",
        Some(b'[') => "array",
        Some(b'{') => "object",
        Some(b't' | b'f') => "bool",
        _ => "number",
    }
}

/// The whole of a value; what is deeper than serde goes is refused as Go refuses what is too deep.
pub(crate) fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, Failure> {
    serde_json::from_str(raw.get()).map_err(|_| Failure::bad_request("exceeded max depth"))
}

// === impl Object ===

impl<'a> Object<'a> {
    /// The first JSON value of a body; what follows it is ignored, as Go does.
    pub(crate) fn from_body(at: &'static str, body: &'a str) -> Result<Self, Failure> {
        if body.trim_ascii().is_empty() {
            return Err(Failure::bad_request(if at.starts_with("Chat") {
                "missing request body"
            } else {
                "EOF"
            }));
        }
        let mut values = serde_json::Deserializer::from_str(body).into_iter::<&'a RawValue>();
        match values.next() {
            Some(Ok(raw)) => Self::from_raw(at, raw),
            _ => Err(Failure::bad_request("invalid character in the body of the request")),
        }
    }

    /// A value that must be an object.
    pub(crate) fn from_raw(at: &'static str, raw: &'a RawValue) -> Result<Self, Failure> {
        match kind(raw) {
            "object" => Ok(Self { at, fields: parse(raw)? }),
            other => Err(Failure::bad_request(&format!(
                "json: cannot unmarshal {other} into Go value of type api.{at}"
            ))),
        }
    }

    /// The value of a key, unless it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let mut found = self.fields.0.iter().rev();
        found
            .find(|(key, raw)| key.eq_ignore_ascii_case(name) && raw.get() != "null")
            .map(|(_key, raw)| *raw)
    }

    /// A string; absent is empty.
    pub(crate) fn string(&self, name: &str) -> Result<String, Failure> {
        self.typed(name, "string", "string")
    }

    /// A boolean, where there is one.
    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, Failure> {
        self.typed(name, "bool", "bool")
    }

    /// A whole number, where there is one; 3.0 is one.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Failure> {
        let number: Option<f64> = self.typed(name, "number", "int")?;
        #[expect(clippy::cast_possible_truncation, reason = "saturates, which is what is meant")]
        Ok(number.map(|number| number as i64))
    }

    /// The elements of a list; absent is empty.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<&'a RawValue>, Failure> {
        self.typed(name, "array", "[]interface {}")
    }

    /// An object, where there is one.
    pub(crate) fn object(
        &self,
        name: &str,
        at: &'static str,
    ) -> Result<Option<Object<'a>>, Failure> {
        let raw: Option<&RawValue> = self.typed(name, "object", "map[string]interface {}")?;
        raw.map(|raw| Self::from_raw(at, raw)).transpose()
    }

    fn typed<T: Deserialize<'a> + Default>(
        &self,
        name: &str,
        json: &str,
        go: &str,
    ) -> Result<T, Failure> {
        match self.get(name) {
            None => Ok(T::default()),
            Some(raw) if kind(raw) == json => parse(raw),
            Some(raw) => Err(Failure::bad_request(&format!(
                "json: cannot unmarshal {} into Go struct field {}.{name} of type {go}",
                kind(raw),
                self.at,
            ))),
        }
    }
}

// === impl Fields ===

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some((Key(key), raw)) = map.next_entry()? {
                    fields.push((key, raw));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// A key that is borrowed from the body unless it has escapes in it.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(body: &str) -> Result<String, Failure> {
        Object::from_body("ChatRequest", body)?.string("model")
    }

    #[test]
    fn the_last_key_of_any_case_wins() {
        assert_eq!(model(r#"{"model":"a","MODEL":"b"}"#).unwrap(), "b");
        assert_eq!(model(r#"{"mod\u0065l":"a","x":{"model":"b"}}"#).unwrap(), "a");
        assert_eq!(model(r#"{"model":"a","Model":null} trailing"#).unwrap(), "a");
        assert_eq!(model("{}").unwrap(), "");
    }

    #[test]
    fn a_wrong_type_is_refused_in_gos_words() {
        let refused = model(r#"{"model":[1]}"#).unwrap_err();
        assert!(
            refused.text().starts_with(
                "json: cannot unmarshal array into Go struct field ChatRequest.model of type string"
            ),
            "{}",
            refused.text()
        );
        assert!(model("").unwrap_err().text().starts_with("missing request body"));
        assert!(model("\u{feff}{}").is_err());
        assert!(model("[]").is_err());
    }

    #[test]
    fn numbers_may_be_written_with_a_point() {
        let object = Object::from_body("Options", r#"{"num_predict":3.0,"seed":7}"#).unwrap();
        assert_eq!(object.integer("num_predict").unwrap(), Some(3));
        assert_eq!(object.integer("SEED").unwrap(), Some(7));
        assert_eq!(object.integer("top_k").unwrap(), None);
    }
}
