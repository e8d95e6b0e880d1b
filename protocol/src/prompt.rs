//! What a prompt is made of: text, which is counted by its bytes; images and sounds, which are counted one
//! by one, because their bytes say nothing of their tokens; and images that are not in the body at all but
//! behind a URL.
//!
//! Only what stands where its dialect has an image is taken for one: anything else is text, however long
//! and however it is called, so that nothing of a prompt escapes a budget. A URL is looked for in the same
//! places and in any key that ends with `_url`: whoever fetches it reaches into a network on a client's
//! word, and an upstream that is sent one would.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde_json::{json, value::RawValue};

use crate::{
    body::{BodyError, Text, splice},
    json::{Cursor, is_filled},
};

/// How many images behind URLs may be put into one body.
pub const REMOTE_IMAGES_MAX: usize = 64;

/// What a `data:` URI begins with, in any case.
pub(crate) const DATA_SCHEME: &str = "data:";

/// What a prompt is made of, as far as it has been read.
#[derive(Default)]
pub(crate) struct Prompt<'a> {
    /// The bytes of its text, as it stands in the body.
    pub(crate) text_bytes: u64,
    /// How many images and sounds it has, those behind URLs among them.
    pub(crate) images: u32,
    remote: Vec<Remote<'a>>,
    /// Where the first of them stands.
    remote_at: Option<String>,
}

/// An image that is behind a URL.
struct Remote<'a> {
    url: Cow<'a, str>,
    /// What its data takes the place of: the URL, or in Anthropic's dialect the whole source.
    raw: &'a str,
    is_source: bool,
}

/// Where something stands in a body.
#[derive(Clone, Copy)]
struct At<'p> {
    parent: Option<&'p At<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Field(&'p str),
    Item(usize),
}

/// The refusal of an image that is behind a URL, in OpenAI's dialects.
pub(crate) fn not_fetched(field: impl Into<String>) -> BodyError {
    let why = "Image URLs are not fetched: send the image itself as a `data:` URI in base64.";
    BodyError::unsupported(field, why)
}

/// The same, in Anthropic's.
pub(crate) fn source_not_fetched(field: impl Into<String>) -> BodyError {
    let why = "Image URLs are not fetched: send the image itself in base64.";
    BodyError::unsupported(field, why)
}

/// Whether a text is a `data:` URI.
pub(crate) fn is_data(uri: &str) -> bool {
    let start = uri.as_bytes().get(..DATA_SCHEME.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(DATA_SCHEME.as_bytes()))
}

// === impl Prompt ===

impl<'a> Prompt<'a> {
    /// A value that is text all through: a prompt, a list of tools, a schema.
    pub(crate) fn text(&mut self, raw: Option<&RawValue>) {
        let filled = raw.map(RawValue::get).filter(|raw| is_filled(raw) || raw.starts_with('{'));
        self.text_bytes += filled.map_or(0, |raw| raw.len() as u64);
    }

    /// The messages of a chat, or the items of a response, which stand in the field `name`.
    pub(crate) fn messages(&mut self, name: &str, raw: Option<&'a RawValue>) {
        self.text(raw);
        let Some(raw) = raw.filter(|raw| raw.get().starts_with('[')) else { return };
        let at = At { parent: None, step: Step::Field(name) };
        Cursor::new(raw.get()).items(|cursor, index| self.message(cursor, &at.item(index)));
    }

    /// Images as Ollama has them: a list of strings in base64.
    pub(crate) fn images(&mut self, raw: Option<&'a RawValue>) {
        self.text(raw);
        if let Some(raw) = raw {
            self.list(&mut Cursor::new(raw.get()));
        }
    }

    /// The URLs of the images that are not in the body.
    pub(crate) fn remote(&self) -> impl Iterator<Item = &str> {
        self.remote.iter().map(|remote| &*remote.url)
    }

    /// That all of its images are in the body.
    ///
    /// # Errors
    /// [`Code::UnsupportedParameter`](crate::error::Code::UnsupportedParameter), and where the first that
    /// is not stands.
    pub(crate) fn is_here(&self) -> Result<(), BodyError> {
        match (&self.remote_at, self.remote.first()) {
            (None, _) => Ok(()),
            (Some(at), Some(Remote { is_source: true, .. })) => Err(source_not_fetched(at)),
            (Some(at), _) => Err(not_fetched(at)),
        }
    }

    /// The body with images in the places of their URLs. `fetched`: a `data:` URI in base64 for each URL.
    pub(crate) fn filled(&self, body: &[u8], fetched: &HashMap<String, String>) -> Vec<u8> {
        let place = |remote: &Remote<'a>| {
            let start = remote.raw.as_ptr().addr() - body.as_ptr().addr();
            let uri = fetched.get(&*remote.url)?;
            let value = if remote.is_source { source_of(uri)? } else { json!(uri).to_string() };
            Some((start, start + remote.raw.len(), value))
        };
        splice(body, &self.remote.iter().filter_map(place).collect::<Vec<_>>())
    }

    fn message(&mut self, cursor: &mut Cursor<'a>, at: &At<'_>) {
        cursor.members(|cursor, key| match () {
            // `output`: of a function, in a response.
            () if is(&key, "content") || is(&key, "output") => self.parts(cursor, &at.field(&key)),
            () if is(&key, "images") => self.list(cursor),
            () => _ = cursor.value(),
        });
    }

    fn parts(&mut self, cursor: &mut Cursor<'a>, at: &At<'_>) {
        cursor.items(|cursor, index| self.part(cursor, &at.item(index)));
    }

    fn part(&mut self, cursor: &mut Cursor<'a>, at: &At<'_>) {
        cursor.members(|cursor, key| match () {
            () if has_url(&key) => self.url(cursor, &at.field(&key)),
            () if is(&key, "input_audio") => self.data(cursor),
            () if is(&key, "source") => self.source(cursor, &at.field(&key)),
            // Of a tool's result, in Anthropic's dialect.
            () if is(&key, "content") => self.parts(cursor, &at.field(&key)),
            () => _ = cursor.value(),
        });
    }

    /// Images in base64.
    fn list(&mut self, cursor: &mut Cursor<'a>) {
        cursor.items(|cursor, _| {
            let raw = cursor.value();
            if raw.starts_with('"') {
                self.image(raw);
            }
        });
    }

    /// A URL, alone or in an object.
    fn url(&mut self, cursor: &mut Cursor<'a>, at: &At<'_>) {
        if cursor.peek() == Some(b'{') {
            cursor.members(|cursor, key| {
                let raw = cursor.value();
                if is(&key, "url") {
                    self.one_url(raw, at);
                }
            });
        } else {
            self.one_url(cursor.value(), at);
        }
    }

    fn one_url(&mut self, raw: &'a str, at: &At<'_>) {
        if !raw.starts_with('"') {
            return;
        }
        // One that is not escaped need not be read to the end.
        if is_data(&raw[1..]) {
            return self.image(raw);
        }
        let url = serde_json::from_str::<Text<'a>>(raw).map(|Text(url)| url).unwrap_or_default();
        if is_data(&url) {
            return self.image(raw);
        }
        self.images += 1;
        self.found(Remote { url, raw, is_source: false }, at);
    }

    /// An object with `data` in base64.
    fn data(&mut self, cursor: &mut Cursor<'a>) {
        cursor.members(|cursor, key| {
            let raw = cursor.value();
            if is(&key, "data") && raw.starts_with('"') {
                self.image(raw);
            }
        });
    }

    /// Where an image of Anthropic's dialect is.
    fn source(&mut self, cursor: &mut Cursor<'a>, at: &At<'_>) {
        let mut url = None;
        let raw = cursor.spanned(|cursor| {
            cursor.members(|cursor, key| {
                let raw = cursor.value();
                match () {
                    () if !raw.starts_with('"') => {}
                    () if is(&key, "data") => self.image(raw),
                    () if is(&key, "url") => url = Some(raw),
                    () => {}
                }
            });
        });
        if let Some(url) = url {
            self.images += 1;
            let url = serde_json::from_str::<Text<'a>>(url).map(|Text(url)| url);
            self.found(Remote { url: url.unwrap_or_default(), raw, is_source: true }, at);
        }
    }

    fn image(&mut self, raw: &str) {
        self.images += 1;
        self.text_bytes = self.text_bytes.saturating_sub(raw.len() as u64);
    }

    fn found(&mut self, remote: Remote<'a>, at: &At<'_>) {
        if self.remote_at.is_none() {
            self.remote_at = Some(at.to_string());
        }
        if self.remote.len() < REMOTE_IMAGES_MAX {
            self.remote.push(remote);
        }
    }
}

/// A `data:` URI as a source of Anthropic's dialect.
fn source_of(uri: &str) -> Option<String> {
    let (kind, data) = uri.get(DATA_SCHEME.len()..)?.split_once(";base64,")?;
    Some(json!({ "type": "base64", "media_type": kind, "data": data }).to_string())
}

/// Whether a key is that field. Some servers read keys without regard to case.
fn is(key: &str, field: &str) -> bool {
    key.eq_ignore_ascii_case(field)
}

fn has_url(key: &str) -> bool {
    let bytes = key.as_bytes();
    bytes.len().checked_sub(4).is_some_and(|at| bytes[at..].eq_ignore_ascii_case(b"_url"))
}

// === impl At ===

impl<'p> At<'p> {
    fn field(&'p self, name: &'p str) -> Self {
        At { parent: Some(self), step: Step::Field(name) }
    }

    fn item(&'p self, index: usize) -> Self {
        At { parent: Some(self), step: Step::Item(index) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Code,
        levers::Levers,
        route::{Route, UpstreamKind},
        translate::request::{Request, Target},
    };

    fn refused(route: Route, body: &str) -> Option<(Code, String)> {
        let request = Request::read(route, body.as_bytes()).unwrap();
        let refusal = |kind: &UpstreamKind| {
            let levers = &Levers::OPEN;
            let target = Target { kind: *kind, model: Some("m"), tokens_max: None, levers };
            request.write(&target).err().map(|error| (error.code, error.field.unwrap_or_default()))
        };
        let refusals: Vec<_> = UpstreamKind::ALL.iter().map(refusal).collect();
        assert_eq!(refusals[0], refusals[1], "{body}");
        refusals.into_iter().next().flatten()
    }

    fn chat(part: &str) -> String {
        format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"a"}},{{"role":"user","content":[{{"type":"text","text":"b"}},{part}]}}]}}"#
        )
    }

    fn message(block: &str) -> String {
        format!(
            r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":[{block}]}}]}}"#
        )
    }

    fn response(part: &str) -> String {
        format!(r#"{{"model":"m","input":[{{"role":"user","content":[{part}]}}]}}"#)
    }

    #[test]
    fn an_image_behind_a_url_is_refused_whoever_the_upstream_is() {
        let (image, source) = ("messages[1].content[1].image_url", "messages[0].content[0].source");
        let (chats, messages) = (Route::OpenAiChat, Route::AnthropicMessages);
        for (route, body, at) in [
            (
                chats,
                chat(r#"{"type":"image_url","image_url":{"url":"http://169.254.169.254/"}}"#),
                image,
            ),
            (
                chats,
                chat(r#"{"type":"image_url","image_url":{"url":"data:x","url":" http:\/\/a"}}"#),
                image,
            ),
            (chats, chat(r#"{"type":"image_url","image_url":"file:///etc/passwd"}"#), image),
            (chats, chat(r#"{"type":"image_url","\u0069mage_url":"https://a"}"#), image),
            (chats, chat(r#"{"type":"image_url","image_url":"\ud83d"}"#), image),
            (
                chats,
                chat(r#"{"type":"video_url","video_url":{"url":"https://a"}}"#),
                "messages[1].content[1].video_url",
            ),
            (
                Route::OpenAiResponses,
                response(r#"{"type":"input_image","image_url":"https://a"}"#),
                "input[0].content[0].image_url",
            ),
            (
                messages,
                message(r#"{"type":"image","source":{"type":"url","url":"https://a"}}"#),
                source,
            ),
            (
                messages,
                message(
                    r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"url","url":"https://a"}}]}"#,
                ),
                "messages[0].content[0].content[0].source",
            ),
        ] {
            let expected = Some((Code::UnsupportedParameter, at.to_owned()));
            assert_eq!(refused(route, &body), expected, "{body}");
        }
        for part in [
            r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,QUJD","detail":"low"}}"#,
            r#"{"type":"image_url","image_url":"DATA:image\/png;base64,QUJD"}"#,
            r#"{"type":"text","text":"see \"image_url\": https://a"}"#,
        ] {
            assert_eq!(refused(Route::OpenAiChat, &chat(part)), None, "{part}");
        }
    }

    #[test]
    fn what_was_fetched_stands_in_the_place_of_its_url() {
        let url = "https://a/\u{e4}?b=\"";
        let quoted = json!(url).to_string();
        let fetched = HashMap::from([(url.to_owned(), "data:image/png;base64,QUJD".to_owned())]);
        let (image, source) = (
            format!(r#"{{"type":"image_url","image_url":{{"url": {quoted} ,"detail":"low"}}}}"#),
            format!(r#"{{"type":"image","source": {{"type":"url","url":{quoted}}} }}"#),
        );
        let (data, base64) = (
            r#"{"type":"image_url","image_url":{"url": "data:image/png;base64,QUJD" ,"detail":"low"}}"#,
            r#"{"type":"image","source": {"type":"base64","media_type":"image/png","data":"QUJD"} }"#,
        );
        for (route, body, expected) in [
            (Route::OpenAiChat, chat(&image), chat(data)),
            (Route::AnthropicMessages, message(&source), message(base64)),
        ] {
            let request = Request::read(route, body.as_bytes()).unwrap();
            assert_eq!(request.remote_images().collect::<Vec<_>>(), [url]);
            let with = String::from_utf8(request.with_images(&fetched)).unwrap();
            let (with, expected): (serde_json::Value, serde_json::Value) =
                (serde_json::from_str(&with).unwrap(), serde_json::from_str(&expected).unwrap());
            assert_eq!(with, expected);
            assert_eq!(refused(route, &with.to_string()), None);
            // What was not fetched stays, and is refused.
            let without = request.with_images(&HashMap::new());
            assert_eq!(without, body.as_bytes());
        }
    }

    #[test]
    fn no_more_than_so_many_are_told_of_and_the_rest_is_refused() {
        let parts = vec![r#"{"type":"image_url","image_url":"https://a"}"#; REMOTE_IMAGES_MAX + 1];
        let body = chat(&parts.join(","));
        let request = Request::read(Route::OpenAiChat, body.as_bytes()).unwrap();
        assert_eq!(request.remote_images().count(), REMOTE_IMAGES_MAX);
        let fetched = HashMap::from([("https://a".to_owned(), "data:;base64,QUJD".to_owned())]);
        let with = String::from_utf8(request.with_images(&fetched)).unwrap();
        assert!(refused(Route::OpenAiChat, &with).is_some());
    }

    #[test]
    fn only_an_image_is_left_out_of_the_text() {
        let long = "long ".repeat(2_000);
        let image = format!("data:image/png;base64,{}", "QUJD".repeat(2_000));
        let data = &image[22..];
        let wav = format!(r#"{{"type":"input_audio","input_audio":{{"data":"{data}"}}}}"#);
        let block = format!(r#"{{"type":"image","source":{{"type":"base64","data":"{data}"}}}}"#);
        let native = |rest: &str| format!(r#"{{"model":"m",{rest}}}"#);
        let (chats, natives) = (Route::OpenAiChat, Route::OllamaChat);
        for (route, body, images, text) in [
            (chats, chat(&format!(r#"{{"type":"image_url","image_url":"{image}"}}"#)), 1, 200),
            (
                chats,
                chat(&format!(r#"{{"type":"image_url","image_url":{{"url":"{image}"}}}}"#)),
                1,
                200,
            ),
            (chats, chat(&wav), 1, 200),
            (chats, chat(&format!(r#"{{"type":"text","text":"image {long}"}}"#)), 0, 10_200),
            (Route::OpenAiResponses, response(&format!(r#"{{"image_url":"{image}"}}"#)), 1, 200),
            (Route::AnthropicMessages, message(&format!("{block},{block}")), 2, 300),
            (natives, native(&format!(r#""messages":[{{"images":["{data}","{data}"]}}]"#)), 2, 200),
            (
                Route::OllamaGenerate,
                native(&format!(r#""prompt":"a","images":["{data}"]"#)),
                1,
                200,
            ),
            // What only looks like an image is text.
            (
                natives,
                native(&format!(r#""messages":[{{"tool_calls":[{{"images":["{data}"]}}]}}]"#)),
                0,
                8_200,
            ),
            (
                natives,
                native(&format!(r#""messages":[{{"content":{{"images":"{data}"}}}}]"#)),
                0,
                8_200,
            ),
        ] {
            let request = Request::read(route, body.as_bytes()).unwrap();
            assert_eq!(request.images, images, "{body}");
            let near = text - 200..=text;
            assert!(near.contains(&request.text_bytes), "{}: {body}", request.text_bytes);
        }
    }

    #[test]
    fn whatever_becomes_a_part_of_the_prompt_is_counted() {
        let long = "a b ".repeat(1_000);
        let counted = |route: Route, field: &str, value: String| {
            let basis = match route {
                Route::OpenAiChat | Route::OllamaChat => r#""messages":[]"#,
                Route::AnthropicMessages => r#""max_tokens":1,"messages":[]"#,
                Route::OpenAiResponses | Route::OpenAiEmbeddings => r#""input":"a""#,
                _ => r#""prompt":"a""#,
            };
            let body = format!(r#"{{"model":"m",{basis},"{field}":{value}}}"#);
            let request = Request::read(route, body.as_bytes())
                .unwrap_or_else(|error| panic!("{body}: {error}"));
            assert!(request.text_bytes >= 4_000, "{route:?} {field}: {}", request.text_bytes);
        };
        for (route, fields) in [
            (Route::OpenAiChat, &["tools", "functions", "response_format", "documents"][..]),
            (Route::OpenAiCompletions, &["suffix", "anything"]),
            (Route::OpenAiEmbeddings, &["instruction"]),
            (Route::OpenAiResponses, &["instructions", "tools", "text"]),
            (Route::AnthropicMessages, &["system", "tools"]),
            (Route::OllamaChat, &["tools", "format"]),
            (Route::OllamaGenerate, &["system", "suffix", "template", "context", "format"]),
        ] {
            for field in fields {
                let value = match *field {
                    "suffix" | "instructions" | "system" | "template" => format!("\"{long}\""),
                    _ => format!(r#"{{"x":"{long}"}}"#),
                };
                counted(route, field, value);
            }
        }
    }
}
