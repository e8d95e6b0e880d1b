//! What a prompt is made of: text, which is counted by its bytes; token ids, which are counted; images, which
//! are counted one by one, because their bytes say nothing of their tokens; sounds and videos, which are
//! counted by their seconds, too; and images that are not in the body at all but behind a URL.
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
    media::{self, Kind},
    strangers,
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
    /// The tokens that it has besides: token ids, and the seconds of sounds and videos.
    pub(crate) tokens: u64,
    remote: Vec<Remote<'a>>,
    /// Where the first of them stands.
    remote_at: Option<String>,
    /// Where something stands that only the model server has, so that nobody here can count it.
    uncounted_at: Option<String>,
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

    /// A text, or token ids: one list of them, or several.
    pub(crate) fn ids(&mut self, raw: Option<&RawValue>) {
        let list = raw.map(RawValue::get).filter(|raw| raw.starts_with('['));
        let (mut ids, mut text_bytes) = (0, 0);
        let mut item = |cursor: &mut Cursor<'_>| match cursor.value() {
            id if id.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => ids += 1,
            text => text_bytes += text.len() as u64,
        };
        Cursor::new(list.unwrap_or_default()).items(|cursor, _| match cursor.peek() {
            Some(b'[') => cursor.items(|cursor, _| item(cursor)),
            _ => item(cursor),
        });
        if ids == 0 {
            return self.text(raw);
        }
        self.tokens += ids;
        // The brackets stand for what a server puts before a prompt.
        self.text_bytes += text_bytes + 2;
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

    /// That nothing of it is kept by a model server and only named here, where nobody can count it.
    ///
    /// # Errors
    /// [`Code::UnsupportedParameter`](crate::error::Code::UnsupportedParameter).
    pub(crate) fn is_counted(&self) -> Result<(), BodyError> {
        self.uncounted_at.as_deref().map_or(Ok(()), |at| Err(strangers::not_listed(at)))
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
            () if has_url(&key) => self.url(cursor, kind_of(&key), &at.field(&key)),
            () if is(&key, "input_audio") => self.data(cursor),
            () if is(&key, "source") => self.source(cursor, &at.field(&key)),
            // Of a tool's result, in Anthropic's dialect.
            () if is(&key, "content") => self.parts(cursor, &at.field(&key)),
            // What vLLM has seen before, tensors, a file that OpenAI stores.
            () if is_uncounted(&key) => self.uncounted(cursor.value(), &at.field(&key)),
            () if is(&key, "file") => self.file(cursor, &at.field(&key)),
            () => _ = cursor.value(),
        });
    }

    /// Images in base64.
    fn list(&mut self, cursor: &mut Cursor<'a>) {
        cursor.items(|cursor, _| {
            let raw = cursor.value();
            if raw.starts_with('"') {
                self.media(raw, Kind::Image);
            }
        });
    }

    /// A file of OpenAI's: what is in the body is counted as text.
    fn file(&mut self, cursor: &mut Cursor<'a>, at: &At<'_>) {
        cursor.members(|cursor, key| {
            let raw = cursor.value();
            if !is(&key, "file_data") && !is(&key, "filename") {
                self.uncounted(raw, &at.field(&key));
            }
        });
    }

    /// A URL, alone or in an object.
    fn url(&mut self, cursor: &mut Cursor<'a>, kind: Kind, at: &At<'_>) {
        if cursor.peek() == Some(b'{') {
            cursor.members(|cursor, key| {
                let raw = cursor.value();
                if is(&key, "url") {
                    self.one_url(raw, kind, at);
                }
            });
        } else {
            self.one_url(cursor.value(), kind, at);
        }
    }

    fn one_url(&mut self, raw: &'a str, kind: Kind, at: &At<'_>) {
        if !raw.starts_with('"') {
            return;
        }
        // One that is not escaped need not be read to the end.
        if is_data(&raw[1..]) {
            return self.media(raw, kind);
        }
        let url = serde_json::from_str::<Text<'a>>(raw).map(|Text(url)| url).unwrap_or_default();
        if is_data(&url) {
            // Its beginning is escaped, and says nothing as it stands.
            self.text_bytes = self.text_bytes.saturating_sub(raw.len() as u64);
            return self.counted(&url, kind);
        }
        self.images += 1;
        self.found(Remote { url, raw, is_source: false }, at);
    }

    /// An object with `data` in base64.
    fn data(&mut self, cursor: &mut Cursor<'a>) {
        cursor.members(|cursor, key| {
            let raw = cursor.value();
            if is(&key, "data") && raw.starts_with('"') {
                self.media(raw, Kind::Audio);
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
                    () if is(&key, "data") => self.media(raw, Kind::Image),
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

    fn media(&mut self, raw: &str, kind: Kind) {
        self.text_bytes = self.text_bytes.saturating_sub(raw.len() as u64);
        self.counted(raw, kind);
    }

    fn counted(&mut self, data: &str, kind: Kind) {
        let counted = media::count(data, kind);
        self.images = self.images.saturating_add(counted.images);
        self.tokens = self.tokens.saturating_add(counted.tokens);
    }

    fn uncounted(&mut self, raw: &str, at: &At<'_>) {
        if raw != "null" {
            self.uncounted_at.get_or_insert_with(|| at.to_string());
        }
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

/// What the name of a URL says that there is behind it.
fn kind_of(key: &str) -> Kind {
    match () {
        () if is(key, "video_url") => Kind::Video,
        () if is(key, "audio_url") => Kind::Audio,
        () => Kind::Image,
    }
}

/// Whether a field of a part names, or packs, what only the model server can count.
fn is_uncounted(key: &str) -> bool {
    ["uuid", "file_id", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"]
        .into_iter()
        .any(|name| is(key, name))
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
mod tests;
