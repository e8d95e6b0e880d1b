//! What has to be done with JSON as text, so that it never becomes a tree.
//!
//! Replies are translated by moving pieces of text: a string of the upstream's goes into a chunk as
//! it was escaped, tool arguments keep the order of their keys and the spelling of their numbers.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use memchr::{memchr, memchr2, memchr2_iter};
use serde_json::value::RawValue;

use crate::{
    body::{BodyError, Text},
    surrogate::mended,
};

/// How deep arrays and objects may be nested: what `serde_json` itself reads.
pub(crate) const DEPTH_MAX: usize = 128;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A place in a JSON text that has been found valid; in one that is not, what is read may end early.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// Whether arrays and objects are nested beyond [`DEPTH_MAX`]. The text need not be valid.
///
/// Values that are only skipped are never checked for it, and Go's limit is 10,000.
pub(crate) fn is_too_deep(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' if depth == DEPTH_MAX => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = string_end(bytes, at),
            _ => {}
        }
    }
    false
}

/// A JSON text without the white space between its tokens.
pub(crate) fn compact(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.push_str(&text[copied..at - 1]);
                copied = at;
            }
            b'"' => at = string_end(bytes, at),
            _ => {}
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Writes a text as a JSON string.
pub(crate) fn write_string(text: &str, out: &mut impl BufMut) {
    out.put_u8(b'"');
    write_escaped(text, out);
    out.put_u8(b'"');
}

/// Writes a JSON string, given with its quotes and escapes, as it is; `None` where `raw` is no
/// string.
pub(crate) fn splice_string(raw: &str, out: &mut impl BufMut) -> Option<()> {
    if !raw.starts_with('"') {
        return None;
    }
    out.put_slice(mended(raw).as_bytes());
    Some(())
}

/// Writes a JSON array on one line; `None` where `raw` is none, or is nested too deep for the parsers of
/// clients.
pub(crate) fn splice_list(raw: &str, out: &mut impl BufMut) -> Option<()> {
    if !raw.starts_with('[') || is_too_deep(raw) {
        return None;
    }
    out.put_slice(compact(&mended(raw)).as_bytes());
    Some(())
}

/// The text that a JSON string stands for; `None` where `raw` is none.
pub(crate) fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    let read = serde_json::from_str::<Text<'_>>(raw).map(|Text(text)| text);
    read.or_else(|_| serde_json::from_str(&mended(raw)).map(Cow::Owned)).ok()
}

/// Escapes what some clients take for the end of a line (U+0085, U+2028, U+2029) in JSON that was
/// written behind `from`, where it can stand in strings only.
pub(crate) fn escape_line_ends(out: &mut BytesMut, from: usize) {
    let is_one = |bytes: &[u8]| matches!(bytes, [0xc2, 0x85, ..] | [0xe2, 0x80, 0xa8 | 0xa9, ..]);
    if !memchr2_iter(0xc2, 0xe2, &out[from..]).any(|at| is_one(&out[from + at..])) {
        return;
    }
    let written = out.split_off(from);
    let mut copied = 0;
    for at in memchr2_iter(0xc2, 0xe2, &written) {
        let (escape, length): (&[u8], _) = match &written[at..] {
            [0xc2, 0x85, ..] => (b"\\u0085", 2),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            _ => continue,
        };
        out.extend_from_slice(&written[copied..at]);
        out.extend_from_slice(escape);
        copied = at + length;
    }
    out.extend_from_slice(&written[copied..]);
}

/// Whether a JSON text is a string with something in it, or an array with something in it.
pub(crate) fn is_filled(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    match bytes {
        [b'"', inner @ .., b'"'] => !inner.is_empty(),
        [b'[', inner @ .., b']'] => !inner.trim_ascii().is_empty(),
        _ => false,
    }
}

/// Reads an object into a struct. (`serde` would also take an array for one.)
pub(crate) fn read_object<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Option<T> {
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Reads the `type` of an object, whatever else it has.
pub(crate) fn kind_of(raw: &RawValue) -> Option<Text<'_>> {
    #[derive(serde::Deserialize)]
    struct Kind<'a> {
        #[serde(borrow, rename = "type")]
        kind: Text<'a>,
    }
    read_object::<Kind<'_>>(raw.get()).map(|Kind { kind }| kind)
}

/// Writes a value, in about `length` bytes: what is about as long as a body grows no buffer over and over.
///
/// # Errors
/// None that a client could cause.
pub(crate) fn written(value: &impl serde::Serialize, length: usize) -> Result<Vec<u8>, BodyError> {
    let mut out = Vec::with_capacity(length);
    serde_json::to_writer(&mut out, value).map_err(|_| BodyError::internal())?;
    Ok(out)
}

fn write_escaped(text: &str, out: &mut impl BufMut) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' | b'\\' => *byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => 0,
            _ => continue,
        };
        out.put_slice(&bytes[copied..at]);
        copied = at + 1;
        if short == 0 {
            out.put_slice(b"\\u00");
            out.put_u8(HEX[usize::from(byte >> 4)]);
            out.put_u8(HEX[usize::from(byte & 0xf)]);
        } else {
            out.put_slice(&[b'\\', short]);
        }
    }
    out.put_slice(&bytes[copied..]);
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// What the next token begins with.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        self.at += blanks.count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes over the next value, and gives its text.
    pub(crate) fn value(&mut self) -> &'a str {
        self.spanned(Self::skip)
    }

    /// The text of what is read.
    pub(crate) fn spanned(&mut self, read: impl FnOnce(&mut Self)) -> &'a str {
        self.peek();
        let start = self.at;
        read(self);
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Reads the items of a list, of which `read` must take one at a time; passes over what is none.
    pub(crate) fn items(&mut self, mut read: impl FnMut(&mut Self, usize)) {
        if !self.take(b'[') {
            return self.skip();
        }
        let mut index = 0;
        while !self.take(b']') {
            let start = self.at;
            read(self, index);
            self.take(b',');
            if self.at == start {
                return;
            }
            index += 1;
        }
    }

    /// Reads the members of an object, of which `read` must take the value; passes over what is none.
    pub(crate) fn members(&mut self, mut read: impl FnMut(&mut Self, Cow<'a, str>)) {
        if !self.take(b'{') {
            return self.skip();
        }
        while !self.take(b'}') {
            let start = self.at;
            let key = self.value();
            self.take(b':');
            read(self, unquoted(key));
            self.take(b',');
            if self.at == start {
                return;
            }
        }
    }

    /// Reads no further.
    pub(crate) fn end(&mut self) {
        self.at = self.text.len();
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn skip(&mut self) {
        let bytes = self.text.as_bytes();
        let mut depth = 0_usize;
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b',' | b':' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return,
                b'"' => self.at = string_end(bytes, self.at + 1),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return;
            }
        }
    }
}

/// The text of a JSON string that stands for some; else nothing.
fn unquoted(raw: &str) -> Cow<'_, str> {
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or_default();
    if memchr(b'\\', inner.as_bytes()).is_none() {
        return Cow::Borrowed(inner);
    }
    Cow::Owned(serde_json::from_str(raw).unwrap_or_default())
}

/// The index after the quote that ends a string, whose text begins at `at`; the end where none does.
pub(crate) fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn depth_is_counted_outside_strings_only() {
        let nested = |levels| "[".repeat(levels) + &"]".repeat(levels);
        assert!(!is_too_deep(&nested(DEPTH_MAX)));
        assert!(is_too_deep(&nested(DEPTH_MAX + 1)));
        assert!(!is_too_deep(&format!("[\"{}\\\"{}\"]", "[".repeat(500), "{".repeat(500))));
        assert!(!is_too_deep(&"[],".repeat(500)));
        assert!(!is_too_deep("\"\\"));
    }

    #[test]
    fn compacting_leaves_strings_alone() {
        assert_eq!(compact(" { \"a b\\\" \" :\n[ 1.50 ,2 ]\r\t} "), "{\"a b\\\" \":[1.50,2]}");
        assert!(matches!(compact("{\"a\":\" \"}"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_half_of_a_surrogate_pair_is_mended() {
        let mut out = Vec::new();
        assert_eq!(splice_string(r#""\ud83d\ude00 \n \u003c""#, &mut out), Some(()));
        assert_eq!(out, br#""\ud83d\ude00 \n \u003c""#);
        for (half, text) in [
            (r#""\uD83D""#, "\u{fffd}"),
            (r#""a\ude00b""#, "a\u{fffd}b"),
            (r#""\ud83d\ud83d\ude00\n""#, "\u{fffd}😀\n"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\\ud83d""#, "\\ud83d"),
            (r#""\\\ud83d é""#, "\\\u{fffd} é"),
        ] {
            out.clear();
            assert_eq!(splice_string(half, &mut out), Some(()));
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text, "{half}");
            assert_eq!(text_of(half).as_deref(), Some(text));
        }
        assert_eq!(splice_string("null", &mut out), None);
        assert_eq!(text_of("5"), None);
        out.clear();
        assert_eq!(splice_list(r#"["\ud83d"]"#, &mut out), Some(()));
        assert_eq!(out, br#"["\ufffd"]"#);
        out.clear();
        assert_eq!(splice_list("[\r\"\\ud83d\\ude00\", 1]", &mut out), Some(()));
        assert_eq!(out, br#"["\ud83d\ude00",1]"#);
    }

    #[test]
    fn a_cursor_reads_lists_and_objects_and_passes_over_the_rest() {
        let text = r#" [ {"a": [1,{"b":"]"}] ,"\u0062":"x\"" }, -1.5e3 , "t" , null, [] ] "#;
        let mut seen = Vec::new();
        Cursor::new(text).items(|cursor, index| {
            if cursor.peek() == Some(b'{') {
                cursor.members(|cursor, key| seen.push(format!("{key}={}", cursor.value())));
            } else {
                seen.push(format!("{index}={}", cursor.value()));
            }
        });
        let expected =
            [r#"a=[1,{"b":"]"}]"#, r#"b="x\"""#, "1=-1.5e3", r#"2="t""#, "3=null", "4=[]"];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_may_end_a_line_is_escaped_behind_a_place() {
        let mut out = BytesMut::from("\u{2028}\"é \u{85} \u{2028}\u{2029} €\"");
        escape_line_ends(&mut out, 3);
        assert_eq!(&out[..], "\u{2028}\"é \\u0085 \\u2028\\u2029 €\"".as_bytes());
    }

    #[test]
    fn an_array_is_not_read_as_an_object() {
        #[derive(serde::Deserialize)]
        struct One {
            a: u8,
        }
        assert_eq!(read_object::<One>(" {\"a\":1}").map(|one| one.a), Some(1));
        assert!(read_object::<One>("[1]").is_none());
    }

    #[test]
    fn a_list_that_is_nested_too_deep_is_not_spliced() {
        let nested = |levels| "[".repeat(levels) + &"]".repeat(levels);
        let mut out = Vec::new();
        assert_eq!(splice_list(&nested(DEPTH_MAX + 1), &mut out), None);
        assert!(out.is_empty());
        assert_eq!(splice_list(&nested(DEPTH_MAX), &mut out), Some(()));
    }

    proptest! {
        #[test]
        fn every_text_is_written_as_the_string_that_reads_as_it(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text.clone());
            let mut spliced = Vec::new();
            splice_string(std::str::from_utf8(&out).unwrap(), &mut spliced);
            prop_assert_eq!(serde_json::from_slice::<String>(&spliced).unwrap(), text);
        }

        #[test]
        fn no_text_makes_a_scan_panic(text in "[\\[\\]{}\"\\\\ a,:é]{0,40}") {
            is_too_deep(&text);
            compact(&text);
            Cursor::new(&text).items(|cursor, _| cursor.members(|cursor, _| _ = cursor.value()));
        }
    }
}
