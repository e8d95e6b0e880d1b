//! Reading a request body: the fields of one JSON object, each found once, none of them decoded.
//!
//! Ollama reads keys without regard to case, takes the last of several, and ignores what follows
//! the first JSON value. A gateway that read `{"model":"allowed","MODEL":"secret"}` in any other way
//! would check one model and run the other. So the body is read strictly: one object, nothing after
//! it, and of the fields that matter none twice and none in another case.
//!
//! It is read with `serde_json`, at every size. How long each way takes, as multiples of the first, in one
//! run of `cargo bench -p benches --bench json` (x86-64 with AVX2, a busy machine; simd-json writes into
//! what it reads, so the copy of a body that may pass as it came is counted):
//!
//! | body | `serde_json`, fields borrowed | simd-json, fields | its tape | its tree | `serde_json`, tree |
//! |---|---|---|---|---|---|
//! | 1 KiB | 1 (15.7 µs) | 1.9 | 1.4 | 2.6 | 4.1 |
//! | 100 KiB | 1 (1.33 ms) | 1.3 | 1.1 | 2.2 | 8.2 |
//! | 1 MiB | 1 (8.17 ms) | 1.7 | 1.4 | 3.4 | 9.4 |
//! | 20 MiB, an image | 1 (39.1 ms) | 2.4 | 3.6 | 3.0 | 2.3 |
//!
//! simd-json builds a tree in a fraction of the time; but nothing here needs a tree, and it has no way to
//! borrow the text of a value, which is what passes on. So it is not used.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, MapAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use crate::{error::Code, json};

/// Why a request body is refused. Its texts are the gateway's own: they name fields that the
/// gateway knows and positions, never a value that the client sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct BodyError {
    /// The refusal.
    pub code: Code,
    /// Which field is meant, as `param` of the error body (`messages[2].content`).
    pub field: Option<String>,
    /// What is said to the client.
    pub message: Cow<'static, str>,
}

/// The fields of an object that are known by name, as they stand in the text.
pub(crate) struct Fields<'a, const N: usize> {
    known: &'static [&'static str; N],
    scope: &'static str,
    values: [Option<&'a RawValue>; N],
    /// The bytes of the values of all other fields.
    unknown_bytes: u64,
}

/// A text that borrows where it has no escapes.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

struct Scan<'s, const N: usize> {
    known: &'static [&'static str; N],
    scope: &'static str,
    fault: &'s mut Option<BodyError>,
}

// === impl BodyError ===

impl BodyError {
    pub(crate) fn new(
        code: Code,
        field: impl Into<String>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { code, field: Some(field.into()), message: message.into() }
    }

    /// A field is not what it must be.
    pub(crate) fn invalid(field: impl Into<String>, must: &str) -> Self {
        let field = field.into();
        let message = format!("`{field}` must be {must}.");
        Self::new(Code::InvalidRequest, field, message)
    }

    /// A field asks for something that the gateway cannot bring about.
    pub(crate) fn unsupported(field: impl Into<String>, why: &'static str) -> Self {
        Self::new(Code::UnsupportedParameter, field, why)
    }

    /// The body names no model.
    pub(crate) fn model_required() -> Self {
        Self::new(Code::ModelRequired, "model", Code::ModelRequired.message())
    }

    /// It cannot be written: there is nothing that the client could do.
    pub(crate) fn internal() -> Self {
        let message = Code::Internal.message().into();
        Self { code: Code::Internal, field: None, message }
    }

    fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::InvalidJson, field: None, message: message.into() }
    }
}

/// The body as text that may be scanned: UTF-8 and not nested too deep.
pub(crate) fn text(body: &[u8]) -> Result<&str, BodyError> {
    if body.trim_ascii().is_empty() {
        return Err(BodyError::not_json("The body is empty."));
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| BodyError::not_json("The body is not valid UTF-8."))?;
    if json::is_too_deep(text) {
        return Err(BodyError::not_json("The body is nested too deep."));
    }
    Ok(text)
}

// === impl Fields ===

impl<'a, const N: usize> Fields<'a, N> {
    /// Finds the known fields of a whole body.
    pub(crate) fn of_body(
        body: &'a [u8],
        known: &'static [&'static str; N],
    ) -> Result<Self, BodyError> {
        let text = text(body)?;
        let mut fault = None;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let found = Scan { known, scope: "", fault: &mut fault }
            .deserialize(&mut deserializer)
            .and_then(|found| deserializer.end().map(|()| found));
        let (values, unknown_bytes) = found.map_err(|error| {
            fault.unwrap_or_else(|| match error.classify() {
                Category::Data => BodyError::not_json("The body must be one JSON object."),
                Category::Io | Category::Syntax | Category::Eof => BodyError::not_json(format!(
                    "The body is not valid JSON (line {}, column {}).",
                    error.line(),
                    error.column()
                )),
            })
        })?;
        Ok(Self { known, scope: "", values, unknown_bytes })
    }

    /// Finds the known fields of an object inside a body. `scope` is what stands before a field's
    /// name in a message (`options.`).
    pub(crate) fn of_object(
        raw: &'a RawValue,
        known: &'static [&'static str; N],
        scope: &'static str,
    ) -> Result<Self, BodyError> {
        let mut fault = None;
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        let found = Scan { known, scope, fault: &mut fault }.deserialize(&mut deserializer);
        let (values, unknown_bytes) = found.map_err(|_| {
            fault.unwrap_or_else(|| BodyError::invalid(scope.trim_end_matches('.'), "an object"))
        })?;
        Ok(Self { known, scope, values, unknown_bytes })
    }

    /// How many bytes the values of the fields have that nobody here knows.
    pub(crate) fn unknown_bytes(&self) -> u64 {
        self.unknown_bytes
    }

    /// A field's text, `null` included; `None` where it is missing.
    pub(crate) fn find(&self, name: &str) -> Option<&'a RawValue> {
        let at = self.known.iter().position(|known| *known == name)?;
        self.values[at]
    }

    /// A field's text; `None` where it is missing or `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.find(name).filter(|raw| raw.get() != "null")
    }

    /// A string.
    pub(crate) fn string(&self, name: &str) -> Result<Option<Cow<'a, str>>, BodyError> {
        self.read::<Text<'a>>(name, "a string").map(|text| text.map(|text| text.0))
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, BodyError> {
        self.read(name, "true or false")
    }

    /// A whole number, which may be spelled `3.0`.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, BodyError> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let number = integer(raw).ok_or_else(|| self.must(name, "a whole number"))?;
        Ok(Some(number))
    }

    /// A most: a whole number of at least 1. Less is no word at all, because servers take 0 or -1 for no
    /// limit.
    pub(crate) fn most(&self, name: &str) -> Result<Option<u64>, BodyError> {
        let number = self.integer(name)?.and_then(|number| u64::try_from(number).ok());
        Ok(number.filter(|most| *most > 0))
    }

    /// Any number, in the spelling of the client.
    pub(crate) fn number(&self, name: &str) -> Result<Option<&'a RawValue>, BodyError> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        if raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return Ok(Some(raw));
        }
        Err(self.must(name, "a number"))
    }

    /// Anything that `T` reads.
    pub(crate) fn read<T: Deserialize<'a>>(
        &self,
        name: &str,
        must: &str,
    ) -> Result<Option<T>, BodyError> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|_| self.must(name, must))
    }

    /// The body that these fields were found in, with other values for some of them: in their places, or
    /// behind all others where they did not stand there. The rest is as it was, byte for byte.
    pub(crate) fn replaced(&self, body: &[u8], changes: &[(&str, String)]) -> Vec<u8> {
        let body = body.trim_ascii();
        let mut places = Vec::with_capacity(changes.len());
        let end = body.len().saturating_sub(1);
        let mut is_empty = body[..end].trim_ascii() == b"{";
        for (name, value) in changes {
            match self.find(name) {
                // The value is a part of the body.
                Some(raw) => {
                    let start = raw.get().as_ptr().addr() - body.as_ptr().addr();
                    places.push((start, start + raw.get().len(), value.clone()));
                }
                None => {
                    let comma = if is_empty { "" } else { "," };
                    places.push((end, end, [comma, "\"", name, "\":", value].concat()));
                    is_empty = false;
                }
            }
        }
        splice(body, &places)
    }

    /// The refusal of a field that is not what it must be.
    pub(crate) fn must(&self, name: &str, must: &str) -> BodyError {
        BodyError::invalid(format!("{}{name}", self.scope), must)
    }
}

/// A text with other texts in some places of it, which do not overlap: from where, to where, and what.
pub(crate) fn splice(text: &[u8], places: &[(usize, usize, String)]) -> Vec<u8> {
    let mut places: Vec<_> = places.iter().collect();
    // Stable: what is added in one place keeps its order.
    places.sort_by_key(|(start, ..)| *start);
    let more: usize = places.iter().map(|(.., value)| value.len()).sum();
    let mut out = Vec::with_capacity(text.len() + more);
    let mut copied = 0;
    for (start, end, value) in places {
        out.extend_from_slice(&text[copied..*start]);
        out.extend_from_slice(value.as_bytes());
        copied = *end;
    }
    out.extend_from_slice(&text[copied..]);
    out
}

/// A whole number within 64 bits.
fn integer(raw: &RawValue) -> Option<i64> {
    /// The largest number up to which every whole number has a float of its own, 2^53.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if let Ok(number) = raw.get().parse() {
        return Some(number);
    }
    let number: f64 = serde_json::from_str(raw.get()).ok()?;
    let is_exact = number.fract() == 0.0 && number.abs() <= EXACT_MAX;
    // Formatting is the one conversion from a float that needs no cast; it has no fraction here.
    is_exact.then(|| format!("{number:.0}").parse().ok()).flatten()
}

// === impl Scan ===

impl<'de, const N: usize> DeserializeSeed<'de> for Scan<'_, N> {
    type Value = ([Option<&'de RawValue>; N], u64);

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Scan<'_, N> {
    type Value = ([Option<&'de RawValue>; N], u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; N];
        let mut unknown_bytes = 0;
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            let Some(at) = self.known.iter().position(|known| reads_as(&key, known)) else {
                unknown_bytes += map.next_value::<&RawValue>()?.get().len() as u64;
                continue;
            };
            let known = self.known[at];
            if values[at].is_some() || key != known {
                let message = format!(
                    "The field `{}{known}` stands in the body more than once, or in another case \
                     than its own.",
                    self.scope
                );
                let field = format!("{}{known}", self.scope);
                *self.fault = Some(BodyError::new(Code::AmbiguousField, field, message));
                return Err(de::Error::custom("ambiguous field"));
            }
            values[at] = Some(map.next_value()?);
        }
        Ok((values, unknown_bytes))
    }
}

/// Whether Go's decoder would take `key` for the field `known`, which is in lower-case ASCII.
///
/// Go folds by Unicode's simple folding, in which two letters beyond ASCII are those of ASCII: the
/// long s and the Kelvin sign.
fn reads_as(key: &str, known: &str) -> bool {
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(known.chars())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [&str; 3] = ["model", "messages", "keep_alive"];

    fn refusal(body: &str) -> (Code, Option<String>) {
        let error = Fields::of_body(body.as_bytes(), &KNOWN).map(drop).unwrap_err();
        (error.code, error.field)
    }

    #[test]
    fn a_field_is_found_as_it_stands() {
        let body = br#" {"x":1,"model":"a\n","messages":[ {"model":2} ],"keep_alive":null} "#;
        let fields = Fields::of_body(body, &KNOWN).unwrap();
        assert_eq!(fields.get("messages").unwrap().get(), r#"[ {"model":2} ]"#);
        assert_eq!(fields.string("model").unwrap().unwrap(), "a\n");
        assert!(fields.get("keep_alive").is_none());
    }

    #[test]
    fn a_second_field_or_another_case_is_ambiguous() {
        for (body, field) in [
            (r#"{"model":"a","model":"a"}"#, "model"),
            (r#"{"model":"a","MODEL":"b"}"#, "model"),
            (r#"{"Model":"a"}"#, "model"),
            (r#"{"mod\u0065l":"a","model":"b"}"#, "model"),
            (r#"{"me\u017fsages":[]}"#, "messages"),
            (r#"{"meſsages":[]}"#, "messages"),
            ("{\"\u{212a}eep_alive\":0}", "keep_alive"),
            (r#"{"model":null,"model":"b"}"#, "model"),
        ] {
            let expected = (Code::AmbiguousField, Some(field.to_owned()));
            assert_eq!(refusal(body), expected, "{body}");
        }
        assert!(Fields::of_body(br#"{"x":1,"x":2,"X":3}"#, &KNOWN).is_ok());
    }

    #[test]
    fn only_one_json_object_and_nothing_after_it_is_read() {
        for body in [
            "",
            " \n",
            "{",
            "{}{}",
            "{} x",
            "[]",
            "null",
            "1",
            "\"a\"",
            "{\"a\":1,}",
            "{'a':1}",
            "\u{feff}{}",
            "{\"model\":\"a\"}\0",
            "{\"model\":+1}",
            "{\"x\":\"\u{1}\"}",
        ] {
            assert_eq!(refusal(body), (Code::InvalidJson, None), "{body:?}");
        }
        let invalid = Fields::of_body(b"{\"x\":\"\xff\"}", &KNOWN).map(drop).unwrap_err();
        assert_eq!(invalid.code, Code::InvalidJson);
        let deep = format!("{{\"x\":{}", "[".repeat(1_000_000));
        assert_eq!(refusal(&deep), (Code::InvalidJson, None));
    }

    #[test]
    fn what_is_replaced_stays_in_its_place_and_what_is_new_stands_last() {
        let replaced = |body: &str| {
            let fields = Fields::of_body(body.as_bytes(), &KNOWN).unwrap();
            let changes = [("model", "\"b\"".to_owned()), ("keep_alive", "1".to_owned())];
            String::from_utf8(fields.replaced(body.as_bytes(), &changes)).unwrap()
        };
        assert_eq!(
            replaced(r#" {"model": "a" ,"x":[1 ]} "#),
            r#"{"model": "b" ,"x":[1 ],"keep_alive":1}"#
        );
        assert_eq!(
            replaced(r#"{"keep_alive":null,"x":1.0}"#),
            r#"{"keep_alive":1,"x":1.0,"model":"b"}"#
        );
        assert_eq!(replaced("{ }"), r#"{ "model":"b","keep_alive":1}"#);
    }

    #[test]
    fn whole_numbers_are_read_in_any_spelling() {
        for (text, expected) in [
            ("3", Some(3)),
            ("-1", Some(-1)),
            ("3.0", Some(3)),
            ("3e2", Some(300)),
            ("-0", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("1.5", None),
            ("1e300", None),
            ("\"3\"", None),
            ("true", None),
            ("[3]", None),
        ] {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            assert_eq!(integer(raw), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_never_repeats_what_the_client_sent() {
        let body = br#"{"model":{"SECRET":1}}"#;
        let fields = Fields::of_body(body, &KNOWN).unwrap();
        let error = fields.string("model").unwrap_err();
        assert_eq!(error.message, "`model` must be a string.");
        let error = Fields::of_body(b"{\"SECRET\":SECRET}", &KNOWN).map(drop).unwrap_err();
        assert!(!error.message.contains("SECRET"), "{}", error.message);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_scan_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Fields::of_body(&body, &KNOWN);
        }

        #[test]
        fn every_case_of_a_known_field_is_seen(bits in 1_u16..1 << 10) {
            let flip = |(at, c): (usize, char)| {
                if bits >> at & 1 == 1 { c.to_ascii_uppercase() } else { c }
            };
            let key: String = "keep_alive".chars().enumerate().map(flip).collect();
            prop_assume!(key != "keep_alive");
            prop_assert_eq!(refusal(&format!("{{\"{key}\":1}}")).0, Code::AmbiguousField);
        }
    }
}
