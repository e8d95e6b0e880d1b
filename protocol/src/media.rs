//! How many tokens a sound or a video has, before a model server has counted them.
//!
//! A picture is taken for a fixed number of tokens (`limits.image_tokens_default`); a sound or a video of an hour
//! is not one of them. Their seconds are read off the file where its header or its frames tell, and else bounded
//! by its bytes. Tokens per second differ between models; what is taken is the most that is documented:
//!
//! | | tokens | source |
//! |---|---|---|
//! | a second of sound | 50 | Whisper's encoder, which most models listen through: 1,500 positions for 30 s (Radford et al. 2022, section 2.2). Gemini documents 32, Qwen2-Audio 25, OpenAI 10 |
//! | a second of video | 300 | Gemini: 258 for a frame of each second, and its sound (<https://ai.google.dev/gemini-api/docs/video-understanding>) |
//!
//! What cannot be known: how long a compressed file of another format than MP3 is, if its encoder spent less than
//! the least rate that is assumed here (silence in Opus), and how many frames of a video a server looks at.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use memchr::{memchr, memchr_iter};

use crate::prompt::is_data;

/// Tokens of a second.
const AUDIO_TOKENS: u64 = 50;
const VIDEO_TOKENS: u64 = 300;

/// The least bytes of a second of compressed sound: Opus at 6 kbit/s. (The least rate of an MP3 is 8 kbit/s.)
const AUDIO_RATE: u64 = 750;
/// The least bytes of a second of video: 256 kbit/s.
const VIDEO_RATE: u64 = 32_000;

/// How far into a file its header is looked for.
const HEADER_BYTES: usize = 4_096;
/// The longest beginning of a `data:` URI, up to its data, that is read.
const HEAD_CHARS: usize = 256;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A picture, or something that is taken for one.
    Image,
    Audio,
    Video,
}

/// What a file counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// So many pictures: one, or the frames of a video that is a list of pictures.
    pub(crate) images: u32,
    /// And so many tokens more.
    pub(crate) tokens: u64,
}

/// What a file counts for. `raw`: a JSON string, with its quotes, of base64 or a `data:` URI; `kind`: what the
/// place says where it stands. What the URI or the file itself says counts, too.
pub(crate) fn count(raw: &str, kind: Kind) -> Counted {
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or(raw);
    let (head, data) = if is_data(inner) { split(inner) } else { ("", inner) };
    let file = File::new(data);
    match kind.max(named(head)).max(file.kind()) {
        Kind::Image => Counted { images: 1, tokens: 0 },
        Kind::Audio => Counted { images: 1, tokens: file.seconds().saturating_mul(AUDIO_TOKENS) },
        Kind::Video => {
            // vLLM takes a list of pictures for a video, too.
            let frames = 1 + memchr_iter(b',', data.as_bytes()).count();
            let seconds = file.bytes.div_ceil(VIDEO_RATE);
            Counted {
                images: u32::try_from(frames).unwrap_or(u32::MAX),
                tokens: seconds.saturating_mul(VIDEO_TOKENS),
            }
        }
    }
}

/// A `data:` URI, up to its comma and behind it.
fn split(uri: &str) -> (&str, &str) {
    match memchr(b',', uri.as_bytes()) {
        Some(at) if at <= HEAD_CHARS => (&uri[..at], &uri[at + 1..]),
        _ => ("", uri),
    }
}

/// What the media type of a `data:` URI says, whose slash may be escaped.
fn named(head: &str) -> Kind {
    let kind = head.get("data:".len()..).unwrap_or_default();
    let is = |name: &str| kind.get(..5).is_some_and(|kind| kind.eq_ignore_ascii_case(name));
    match () {
        () if is("video") => Kind::Video,
        () if is("audio") => Kind::Audio,
        () => Kind::Image,
    }
}

/// A file in base64.
struct File<'a> {
    data: &'a [u8],
    /// About how long it is.
    bytes: u64,
    /// Its beginning.
    header: Vec<u8>,
}

// === impl File ===

impl<'a> File<'a> {
    fn new(data: &'a str) -> Self {
        let data = data.as_bytes();
        let start = &data[..data.len().min(HEADER_BYTES / 3 * 4)];
        // An escaped slash is a slash.
        let start: Vec<u8> = start.iter().copied().filter(|byte| *byte != b'\\').collect();
        let start = &start[..start.len() / 4 * 4];
        let magic = BASE64.decode(start.get(..16).unwrap_or(start)).unwrap_or_default();
        // A picture needs no more than its kind.
        let header = match kind_of(&magic) {
            Kind::Audio => BASE64.decode(start).unwrap_or(magic),
            Kind::Image | Kind::Video => magic,
        };
        Self { data, bytes: (data.len() / 4 * 3) as u64, header }
    }

    fn kind(&self) -> Kind {
        kind_of(&self.header)
    }

    /// The seconds of a sound, rounded up.
    fn seconds(&self) -> u64 {
        let by_header = match &*self.header {
            [b'R', b'I', b'F', b'F', ..] => {
                wav_rate(&self.header).map(|rate| self.bytes.div_ceil(rate))
            }
            [b'f', b'L', b'a', b'C', ..] => self.flac_seconds(),
            [b'I', b'D', b'3', ..] | [0xff, ..] => self.mp3_seconds(),
            _ => None,
        };
        by_header.unwrap_or_else(|| self.bytes.div_ceil(AUDIO_RATE))
    }

    fn flac_seconds(&self) -> Option<u64> {
        // Behind the magic and the head of the first block: sizes of blocks and frames, then the rate in 20
        // bits, channels - 1 in 3, bits - 1 in 5, and the samples in 36.
        let info = self.header.get(18..26)?;
        let packed = u64::from_be_bytes(info.try_into().ok()?);
        let (rate, samples) = (packed >> 44, packed & ((1 << 36) - 1));
        let (channels, bits) = ((packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1);
        if rate == 0 || samples == 0 {
            return None;
        }
        // No shorter than if nothing were compressed, whatever it says.
        let whole = rate * channels * bits.div_ceil(8);
        Some(samples.div_ceil(rate).max(self.bytes.div_ceil(whole)))
    }

    /// The seconds of an MP3, frame by frame: the rate of its first frame says nothing of the others. What is no
    /// frame is taken for as many seconds as it can be.
    fn mp3_seconds(&self) -> Option<u64> {
        if memchr(b'\\', self.data).is_some() {
            return None;
        }
        let mut at = match &*self.header {
            // The length of what stands before the frames, in 7 bits of each byte.
            [b'I', b'D', b'3', _, _, _, a, b, c, d, ..] => {
                let size = [a, b, c, d]
                    .into_iter()
                    .fold(0, |size, byte| size << 7 | u64::from(byte & 0x7f));
                size + 10
            }
            _ => 0,
        };
        let mut micros = 0_u64;
        while let Some((length, span)) = self.four(at).and_then(mp3_frame) {
            at += length;
            micros += span;
        }
        let rest = self.bytes.saturating_sub(at).div_ceil(AUDIO_RATE);
        Some(micros.div_ceil(1_000_000) + rest)
    }

    /// Four bytes of the file.
    fn four(&self, at: u64) -> Option<[u8; 4]> {
        let start = usize::try_from(at / 3 * 4).ok()?;
        let quads = self.data.get(start..start + 8)?;
        let mut bytes = [0; 6];
        BASE64.decode_slice_unchecked(quads, &mut bytes).ok()?;
        let within = usize::try_from(at % 3).ok()?;
        bytes.get(within..within + 4)?.try_into().ok()
    }
}

/// What a file is by its first bytes.
fn kind_of(magic: &[u8]) -> Kind {
    match magic {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..]
        | [b'I', b'D', b'3', ..]
        | [0xff, 0xe2 | 0xe3 | 0xf2 | 0xf3 | 0xfa | 0xfb, ..]
        | [b'f', b'L', b'a', b'C', ..]
        | [b'O', b'g', b'g', b'S', ..]
        | [_, _, _, _, b'f', b't', b'y', b'p', b'M', b'4', b'A', ..] => Kind::Audio,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', ..]
        | [0x1a, 0x45, 0xdf, 0xa3, ..]
        | [
            _,
            _,
            _,
            _,
            b'f',
            b't',
            b'y',
            b'p',
            b'i' | b'm' | b'q' | b'M',
            b's' | b'p' | b't' | b'4',
            ..,
        ] => Kind::Video,
        _ => Kind::Image,
    }
}

/// The bytes of a second of a WAV whose samples are not compressed.
fn wav_rate(header: &[u8]) -> Option<u64> {
    let mut at = 12;
    loop {
        let chunk = header.get(at..at + 8)?;
        let (name, size) = chunk.split_at(4);
        let size = usize::try_from(u32::from_le_bytes(size.try_into().ok()?)).ok()?;
        if name != b"fmt " {
            // Chunks begin at even places.
            at = at.checked_add(8 + size)?.checked_next_multiple_of(2)?;
            continue;
        }
        let format = header.get(at + 8..at + 24)?;
        let two = |at: usize| u64::from(u16::from_le_bytes([format[at], format[at + 1]]));
        let rate = u64::from(u32::from_le_bytes(format[4..8].try_into().ok()?));
        let (tag, channels, align, bits) = (two(0), two(2), two(12), two(14));
        // PCM, floats, A-law, mu-law, and whatever says more of itself behind it.
        if !matches!(tag, 1 | 3 | 6 | 7 | 0xfffe) {
            return None;
        }
        let frame = channels.max(1) * bits.div_ceil(8).max(1);
        let frame = if align == 0 { frame } else { frame.min(align) };
        return Some(rate.checked_mul(frame)?.max(1));
    }
}

/// The length and the microseconds of a frame of Layer III; `None` where the four bytes begin none.
fn mp3_frame(head: [u8; 4]) -> Option<(u64, u64)> {
    const ONE: [u64; 14] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const TWO: [u64; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    let [0xff, second, third, _] = head else { return None };
    if second & 0xe6 != 0xe2 {
        return None;
    }
    let index = usize::from(third >> 4).checked_sub(1)?;
    let rate = [44_100, 48_000, 32_000].get(usize::from(third >> 2 & 3))?;
    let (kbits, rate, samples) = match second >> 3 & 3 {
        3 => (ONE.get(index)?, *rate, 1_152),
        2 => (TWO.get(index)?, rate / 2, 576),
        0 => (TWO.get(index)?, rate / 4, 576),
        _ => return None,
    };
    let length = samples / 8 * kbits * 1_000 / rate + u64::from(third >> 1 & 1);
    Some((length, samples * 1_000_000 / rate))
}

#[cfg(test)]
mod tests;
