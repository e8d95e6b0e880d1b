//! Where a reply of HTTP/1.1 ends: its head, and the framing of its body. Chunk sizes are read, what is
//! in a chunk is skipped.

use memchr::memmem;

/// The longest head.
const HEAD_MAX: usize = 64 * 1024;
/// The largest chunk or body, far beyond any here.
const LENGTH_MAX: u64 = 1 << 40;

/// Why a reply cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The head is too long or no head of HTTP/1.1.
    Head,
    /// A chunk's size is no number, or a chunk does not end where it should.
    Chunk,
    /// There is more than the reply.
    Surplus,
}

/// A reply that is being read.
pub(crate) struct Reply {
    state: State,
    head: Vec<u8>,
    status: u16,
    body_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// A body of known length; so much is to come.
    Length(u64),
    /// In the line that says a chunk's size.
    Size {
        value: u64,
        digits: u8,
        /// Behind the digits, where extensions may stand.
        is_past: bool,
    },
    /// So much of a chunk is to come.
    Data(u64),
    /// The line end behind a chunk; so many bytes of it were there.
    DataEnd(u8),
    /// Behind the last chunk; how long the line is so far.
    Trailer(u64),
    Done,
}

// === impl Reply ===

impl Reply {
    /// A reply of which nothing came yet.
    pub(crate) fn new() -> Self {
        Self { state: State::Head, head: Vec::with_capacity(512), status: 0, body_bytes: 0 }
    }

    /// Makes it ready for the next one.
    pub(crate) fn reset(&mut self) {
        self.state = State::Head;
        self.head.clear();
        self.status = 0;
        self.body_bytes = 0;
    }

    /// The status; 0 until the head is there.
    pub(crate) const fn status(&self) -> u16 {
        self.status
    }

    /// The bytes of the body so far, without framing.
    pub(crate) const fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Whether anything of it was read.
    pub(crate) const fn has_begun(&self) -> bool {
        !matches!(self.state, State::Head) || !self.head.is_empty()
    }

    /// Whether all of it was read.
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Reads on; what belongs to the body also goes to `keep`.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut keep: Option<&mut Vec<u8>>,
    ) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Head => self.feed_head(bytes)?,
                State::Length(left) | State::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    if let Some(kept) = keep.as_deref_mut() {
                        kept.extend_from_slice(&bytes[..taken]);
                    }
                    self.passed(left, taken as u64);
                    taken
                }
                State::Done => return Err(Fault::Surplus),
                State::Size { .. } | State::DataEnd(_) | State::Trailer(_) => {
                    self.state = self.state.after(bytes[0])?;
                    1
                }
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn passed(&mut self, left: u64, taken: u64) {
        self.body_bytes += taken;
        let left = left - taken;
        self.state = match self.state {
            State::Length(_) if left == 0 => State::Done,
            State::Length(_) => State::Length(left),
            _ if left == 0 => State::DataEnd(0),
            _ => State::Data(left),
        };
    }

    fn feed_head(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let from = before.saturating_sub(3);
        let Some(at) = memmem::find(&self.head[from..], b"\r\n\r\n") else {
            return if self.head.len() > HEAD_MAX { Err(Fault::Head) } else { Ok(bytes.len()) };
        };
        let end = from + at;
        self.head.truncate(end);
        self.status = status(&self.head).ok_or(Fault::Head)?;
        self.state = body_of(&self.head).ok_or(Fault::Head)?;
        Ok(end + 4 - before)
    }
}

// === impl State ===

impl State {
    /// The state behind one byte of framing.
    fn after(self, byte: u8) -> Result<Self, Fault> {
        match self {
            Self::Size { value, digits, .. } if byte == b'\n' => match (digits, value) {
                (0, _) => Err(Fault::Chunk),
                (_, 0) => Ok(Self::Trailer(0)),
                _ => Ok(Self::Data(value)),
            },
            Self::Size { value, digits, is_past: false } if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                let value = value * 16 + digit;
                if value > LENGTH_MAX {
                    Err(Fault::Chunk)
                } else {
                    Ok(Self::size(value, digits | 1))
                }
            }
            // Extensions, and the carriage return.
            Self::Size { value, digits, is_past } if is_past || b"\r; \t".contains(&byte) => {
                Ok(Self::Size { value, digits, is_past: true })
            }
            Self::DataEnd(0) if byte == b'\r' => Ok(Self::DataEnd(1)),
            Self::DataEnd(1) if byte == b'\n' => Ok(Self::size(0, 0)),
            Self::Trailer(0) if byte == b'\n' => Ok(Self::Done),
            Self::Trailer(_) if byte == b'\n' => Ok(Self::Trailer(0)),
            Self::Trailer(length) if byte == b'\r' => Ok(Self::Trailer(length)),
            Self::Trailer(length) if length < HEAD_MAX as u64 => Ok(Self::Trailer(length + 1)),
            _ => Err(Fault::Chunk),
        }
    }

    const fn size(value: u64, digits: u8) -> Self {
        Self::Size { value, digits, is_past: false }
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()
}

/// How the body is framed, as the head says. A body until the end of the connection is refused: it
/// would not be kept alive.
fn body_of(head: &[u8]) -> Option<State> {
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        // Most lines are neither: one look tells.
        match line.first().map(u8::to_ascii_lowercase) {
            Some(b'c') => {
                if let Some(value) = value_of(line, b"content-length") {
                    let length: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
                    return match length {
                        0 => Some(State::Done),
                        1..=LENGTH_MAX => Some(State::Length(length)),
                        _ => None,
                    };
                }
            }
            Some(b't') => {
                if let Some(value) = value_of(line, b"transfer-encoding") {
                    return value.eq_ignore_ascii_case(b"chunked").then_some(State::size(0, 0));
                }
            }
            _ => {}
        }
    }
    None
}

/// The value of a header line of that name.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    rest.strip_prefix(b":").map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\
        \r\n5\r\nhello\r\nA;x=y\r\n\r\n0\r\n\r\n5\r\n\r\n0\r\n\r\n";

    fn read(parts: &[&[u8]]) -> (Reply, Vec<u8>, Result<(), Fault>) {
        let (mut reply, mut kept) = (Reply::new(), Vec::new());
        for part in parts {
            if let Err(fault) = reply.feed(part, Some(&mut kept)) {
                return (reply, kept, Err(fault));
            }
        }
        (reply, kept, Ok(()))
    }

    #[test]
    fn the_end_is_found_however_the_bytes_are_split() {
        for at in 0..CHUNKED.len() {
            let (reply, kept, result) = read(&[&CHUNKED[..at], &CHUNKED[at..]]);
            assert_eq!((result, reply.is_done(), reply.status()), (Ok(()), true, 200), "{at}");
            assert_eq!(kept, b"hello\r\n0\r\n\r\n5\r\n", "what looks like the end is content");
            assert_eq!(reply.body_bytes(), 15);
        }
        let bytes: Vec<&[u8]> = CHUNKED.chunks(1).collect();
        assert!(read(&bytes).0.is_done());
    }

    #[test]
    fn it_is_not_over_before_its_end() {
        for end in 0..CHUNKED.len() {
            assert!(!read(&[&CHUNKED[..end]]).0.is_done(), "{end}");
        }
    }

    #[test]
    fn a_length_ends_a_body_too() {
        let head: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\n";
        let (reply, kept, _) = read(&[head, b"ab", b"c"]);
        assert_eq!((reply.is_done(), reply.status(), kept.as_slice()), (true, 404, &b"abc"[..]));
        assert_eq!(read(&[head, b"abcd"]).2, Err(Fault::Surplus));
    }

    #[test]
    fn trailers_are_skipped() {
        let head: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(read(&[head, b"0\r\nA: b\r\n\r\n"]).0.is_done());
    }

    #[test]
    fn what_is_no_framing_is_refused() {
        let head: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(read(&[head, b"x\r\n"]).2, Err(Fault::Chunk));
        assert_eq!(read(&[head, b"\r\n"]).2, Err(Fault::Chunk));
        assert_eq!(read(&[head, b"1\r\nab"]).2, Err(Fault::Chunk));
        assert_eq!(read(&[head, b"fffffffffffffffff\r\n"]).2, Err(Fault::Chunk));
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\n\r\n"]).2, Err(Fault::Head));
        assert_eq!(read(&[b"SSH-2.0\r\n\r\n"]).2, Err(Fault::Head));
    }

    #[test]
    fn a_reply_can_be_read_after_another() {
        let (mut reply, _, _) = read(&[CHUNKED]);
        assert!(reply.has_begun());
        reply.reset();
        assert!(!reply.has_begun());
        assert_eq!((reply.feed(CHUNKED, None), reply.is_done()), (Ok(()), true));
    }
}
