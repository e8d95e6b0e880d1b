//! Where the requests of an HTTP/1.1 connection begin and end, and whether each can be read in one way only.
//!
//! hyper drops `Content-Length` where `Transfer-Encoding` is given too, as RFC 9112 6.3 allows, takes a list of
//! codings that ends in `chunked`, and a bare line feed for the end of a line. A proxy in front may read each of
//! these the other way: that is how requests are smuggled. So every request is followed here as its bytes pass,
//! by rules that are stricter than hyper's, and bytes of the next request are kept back until this one is
//! whole. Bytes of bodies are skipped by their count.

use memchr::memchr;

/// How much is kept of a line that comes in parts: enough for the fields that are looked for.
const LINE_KEPT: usize = 128;

/// A head that was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Head {
    /// The request has no body, or one of a length that is told.
    Plain = 1,
    /// Its body comes in chunks.
    Chunked = 2,
    /// It could be read in two ways.
    Refused = 3,
}

/// How far a request has come.
#[derive(Default)]
pub(super) struct Framing {
    state: State,
    line: Line,
    fields: Fields,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the request line; empty lines may precede it.
    #[default]
    Before,
    Head,
    /// So many bytes of the body are to come.
    Body(u64),
    Chunks(Chunks),
    /// It cannot be told any more where a request begins: none may begin.
    Lost,
}

/// How far a body in chunks has come (RFC 9112, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    /// Before the first digit of a size.
    Start,
    /// In a size.
    Size(u64),
    /// In what may follow the size: white space, extensions.
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a line after the last chunk.
    Trailer,
    InTrailer,
    TrailerLf,
    EndLf,
}

/// The beginning of a line of which only a part has come.
#[derive(Default)]
struct Line {
    kept: Vec<u8>,
    /// Longer than what is kept of it.
    is_cut: bool,
    last: u8,
}

/// What a head says of its body.
#[derive(Clone, Copy, Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    refused: bool,
}

/// What some bytes were.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advanced {
    /// So many of them belong to this request, or come before it; the rest to the next ones.
    pub(super) used: usize,
    /// The head that ended in them.
    pub(super) head: Option<Head>,
}

// === impl Framing ===

impl Framing {
    /// Follows bytes, to the end of a request at most.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Advanced {
        let mut advanced = Advanced::default();
        while advanced.used < bytes.len() {
            let rest = &bytes[advanced.used..];
            let is_whole = match self.state {
                State::Before | State::Head => self.line(rest, &mut advanced),
                State::Body(left) => self.skip(left, rest, &mut advanced),
                State::Chunks(Chunks::Data(left)) => {
                    let count = least(left, rest);
                    advanced.used += count;
                    let left = left - count as u64;
                    let next = if left == 0 { Chunks::DataCr } else { Chunks::Data(left) };
                    self.state = State::Chunks(next);
                    false
                }
                State::Chunks(chunks) => {
                    advanced.used += 1;
                    self.chunks(chunks, rest[0])
                }
                State::Lost => {
                    advanced.used = bytes.len();
                    false
                }
            };
            if is_whole {
                self.state = State::Before;
                break;
            }
        }
        advanced
    }

    /// Reads a line of the head, or a part of one; true at the end of a request.
    fn line(&mut self, bytes: &[u8], advanced: &mut Advanced) -> bool {
        let Some(end) = memchr(b'\n', bytes) else {
            self.line.keep(bytes);
            advanced.used += bytes.len();
            return false;
        };
        advanced.used += end + 1;
        let part = &bytes[..end];
        let Self { state, line, fields } = self;
        // A bare line feed is a part of the line to some, who then see other fields than hyper does.
        fields.refused |= part.last().copied().unwrap_or(line.last) != b'\r';
        let (text, is_cut) = if line.is_new() {
            (part, false)
        } else {
            line.keep(part);
            (line.kept.as_slice(), line.is_cut)
        };
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if *state == State::Head {
            fields.read(text, is_cut);
        }
        let is_empty = text.is_empty();
        self.line.restart();
        match (self.state, is_empty) {
            (State::Before, true) => false,
            (State::Head, true) => self.head_ended(advanced),
            _ => {
                self.state = State::Head;
                false
            }
        }
    }

    fn head_ended(&mut self, advanced: &mut Advanced) -> bool {
        let Fields { length, chunked, refused } = std::mem::take(&mut self.fields);
        if refused || (chunked && length.is_some()) {
            self.state = State::Lost;
            advanced.head = Some(Head::Refused);
            return false;
        }
        if chunked {
            self.state = State::Chunks(Chunks::Start);
            advanced.head = Some(Head::Chunked);
            return false;
        }
        let length = length.unwrap_or(0);
        self.state = State::Body(length);
        advanced.head = Some(Head::Plain);
        length == 0
    }

    fn skip(&mut self, left: u64, bytes: &[u8], advanced: &mut Advanced) -> bool {
        let count = least(left, bytes);
        advanced.used += count;
        self.state = State::Body(left - count as u64);
        left == count as u64
    }

    /// Reads a byte of a body in chunks that is no data; true at the end of the request.
    fn chunks(&mut self, chunks: Chunks, byte: u8) -> bool {
        let next = match (chunks, byte) {
            (Chunks::Start, _) => hex(byte).map(Chunks::Size),
            (Chunks::Size(size) | Chunks::Extension(size), b'\r') => Some(Chunks::SizeLf(size)),
            (Chunks::Size(size), b' ' | b'\t' | b';') => Some(Chunks::Extension(size)),
            (Chunks::Size(size), _) => hex(byte)
                .and_then(|digit| size.checked_mul(16)?.checked_add(digit))
                .map(Chunks::Size),
            (Chunks::Extension(size), byte) => (byte != b'\n').then_some(Chunks::Extension(size)),
            (Chunks::SizeLf(0), b'\n') => Some(Chunks::Trailer),
            (Chunks::SizeLf(size), b'\n') => Some(Chunks::Data(size)),
            (Chunks::DataCr, b'\r') => Some(Chunks::DataLf),
            (Chunks::DataLf, b'\n') => Some(Chunks::Start),
            (Chunks::Trailer, b'\r') => Some(Chunks::EndLf),
            (Chunks::InTrailer, b'\r') => Some(Chunks::TrailerLf),
            (Chunks::Trailer | Chunks::InTrailer, byte) => {
                (byte != b'\n').then_some(Chunks::InTrailer)
            }
            (Chunks::TrailerLf, b'\n') => Some(Chunks::Trailer),
            (Chunks::EndLf, b'\n') => return true,
            _ => None,
        };
        self.state = next.map_or(State::Lost, State::Chunks);
        false
    }
}

/// How many of `bytes` are among the next `left` ones.
fn least(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

// === impl Line ===

impl Line {
    fn is_new(&self) -> bool {
        self.kept.is_empty() && !self.is_cut
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LINE_KEPT.saturating_sub(self.kept.len());
        self.is_cut |= part.len() > room;
        self.kept.extend_from_slice(&part[..part.len().min(room)]);
        self.last = part.last().copied().unwrap_or(self.last);
    }

    fn restart(&mut self) {
        self.kept.clear();
        self.is_cut = false;
        self.last = 0;
    }
}

// === impl Fields ===

impl Fields {
    /// Reads a field; `is_cut`: it is longer than `line`.
    fn read(&mut self, line: &[u8], is_cut: bool) {
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T')) {
            return;
        }
        let Some(colon) = memchr(b':', line) else { return };
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        let is_plain = !is_cut && name.len() == colon;
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = digits(value).filter(|_| self.length.is_none() && is_plain);
            self.refused |= length.is_none();
            self.length = length;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_once = !self.chunked && is_plain;
            self.chunked = true;
            self.refused |= !(is_once && value.eq_ignore_ascii_case(b"chunked"));
        }
    }
}

fn digits(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The heads that end in these bytes, and where each request ends.
    fn follow(parts: &[&[u8]]) -> (Vec<Head>, Vec<usize>) {
        let mut framing = Framing::default();
        let (mut heads, mut ends, mut at) = (Vec::new(), Vec::new(), 0);
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let Advanced { used, head } = framing.advance(rest);
                assert!(used > 0, "it does not get on");
                (at, rest) = (at + used, &rest[used..]);
                heads.extend(head);
                if framing.state == State::Before && framing.line.is_new() {
                    ends.push(at);
                }
            }
        }
        (heads, ends)
    }

    fn only(head: &str) -> Head {
        let (heads, _) = follow(&[format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n").as_bytes()]);
        assert_eq!(heads.len(), 1, "{head:?}: {heads:?}");
        heads[0]
    }

    #[test]
    fn a_head_that_could_be_read_in_two_ways_is_refused() {
        for head in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "transfer-encoding: chunked\r\nCONTENT-LENGTH: 5\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 99999999999999999999999\r\n",
            "Content-Length:\r\n",
            "X-A: b\n",
            "X-A: b\nTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(only(head), Head::Refused, "{head:?}");
        }
        let spaces = " ".repeat(2 * LINE_KEPT);
        let padded = format!("POST / HTTP/1.1\r\nTransfer-Encoding:{spaces}chunked\r\n\r\n");
        let cut = padded.as_bytes().split_at(40);
        assert_eq!(follow(&[cut.0, cut.1]).0, [Head::Refused]);
    }

    #[test]
    fn a_head_that_is_plain_is_not() {
        for head in [
            "",
            "Content-Length: 0\r\n",
            "content-length:  7 \r\n",
            "X-Content-Length: 5\r\nTransfer-Encodings: chunked\r\n",
            "Content-Lengths: 5\r\nTe: trailers\r\n",
        ] {
            assert_eq!(only(head), Head::Plain, "{head:?}");
        }
        for head in ["Transfer-Encoding: chunked\r\n", "transfer-encoding:Chunked \r\n"] {
            assert_eq!(only(head), Head::Chunked, "{head:?}");
        }
    }

    #[test]
    fn chunks_that_hyper_may_read_otherwise_end_what_can_be_told() {
        for chunks in [
            "x\r\n",
            "\r\n",
            "5\n",
            "5;a\nb\r\n",
            "1\r\naX",
            "0\r\n\n",
            "0\r\nA: b\n",
            "11111111111111111\r\n",
            "0x5\r\n",
            " 5\r\n",
        ] {
            let mut framing = Framing::default();
            let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            let next = "GET / HTTP/1.1\r\n\r\n";
            let bytes = format!("{head}{chunks}{next}");
            let advanced = framing.advance(bytes.as_bytes());
            assert_eq!(framing.state, State::Lost, "{chunks:?}");
            assert_eq!((advanced.used, advanced.head), (bytes.len(), Some(Head::Chunked)));
        }
    }

    /// A request as bytes, with the head that it should be found to have.
    fn request() -> impl Strategy<Value = (Vec<u8>, Head)> {
        let body = prop::collection::vec(any::<u8>(), 0..40);
        let name = prop::sample::select(vec!["Content-Length", "content-length", "CONTENT-LENGTH"]);
        let coding = prop::sample::select(vec!["Transfer-Encoding", "transfer-encoding"]);
        let plain = (body.clone(), name.clone(), 0..3_usize).prop_map(|(body, name, empty)| {
            let lines = "\r\n".repeat(empty);
            let head = format!("{lines}POST / HTTP/1.1\r\nA: b\r\n{name}: {}\r\n\r\n", body.len());
            ([head.as_bytes(), &body].concat(), Head::Plain)
        });
        let chunked = (prop::collection::vec(body, 0..4), coding, name, any::<(bool, bool)>());
        let chunked = chunked.prop_map(|(parts, coding, name, (is_pair, trailer))| {
            let mut bytes = b"POST / HTTP/1.1\r\n".to_vec();
            if is_pair {
                bytes.extend(format!("{name}: 3\r\n").bytes());
            }
            bytes.extend(format!("{coding}: chunked\r\n\r\n").bytes());
            for part in parts.iter().filter(|part| !part.is_empty()) {
                bytes.extend(format!("{:X};ext=\"x\"\r\n", part.len()).bytes());
                bytes.extend_from_slice(part);
                bytes.extend(b"\r\n");
            }
            bytes.extend(if trailer { &b"0\r\nT: u\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            (bytes, if is_pair { Head::Refused } else { Head::Chunked })
        });
        let none = Just((b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Head::Plain));
        prop_oneof![plain, chunked, none]
    }

    proptest! {
        #[test]
        fn each_head_of_a_pipeline_is_seen_however_it_is_cut(
            requests in prop::collection::vec(request(), 1..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let (heads, ends) = follow(&parts);
            // After one that is refused there is nothing that could be told.
            let told = requests.iter().position(|(_, head)| *head == Head::Refused);
            let told = told.map_or(requests.len(), |at| at + 1);
            let wanted: Vec<_> = requests[..told].iter().map(|(_, head)| *head).collect();
            prop_assert_eq!(&heads, &wanted);
            let mut end = 0;
            for (bytes, head) in &requests[..told] {
                end += bytes.len();
                prop_assert_eq!(ends.contains(&end), *head != Head::Refused);
            }
        }
    }
}
