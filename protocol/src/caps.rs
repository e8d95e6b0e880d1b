//! How many of each thing a request body may hold.
//!
//! A body of the largest size that is made of the smallest things holds millions of them: 60 MiB of messages of
//! thirty bytes took 3 s of a serving thread and 600 MiB, because each became a value of its own. So they are
//! counted on the text, before any of them is read: [`check`] makes nothing, and ends at the item that is one
//! too many. What it cannot see on the text, because it would have to know the route, is counted where it is
//! read, with [`list`].
//!
//! The bounds are far above what agents send (2,000 messages, 200 tools) and what OpenAI's API takes
//! (128 tools, 4 stop words, 2,048 texts to embed).

use memchr::memrchr;

use crate::{
    body::BodyError,
    error::Code,
    json::{Cursor, DEPTH_MAX, string_end},
};

/// Messages of a chat, or items of a response.
pub const MESSAGES_MAX: usize = 4_096;
/// Parts, tool calls or images of one message, and blocks of one system prompt.
pub const PARTS_MAX: usize = 2_048;
/// Parts, tool calls and images of all messages.
pub const PARTS_ALL_MAX: usize = 32_768;
/// Tools, or functions.
pub const TOOLS_MAX: usize = 1_024;
/// Words at which a reply ends.
pub const STOPS_MAX: usize = 256;
/// Texts to embed in one request.
pub const INPUTS_MAX: usize = 4_096;
/// Prompts of one completion, each of which gets a reply of its own.
pub const PROMPTS_MAX: usize = 2_048;
/// Keys of one JSON object, wherever it stands: a schema of OpenAI's has at most 5,000 properties.
pub const KEYS_MAX: usize = 8_192;
/// Fields of a body, or of its options, that are neither read nor known to be harmless.
pub const STRANGERS_MAX: usize = 64;

/// Where messages stand in a body, and where lists in a message (its parts, its calls), and where lists in a
/// part (what a tool gave back).
const IN_BODY: usize = 1;
const IN_LIST: usize = 2;
const IN_MESSAGE: usize = 3;
const IN_PARTS: usize = 4;
const IN_PART: usize = 5;
const IN_PARTS_OF_PART: usize = 6;

/// A list that stands in a body under a name that is known.
#[derive(Clone, Copy)]
struct List {
    name: &'static str,
    items_max: usize,
    /// Whether its items are messages, which have lists in them.
    has_parts: bool,
}

/// What is counted in one pass over a body.
struct Counts {
    depth: usize,
    /// The keys of each object that is open, by its depth.
    keys: [u16; DEPTH_MAX + 1],
    /// The list of the body that is open.
    list: Option<List>,
    /// Its items so far.
    items: usize,
    /// The parts of the list in a message that is open, if one is; by whether it stands in a part.
    parts: [Option<usize>; 2],
    /// The parts of all messages so far.
    parts_all: usize,
}

/// Counts what a body holds, without reading it. The body need not be valid.
///
/// # Errors
/// [`Code::InvalidRequest`], with the field and the bound, where there is too much of something, and
/// [`Code::InvalidJson`] where it is nested deeper than [`DEPTH_MAX`].
pub(crate) fn check(body: &[u8]) -> Result<(), BodyError> {
    let mut counts = Counts {
        depth: 0,
        keys: [0; DEPTH_MAX + 1],
        list: None,
        items: 0,
        parts: [None; 2],
        parts_all: 0,
    };
    let mut at = 0;
    while let Some(byte) = body.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(body, at),
            b':' => counts.key()?,
            b',' => counts.comma()?,
            b'{' | b'[' => counts.open(*byte, &body[..at - 1])?,
            b'}' | b']' => counts.close(),
            _ => {}
        }
    }
    Ok(())
}

/// That a list has no more than so many items. Whatever is no list has none.
///
/// # Errors
/// [`Code::InvalidRequest`].
pub(crate) fn list(field: &str, raw: &str, items_max: usize) -> Result<(), BodyError> {
    let mut is_over = false;
    if raw.starts_with('[') {
        Cursor::new(raw).items(|cursor, index| {
            is_over = index >= items_max;
            if is_over { cursor.end() } else { _ = cursor.value() }
        });
    }
    if is_over { Err(too_many(field, items_max)) } else { Ok(()) }
}

pub(crate) fn too_many(field: &str, items_max: usize) -> BodyError {
    let message = format!("`{field}` may have at most {items_max} items.");
    BodyError::new(Code::InvalidRequest, field, message)
}

pub(crate) fn too_many_strangers() -> BodyError {
    let message =
        format!("The body has more than {STRANGERS_MAX} fields that the gateway does not know.");
    BodyError { code: Code::InvalidRequest, field: None, message: message.into() }
}

/// The name of a field whose value is about to begin; with a backslash in it if it is written with escapes.
fn name_before(before: &[u8]) -> &[u8] {
    let before = before.trim_ascii_end();
    let before = before.strip_suffix(b":").unwrap_or(before).trim_ascii_end();
    let name = before.strip_suffix(b"\"").unwrap_or(before);
    match memrchr(b'"', name) {
        // An escaped quote is a part of the name: so is its backslash.
        Some(at) if at > 0 && name[at - 1] == b'\\' => &name[at - 1..],
        Some(at) => &name[at + 1..],
        None => name,
    }
}

// === impl List ===

impl List {
    /// The list that is counted under that name. A name that is written with escapes may be any of them.
    fn of(name: &[u8]) -> Option<Self> {
        let list = |name, items_max, has_parts| Some(Self { name, items_max, has_parts });
        match name {
            b"messages" => list("messages", MESSAGES_MAX, true),
            b"input" => list("input", MESSAGES_MAX.min(INPUTS_MAX), true),
            b"system" => list("system", PARTS_MAX, false),
            b"images" => list("images", PARTS_MAX, false),
            b"tools" => list("tools", TOOLS_MAX, false),
            b"functions" => list("functions", TOOLS_MAX, false),
            b"stop" => list("stop", STOPS_MAX, false),
            b"stop_sequences" => list("stop_sequences", STOPS_MAX, false),
            b"modalities" => list("modalities", STOPS_MAX, false),
            _ if name.contains(&b'\\') => list("messages", MESSAGES_MAX, true),
            _ => None,
        }
    }
}

// === impl Counts ===

impl Counts {
    /// An object or a list opens, behind so much of the body.
    fn open(&mut self, byte: u8, before: &[u8]) -> Result<(), BodyError> {
        if self.depth == DEPTH_MAX {
            return Err(BodyError::not_json("The body is nested too deep."));
        }
        self.depth += 1;
        match (byte, self.depth) {
            (b'{', _) => self.keys[self.depth] = 0,
            (_, IN_LIST) => {
                self.list = List::of(name_before(before));
                self.items = 1;
            }
            (_, IN_PARTS | IN_PARTS_OF_PART) if self.list.is_some_and(|list| list.has_parts) => {
                self.parts[usize::from(self.depth == IN_PARTS_OF_PART)] = Some(0);
                self.part()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        match self.depth {
            IN_BODY => self.list = None,
            IN_MESSAGE => self.parts[0] = None,
            IN_PART => self.parts[1] = None,
            _ => {}
        }
    }

    fn comma(&mut self) -> Result<(), BodyError> {
        match (self.depth, self.list) {
            (IN_LIST, Some(list)) => {
                self.items += 1;
                if self.items > list.items_max {
                    return Err(too_many(list.name, list.items_max));
                }
                Ok(())
            }
            (IN_PARTS | IN_PARTS_OF_PART, Some(_)) => self.part(),
            _ => Ok(()),
        }
    }

    /// One more part, where the list of a message is open.
    fn part(&mut self) -> Result<(), BodyError> {
        let is_inner = self.depth == IN_PARTS_OF_PART;
        let Some(parts) = &mut self.parts[usize::from(is_inner)] else { return Ok(()) };
        *parts += 1;
        self.parts_all += 1;
        let Some(list) = self.list else { return Ok(()) };
        let at = self.items.saturating_sub(1);
        if *parts > PARTS_MAX {
            let message = format!("A message may have at most {PARTS_MAX} parts or tool calls.");
            return Err(BodyError::new(
                Code::InvalidRequest,
                format!("{}[{at}]", list.name),
                message,
            ));
        }
        if self.parts_all > PARTS_ALL_MAX {
            let message = format!(
                "All messages together may have at most {PARTS_ALL_MAX} parts and tool calls."
            );
            return Err(BodyError::new(Code::InvalidRequest, list.name, message));
        }
        Ok(())
    }

    fn key(&mut self) -> Result<(), BodyError> {
        let keys = &mut self.keys[self.depth];
        *keys = keys.saturating_add(1);
        if usize::from(*keys) > KEYS_MAX {
            let message = format!("A JSON object may have at most {KEYS_MAX} keys.");
            return Err(BodyError {
                code: Code::InvalidRequest,
                field: None,
                message: message.into(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
