//! Tool calls on their way to the client.
//!
//! Ollama gives arguments as an object, OpenAI as a string with the object's text: the text is
//! Ollama's own, so the order of keys and the spelling of numbers are kept. The index is counted
//! here, because older servers give every call the index 0, and a client glues the calls of one
//! index together.

use bytes::BufMut;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    body::Text,
    json::{compact, write_string},
};

const ID_PREFIX: &str = "chatcmpl-";

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Writes Ollama's list of calls as OpenAI's, and tells how many they are; `None` where it is no
/// such list.
///
/// A call without an id gets one made of the completion's id and the call's index, so that the same
/// reply always reads the same.
pub(super) fn write(
    calls: &RawValue,
    completion: &str,
    first: usize,
    out: &mut impl BufMut,
) -> Option<usize> {
    let calls: Vec<&RawValue> = serde_json::from_str(calls.get()).ok()?;
    out.put_u8(b'[');
    for (at, raw) in calls.iter().enumerate() {
        let call: Call<'_> = crate::json::read_object(raw.get())?;
        let index = first + at;
        out.put_slice(if at > 0 { b",{\"index\":" } else { b"{\"index\":" });
        out.put_slice(index.to_string().as_bytes());
        out.put_slice(b",\"id\":");
        match call.id {
            Some(Text(id)) if !id.is_empty() => write_string(&id, out),
            _ => {
                let completion = completion.strip_prefix(ID_PREFIX).unwrap_or(completion);
                write_string(&format!("call_{completion}_{index}"), out);
            }
        }
        out.put_slice(b",\"type\":\"function\",\"function\":{\"name\":");
        write_string(&call.function.name.0, out);
        out.put_slice(b",\"arguments\":");
        let arguments = call.function.arguments.map_or("{}", RawValue::get);
        write_string(&compact(arguments), out);
        out.put_slice(b"}}");
    }
    out.put_u8(b']');
    Some(calls.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(calls: &str) -> Option<String> {
        let raw: &RawValue = serde_json::from_str(calls).unwrap();
        let mut out = Vec::new();
        write(raw, "chatcmpl-7f", 2, &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn arguments_keep_their_order_and_numbers() {
        let calls = r#"[{"id":"call_a","function":{"index":0,"name":"f","arguments":
            {"z": 1.50, "a": 12345678901234567890123, "s": "x y"}}}]"#;
        let expected = concat!(
            r#"[{"index":2,"id":"call_a","type":"function","function":{"name":"f","#,
            r#""arguments":"{\"z\":1.50,\"a\":12345678901234567890123,\"s\":\"x y\"}"}}]"#
        );
        assert_eq!(written(calls).as_deref(), Some(expected));
    }

    #[test]
    fn a_call_without_an_id_gets_a_lasting_one() {
        let calls =
            r#"[{"function":{"name":"f"}},{"id":"","function":{"name":"g","arguments":null}}]"#;
        let expected = concat!(
            r#"[{"index":2,"id":"call_7f_2","type":"function","function":{"name":"f","arguments":"{}"}},"#,
            r#"{"index":3,"id":"call_7f_3","type":"function","function":{"name":"g","arguments":"{}"}}]"#
        );
        assert_eq!(written(calls).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for calls in
            ["{}", "[1]", "[{}]", r#"[{"function":{"name":1}}]"#, r#"[["a",{"name":"f"}]]"#]
        {
            assert_eq!(written(calls), None, "{calls}");
        }
    }
}
