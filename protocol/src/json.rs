//! What has to be done with JSON as text, so that it never becomes a tree.
//!
//! Replies are translated by moving pieces of text: a string of the upstream's goes into a chunk as
//! it was escaped, tool arguments keep the order of their keys and the spelling of their numbers.

use std::borrow::Cow;

use bytes::BufMut;
use memchr::{memchr, memchr2};

/// How deep arrays and objects may be nested: what `serde_json` itself reads.
pub(crate) const DEPTH_MAX: usize = 128;

const HEX: &[u8; 16] = b"0123456789abcdef";

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
/// string, or one that stands for no text.
///
/// Half a surrogate pair (`"\ud83d"`) is let through by the parser that only skips strings, and
/// makes clients fail: strings with surrogates in them are read and written anew.
pub(crate) fn splice_string(raw: &str, out: &mut impl BufMut) -> Option<()> {
    if !raw.starts_with('"') {
        return None;
    }
    if has_surrogates(raw) {
        write_string(&serde_json::from_str::<String>(raw).ok()?, out);
    } else {
        out.put_slice(raw.as_bytes());
    }
    Some(())
}

/// Writes a JSON array on one line; `None` where `raw` is none, is nested too deep for the parsers of
/// clients, or has a string in it that stands for no text.
pub(crate) fn splice_list(raw: &str, out: &mut impl BufMut) -> Option<()> {
    if !raw.starts_with('[') || is_too_deep(raw) {
        return None;
    }
    if has_surrogates(raw) {
        // Only a parser that builds the strings looks at their surrogates.
        serde_json::from_str::<serde_json::Value>(raw).ok()?;
    }
    out.put_slice(compact(raw).as_bytes());
    Some(())
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

/// Whether some string has an escape for a surrogate in it.
fn has_surrogates(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    memchr(b'\\', bytes).is_some()
        && bytes.windows(3).any(|escape| matches!(escape, [b'\\', b'u', b'd' | b'D']))
}

/// The index after the quote that ends a string, whose text begins at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
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
    fn a_half_surrogate_pair_is_not_spliced() {
        let mut out = Vec::new();
        assert_eq!(splice_string(r#""\ud83d\ude00 \n \u003c""#, &mut out), Some(()));
        assert_eq!(out, "\"😀 \\n <\"".as_bytes());
        assert_eq!(splice_string(r#""\uD83D""#, &mut out), None);
        assert_eq!(splice_string("null", &mut out), None);
        assert_eq!(splice_list(r#"["\ud83d"]"#, &mut out), None);
        out.clear();
        assert_eq!(splice_list("[\r\"\\ud83d\\ude00\", 1]", &mut out), Some(()));
        assert_eq!(out, br#"["\ud83d\ude00",1]"#);
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
        fn no_text_makes_a_scan_panic(text in "[\\[\\]{}\"\\\\ a]{0,40}") {
            is_too_deep(&text);
            compact(&text);
        }
    }
}
