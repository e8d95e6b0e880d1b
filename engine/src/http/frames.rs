//! The frames of an HTTP/2 connection, counted as they pass.
//!
//! h2 answers each PING and each SETTINGS, and takes any number of frames that say nothing. hyper shows none of
//! them. So their heads, of nine bytes each, are read here on the way in; payloads are skipped by their length.
//! A connection has credit for frames that are no progress. Time gives it back, and so do bytes that the client
//! was sent: who reads a reply may say often that it wants more.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::telemetry::{self, Closed};

/// The length of what a client's connection begins with (RFC 9113, 3.4).
const PREFACE_LENGTH: usize = 24;
/// The length of a frame's head: length, type, flags, stream.
const HEAD_LENGTH: usize = 9;

/// Frames without progress that may come at once.
const CREDIT_MAX: i64 = 4_000;
/// Credit that each second gives back.
const CREDIT_PER_SECOND: u64 = 500;
/// Bytes sent that give one frame's credit back. A frame's acknowledgement is shorter, so that no flood pays
/// for itself.
const BYTES_PER_CREDIT: u64 = 32;
/// What a reset costs: a stream was opened for it, which is more work than an answer to a PING.
const RESET_COST: i64 = 4;

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;
/// The longest DATA that may be all padding: its length in one byte, and as much of it.
const PADDING_MAX: u32 = 256;

/// The head of an HTTP/2 frame that is being read, and what it may still cost.
pub(super) struct Frames {
    /// Bytes of the preface or of a payload that are to be passed over.
    skip: usize,
    head: [u8; HEAD_LENGTH],
    /// How many bytes of `head` have come.
    known: usize,
    credit: i64,
    /// When credit was given back last.
    paid: Instant,
    /// Bytes sent since.
    sent: u64,
}

/// More frames than there was credit for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("more frames without progress than a client may send")]
pub(super) struct Flood;

/// An HTTP/2 connection whose frames are counted.
pub(super) struct Counted<S> {
    stream: S,
    frames: Frames,
}

// === impl Frames ===

impl Frames {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            skip: PREFACE_LENGTH,
            head: [0; HEAD_LENGTH],
            known: 0,
            credit: CREDIT_MAX,
            paid: now,
            sent: 0,
        }
    }

    /// Takes in what was read. `now` is asked only where credit has run out.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant,
    ) -> Result<(), Flood> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let count = (HEAD_LENGTH - self.known).min(bytes.len());
            self.head[self.known..self.known + count].copy_from_slice(&bytes[..count]);
            self.known += count;
            bytes = &bytes[count..];
            if self.known < HEAD_LENGTH {
                return Ok(());
            }
            self.known = 0;
            self.judge(&now)?;
        }
    }

    fn judge(&mut self, now: &impl Fn() -> Instant) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        self.credit -= match kind {
            DATA if flags & END_STREAM != 0 => 0,
            DATA if length > PADDING_MAX || (length > 0 && flags & PADDED == 0) => 0,
            RST_STREAM => RESET_COST,
            _ => 1,
        };
        if self.credit >= 0 {
            return Ok(());
        }
        let now = now();
        let since = now.duration_since(self.paid);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let timely = millis.saturating_mul(CREDIT_PER_SECOND) / 1_000;
        let earned = i64::try_from(timely.saturating_add(self.sent / BYTES_PER_CREDIT));
        self.credit = self.credit.saturating_add(earned.unwrap_or(i64::MAX)).min(CREDIT_MAX);
        (self.paid, self.sent) = (now, 0);
        if self.credit >= 0 { Ok(()) } else { Err(Flood) }
    }
}

// === impl Counted ===

impl<S> Counted<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, frames: Frames::new(Instant::now()) }
    }

    fn sent(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &polled {
            self.frames.sent += *count as u64;
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = self.frames.read(&buf.filled()[before..], Instant::now);
        Poll::Ready(read.map_err(|flood| {
            telemetry::connection_closed(Closed::Flood);
            io::Error::other(flood)
        }))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sent(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.sent(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_LENGTH + length, 0xFF);
        frame
    }

    fn begun(now: Instant) -> Frames {
        let mut frames = Frames::new(now);
        frames.read(&[b'x'; PREFACE_LENGTH], || now).unwrap();
        frames
    }

    /// How many such frames pass at once.
    fn passes(kind: u8, flags: u8, length: usize) -> usize {
        let now = Instant::now();
        let (mut frames, frame) = (begun(now), frame(kind, flags, length));
        (0..10_000).take_while(|_| frames.read(&frame, || now).is_ok()).count()
    }

    #[test]
    fn frames_without_progress_are_bounded_and_data_is_not() {
        for (kind, length) in
            [(PING, 8), (SETTINGS, 6), (2, 5), (WINDOW_UPDATE, 4), (9, 0), (0xEE, 0)]
        {
            assert_eq!(passes(kind, 0, length), 4_000, "type {kind}");
        }
        assert_eq!(passes(DATA, 0, 0), 4_000);
        assert_eq!(passes(DATA, PADDED, 200), 4_000);
        assert_eq!(passes(DATA, PADDED, 300), 10_000);
        assert_eq!(passes(RST_STREAM, 0, 4), 1_000);
        assert_eq!(passes(DATA, 0, 1), 10_000);
        assert_eq!(passes(DATA, END_STREAM, 0), 10_000);
    }

    #[test]
    fn time_and_bytes_sent_give_credit_back_and_no_flood_pays_for_itself() {
        let begin = Instant::now();
        let ping = frame(PING, 0, 8);
        let mut frames = begun(begin);
        for second in 0..60 {
            for _ in 0..400 {
                let read = frames.read(&ping, || begin + Duration::from_secs(second));
                assert!(read.is_ok(), "400 a second pass");
            }
        }
        // Two updates of a window for each event of a stream.
        let mut frames = begun(begin);
        let update = frame(WINDOW_UPDATE, 0, 4);
        for _ in 0..100_000 {
            frames.sent += 100;
            assert!(
                frames.read(&update, || begin).is_ok() && frames.read(&update, || begin).is_ok()
            );
        }
        // An answer to a PING is as long as the PING.
        let mut frames = begun(begin);
        let answered = (0..100_000).take_while(|_| {
            frames.sent += 17;
            frames.read(&ping, || begin).is_ok()
        });
        assert!(answered.count() < 10_000);
    }

    proptest! {
        #[test]
        fn frames_are_counted_however_they_are_cut(
            kinds in prop::collection::vec((0_u8..12, any::<bool>(), 0_usize..50), 1..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let now = Instant::now();
            let frames = kinds.iter().map(|(kind, ends, length)| frame(*kind, u8::from(*ends), *length));
            let bytes: Vec<u8> = [b'x'; PREFACE_LENGTH].into_iter().chain(frames.flatten()).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let (mut cut, mut whole) = (Frames::new(now), Frames::new(now));
            whole.read(&bytes, || now).unwrap();
            for at in cuts.windows(2) {
                cut.read(&bytes[at[0]..at[1]], || now).unwrap();
            }
            prop_assert_eq!(cut.credit, whole.credit);
            let spent: i64 = kinds.iter().map(|(kind, ends, length)| match *kind {
                DATA if *length > 0 || *ends => 0,
                RST_STREAM => RESET_COST,
                _ => 1,
            }).sum();
            prop_assert_eq!(whole.credit, CREDIT_MAX - spent);
            prop_assert_eq!(whole.known, 0);
        }
    }
}
