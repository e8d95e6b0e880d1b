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

use crate::{caps, error::Code};

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
    /// Which of them are there, a bit each.
    present: u64,
    /// The bytes of the values of all other fields.
    unknown_bytes: u64,
    /// The other fields that are not known to be harmless, where it was asked for them.
    strangers: Vec<Stranger<'a>>,
}

/// A field that is neither read nor known to be harmless.
pub(crate) struct Stranger<'a> {
    /// Its name, as the client chose it.
    pub(crate) name: Cow<'a, str>,
    pub(crate) value: &'a RawValue,
}

/// A text that borrows where it has no escapes.
#[derive(Default, Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

struct Scan<'s, const N: usize> {
    known: &'static [&'static str; N],
    /// The fields that are harmless though nobody reads them. `None`: strangers are of no interest.
    harmless: Option<&'static [&'static str]>,
    scope: &'static str,
    fault: &'s mut Option<BodyError>,
}

/// What a scan has found.
struct Found<'a, const N: usize> {
    values: [Option<&'a RawValue>; N],
    present: u64,
    unknown_bytes: u64,
    strangers: Vec<Stranger<'a>>,
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

    pub(crate) fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::InvalidJson, field: None, message: message.into() }
    }
}

/// The body as text that may be scanned: UTF-8, within the [`caps`] and not nested too deep.
fn text(body: &[u8]) -> Result<&str, BodyError> {
    if body.trim_ascii().is_empty() {
        return Err(BodyError::not_json("The body is empty."));
    }
    // First, because it ends at the item that is one too many: the rest of the body costs nothing.
    caps::check(body)?;
    std::str::from_utf8(body).map_err(|_| BodyError::not_json("The body is not valid UTF-8."))
}

// === impl Fields ===

impl<'a, const N: usize> Fields<'a, N> {
    /// Finds the known fields of a whole body. `harmless`: the fields that may stand there though nobody
    /// reads them; `None`: any may.
    pub(crate) fn of_body(
        body: &'a [u8],
        known: &'static [&'static str; N],
        harmless: Option<&'static [&'static str]>,
    ) -> Result<Self, BodyError> {
        let text = text(body)?;
        let mut fault = None;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let found = Scan { known, harmless, scope: "", fault: &mut fault }
            .deserialize(&mut deserializer)
            .and_then(|found| deserializer.end().map(|()| found));
        let Found { values, present, unknown_bytes, strangers } = found.map_err(|error| {
            fault.unwrap_or_else(|| match error.classify() {
                Category::Data => BodyError::not_json("The body must be one JSON object."),
                Category::Io | Category::Syntax | Category::Eof => BodyError::not_json(format!(
                    "The body is not valid JSON (line {}, column {}).",
                    error.line(),
                    error.column()
                )),
            })
        })?;
        Ok(Self { known, scope: "", values, present, unknown_bytes, strangers })
    }

    /// Finds the known fields of an object inside a body. `scope` is what stands before a field's
    /// name in a message (`options.`), and `harmless` is as in [`Self::of_body`].
    pub(crate) fn of_object(
        raw: &'a RawValue,
        known: &'static [&'static str; N],
        harmless: Option<&'static [&'static str]>,
        scope: &'static str,
    ) -> Result<Self, BodyError> {
        let mut fault = None;
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        let scan = Scan { known, harmless, scope, fault: &mut fault };
        let found = scan.deserialize(&mut deserializer);
        let Found { values, present, unknown_bytes, strangers } = found.map_err(|_| {
            fault.unwrap_or_else(|| BodyError::invalid(scope.trim_end_matches('.'), "an object"))
        })?;
        Ok(Self { known, scope, values, present, unknown_bytes, strangers })
    }

    /// How many bytes the values of the fields have that nobody here knows.
    pub(crate) fn unknown_bytes(&self) -> u64 {
        self.unknown_bytes
    }

    /// The fields that are neither read nor known to be harmless.
    pub(crate) fn strangers(&self) -> &[Stranger<'a>] {
        &self.strangers
    }

    /// A field's text, `null` included; `None` where it is missing.
    pub(crate) fn find(&self, name: &str) -> Option<&'a RawValue> {
        // Most fields are missing: only the names of those that are there are compared.
        let mut present = self.present;
        while present != 0 {
            let at = present.trailing_zeros() as usize;
            if self.known[at] == name {
                return self.values[at];
            }
            present &= present - 1;
        }
        self.strangers.iter().find(|one| one.name == name).map(|one| one.value)
    }

    /// Whether a field is there that has this place, or a later one, among those that are known. It is cheaper than
    /// to look for each of those that are seldom there.
    pub(crate) fn has_from(&self, place: usize) -> bool {
        self.present.checked_shr(u32::try_from(place).unwrap_or(u32::MAX)).unwrap_or(0) != 0
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
                    let mut member = String::with_capacity(name.len() + value.len() + 4);
                    member.push_str(if is_empty { "\"" } else { ",\"" });
                    member.push_str(name);
                    member.push_str("\":");
                    member.push_str(value);
                    places.push((end, end, member));
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
    type Value = Found<'de, N>;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Scan<'_, N> {
    type Value = Found<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        const { assert!(N <= 64, "a bit for each field") }
        let mut values = [None; N];
        let (mut present, mut unknown_bytes) = (0, 0);
        let mut strangers = Vec::new();
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            let Some(at) = self.known.iter().position(|known| reads_as(&name, known)) else {
                let value = map.next_value::<&RawValue>()?;
                unknown_bytes += value.get().len() as u64;
                if self.harmless.is_some_and(|names| !names.contains(&&*name)) {
                    if strangers.len() == caps::STRANGERS_MAX {
                        *self.fault = Some(caps::too_many_strangers());
                        return Err(de::Error::custom("too many fields"));
                    }
                    strangers.push(Stranger { name, value });
                }
                continue;
            };
            let known = self.known[at];
            if values[at].is_some() || name != known {
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
            present |= 1 << at;
        }
        Ok(Found { values, present, unknown_bytes, strangers })
    }
}

/// Whether Go's decoder would take `key` for the field `known`, which is in lower-case ASCII.
///
/// Go folds by Unicode's simple folding, in which two letters beyond ASCII are those of ASCII: the
/// long s and the Kelvin sign.
fn reads_as(key: &str, known: &str) -> bool {
    // Most names differ in their first letter, and most keys are those that are known.
    match (key.as_bytes().first(), known.as_bytes().first()) {
        (Some(a), Some(b)) if a.is_ascii() && !a.eq_ignore_ascii_case(b) => return false,
        _ if key == known => return true,
        _ => {}
    }
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(known.chars())
}

#[cfg(test)]
mod tests;
