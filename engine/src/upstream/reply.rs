//! The reply of an upstream on the wire (RFC 9112): its head, and where its body ends.
//!
//! Pure: bytes in, what they mean out. A reply that could be read in two ways is none. Of a body all that
//! has arrived is handed out as one piece, without its framing: the first chunk stays where it is, those
//! behind it move up to it. So a burst of a hundred chunks costs one step of whatever comes next, and a
//! piece that came alone is not copied.

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use memchr::memchr;

use super::retry_after::RetryAfter;

/// The longest head, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most header fields.
const FIELDS_MAX: usize = 100;
/// The longest line with the size of a chunk, in bytes, and so its longest extension.
const SIZE_LINE_MAX: usize = 1024;
/// The longest trailer section, in bytes.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// What a head says.
#[derive(Debug, PartialEq)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) framing: Framing,
    /// Whether the connection serves on after the body.
    pub(super) keeps: bool,
    /// When a refusal says that it may be asked again.
    pub(super) retry_after: Option<RetryAfter>,
}

/// What is left of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    Chunked(Chunked),
    /// All that comes until the connection is closed.
    UntilClose,
}

/// Where in a chunked body it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// Before the size of a chunk.
    Size,
    /// So many bytes before the end of one.
    Data(u64),
    /// Before the line end behind one.
    DataEnd,
    /// In the trailer section, of which so many bytes have gone by.
    Trailer(usize),
    /// Behind the body.
    Done,
}

/// What could be taken of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Data(Bytes),
    /// Nothing until more has been read.
    More,
    End,
}

/// A reply that is none. Says nothing of what stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No head.
    #[error("the head is not well-formed")]
    Head,
    /// A head that is longer than allowed.
    #[error("the head is too large")]
    HeadTooLarge,
    /// A head that leaves open where the body ends.
    #[error("the length of the body can be read in two ways")]
    Length,
    /// A body in chunks that are none.
    #[error("the chunks of the body are not well-formed")]
    Chunk,
}

// === impl Head ===

impl Head {
    /// Takes a head off the front of what was read; none until it is whole. Interim ones (1xx) are passed
    /// over.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut reply = httparse::Response::new(&mut fields);
            let length = match reply.parse(buffer) {
                Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
                Ok(httparse::Status::Partial) if buffer.len() <= HEAD_BYTES_MAX => return Ok(None),
                Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                    return Err(Malformed::HeadTooLarge);
                }
                Err(_) => return Err(Malformed::Head),
            };
            let status = reply.code.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.ok_or(Malformed::Head)?;
            // Nobody asked for another protocol, so none is spoken.
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(Malformed::Head);
            }
            let head = Self::of(status, reply.version == Some(1), reply.headers)?;
            buffer.advance(length);
            if !status.is_informational() {
                return Ok(Some(head));
            }
        }
    }

    fn of(
        status: StatusCode,
        mut keeps: bool,
        fields: &[httparse::Header<'_>],
    ) -> Result<Self, Malformed> {
        let (mut length, mut coding, mut retry_after) = (None, None, None);
        for httparse::Header { name, value } in fields {
            if name.eq_ignore_ascii_case("content-length") {
                let said = whole_number(value).ok_or(Malformed::Length)?;
                if length.replace(said).is_some_and(|other| other != said) {
                    return Err(Malformed::Length);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if coding.replace(*value).is_some() {
                    return Err(Malformed::Length);
                }
            } else if name.eq_ignore_ascii_case("connection") {
                let says = |word: &str| {
                    let mut words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                    words.any(|one| one.eq_ignore_ascii_case(word.as_bytes()))
                };
                keeps = (keeps || says("keep-alive")) && !says("close");
            } else if !status.is_success() && name.eq_ignore_ascii_case("retry-after") {
                retry_after = RetryAfter::read(value);
            }
        }
        let has_body = !status.is_informational()
            && status != StatusCode::NO_CONTENT
            && status != StatusCode::NOT_MODIFIED;
        let framing = match (coding, length) {
            _ if !has_body => Framing::Length(0),
            // Whoever says both leaves it to others to guess (RFC 9112, 6.3).
            (Some(_), Some(_)) => return Err(Malformed::Length),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
                Framing::Chunked(Chunked::Size)
            }
            (Some(_), None) => return Err(Malformed::Length),
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::UntilClose,
        };
        let keeps = keeps && framing != Framing::UntilClose;
        Ok(Self { status, framing, keeps, retry_after })
    }
}

fn whole_number(text: &[u8]) -> Option<u64> {
    // `parse` would take a sign.
    let text = text.trim_ascii();
    text.first().filter(|byte| byte.is_ascii_digit())?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

// === impl Framing ===

impl Framing {
    /// How many bytes are certain to come.
    pub(super) fn announced(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(_) | Self::UntilClose => 0,
        }
    }

    /// Takes what there is of the body off the front of what was read.
    ///
    /// # Errors
    /// [`Malformed::Chunk`].
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Result<Taken, Malformed> {
        match self {
            Self::Length(0) => Ok(Taken::End),
            Self::Length(left) => {
                let there = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= there as u64;
                Ok(piece(buffer.split_to(there)))
            }
            Self::Chunked(chunked) => chunked.take(buffer),
            Self::UntilClose => Ok(piece(buffer.split())),
        }
    }

    /// Whether the connection may be closed here.
    pub(super) fn may_close(&self) -> bool {
        matches!(self, Self::Length(0) | Self::UntilClose | Self::Chunked(Chunked::Done))
    }
}

fn piece(bytes: BytesMut) -> Taken {
    if bytes.is_empty() { Taken::More } else { Taken::Data(bytes.freeze()) }
}

// === impl Chunked ===

impl Chunked {
    fn take(&mut self, buffer: &mut BytesMut) -> Result<Taken, Malformed> {
        // What was read, what stands together as data, and how far it has been understood.
        let (mut data, mut at) = (0..0, 0);
        loop {
            let rest = &buffer[at..];
            match self {
                Self::Size => {
                    let Some(end) = memchr(b'\n', rest) else {
                        if rest.len() > SIZE_LINE_MAX {
                            return Err(Malformed::Chunk);
                        }
                        break;
                    };
                    let size = chunk_size(&rest[..end])?;
                    at += end + 1;
                    *self = if size == 0 { Self::Trailer(0) } else { Self::Data(size) };
                }
                Self::Data(left) => {
                    let there = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    if data.is_empty() {
                        data = at..at;
                    }
                    if data.end != at {
                        buffer.copy_within(at..at + there, data.end);
                    }
                    (data.end, at) = (data.end + there, at + there);
                    *left -= there as u64;
                    if *left > 0 {
                        break;
                    }
                    *self = Self::DataEnd;
                }
                Self::DataEnd => match rest {
                    [b'\r', b'\n', ..] => (at, *self) = (at + 2, Self::Size),
                    [] | [b'\r'] => break,
                    _ => return Err(Malformed::Chunk),
                },
                Self::Trailer(gone) => {
                    let Some(end) = memchr(b'\n', rest) else {
                        if *gone + rest.len() > TRAILER_BYTES_MAX {
                            return Err(Malformed::Chunk);
                        }
                        break;
                    };
                    let is_last = matches!(&rest[..end], b"" | b"\r");
                    *gone += end + 1;
                    at += end + 1;
                    if *gone > TRAILER_BYTES_MAX {
                        return Err(Malformed::Chunk);
                    }
                    if is_last {
                        *self = Self::Done;
                    }
                }
                Self::Done => break,
            }
        }
        let mut understood = buffer.split_to(at);
        if data.is_empty() {
            return Ok(if *self == Self::Done { Taken::End } else { Taken::More });
        }
        understood.truncate(data.end);
        understood.advance(data.start);
        Ok(Taken::Data(understood.freeze()))
    }
}

/// The size in the first line of a chunk, without its line feed.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let line = line.strip_suffix(b"\r").ok_or(Malformed::Chunk)?;
    let digits = &line[..memchr(b';', line).unwrap_or(line.len())];
    let digits = digits.trim_ascii_end();
    // Sixteen digits are all that fit; `from_str_radix` would take a sign.
    if digits.is_empty() || digits.len() > 16 || line.len() > SIZE_LINE_MAX {
        return Err(Malformed::Chunk);
    }
    digits.iter().try_fold(0_u64, |size, digit| {
        let value = char::from(*digit).to_digit(16).ok_or(Malformed::Chunk)?;
        Ok(size << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<Option<Head>, Malformed> {
        Head::take(&mut BytesMut::from(text))
    }

    fn whole(text: &str) -> (u16, Framing, bool) {
        let head = head(&format!("{text}\r\n\r\n")).unwrap().unwrap();
        (head.status.as_u16(), head.framing, head.keeps)
    }

    #[test]
    fn a_head_says_where_its_body_ends() {
        let chunked = || Framing::Chunked(Chunked::Size);
        for (text, wanted) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 12", (200, Framing::Length(12), true)),
            (
                "HTTP/1.1 200\r\ncontent-length: 5\r\nContent-Length: 5",
                (200, Framing::Length(5), true),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", (200, chunked(), true)),
            (
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0",
                (200, Framing::Length(0), false),
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3", (200, Framing::Length(3), false)),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3",
                (200, Framing::Length(3), true),
            ),
            ("HTTP/1.1 200 OK", (200, Framing::UntilClose, false)),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 9", (204, Framing::Length(0), true)),
        ] {
            assert_eq!(whole(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_refusal_may_say_when_it_may_be_asked_again() {
        let told = |text: &str| head(&format!("{text}\r\n\r\n")).unwrap().unwrap().retry_after;
        let head = "HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0";
        assert_eq!(told(head), RetryAfter::read(b"7"));
        assert_eq!(told(&head.replace("429", "200")), None);
        assert_eq!(told(&head.replace('7', "soon")), None);
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_none() {
        for (text, why) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: +1", Malformed::Length),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
                Malformed::Length,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked", Malformed::Length),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x",
                Malformed::Length,
            ),
            ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x", Malformed::Head),
            ("HTTP/2 200 OK", Malformed::Head),
            ("SSH-2.0-x", Malformed::Head),
        ] {
            assert_eq!(head(&format!("{text}\r\n\r\n")), Err(why), "{text}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_BYTES_MAX));
        assert_eq!(head(&long), Err(Malformed::HeadTooLarge));
    }

    #[test]
    fn a_head_is_taken_when_it_is_whole_and_interim_ones_are_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
        let mut buffer = BytesMut::new();
        for byte in &text.as_bytes()[..text.len() - 2] {
            assert_eq!(Head::take(&mut buffer), Ok(None));
            buffer.extend_from_slice(&[*byte]);
        }
        let mut head = Head::take(&mut buffer).unwrap().unwrap();
        buffer.extend_from_slice(b"ab");
        assert_eq!(head.framing.take(&mut buffer), Ok(Taken::Data(Bytes::from_static(b"ab"))));
        assert_eq!(head.framing.take(&mut buffer), Ok(Taken::End));
    }

    /// Feeds a chunked body in those parts; what came out, and whether it ended.
    fn feed(parts: &[&[u8]]) -> Result<(Vec<u8>, bool), Malformed> {
        let (mut framing, mut buffer) = (Framing::Chunked(Chunked::Size), BytesMut::new());
        let mut out = Vec::new();
        for part in parts {
            buffer.extend_from_slice(part);
            loop {
                match framing.take(&mut buffer)? {
                    Taken::Data(data) => out.extend_from_slice(&data),
                    Taken::More => break,
                    Taken::End => return Ok((out, true)),
                }
            }
        }
        Ok((out, framing.may_close()))
    }

    #[test]
    fn chunks_that_arrive_together_are_one_piece_and_the_first_stays_in_its_place() {
        let mut buffer = BytesMut::from("3\r\nabc\r\n4;ext=\"1\"\r\ndefg\r\n2\r\nh");
        let place = buffer[3..].as_ptr();
        let mut framing = Framing::Chunked(Chunked::Size);
        let Ok(Taken::Data(data)) = framing.take(&mut buffer) else { panic!("no data") };
        assert_eq!((&data[..], data.as_ptr()), (&b"abcdefgh"[..], place));
        buffer.extend_from_slice(b"i\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1 next");
        assert_eq!(framing.take(&mut buffer), Ok(Taken::Data(Bytes::from_static(b"i"))));
        assert_eq!(framing.take(&mut buffer), Ok(Taken::End));
        assert_eq!(&buffer[..], b"HTTP/1.1 next");
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        for text in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\na",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n0\r\n",
            "11111111111111111\r\n",
            " 3\r\nabc",
            ";x\r\n",
        ] {
            assert_eq!(feed(&[text.as_bytes()]), Err(Malformed::Chunk), "{text:?}");
        }
        let long = format!("1;{}", "x".repeat(SIZE_LINE_MAX));
        assert_eq!(feed(&[long.as_bytes()]), Err(Malformed::Chunk));
        let trailer = format!("0\r\n{}", "x: y\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1));
        assert_eq!(feed(&[trailer.as_bytes()]), Err(Malformed::Chunk));
    }

    #[test]
    fn a_body_that_is_cut_is_not_whole() {
        let text = b"3\r\nabc\r\n0\r\n\r\n";
        for at in 0..text.len() {
            assert!(!feed(&[&text[..at]]).unwrap().1, "cut at {at}");
        }
        assert!(feed(&[text]).unwrap().1);
        assert!(!Framing::Length(1).may_close());
        assert!(Framing::UntilClose.may_close());
    }

    proptest! {
        #[test]
        fn however_it_arrives_the_same_comes_out(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<_> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(feed(&parts), Ok((chunks.concat(), true)));
        }

        #[test]
        fn nothing_that_an_upstream_sends_brings_it_down(
            text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), b'0'..=b'9'], 0..200),
        ) {
            let _ = Head::take(&mut BytesMut::from(&text[..]));
            let _ = feed(&[&text]);
        }
    }
}
