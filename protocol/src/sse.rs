//! Server-sent events: what OpenAI's streams are made of.
//!
//! An event of ours is one `data:` line, because the SDKs for chat choke on every other field; where an
//! API has kinds of events, `event:` stands before it. Reading follows the WHATWG's rules: lines end with `\n`, `\r\n` or
//! `\r`, wherever the chunks are cut; `data:` lines of one event are joined by a newline; comments are skipped. Two
//! rules are ours, for [`Events::finish`]. It hands out an event that the end of the stream cut off, instead of
//! dropping it, so that a stream that broke off can be seen to have done so. And it hands out a JSON object in the
//! place of a stream as one event: some servers answer so whatever they were asked for, above all with an error.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::memchr2;

use crate::ndjson::{TooLong, append};

/// The event that ends a stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// The largest event that is read, in bytes.
pub const EVENT_MAX: usize = 8 * 1024 * 1024;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What kind it is; empty where it does not say.
    pub kind: Bytes,
    /// Its `data:` lines, joined by newlines.
    pub data: Bytes,
}

/// An incremental decoder of events.
pub struct Events {
    event_max: usize,
    chunk: Bytes,
    line: BytesMut,
    kind: Bytes,
    data: BytesMut,
    has_data: bool,
    /// The last line ended with `\r`: a `\n` that follows belongs to it.
    after_cr: bool,
    /// An event was too long: what follows cannot be told apart from its rest.
    is_too_long: bool,
    /// Nothing has been read: a byte order mark may come.
    at_start: bool,
    /// What comes is no stream, but one JSON object.
    is_object: bool,
}

/// Whether a text is, or begins as, a JSON object.
pub(crate) fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().first() == Some(&b'{')
}

/// Writes one event. `data` must not contain a line end; compact JSON does not.
pub fn event(data: &[u8], out: &mut BytesMut) {
    debug_assert!(memchr2(b'\n', b'\r', data).is_none(), "an event of more than one line");
    out.reserve(data.len() + 8);
    out.put_slice(b"data: ");
    out.put_slice(data);
    out.put_slice(b"\n\n");
}

/// Writes one event that says what kind it is.
pub fn named_event(kind: &str, data: &[u8], out: &mut BytesMut) {
    out.put_slice(b"event: ");
    out.put_slice(kind.as_bytes());
    out.put_u8(b'\n');
    event(data, out);
}

// === impl Event ===

impl Event {
    /// Whether it ends a stream of OpenAI's.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.data.starts_with(b"[DONE]") && self.data.trim_ascii_end() == b"[DONE]"
    }
}

// === impl Events ===

impl Events {
    /// A decoder of events of at most `event_max` bytes, which is also the longest line.
    #[must_use]
    pub fn new(event_max: usize) -> Self {
        Self {
            event_max,
            chunk: Bytes::new(),
            line: BytesMut::new(),
            kind: Bytes::new(),
            data: BytesMut::new(),
            has_data: false,
            after_cr: false,
            is_too_long: false,
            at_start: true,
            is_object: false,
        }
    }

    /// Takes a chunk. Ask for events until there is none before the next one is given.
    pub fn push(&mut self, chunk: Bytes) {
        if self.at_start && self.takes_object(&chunk) {
            return;
        }
        append(&mut self.chunk, chunk);
    }

    /// Whether what came in the place of a stream is a JSON object.
    #[must_use]
    pub(crate) fn is_object(&self) -> bool {
        self.is_object
    }

    /// Takes a part of a JSON object that came in the place of a stream, if it is one: no event begins so.
    #[cold]
    fn takes_object(&mut self, chunk: &[u8]) -> bool {
        self.is_object |= self.line.is_empty() && self.chunk.is_empty() && is_object(chunk);
        if self.is_object {
            self.is_too_long |= self.data.len() + chunk.len() > self.event_max;
            if !self.is_too_long {
                self.has_data = true;
                self.data.extend_from_slice(chunk);
            }
        }
        self.is_object
    }

    /// The next whole event; `None` until more has been pushed.
    ///
    /// # Errors
    /// [`TooLong`], then and on every later call.
    pub fn next_event(&mut self) -> Result<Option<Event>, TooLong> {
        while !self.is_too_long
            && let Some(line) = self.next_line()?
        {
            if line.is_empty() {
                if let Some(event) = self.dispatch() {
                    return Ok(Some(event));
                }
            } else if self.data.len() + line.len() > self.event_max {
                self.is_too_long = true;
                return Err(TooLong);
            } else {
                self.field(&line);
            }
        }
        if self.is_too_long { Err(TooLong) } else { Ok(None) }
    }

    /// What stands there when the stream has ended: an event without the blank line that ends it, unless
    /// it is too long.
    pub fn finish(&mut self) -> Option<Event> {
        if self.is_object {
            return self.dispatch().filter(|_| !self.is_too_long);
        }
        self.line.extend_from_slice(&std::mem::take(&mut self.chunk));
        let line = self.line.split().freeze();
        let line = self.unmarked(line);
        if self.data.len() + line.len() > self.event_max {
            return None;
        }
        self.field(&line);
        self.dispatch()
    }

    fn next_line(&mut self) -> Result<Option<Bytes>, TooLong> {
        if self.after_cr && !self.chunk.is_empty() {
            self.after_cr = false;
            if self.chunk[0] == b'\n' {
                self.chunk.advance(1);
            }
        }
        let end = memchr2(b'\n', b'\r', &self.chunk);
        let length = end.unwrap_or(self.chunk.len());
        if self.line.len() + length > self.event_max {
            return Err(TooLong);
        }
        let piece = self.chunk.split_to(length);
        if end.is_none() {
            self.line.extend_from_slice(&piece);
            return Ok(None);
        }
        self.after_cr = self.chunk.get_u8() == b'\r';
        let mut line = piece;
        if !self.line.is_empty() {
            self.line.extend_from_slice(&line);
            line = self.line.split().freeze();
        }
        Ok(Some(self.unmarked(line)))
    }

    /// The line without the byte order mark that the first one may begin with.
    fn unmarked(&mut self, mut line: Bytes) -> Bytes {
        if std::mem::take(&mut self.at_start) && line.starts_with(BOM) {
            line.advance(BOM.len());
        }
        line
    }

    /// Takes one line in. Comments, `id` and `retry` say nothing to a gateway.
    fn field(&mut self, line: &Bytes) {
        let colon = memchr::memchr(b':', line);
        let name = &line[..colon.unwrap_or(line.len())];
        let mut value = colon.map_or_else(Bytes::new, |at| line.slice(at + 1..));
        if value.first() == Some(&b' ') {
            value.advance(1);
        }
        match name {
            b"data" => {
                if self.has_data {
                    self.data.put_u8(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(&value);
            }
            b"event" => self.kind = value,
            _ => {}
        }
    }

    /// The event that a blank line ends, unless it has no data.
    fn dispatch(&mut self) -> Option<Event> {
        let kind = std::mem::take(&mut self.kind);
        let data = self.data.split().freeze();
        std::mem::take(&mut self.has_data).then_some(Event { kind, data })
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new(EVENT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
        let mut events = Events::default();
        let mut found = Vec::new();
        for part in parts {
            events.push(Bytes::copy_from_slice(part));
            while let Some(event) = events.next_event().unwrap() {
                found.push(event);
            }
        }
        found.extend(events.finish());
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        found.iter().map(|event| (text(&event.kind), text(&event.data))).collect()
    }

    fn event_of(kind: &str, data: &str) -> (String, String) {
        (kind.to_owned(), data.to_owned())
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut out = BytesMut::new();
        event(b"{\"a\":\"b\"}", &mut out);
        out.extend_from_slice(DONE);
        assert_eq!(&out[..], b"data: {\"a\":\"b\"}\n\ndata: [DONE]\n\n");
        assert_eq!(decode([&out[..]]), [event_of("", "{\"a\":\"b\"}"), event_of("", "[DONE]")]);
    }

    #[test]
    fn the_rules_of_the_format_are_kept() {
        let text = b"\xef\xbb\xbf: hello\r\ndata:a\r\ndata:  b\r\rid: 1\nretry: 3\n\n\
            event: ping\n\nevent: error\ndata\n\ndata: last";
        assert_eq!(
            decode([&text[..]]),
            [event_of("", "a\n b"), event_of("error", ""), event_of("", "last")]
        );
    }

    #[test]
    fn an_event_beyond_the_limit_is_refused_and_nothing_follows() {
        let mut events = Events::new(12);
        events.push(Bytes::from_static(b"data: 123456\n\ndata: 12\ndata: 345678\n\ndata: 1\n\n"));
        assert_eq!(events.next_event().unwrap().unwrap().data, "123456");
        assert_eq!(events.next_event(), Err(TooLong));
        assert_eq!(events.next_event(), Err(TooLong));
        let mut events = Events::new(12);
        events.push(Bytes::from_static(b": a comment without end"));
        assert_eq!(events.next_event(), Err(TooLong));
    }

    #[test]
    fn an_object_in_the_place_of_a_stream_is_one_event() {
        let text = b"\n{\"a\":\n\n\"data: b\"}\n";
        let whole = [event_of("", std::str::from_utf8(text).unwrap())];
        assert_eq!(decode([&text[..]]), whole);
        assert_eq!(decode([&text[..3], &text[3..]]), whole);
        let mut events = Events::new(12);
        events.push(Bytes::from_static(b"{\"a\":123"));
        assert_eq!(events.next_event(), Ok(None));
        events.push(Bytes::from_static(b"4567}"));
        assert_eq!(events.next_event(), Err(TooLong));
        assert_eq!(events.finish(), None);
    }

    #[test]
    fn the_last_event_keeps_within_the_limit_too() {
        for (text, last) in
            [("data: 123456\ndata: 7", None), ("data: 1234\ndata: 7", Some("1234\n7"))]
        {
            let mut events = Events::new(12);
            events.push(Bytes::from(text));
            assert_eq!(events.next_event(), Ok(None));
            assert_eq!(events.finish().map(|event| event.data), last.map(Bytes::from));
        }
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_events_are_the_same(
            text in "(data|event|:|: |x|\r|\n|\r\n|\n\n){0,24}",
            size in 1_usize..7,
        ) {
            let whole = decode([text.as_bytes()]);
            prop_assert_eq!(decode(text.as_bytes().chunks(size)), whole);
        }
    }
}
