//! HTTP/2 by hand, since no library would do what attackers do: frames are written as they are told, and of
//! what comes only the heads of frames are read.

use std::{io, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Interval, interval},
};

/// How a connection begins (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEAD: usize = 9;
/// The error code of a stream that is reset: the client does not want it any more.
const CANCEL: u32 = 8;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The setting that says how many bytes of each stream may be under way.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// What a connection sends.
#[derive(Default)]
pub(crate) struct Frames(BytesMut);

// === impl Frames ===

impl Frames {
    /// The preface, and settings; with a window or with the usual one.
    pub(crate) fn opening(window: Option<u32>) -> Self {
        let mut frames = Self(BytesMut::from(PREFACE));
        let mut payload = BytesMut::new();
        if let Some(window) = window {
            payload.put_u16(INITIAL_WINDOW_SIZE);
            payload.put_u32(window);
        }
        frames.frame(SETTINGS, 0, 0, &payload);
        frames
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.put_uint(payload.len() as u64, 3);
        self.0.put_u8(kind);
        self.0.put_u8(flags);
        self.0.put_u32(stream);
        self.0.put_slice(payload);
    }

    /// A POST on that stream, whose body fits into one frame.
    pub(crate) fn post(&mut self, stream: u32, path: &str, key: &str, body: &str) {
        let length = body.len().to_string();
        let authorization = format!("Bearer {key}");
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "gateway"),
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
            ("content-length", length.as_str()),
        ];
        let mut block = BytesMut::new();
        for (name, value) in fields {
            // Literal, without indexing, with a new name (RFC 7541, 6.2.2).
            block.put_u8(0);
            text(&mut block, name);
            text(&mut block, value);
        }
        self.frame(HEADERS, END_HEADERS, stream, &block);
        self.frame(DATA, END_STREAM, stream, body.as_bytes());
    }

    /// The end of a stream that nobody wants any more.
    pub(crate) fn reset(&mut self, stream: u32) {
        self.frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    }

    /// A ping.
    pub(crate) fn ping(&mut self) {
        self.frame(PING, 0, 0, &[7; 8]);
    }

    /// Settings that change nothing.
    pub(crate) fn settings(&mut self) {
        self.frame(SETTINGS, 0, 0, &[]);
    }

    /// The bytes.
    pub(crate) fn bytes(self) -> Bytes {
        self.0.freeze()
    }
}

/// A text without Huffman's code: its length with a prefix of seven bits, then the text (RFC 7541, 5.2).
fn text(block: &mut BytesMut, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length) if length < 127 => block.put_u8(length),
        _ => {
            block.put_u8(127);
            let mut rest = text.len().saturating_sub(127);
            while rest >= 128 {
                block.put_u8((rest % 128) as u8 | 128);
                rest /= 128;
            }
            block.put_u8(rest as u8);
        }
    }
    block.put_slice(text.as_bytes());
}

/// Reads frames until the gateway closes the connection; acknowledges settings and pings, as a peer does that
/// wants to stay, and pings itself every so often. `came` is called with each answer whose head came.
pub(crate) async fn stay(
    stream: &mut TcpStream,
    ping_every: Option<Duration>,
    mut came: impl FnMut(),
) -> io::Result<()> {
    let mut pings = ping_every.map(interval);
    let mut read = BytesMut::with_capacity(16 * 1024);
    let mut skip = 0_usize;
    loop {
        let skipped = skip.min(read.len());
        read.advance(skipped);
        skip -= skipped;
        if skip == 0 && read.len() >= FRAME_HEAD {
            let length =
                usize::from(read[0]) << 16 | usize::from(read[1]) << 8 | usize::from(read[2]);
            let (kind, flags) = (read[3], read[4]);
            if read.len() < FRAME_HEAD + length.min(8) {
                // What a ping holds is needed, too.
            } else {
                acknowledge(stream, kind, flags, &read[FRAME_HEAD..FRAME_HEAD + length.min(8)])
                    .await?;
                if kind == HEADERS {
                    came();
                }
                skip = FRAME_HEAD + length;
                continue;
            }
        }
        tokio::select! {
            count = stream.read_buf(&mut read) => if count? == 0 { return Ok(()) },
            () = next(&mut pings) => {
                let mut frames = Frames::default();
                frames.ping();
                stream.write_all(&frames.bytes()).await?;
            }
        }
    }
}

/// The next time; never, where there are none.
async fn next(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn acknowledge(
    stream: &mut TcpStream,
    kind: u8,
    flags: u8,
    payload: &[u8],
) -> io::Result<()> {
    let payload = match kind {
        _ if flags & ACK != 0 => return Ok(()),
        SETTINGS => &[],
        PING => payload,
        _ => return Ok(()),
    };
    let mut frames = Frames::default();
    frames.frame(kind, ACK, 0, payload);
    stream.write_all(&frames.bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_their_length_kind_and_stream() {
        let mut frames = Frames::default();
        frames.ping();
        frames.reset(5);
        let bytes = frames.bytes();
        assert_eq!(bytes[..9], [0, 0, 8, PING, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[17..], [0, 0, 4, RST_STREAM, 0, 0, 0, 0, 5, 0, 0, 0, 8]);
    }

    #[test]
    fn a_long_text_has_its_length_in_more_than_one_byte() {
        let mut block = BytesMut::new();
        text(&mut block, &"x".repeat(300));
        // 300 - 127 = 173 = 1 × 128 + 45.
        assert_eq!(block[..3], [127, 45 | 128, 1]);
        assert_eq!(block.len(), 303);
    }
}
