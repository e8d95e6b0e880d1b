//! JSON as Go's `encoding/json` writes it: `<`, `>`, `&`, U+2028 and U+2029 are escaped.

use std::io::{self, Write};

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

/// The compact text of a value.
pub(crate) fn to_bytes<T: Serialize>(value: &T) -> BytesMut {
    let mut out = BytesMut::with_capacity(256);
    write(&mut out, value);
    out
}

/// The same, behind what is there already.
pub(crate) fn write<T: Serialize>(out: &mut BytesMut, value: &T) {
    let mut serializer = serde_json::Serializer::with_formatter(out.writer(), Go);
    // Memory does not fail, and no value here has a key that is not a string.
    let written = value.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "{written:?}");
}

/// The inside of a JSON string, without its quotes. Plain words are copied as they are.
pub(crate) fn write_escaped(out: &mut BytesMut, text: &str) {
    let plain = |b: &u8| !matches!(b, 0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' | 0xE2);
    if text.as_bytes().iter().all(plain) {
        out.put_slice(text.as_bytes());
        return;
    }
    let quoted = to_bytes(&text);
    out.put_slice(&quoted[1..quoted.len() - 1]);
}

struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (before, found) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut after = found.chars();
            if let Some(special) = after.next() {
                write!(writer, "\\u{:04x}", u32::from(special))?;
            }
            rest = after.as_str();
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let text = "<a href=\"x\">&\u{2028}\u{2029}\\\n\t\u{1} ü€</a>";
        let expected = "\\u003ca href=\\\"x\\\"\\u003e\\u0026\\u2028\\u2029\\\\\\n\\t\\u0001 ü€\
                        \\u003c/a\\u003e";
        let mut out = BytesMut::new();
        write_escaped(&mut out, text);
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        assert_eq!(to_bytes(&text), format!("\"{expected}\"").as_bytes());
    }

    #[test]
    fn plain_words_are_copied() {
        let mut out = BytesMut::from("x");
        write_escaped(&mut out, " héllo");
        assert_eq!(out, "x héllo".as_bytes());
    }
}
