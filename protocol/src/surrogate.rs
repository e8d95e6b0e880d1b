//! Halves of surrogate pairs, in the escapes of JSON strings.
//!
//! JavaScript counts texts in halves of pairs and cuts them between two, so that `"\\ud83d"` stands alone. The parser
//! that only skips strings lets such an escape through, the one that reads them refuses it.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr_iter};

/// What stands for a half of a surrogate pair: as long as its escape is.
const REPLACED: &str = "\\ufffd";

/// A JSON text with U+FFFD for each half of a surrogate pair that stands alone (`"\ud83d"`).
///
/// They make clients fail. Go and the browsers read them so.
pub(crate) fn mended(raw: &str) -> Cow<'_, str> {
    if !has_surrogates(raw.as_bytes()) {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut copied = 0;
    while let Some(at) = half(raw.as_bytes(), copied) {
        out.push_str(&raw[copied..at]);
        out.push_str(REPLACED);
        copied = at + REPLACED.len();
    }
    out.push_str(&raw[copied..]);
    Cow::Owned(out)
}

/// The same, of a body, which stays as long as it is.
///
/// A client replays such a text for good. Ollama reads it so; servers in Python read it and then cannot write it.
#[must_use]
pub fn mended_body(body: Bytes) -> Bytes {
    let first = if has_surrogates(&body) { half(&body, 0) } else { None };
    let Some(mut at) = first else { return body };
    let mut body = body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
    loop {
        let end = at + REPLACED.len();
        body[at..end].copy_from_slice(REPLACED.as_bytes());
        match half(&body, end) {
            Some(next) => at = next,
            None => return body.freeze(),
        }
    }
}

/// Whether some string has an escape for a surrogate in it.
fn has_surrogates(raw: &[u8]) -> bool {
    memchr_iter(b'\\', raw).any(|at| matches!(raw.get(at + 1..at + 3), Some([b'u', b'd' | b'D'])))
}

/// Where the next escape for a half of a surrogate pair stands that has no other half.
fn half(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr(b'\\', rest)) {
        at += found;
        at += match (surrogate(bytes, at), surrogate(bytes, at + REPLACED.len())) {
            (Some(Half::High), Some(Half::Low)) => 2 * REPLACED.len(),
            (Some(_), _) => return Some(at),
            (None, _) => 2,
        };
    }
    None
}

/// A half of a surrogate pair.
#[derive(Clone, Copy)]
enum Half {
    High,
    Low,
}

/// The half whose escape stands there.
fn surrogate(bytes: &[u8], at: usize) -> Option<Half> {
    let &[b'\\', b'u', b'd' | b'D', kind, a, b] = bytes.get(at..)?.get(..REPLACED.len())? else {
        return None;
    };
    let is_one = a.is_ascii_hexdigit() && b.is_ascii_hexdigit();
    match kind {
        b'8' | b'9' | b'a' | b'b' | b'A' | b'B' if is_one => Some(Half::High),
        b'c'..=b'f' | b'C'..=b'F' if is_one => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_is_mended_in_its_strings_alone_and_stays_as_long() {
        let body = Bytes::from_static(br#"{"a":"\ud83d","b":"\\ud83d \ud83d\ude00","c":"\uDe00"}"#);
        let mended = br#"{"a":"\ufffd","b":"\\ud83d \ud83d\ude00","c":"\ufffd"}"#;
        assert_eq!(mended_body(body), &mended[..]);
        let whole = Bytes::from_static(br#"{"a":"\ud83d\ude00 \u00e9"}"#);
        assert_eq!(mended_body(whole.clone()), whole);
        for broken in [&b"\"\\ud8"[..], b"{\"a\":\"\\ud8\"}", "\"\\ud8\u{e9}\"".as_bytes()] {
            assert_eq!(mended_body(Bytes::copy_from_slice(broken)), broken);
        }
    }

    proptest! {
        #[test]
        fn a_mended_text_is_read(text in "(\\\\u[dD][89cC]00|\\\\n|\\\\u0041|a|é){0,12}") {
            let raw = format!("\"{text}\"");
            prop_assert!(serde_json::from_str::<String>(&mended(&raw)).is_ok());
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\"\\\\ uUdD8c0 a,:é]{0,40}") {
            mended(&text);
            let body = mended_body(Bytes::from(text.clone()));
            prop_assert_eq!(body.len(), text.len());
        }
    }
}
