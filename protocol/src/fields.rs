//! The top level of a JSON body, read in one borrowed pass, without two ways to read it.
//!
//! Go's decoder, which reads the body behind us, matches keys without regard to case, lets the last
//! of several win, and ignores what follows the first value. A body that it could read in another
//! way than our policy did is refused.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::error::Code;

/// Keys that policy, the gateway or the upstream act on. Each may stand once, in this spelling.
const RESERVED: [&str; 33] = [
    "context",
    "dimensions",
    "encoding_format",
    "format",
    "frequency_penalty",
    "images",
    "input",
    "keep_alive",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "n",
    "name",
    "options",
    "presence_penalty",
    "prompt",
    "raw",
    "reasoning_effort",
    "response_format",
    "seed",
    "shift",
    "stop",
    "stream",
    "stream_options",
    "suffix",
    "system",
    "temperature",
    "template",
    "think",
    "tool_choice",
    "tools",
    "truncate",
];

/// The longest name of a field that is repeated in an error, in characters.
const FIELD_NAME_MAX: usize = 64;

/// What is wrong with a body, in our words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyError {
    /// The code of the refusal.
    pub code: Code,
    /// The field that it is about.
    pub field: Option<String>,
    /// What to tell the client.
    pub message: Cow<'static, str>,
}

/// The fields of a body's top level, each with its JSON text.
#[derive(Debug)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

// === impl BodyError ===

impl BodyError {
    /// An error with the code's own message.
    #[must_use]
    pub fn new(code: Code, field: Option<&str>) -> Self {
        let field = field.map(|field| field.chars().take(FIELD_NAME_MAX).collect());
        Self { code, field, message: Cow::Borrowed(code.message()) }
    }

    /// A field that has the wrong type or value.
    #[must_use]
    pub fn invalid(field: &str, wanted: &'static str) -> Self {
        Self { message: Cow::Borrowed(wanted), ..Self::new(Code::InvalidRequest, Some(field)) }
    }

    /// A parameter that cannot be honoured.
    #[must_use]
    pub fn unsupported(field: &str, why: &'static str) -> Self {
        Self { message: Cow::Borrowed(why), ..Self::new(Code::UnsupportedParameter, Some(field)) }
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Code::InvalidJson`] where it is not one JSON object and nothing else,
    /// [`Code::AmbiguousField`] where it could be read in two ways.
    pub fn read(body: &'a [u8]) -> Result<Self, BodyError> {
        let fields: Self =
            serde_json::from_slice(body).map_err(|_| BodyError::new(Code::InvalidJson, None))?;
        let mut seen = BTreeSet::new();
        for (key, _) in &fields.0 {
            let folded = fold(key);
            if RESERVED.binary_search(&folded.as_str()).is_err() {
                continue;
            }
            if *key != folded.as_str() || !seen.insert(folded) {
                return Err(BodyError::new(Code::AmbiguousField, Some(key)));
            }
        }
        if let Some(options) = fields.raw("options") {
            let Ok(options) = serde_json::from_str::<Fields<'_>>(options.get()) else {
                return Err(BodyError::invalid("options", "`options` must be an object."));
            };
            let mut seen = BTreeSet::new();
            for (key, _) in &options.0 {
                if !seen.insert(fold(key)) {
                    return Err(BodyError::new(
                        Code::AmbiguousField,
                        Some(&format!("options.{key}")),
                    ));
                }
            }
        }
        Ok(fields)
    }

    /// The JSON text of a field; `None` where it is missing or null.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let (_, raw) = self.0.iter().find(|(key, _)| key == name)?;
        (raw.get() != "null").then_some(*raw)
    }

    /// A field, read as `T`; `None` where it is missing or null.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`] with `wanted`, where it is something else.
    pub fn get<T: Deserialize<'a>>(
        &self,
        name: &str,
        wanted: &'static str,
    ) -> Result<Option<T>, BodyError> {
        self.raw(name)
            .map(|raw| {
                serde_json::from_str(raw.get()).map_err(|_| BodyError::invalid(name, wanted))
            })
            .transpose()
    }

    /// The model that is asked for.
    ///
    /// # Errors
    /// [`Code::ModelRequired`] where none is, [`Code::InvalidRequest`] where it is no string.
    pub fn model(&self, name: &str) -> Result<String, BodyError> {
        let model: Option<String> = self.get(name, "The model must be a string.")?;
        model
            .filter(|model| !model.trim().is_empty())
            .ok_or_else(|| BodyError::new(Code::ModelRequired, Some("model")))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;

        impl<'de> Visitor<'de> for Top {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some((Key(key), raw)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    fields.push((key, raw));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Top)
    }
}

/// Folds case as Go does (`unicode.SimpleFold`): two letters outside ASCII fold to ASCII ones.
fn fold(key: &str) -> String {
    key.chars()
        .flat_map(|letter| match letter {
            '\u{17F}' => 's'.to_lowercase(),
            '\u{212A}' => 'k'.to_lowercase(),
            other => other.to_lowercase(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> Option<(Code, Option<String>)> {
        Fields::read(body.as_bytes()).err().map(|error| (error.code, error.field))
    }

    #[test]
    fn the_reserved_names_are_in_order() {
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn a_body_that_can_be_read_in_two_ways_is_refused() {
        for (body, field) in [
            (r#"{"model":"a","MODEL":"b"}"#, "MODEL"),
            (r#"{"model":"a","model":"b"}"#, "model"),
            (r#"{"Model":"b"}"#, "Model"),
            (r#"{"model":"a","mod\u0065l":"b"}"#, "model"),
            ("{\"model\":\"a\",\"me\u{17F}\u{17F}age\u{17F}\":[]}", "meſſageſ"),
            ("{\"\u{212A}eep_alive\":0}", "\u{212A}eep_alive"),
            (r#"{"options":{"num_ctx":1,"num_ctx":2}}"#, "options.num_ctx"),
            (r#"{"options":{"num_ctx":1,"NUM_CTX":2}}"#, "options.NUM_CTX"),
        ] {
            assert_eq!(code(body), Some((Code::AmbiguousField, Some(field.to_owned()))), "{body}");
        }
    }

    #[test]
    fn what_is_not_one_object_is_no_body() {
        for body in
            ["", "x", "[]", "1", "null", "{", "{}x", "{} {}", "\u{FEFF}{}", "{\"a\":}", "{\"a\" 1}"]
        {
            assert_eq!(code(body), Some((Code::InvalidJson, None)), "{body}");
        }
        assert!(Fields::read(b"{\"model\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_deep_body_is_passed_over_without_recursion() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(code(&deep), None);
    }

    #[test]
    fn other_fields_may_be_anything() {
        assert_eq!(code(r#" {"a":1,"A":2,"a":3,"model":null} "#), None);
    }
}
