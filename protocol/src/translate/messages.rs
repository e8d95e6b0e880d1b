//! The messages of a chat, from OpenAI's shape to Ollama's.
//!
//! Where Ollama's own front splits a message of several parts into several messages, this keeps one:
//! templates that want the roles to alternate fail on the split, and a tool's result loses its name.

use std::borrow::Cow;

use serde_json::{json, value::RawValue};

use super::{history, odd};
use crate::{
    body::{BodyError, Text},
    json,
    ollama::chat::{Function, Image, Message, ToolCall},
    openai::chat as openai,
    prompt::{DATA_SCHEME, is_data, not_fetched},
    surrogate::mended,
};

/// The kinds of image that Ollama reads; without a kind, it looks at the bytes.
const IMAGE_KINDS: [&str; 5] = ["", "image/jpeg", "image/jpg", "image/png", "image/webp"];
const DATA_ENCODING: &str = ";base64";

/// Where something stands in the body, for the refusal.
#[derive(Clone, Copy)]
struct Place {
    message: usize,
    /// Whether the client asks by it: what it shows must be seen. Else it is what a model or a tool said before.
    is_asked: bool,
}

/// The content of a message: its text, and what else there is to look at or to hear.
#[derive(Default)]
struct Content<'a> {
    text: Cow<'a, str>,
    images: Vec<Image<'a>>,
    /// What was thought, where it stands among the parts.
    thinking: Option<Cow<'a, str>>,
}

/// Reads the messages. There must be one at least: none is Ollama's order to load a model.
pub(super) fn messages<'a>(messages: Option<&'a RawValue>) -> Result<Vec<Message<'a>>, BodyError> {
    let must = || BodyError::invalid("messages", "a list of at least one message");
    let raw = messages.ok_or_else(must)?;
    let list: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
    if list.is_empty() {
        return Err(must());
    }
    // A collected `Result` would not know how many there will be, and grow over and over.
    let mut messages = Vec::with_capacity(list.len());
    for (at, raw) in list.into_iter().enumerate() {
        messages.push(message(Place { message: at, is_asked: true }, raw)?);
    }
    Ok(messages)
}

fn message<'a>(mut place: Place, raw: &'a RawValue) -> Result<Message<'a>, BodyError> {
    let given: openai::Message<'a> =
        json::read_object(raw.get()).ok_or_else(|| place.must("", "a message"))?;
    let role = place.string("role", given.role)?.filter(|role| !role.is_empty());
    let role = role.ok_or_else(|| place.must(".role", "a string"))?;
    let (is_assistant, is_result) = (role == "assistant", matches!(&*role, "tool" | "function"));
    place.is_asked = !is_assistant && !is_result;
    let mut tool_calls = match given.tool_calls {
        Some(calls) => tool_calls(place, calls)?,
        None => Vec::new(),
    };
    // What `tool_calls` was before.
    if let Some(raw) = given.function_call {
        let function: openai::Function<'a> = json::read_object(raw.get())
            .ok_or_else(|| place.must(".function_call", "a call of a function"))?;
        let index = tool_calls.len();
        tool_calls.push(ToolCall { id: None, function: called(function, index) });
    }
    let mut content = match given.content {
        Some(content) => place.content(content)?,
        None if is_assistant || is_result => Content::default(),
        None => return Err(place.must(".content", "a string or a list of parts")),
    };
    let mut message = Message {
        tool_calls,
        tool_call_id: place.string("tool_call_id", given.tool_call_id)?,
        ..Message::default()
    };
    if is_assistant {
        message.thinking = thinking(place, &given)?.or(content.thinking);
        if content.text.is_empty() {
            content.text = instead(place, &given)?;
        }
    } else if is_result {
        let name = place.string("name", given.name)?.filter(|name| !name.is_empty());
        message.tool_name = name;
    }
    (message.content, message.images) = (content.text, content.images);
    message.role = match &*role {
        // Most templates know no developer and would drop what it says.
        "developer" => "system".into(),
        "function" => "tool".into(),
        _ => role,
    };
    Ok(message)
}

/// What an assistant thought, in the field that its server had for it.
fn thinking<'a>(
    place: Place,
    given: &openai::Message<'a>,
) -> Result<Option<Cow<'a, str>>, BodyError> {
    let filled = |text: &Cow<'a, str>| !text.is_empty();
    let thinking = place.string("reasoning", given.reasoning)?.filter(filled);
    let other = place.string("reasoning_content", given.reasoning_content)?.filter(filled);
    let details = || {
        let text = odd::words_under(given.reasoning_details?.get(), &["text", "summary"]);
        Some(Cow::Owned(text)).filter(filled)
    };
    Ok(thinking.or(other).or_else(details))
}

/// What an assistant said without a content: that it declines, or a sound that only its maker has.
fn instead<'a>(place: Place, given: &openai::Message<'a>) -> Result<Cow<'a, str>, BodyError> {
    let refusal = place.string("refusal", given.refusal)?.unwrap_or_default();
    if refusal.is_empty() && given.audio.is_some() {
        return Ok(odd::told("audio", "").into());
    }
    Ok(refusal)
}

fn tool_calls<'a>(place: Place, raw: &'a RawValue) -> Result<Vec<ToolCall<'a>>, BodyError> {
    let calls: Vec<&'a RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| place.must(".tool_calls", "a list of tool calls"))?;
    let read = |(index, raw): (usize, &'a RawValue)| {
        let must = || place.must(&format!(".tool_calls[{index}]"), "a call of a function");
        let call: openai::ToolCall<'a> = json::read_object(raw.get()).ok_or_else(must)?;
        let id = call.id.map(|Text(id)| id).filter(|id| !id.is_empty());
        let function = match (call.function, call.custom) {
            (Some(function), _) => called(function, index),
            (None, Some(custom)) => {
                let (Text(name), Text(input)) = (custom.name, custom.input);
                Function { index, name, arguments: input_of(&input) }
            }
            (None, None) => return Err(must()),
        };
        Ok(ToolCall { id, function })
    };
    calls.into_iter().enumerate().map(read).collect()
}

fn called(function: openai::Function<'_>, index: usize) -> Function<'_> {
    let Text(name) = function.name;
    Function { index, name, arguments: arguments_of(function.arguments) }
}

/// The arguments of a call, which are an object, or the text of one.
///
/// A model may have written something else, or not have come to the end: the client replays it for good, so it is
/// handed on as it is, as the one argument of an object.
pub(super) fn arguments_of(raw: Option<&RawValue>) -> Box<RawValue> {
    match raw.map(RawValue::get) {
        None => arguments(""),
        Some(object) if object.starts_with('{') => arguments(object),
        Some(raw) => json::text_of(raw).map_or_else(|| arguments(raw), |text| arguments(&text)),
    }
}

/// The same, of their text. Many clients replay a call without any as `""`.
pub(super) fn arguments(text: &str) -> Box<RawValue> {
    let object = match text.trim() {
        "" | "null" => "{}",
        text => text,
    };
    let is_one = object.starts_with('{') && !json::is_too_deep(object);
    // There are strings in it, which the body's own escapes hide.
    let read = || RawValue::from_string(mended(object).into_owned()).ok();
    is_one.then(read).flatten().unwrap_or_else(|| one_argument("arguments", text))
}

/// The arguments of a call whose tool takes one text (`custom` in OpenAI's dialects).
pub(super) fn input_of(text: &str) -> Box<RawValue> {
    one_argument("input", text)
}

fn one_argument(name: &str, text: &str) -> Box<RawValue> {
    // Neither can fail: a name and a text are JSON.
    let object = json!({ name: text }).to_string();
    RawValue::from_string(object).unwrap_or_else(|_| RawValue::NULL.to_owned())
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
            return Ok(Content { text, ..Content::default() });
        }
        let parts: Vec<&'a RawValue> = serde_json::from_str(raw.get()).map_err(|_| must())?;
        let mut content = Content::default();
        let mut texts = Vec::new();
        for (at, raw) in parts.into_iter().enumerate() {
            self.part(at, raw, &mut texts, &mut content)?;
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
        content: &mut Content<'a>,
    ) -> Result<(), BodyError> {
        let images = &mut content.images;
        let field = |name: &str| format!(".content[{at}]{name}");
        let part: openai::Part<'a> = match json::read_object(raw.get()) {
            Some(part) => part,
            None if self.is_asked => return Err(self.must(&field(""), "a part of a message")),
            None => {
                texts.push(odd::words(raw.get()).into());
                return Ok(());
            }
        };
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
                match image_of(&at, uri) {
                    Ok(image) => images.push(image),
                    Err(error) if self.is_asked => return Err(error),
                    // A tool showed something that Ollama does not read.
                    Err(_) => texts.push(odd::told(&kind, "").into()),
                }
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
            // As Mistral's models say what they thought.
            "thinking" if !self.is_asked => {
                let thinking = odd::words_under(raw.get(), &["thinking", "text"]);
                history::join_thinking(&mut content.thinking, Some(thinking.into()));
            }
            _ if self.is_asked => {
                let field = format!("messages[{}]{}", self.message, field(".type"));
                return Err(BodyError::unsupported(
                    field,
                    "A part of a message must be `text`, `image_url` or `input_audio`.",
                ));
            }
            _ => texts.push(odd::told(&kind, &odd::words(raw.get())).into()),
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
            (r#"[{"role":"user","content":null}]"#.to_owned(), "messages[0].content"),
            (user("1"), "messages[0].content"),
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
    fn arguments_become_an_object_whatever_they_are() {
        for text in ["", " \n", "null"] {
            assert_eq!(arguments(text).get(), "{}");
        }
        assert_eq!(arguments(r#" {"b":1.0,"a":2} "#).get(), r#"{"b":1.0,"a":2}"#);
        assert_eq!(arguments(r#"{"a":"\ud83d"}"#).get(), r#"{"a":"\ufffd"}"#);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for text in ["[]", "1", "{\"a\":", "{}{}", "x\"y", &deep] {
            let object: serde_json::Value = serde_json::from_str(arguments(text).get()).unwrap();
            assert_eq!(object, json!({ "arguments": text }));
        }
        for (raw, object) in [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#""{\"a\":1}""#, r#"{"a":1}"#),
            ("[1]", r#"{"arguments":"[1]"}"#),
        ] {
            assert_eq!(arguments_of(serde_json::from_str(raw).ok()).get(), object);
        }
        assert_eq!(arguments_of(None).get(), "{}");
    }

    #[test]
    fn what_a_model_or_a_tool_said_before_is_never_refused() {
        for (message, expected) in [
            (r#"{"role":"assistant","content":null}"#, r#"{"role":"assistant","content":""}"#),
            (r#"{"role":"assistant","content":[]}"#, r#"{"role":"assistant","content":""}"#),
            (
                r#"{"role":"assistant","content":null,"refusal":"no"}"#,
                r#"{"role":"assistant","content":"no"}"#,
            ),
            (
                r#"{"role":"assistant","audio":{"id":"audio_1"}}"#,
                r#"{"role":"assistant","content":"[audio was left out]"}"#,
            ),
            (
                r#"{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text","text":"t"}]},{"type":"text","text":"a"}]}"#,
                r#"{"role":"assistant","content":"a","thinking":"t"}"#,
            ),
            (
                r#"{"role":"assistant","content":"a","reasoning_details":[{"type":"reasoning.text","text":"t"},{"type":"reasoning.encrypted","data":"x"}]}"#,
                r#"{"role":"assistant","content":"a","thinking":"t"}"#,
            ),
            (
                r#"{"role":"assistant","content":"","function_call":{"name":"f","arguments":"{\"a\":1}"}}"#,
                r#"{"role":"assistant","content":"","tool_calls":[{"function":{"index":0,"name":"f","arguments":{"a":1}}}]}"#,
            ),
            (
                r#"{"role":"assistant","tool_calls":[{"id":"c","type":"custom","custom":{"name":"p","input":"a\nb"}}]}"#,
                r#"{"role":"assistant","content":"","tool_calls":[{"id":"c","function":{"index":0,"name":"p","arguments":{"input":"a\nb"}}}]}"#,
            ),
            (
                r#"{"role":"function","name":"f","content":"1"}"#,
                r#"{"role":"tool","content":"1","tool_name":"f"}"#,
            ),
            (
                r#"{"role":"tool","tool_call_id":"c","content":[{"type":"resource","resource":{"text":"r"}},{"type":"blob"}]}"#,
                r#"{"role":"tool","content":"[resource]\nr\n[blob was left out]","tool_call_id":"c"}"#,
            ),
        ] {
            assert_eq!(read(&format!("[{message}]")).unwrap(), format!("[{expected}]"));
        }
    }
}
