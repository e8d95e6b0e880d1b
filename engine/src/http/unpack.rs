//! Bodies that come packed (`content-encoding`, RFC 9110, 8.4), unpacked piece by piece within bounds.
//!
//! A few bytes can unpack to very many, and many bytes to nothing, which takes long. So each piece is bounded in what
//! it reads and in what it makes, whoever calls decides where and when the next one is done, and the whole is bounded
//! by `server.body_bytes_max`, by [`RATIO_MAX`] and by [`OVERHEAD_BYTES_MAX`].

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use http::{HeaderMap, header};
use zstd::stream::read::Decoder;

use super::arrival::ArrivalFault;

/// How many times its size a body may unpack to. Text that people and programs write stays far below: JSON packs to
/// a fifth, and to a fiftieth where it repeats itself.
const RATIO_MAX: usize = 100;
/// What any body may unpack to, however short it is, in bytes.
const ANY_RATIO_BYTES_MAX: usize = 1024 * 1024;
/// How much longer than what it unpacks to a body may be, in bytes. What packs adds little to what it cannot make
/// shorter; but a body may have parts without end that hold nothing.
const OVERHEAD_BYTES_MAX: usize = 64 * 1024;
/// The largest window of zstd, as a power of two: 8 MiB, all that a sender may count on (RFC 9659, 3).
const WINDOW_LOG_MAX: u32 = 23;
/// What zstd says of a frame with a larger one (`ZSTD_error_frameParameter_windowTooLarge`).
const WINDOW_TOO_LARGE: &str = "Frame requires too much memory for decoding";

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// RFC 1952: one member or several.
    Gzip,
    /// RFC 8878: one frame or several.
    Zstd,
}

/// A body that is being unpacked.
pub(crate) struct Unpacking {
    packed: Decoding,
    /// How long it is, packed.
    packed_bytes: usize,
    unpacked: Vec<u8>,
    bytes_max: usize,
    /// What is said of a body that unpacks to more.
    beyond: ArrivalFault,
}

/// Where a piece ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// There is more.
    More,
    /// All is unpacked.
    Last,
}

enum Decoding {
    Gzip(Box<MultiGzDecoder<Packed>>),
    Zstd(Box<Decoder<'static, Packed>>),
}

/// The packed bytes that are left, of which some may be read now.
struct Packed {
    left: Bytes,
    open: usize,
}

// === impl Coding ===

impl Coding {
    /// All of them, as `accept-encoding` says them.
    pub(crate) const ALL: &str = "gzip, zstd";

    /// How the body is packed; `None` of one that comes as it is.
    ///
    /// # Errors
    /// Where it is packed in another way, or more than once.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, ArrivalFault> {
        let Some(said) = headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
        let said = said.as_bytes().trim_ascii();
        let is = |name: &str| said.eq_ignore_ascii_case(name.as_bytes());
        if said.is_empty() || is("identity") {
            Ok(None)
        } else if is("gzip") || is("x-gzip") {
            // RFC 9110, 8.4.1.3: both are one.
            Ok(Some(Self::Gzip))
        } else if is("zstd") {
            Ok(Some(Self::Zstd))
        } else {
            Err(ArrivalFault::Encoding)
        }
    }

    /// What its decoder holds once it has made so many bytes: what it needs for itself, and what it remembers of
    /// them.
    pub(crate) fn decoder_bytes(self, unpacked: usize) -> usize {
        match self {
            Self::Gzip => 64 * 1024,
            Self::Zstd => 256 * 1024 + unpacked.min(1 << WINDOW_LOG_MAX),
        }
    }
}

// === impl Unpacking ===

impl Unpacking {
    /// Begins to unpack; `body_bytes_max` is the longest body that is taken.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub(crate) fn new(
        coding: Coding,
        packed: Bytes,
        body_bytes_max: usize,
    ) -> Result<Self, ArrivalFault> {
        let by_ratio = packed.len().saturating_mul(RATIO_MAX).max(ANY_RATIO_BYTES_MAX);
        let beyond =
            if by_ratio < body_bytes_max { ArrivalFault::Ratio } else { ArrivalFault::TooLarge };
        let packed_bytes = packed.len();
        let packed = Packed { left: packed, open: 0 };
        let packed = match coding {
            Coding::Gzip => Decoding::Gzip(Box::new(MultiGzDecoder::new(packed))),
            Coding::Zstd => {
                let decoder = Decoder::with_buffer(packed).and_then(|mut decoder| {
                    decoder.window_log_max(WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
                Decoding::Zstd(Box::new(decoder.map_err(|_| ArrivalFault::NoRoom)?))
            }
        };
        let bytes_max = by_ratio.min(body_bytes_max);
        Ok(Self { packed, packed_bytes, unpacked: Vec::new(), bytes_max, beyond })
    }

    /// How many bytes are unpacked.
    pub(crate) fn len(&self) -> usize {
        self.unpacked.len()
    }

    /// Takes memory for so many bytes in all.
    pub(crate) fn reserve(&mut self, until: usize) {
        self.unpacked.reserve_exact(self.goal(until).saturating_sub(self.len()));
    }

    /// Unpacks until so many bytes are unpacked in all, or that many packed ones are read.
    ///
    /// # Errors
    /// Where it unpacks to too much, takes too much memory, or is damaged. It is not to be gone on with then.
    pub(crate) fn piece(&mut self, until: usize, packed: usize) -> Result<Piece, ArrivalFault> {
        let wanted = self.goal(until).saturating_sub(self.len());
        let reader = self.packed.open(packed);
        let read = reader.take(wanted as u64).read_to_end(&mut self.unpacked);
        if self.len() > self.bytes_max {
            return Err(self.beyond);
        }
        let packed = self.packed_bytes - self.packed.left();
        if packed > self.len().saturating_add(OVERHEAD_BYTES_MAX) {
            return Err(ArrivalFault::Packing);
        }
        match read {
            Ok(read) if read < wanted => Ok(Piece::Last),
            Ok(_) => Ok(Piece::More),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Piece::More),
            Err(error) if error.to_string() == WINDOW_TOO_LARGE => Err(ArrivalFault::Window),
            Err(_) => Err(ArrivalFault::Packing),
        }
    }

    /// All that is unpacked.
    pub(crate) fn finish(self) -> Bytes {
        self.unpacked.into()
    }

    /// One byte beyond the bound says that it is passed.
    fn goal(&self, until: usize) -> usize {
        until.min(self.bytes_max.saturating_add(1))
    }
}

// === impl Decoding ===

impl Decoding {
    /// How many packed bytes are not read yet.
    fn left(&self) -> usize {
        match self {
            Self::Gzip(decoder) => decoder.get_ref().left.len(),
            Self::Zstd(decoder) => decoder.get_ref().left.len(),
        }
    }

    /// The bytes that unpack of so many packed ones.
    fn open(&mut self, packed: usize) -> &mut dyn Read {
        match self {
            Self::Gzip(decoder) => {
                decoder.get_mut().open = packed;
                decoder
            }
            Self::Zstd(decoder) => {
                decoder.get_mut().open = packed;
                decoder
            }
        }
    }
}

// === impl Packed ===

impl Read for Packed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Packed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.open == 0 && !self.left.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.left[..self.open.min(self.left.len())])
    }

    fn consume(&mut self, read: usize) {
        self.left.advance(read);
        self.open = self.open.saturating_sub(read);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn pack(coding: Coding, plain: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Zstd => zstd::encode_all(plain, 3).unwrap(),
        }
    }

    /// Unpacks in pieces of so many packed bytes, and so many more unpacked ones.
    fn unpack(
        coding: Coding,
        packed: &[u8],
        (read, made): (usize, usize),
        bytes_max: usize,
    ) -> Result<Bytes, ArrivalFault> {
        let packed = Bytes::copy_from_slice(packed);
        let bound = (packed.len() * RATIO_MAX).max(ANY_RATIO_BYTES_MAX).min(bytes_max);
        let mut unpacking = Unpacking::new(coding, packed, bytes_max)?;
        loop {
            let (before, until) = (unpacking.len(), unpacking.len() + made);
            unpacking.reserve(until);
            let piece = unpacking.piece(until, read);
            assert!(unpacking.len() <= before + made, "a piece made too much");
            assert!(unpacking.unpacked.capacity() <= bound + 1 + 2 * made.max(32));
            if piece? == Piece::Last {
                return Ok(unpacking.finish());
            }
        }
    }

    fn whole(coding: Coding, packed: &[u8]) -> Result<Bytes, ArrivalFault> {
        unpack(coding, packed, (MIB, MIB), 8 * MIB)
    }

    /// Bytes that do not pack well.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u32;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn what_was_packed_once_or_in_several_parts_is_unpacked() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            for plain in [Vec::new(), b"{}".to_vec(), noise(300_000), vec![b'x'; MIB]] {
                let packed = pack(coding, &plain);
                assert_eq!(whole(coding, &packed).unwrap(), plain, "{coding:?}");
                let two = [packed.clone(), pack(coding, b"more")].concat();
                let both = [plain.as_slice(), b"more"].concat();
                if both.len() <= MIB {
                    assert_eq!(whole(coding, &two).unwrap(), both, "{coding:?}");
                }
                let skippable = [&b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..], &packed].concat();
                let skipped = whole(coding, &skippable);
                assert_eq!(skipped.is_ok(), coding == Coding::Zstd);
            }
        }
    }

    #[test]
    fn what_is_damaged_cut_off_or_followed_by_something_is_refused() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = pack(coding, &noise(2_000));
            for cut in [0, 1, 3, 9, packed.len() / 2, packed.len() - 1] {
                let cut = whole(coding, &packed[..cut]);
                assert_eq!(cut.err(), Some(ArrivalFault::Packing), "{coding:?}");
            }
            for after in [&b"x"[..], b"{\"model\":\"m\"}", b"\0\0\0\0", b"\x1f\x8b", b"\x28\xb5"] {
                let trailed = whole(coding, &[&packed, after].concat());
                assert_eq!(trailed.err(), Some(ArrivalFault::Packing), "{coding:?} {after:?}");
            }
            assert_eq!(whole(coding, b"{\"model\":\"m\"}").err(), Some(ArrivalFault::Packing));
        }
        let mut damaged = pack(Coding::Gzip, b"{}");
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        assert_eq!(whole(Coding::Gzip, &damaged).err(), Some(ArrivalFault::Packing));
    }

    #[test]
    fn a_bomb_is_refused_where_it_passes_a_bound() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let bomb = pack(coding, &vec![b' '; 16 * MIB]);
            assert!(bomb.len() < 16 * MIB / 500);
            assert_eq!(whole(coding, &bomb).err(), Some(ArrivalFault::Ratio), "{coding:?}");
            let small = unpack(coding, &bomb, (MIB, MIB), 1_000);
            assert_eq!(small.err(), Some(ArrivalFault::TooLarge), "{coding:?}");
            let fits = pack(coding, &noise(1_000));
            assert!(unpack(coding, &fits, (MIB, MIB), 1_000).is_ok());
            assert!(unpack(coding, &fits, (MIB, MIB), 999).is_err());
        }
        // Text that repeats itself as text does is none.
        let text = (0..160_000).map(|number| format!("{{\"role\":\"user\",\"n\":{number}}},"));
        let text = text.collect::<String>();
        assert!(text.len() > 2 * MIB);
        for coding in [Coding::Gzip, Coding::Zstd] {
            assert_eq!(whole(coding, &pack(coding, text.as_bytes())).unwrap(), text);
        }
    }

    #[test]
    fn a_window_of_more_than_eight_mebibytes_is_refused() {
        for (log, expected) in [(23, None), (24, Some(ArrivalFault::Window))] {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&noise(1_000)).unwrap();
            assert_eq!(whole(Coding::Zstd, &encoder.finish().unwrap()).err(), expected, "{log}");
        }
    }

    #[test]
    fn a_body_that_makes_nothing_is_read_in_pieces_and_given_up() {
        let parts = [pack(Coding::Gzip, b""), pack(Coding::Zstd, b"")];
        // Blocks of ten bits that hold nothing, in one member that does not end.
        let blocks = [&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], &b"\x02\x08\x20\x80\0".repeat(40_000)];
        for (coding, packed) in [
            (Coding::Gzip, parts[0].repeat(20_000)),
            (Coding::Zstd, parts[1].repeat(20_000)),
            (Coding::Gzip, blocks.concat()),
        ] {
            let mut unpacking = Unpacking::new(coding, packed.into(), MIB).unwrap();
            let mut pieces = 0;
            let ended = loop {
                match unpacking.piece(MIB, 1_000) {
                    Ok(Piece::More) => pieces += 1,
                    ended => break ended,
                }
            };
            assert_eq!((ended, pieces), (Err(ArrivalFault::Packing), 65), "{coding:?}");
        }
    }

    #[test]
    fn only_what_is_known_is_taken_for_a_coding() {
        let of = |said: &str| {
            let said = http::HeaderValue::from_str(said).unwrap();
            Coding::of(&HeaderMap::from_iter([(header::CONTENT_ENCODING, said)]))
        };
        for said in ["gzip", "GZIP", " x-gzip "] {
            assert_eq!(of(said), Ok(Some(Coding::Gzip)), "{said}");
        }
        assert_eq!(of("Zstd"), Ok(Some(Coding::Zstd)));
        for said in ["", "identity", "Identity"] {
            assert_eq!(of(said), Ok(None), "{said}");
        }
        for said in ["br", "deflate", "compress", "gzip, gzip", "gzip, zstd", "gzip;q=1", "none"] {
            assert_eq!(of(said), Err(ArrivalFault::Encoding), "{said}");
        }
        assert_eq!(Coding::of(&HeaderMap::new()), Ok(None));
    }

    /// Any bytes, and what once was packed.
    fn input(coding: Coding) -> impl Strategy<Value = Vec<u8>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..400);
        let damaged = (bytes(), any::<usize>(), any::<u8>(), any::<bool>());
        let damaged = damaged.prop_map(move |(plain, at, byte, is_long)| {
            let plain = if is_long { plain.repeat(3_000) } else { plain };
            let mut packed = pack(coding, &plain);
            let at = at % packed.len();
            packed[at] = byte;
            packed
        });
        prop_oneof![bytes(), damaged]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_pass_a_bound_or_bring_it_down(
            gzip in input(Coding::Gzip),
            zstd in input(Coding::Zstd),
            (read, made) in (1_usize..5_000, 500_usize..100_000),
        ) {
            for (coding, packed) in [(Coding::Gzip, gzip), (Coding::Zstd, zstd)] {
                let in_pieces = unpack(coding, &packed, (read, made), 100_000);
                let at_once = unpack(coding, &packed, (MIB, MIB), 100_000);
                // A frame that is there at once needs no window.
                if in_pieces != Err(ArrivalFault::Window) {
                    prop_assert_eq!(in_pieces.ok(), at_once.ok());
                }
            }
        }

        #[test]
        fn what_was_packed_comes_back_whatever_the_pieces(
            plain in proptest::collection::vec(any::<u8>(), 0..3_000),
            (read, made) in (1_usize..500, 1_usize..500),
        ) {
            for coding in [Coding::Gzip, Coding::Zstd] {
                let packed = pack(coding, &plain);
                prop_assert_eq!(unpack(coding, &packed, (read, made), MIB).unwrap(), &plain[..]);
            }
        }
    }
}
