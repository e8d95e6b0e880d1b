//! Tool calls on their way to the client, in OpenAI's shape.
//!
//! Ollama gives arguments as an object, OpenAI as a string with the object's text: the text is
//! Ollama's own, so the order of keys and the spelling of numbers are kept. The index is counted
//! here, because older servers give every call the index 0, and a client glues the calls of one
//! index together.

use std::borrow::Cow;

use bytes::BufMut;
use serde_json::Value;

use super::piece::{Arguments, CallPiece};
use crate::{
    json::{compact, splice_string, write_string},
    surrogate::mended,
};

/// The id of a call: the upstream's, or one made of the reply's id and the call's index, so that the
/// same reply always reads the same.
pub(super) fn id<'c>(call: &'c CallPiece<'_>, reply: &str) -> Cow<'c, str> {
    match &call.id {
        Some(id) if !id.is_empty() => Cow::Borrowed(id),
        _ => {
            let reply = reply.split_once(['-', '_']).map_or(reply, |(_, id)| id);
            Cow::Owned(format!("call_{reply}_{}", call.index))
        }
    }
}

/// The arguments of a call as an object; `None` where their text is none.
pub(super) fn object(text: &str) -> Option<Value> {
    serde_json::from_str(&mended(text)).ok().filter(Value::is_object)
}

/// Writes calls as a list of OpenAI's; `None` where one is not what it must be. `with_index`: as in a
/// stream, whose clients put parts together by it.
pub(super) fn write(calls: &[CallPiece<'_>], reply: &str, out: &mut impl BufMut) -> Option<()> {
    out.put_u8(b'[');
    for (at, call) in calls.iter().enumerate() {
        out.put_slice(if at > 0 { b",{\"index\":" } else { b"{\"index\":" });
        out.put_slice(call.index.to_string().as_bytes());
        if let Some(name) = &call.name {
            out.put_slice(b",\"id\":");
            write_string(&id(call, reply), out);
            out.put_slice(b",\"type\":\"function\",\"function\":{\"name\":");
            write_string(name, out);
            out.put_u8(b',');
        } else {
            out.put_slice(b",\"function\":{");
        }
        out.put_slice(b"\"arguments\":");
        match &call.arguments {
            Arguments::Object(raw) => write_string(&compact(raw.get()), out),
            Arguments::Text(raw) => splice_string(raw.get(), out)?,
            Arguments::Empty => out.put_slice(b"\"{}\""),
            Arguments::Held(text) => write_string(text, out),
        }
        out.put_slice(b"}}");
    }
    out.put_u8(b']');
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::ollama::reply::calls;

    fn written(text: &str) -> Option<String> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let mut out = Vec::new();
        write(&calls(raw, 2)?, "chatcmpl-7f", &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn ids_are_kept_or_made_and_every_call_has_its_own_index() {
        let text = r#"[{"id":"call_a","function":{"index":0,"name":"f","arguments":{"b": 1.0,"a":"<"}}},
            {"function":{"index":0,"name":"g"}}]"#;
        let expected = concat!(
            r#"[{"index":2,"id":"call_a","type":"function","function":{"name":"f","arguments":"{\"b\":1.0,\"a\":\"<\"}"}},"#,
            r#"{"index":3,"id":"call_7f_3","type":"function","function":{"name":"g","arguments":"{}"}}]"#
        );
        assert_eq!(written(text).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_no_list_of_calls_is_a_fault() {
        for calls in
            ["{}", "[1]", "[{}]", r#"[{"function":{"name":1}}]"#, r#"[["a",{"name":"f"}]]"#]
        {
            assert_eq!(written(calls), None, "{calls}");
        }
    }

    #[test]
    fn the_next_part_of_a_call_has_neither_id_nor_name() {
        let raw: &RawValue = serde_json::from_str(r#""{\"a\":""#).unwrap();
        let part = CallPiece { index: 1, id: None, name: None, arguments: Arguments::Text(raw) };
        let mut out = Vec::new();
        write(&[part], "chatcmpl-1", &mut out).unwrap();
        let expected = r#"[{"index":1,"function":{"arguments":"{\"a\":"}}]"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
