//! The messages of a chat, from OpenAI's shape to Ollama's.
//!
//! Where Ollama's own front splits a message of several parts into several messages, this keeps one:
//! templates that want the roles to alternate fail on the split, and a tool's result loses its name.

use std::{borrow::Cow, collections::HashMap};

use serde_json::value::RawValue;

use crate::{
    body::{BodyError, Text},
    json,
    ollama::chat::{Function, Image, Message, ToolCall},
    openai::chat as openai,
    prompt::{DATA_SCHEME, is_data, not_fetched},
};

/// The kinds of image that Ollama reads; without a kind, it looks at the bytes.
const IMAGE_KINDS: [&str; 5] = ["", "image/jpeg", "image/jpg", "image/png", "image/webp"];
const DATA_ENCODING: &str = ";base64";

/// The functions of the calls that have been seen, by the id of the call.
type Called<'a> = HashMap<Cow<'a, str>, Cow<'a, str>>;

/// Where something stands in the body, for the refusal.
#[derive(Clone, Copy)]
struct Place {
    message: usize,
}

/// The content of a message: its text, and what else there is to look at or to hear.
#[derive(Default)]
struct Content<'a> {
    text: Cow<'a, str>,
    images: Vec<Image<'a>>,
}

/// Reads the messages. There must be one at least: none is Ollama's order to load a model.
pub(super) fn messages<'a>(messages: Option<&'a RawValue>) -> Result<Vec<Message<'a>>, BodyError> {
    let must = || BodyError::invalid("messages", "a list of at least one message");
    let raw = messages.ok_or_else(must)?;
    let list: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
    if list.is_empty() {
        return Err(must());
    }
    let mut called = Called::new();
    // A collected `Result` would not know how many there will be, and grow over and over.
    let mut messages = Vec::with_capacity(list.len());
    for (at, raw) in list.into_iter().enumerate() {
        messages.push(message(Place { message: at }, raw, &mut called)?);
    }
    Ok(messages)
}

fn message<'a>(
    place: Place,
    raw: &'a RawValue,
    called: &mut Called<'a>,
) -> Result<Message<'a>, BodyError> {
    let given: openai::Message<'a> =
        json::read_object(raw.get()).ok_or_else(|| place.must("", "a message"))?;
    let role = place.string("role", given.role)?.filter(|role| !role.is_empty());
    let role = role.ok_or_else(|| place.must(".role", "a string"))?;
    let tool_calls = match given.tool_calls {
        Some(calls) => tool_calls(place, calls, called)?,
        None => Vec::new(),
    };
    let content = match given.content {
        Some(content) => place.content(content)?,
        None if given.tool_calls.is_some() => Content::default(),
        None => return Err(place.must(".content", "a string or a list of parts")),
    };
    let mut message = Message {
        content: content.text,
        images: content.images,
        tool_calls,
        tool_call_id: place.string("tool_call_id", given.tool_call_id)?,
        ..Message::default()
    };
    match &*role {
        "assistant" => {
            let thinking = place.string("reasoning", given.reasoning)?;
            let other = place.string("reasoning_content", given.reasoning_content)?;
            message.thinking = thinking.or(other).filter(|text| !text.is_empty());
        }
        "tool" => {
            let name = place.string("name", given.name)?.filter(|name| !name.is_empty());
            let of_call = || called.get(message.tool_call_id.as_ref()?).cloned();
            message.tool_name = name.or_else(of_call);
        }
        _ => {}
    }
    // Most templates know no developer and would drop what it says.
    message.role = if role == "developer" { "system".into() } else { role };
    Ok(message)
}

fn tool_calls<'a>(
    place: Place,
    raw: &'a RawValue,
    called: &mut Called<'a>,
) -> Result<Vec<ToolCall<'a>>, BodyError> {
    let calls: Vec<&'a RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| place.must(".tool_calls", "a list of tool calls"))?;
    let read = |(index, raw): (usize, &'a RawValue)| {
        let call: openai::ToolCall<'a> = json::read_object(raw.get())
            .ok_or_else(|| place.must(&format!(".tool_calls[{index}]"), "a call of a function"))?;
        let Text(name) = call.function.name;
        let id = call.id.map(|Text(id)| id).filter(|id| !id.is_empty());
        if let Some(id) = &id {
            called.insert(id.clone(), name.clone());
        }
        let text = call.function.arguments.map(|Text(text)| text).unwrap_or_default();
        let arguments = arguments(&text).ok_or_else(|| {
            let field = format!(".tool_calls[{index}].function.arguments");
            place.must(&field, "the text of a JSON object")
        })?;
        Ok(ToolCall { id, function: Function { index, name, arguments } })
    };
    calls.into_iter().enumerate().map(read).collect()
}

/// The object that a text of arguments holds. Many clients replay a call without any as `""`.
pub(super) fn arguments(text: &str) -> Option<Box<RawValue>> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    if !text.trim_ascii_start().starts_with('{') || json::is_too_deep(text) {
        return None;
    }
    RawValue::from_string(text.to_owned()).ok()
}

// === impl Place ===

impl Place {
    fn must(self, field: &str, must: &str) -> BodyError {
        BodyError::invalid(format!("messages[{}]{field}", self.message), must)
    }

    fn string<'a>(
        self,
        field: &str,
        raw: Option<&'a RawValue>,
    ) -> Result<Option<Cow<'a, str>>, BodyError> {
        let Some(raw) = raw else { return Ok(None) };
        let text: Text<'a> = serde_json::from_str(raw.get())
            .map_err(|_| self.must(&format!(".{field}"), "a string"))?;
        Ok(Some(text.0))
    }

    fn content<'a>(self, raw: &'a RawValue) -> Result<Content<'a>, BodyError> {
        let must = || self.must(".content", "a string or a list of parts");
        if raw.get().starts_with('"') {
            let text = self.string("content", Some(raw))?.unwrap_or_default();
            return Ok(Content { text, images: Vec::new() });
        }
        let parts: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
        if parts.is_empty() {
            return Err(must());
        }
        let mut content = Content::default();
        let mut texts = Vec::new();
        for (at, raw) in parts.into_iter().enumerate() {
            self.part(at, raw, &mut texts, &mut content.images)?;
        }
        content.text = match texts.len() {
            1 => texts.swap_remove(0),
            _ => texts.join("\n").into(),
        };
        Ok(content)
    }

    fn part<'a>(
        self,
        at: usize,
        raw: &'a RawValue,
        texts: &mut Vec<Cow<'a, str>>,
        images: &mut Vec<Image<'a>>,
    ) -> Result<(), BodyError> {
        let field = |name: &str| format!(".content[{at}]{name}");
        let part: openai::Part<'a> = json::read_object(raw.get())
            .ok_or_else(|| self.must(&field(""), "a part of a message"))?;
        let kind = part.kind.map(|Text(kind)| kind).unwrap_or_default();
        let text = |name: &str, raw| {
            self.string(&format!("content[{at}].{name}"), raw)?
                .ok_or_else(|| self.must(&field(&format!(".{name}")), "a string"))
        };
        match &*kind {
            "text" => texts.push(text("text", part.text)?),
            // What an assistant declined to say, when the client replays it.
            "refusal" => texts.push(text("refusal", part.refusal)?),
            "image_url" => {
                let uri = part.image_url.and_then(image_uri);
                let uri = uri.ok_or_else(|| self.must(&field(".image_url"), "a URL"))?;
                let at = format!("messages[{}]{}", self.message, field(".image_url"));
                images.push(image_of(&at, uri)?);
            }
            "input_audio" => {
                let audio = part.input_audio.and_then(|raw| json::read_object(raw.get()));
                let Some(openai::InputAudio { data: Text(uri) }) = audio else {
                    return Err(self.must(&field(".input_audio"), "an object with `data`"));
                };
                if !is_base64(&uri) {
                    return Err(self.must(&field(".input_audio.data"), "base64"));
                }
                images.push(Image { uri, start: 0 });
            }
            _ => {
                let field = format!("messages[{}]{}", self.message, field(".type"));
                return Err(BodyError::unsupported(
                    field,
                    "A part of a message must be `text`, `image_url` or `input_audio`.",
                ));
            }
        }
        Ok(())
    }
}

/// The image that a `data:` URI holds. Other URLs are never fetched here: the gateway would reach into
/// its own network on a client's word.
pub(super) fn image_of<'a>(at: &str, uri: Cow<'a, str>) -> Result<Image<'a>, BodyError> {
    if !is_data(&uri) {
        return Err(not_fetched(at));
    }
    let must = || BodyError::invalid(at, "a `data:` URI of a JPEG, PNG or WebP in base64");
    let comma = uri.find(',').ok_or_else(must)?;
    let media = &uri[DATA_SCHEME.len()..comma];
    let kind = media.len().checked_sub(DATA_ENCODING.len()).and_then(|end| {
        let (kind, encoding) = media.split_at_checked(end)?;
        encoding.eq_ignore_ascii_case(DATA_ENCODING).then_some(kind)
    });
    let kind = kind.ok_or_else(must)?;
    let start = comma + 1;
    let is_known = IMAGE_KINDS.iter().any(|known| kind.eq_ignore_ascii_case(known));
    if !is_known || !is_base64(&uri[start..]) {
        return Err(must());
    }
    Ok(Image { uri, start })
}

/// The texts of a list of parts, joined.
pub(super) fn content_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let parts: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    let mut texts = Vec::new();
    for part in parts {
        let part: openai::Part<'_> = json::read_object(part.get())?;
        let Text(text) = serde_json::from_str(part.text?.get()).ok()?;
        texts.push(text);
    }
    Some(match texts.len() {
        1 => texts.swap_remove(0),
        _ => texts.join("\n").into(),
    })
}

/// The URL of an image: OpenAI puts it in an object, some clients do not.
fn image_uri(raw: &RawValue) -> Option<Cow<'_, str>> {
    if raw.get().starts_with('"') {
        let Text(uri) = serde_json::from_str(raw.get()).ok()?;
        return Some(uri);
    }
    json::read_object::<openai::ImageUrl<'_>>(raw.get()).map(|image| image.url.0)
}

/// Whether a text is something in padded standard base64. It is not decoded: Ollama does that, and
/// an image may have many megabytes.
pub(super) fn is_base64(text: &str) -> bool {
    let data = text.trim_end_matches('=').as_bytes();
    !data.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - data.len() <= 2
        && data.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn read(text: &str) -> Result<String, BodyError> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        messages(Some(raw)).map(|messages| serde_json::to_string(&messages).unwrap())
    }

    #[test]
    fn a_refusal_says_where_and_what() {
        let user = |content: &str| format!(r#"[{{"role":"user","content":{content}}}]"#);
        for (text, field) in [
            ("[]".to_owned(), "messages"),
            ("{}".to_owned(), "messages"),
            ("[1]".to_owned(), "messages[0]"),
            (r#"[{"role":"user","content":"a","content":"b"}]"#.to_owned(), "messages[0]"),
            (r#"[{"content":"a"}]"#.to_owned(), "messages[0].role"),
            (r#"[{"role":"user"}]"#.to_owned(), "messages[0].content"),
            (r#"[{"role":"assistant","content":null}]"#.to_owned(), "messages[0].content"),
            (user("1"), "messages[0].content"),
            (user("[]"), "messages[0].content"),
            (user(r#"["a"]"#), "messages[0].content[0]"),
            (user(r#"[{"type":"text","text":1}]"#), "messages[0].content[0].text"),
            (user(r#"[{"type":"text"}]"#), "messages[0].content[0].text"),
            (user(r#"[{"type":"image_url","image_url":{}}]"#), "messages[0].content[0].image_url"),
            (
                user(r#"[{"type":"input_audio","input_audio":{"data":"?"}}]"#),
                "messages[0].content[0].input_audio.data",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert_eq!((error.code, error.field.as_deref()), (Code::InvalidRequest, Some(field)));
        }
        assert_eq!(messages(None).map(drop).unwrap_err().field.as_deref(), Some("messages"));
    }

    #[test]
    fn an_image_comes_from_a_data_uri_only() {
        let image = |uri: &str| {
            read(&format!(
                r#"[{{"role":"user","content":[{{"type":"image_url","image_url":"{uri}"}}]}}]"#
            ))
        };
        for uri in
            ["data:image/png;base64,QUJD", "data:;base64,QUJD", "DATA:Image/WebP;BASE64,QUJD"]
        {
            assert!(image(uri).unwrap().contains(r#""images":["QUJD"]"#), "{uri}");
        }
        for uri in ["http://169.254.169.254/x", "HTTPS://a/b.png", "file:///etc/passwd", "", "QUJD"]
        {
            assert_eq!(image(uri).unwrap_err().code, Code::UnsupportedParameter, "{uri}");
        }
        for uri in [
            "data:",
            "data:,",
            "data:image/png,QUJD",
            "data:image/gif;base64,QUJD",
            "data:image/png;base64,",
            "data:image/png;base64,QUJ",
            "data:image/png;base64,QU-D",
            "data:image/png;base64,Q===",
            "data:image/png;base64,Q=JD",
            "data:éé;base64,QUJD",
        ] {
            assert_eq!(image(uri).unwrap_err().code, Code::InvalidRequest, "{uri}");
        }
    }

    #[test]
    fn arguments_must_be_the_text_of_an_object() {
        for text in ["", " \n"] {
            assert_eq!(arguments(text).unwrap().get(), "{}");
        }
        assert_eq!(arguments(r#" {"b":1.0,"a":2} "#).unwrap().get(), r#"{"b":1.0,"a":2}"#);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for text in ["[]", "null", "1", "{", "{}{}", "x", &deep] {
            assert!(arguments(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_tool_result_finds_the_last_call_of_its_id() {
        let call = |name: &str| {
            format!(
                r#"{{"role":"assistant","tool_calls":[{{"id":"c","function":{{"name":"{name}","arguments":""}}}}]}}"#
            )
        };
        let result = r#"{"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"1"},{"type":"text","text":"2"}]}"#;
        let native = read(&format!("[{},{result},{},{result}]", call("f"), call("g"))).unwrap();
        let expected = r#"{"role":"tool","content":"1\n2","tool_name":"f","tool_call_id":"c"}"#;
        assert!(native.contains(expected), "{native}");
        assert!(native.contains(&expected.replace("\"f\"", "\"g\"")), "{native}");
    }
}
