//! The format of an API key.
//!
//! ```text
//! nz_4fG7aQ0bXw2Z_k3J…36 letters and digits…9QhT0aB1c
//! ╰──── prefix ───╯ ╰──────── secret ─────────╯╰ sum ╯
//! ```
//!
//! - The *prefix* (`nz_` and 12 characters) is public: it finds the record and stands in lists and
//!   logs.
//! - The *secret* is 36 characters of base 62, drawn without bias: 36 · log₂ 62 = 214 bits.
//! - The *checksum* is the CRC-32 (IEEE 802.3) of everything before it, in six characters of base
//!   62. It guards nothing; it lets a mistyped or made-up key be refused without any work, and lets
//!   scanners of leaked keys be sure of what they found.
//!
//! Letters, digits and `_` only, so that a double click takes the whole key.

use protocol::secret::Secret;

/// What every key begins with.
pub const BRAND: &str = "nz_";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX_RANDOM: usize = 12;
const PREFIX_LENGTH: usize = BRAND.len() + PREFIX_RANDOM;
const SECRET_LENGTH: usize = 36;
const CHECKSUM_LENGTH: usize = 6;

/// The length of every key, in bytes.
pub const LENGTH: usize = PREFIX_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH;

/// A key that was just made: the only moment at which its text is known.
pub struct Minted {
    /// The public prefix, `nz_` included.
    pub prefix: String,
    /// The whole key, to be shown once.
    pub key: Secret,
}

/// A text that has the form of a key and a right checksum. Nothing is proven yet.
pub struct PresentedKey(Secret);

/// A text that is no key of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not an API key")]
pub struct Malformed;

/// Makes a key from the randomness that `fill` brings (from the operating system, outside tests).
pub fn mint(mut fill: impl FnMut(&mut [u8])) -> Minted {
    let mut key = String::with_capacity(LENGTH);
    key.push_str(BRAND);
    draw(&mut fill, PREFIX_RANDOM, &mut key);
    let prefix = key.clone();
    key.push('_');
    draw(&mut fill, SECRET_LENGTH, &mut key);
    let sum = checksum(key.as_bytes());
    key.extend(sum.map(char::from));
    Minted { prefix, key: Secret::new(key) }
}

// === impl PresentedKey ===

impl PresentedKey {
    /// Checks form and checksum; costs no hash.
    ///
    /// # Errors
    /// [`Malformed`] where the text cannot be a key.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bytes = text.as_bytes();
        if bytes.len() != LENGTH || !text.starts_with(BRAND) || bytes[PREFIX_LENGTH] != b'_' {
            return Err(Malformed);
        }
        let random = bytes[BRAND.len()..PREFIX_LENGTH].iter().chain(&bytes[PREFIX_LENGTH + 1..]);
        if !random.copied().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Malformed);
        }
        let (said, sum) = bytes.split_at(LENGTH - CHECKSUM_LENGTH);
        if checksum(said) != *sum {
            return Err(Malformed);
        }
        Ok(Self(Secret::new(text.to_owned())))
    }

    /// The public prefix, `nz_` included.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0.expose()[..PREFIX_LENGTH]
    }

    /// The whole key.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

/// Characters of base 62 without bias: bytes of 248 and above would favour the first eight letters
/// and are drawn again.
fn draw(fill: &mut impl FnMut(&mut [u8]), count: usize, out: &mut String) {
    const FAIR: u8 = 248;
    let end = out.len() + count;
    let mut buffer = [0_u8; 64];
    while out.len() < end {
        fill(&mut buffer);
        let fair = buffer.iter().filter(|byte| **byte < FAIR).take(end - out.len());
        out.extend(fair.map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
    }
    zeroize::Zeroize::zeroize(&mut buffer);
}

fn checksum(said: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut rest = crc32fast::hash(said);
    let mut sum = [b'0'; CHECKSUM_LENGTH];
    for digit in sum.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counting() -> impl FnMut(&mut [u8]) {
        let mut next = 0_u8;
        move |buffer| {
            for byte in buffer {
                *byte = next;
                next = next.wrapping_add(37);
            }
        }
    }

    fn minted() -> Minted {
        mint(counting())
    }

    #[test]
    fn a_minted_key_is_read_back_with_its_prefix() {
        let minted = minted();
        let Ok(presented) = PresentedKey::parse(minted.key.expose()) else { panic!("malformed") };
        assert_eq!(presented.prefix(), minted.prefix);
        assert!(presented.secret().matches(minted.key.expose().as_bytes()));
        assert_eq!(minted.key.expose().len(), LENGTH);
    }

    #[test]
    fn unfair_bytes_are_drawn_again() {
        let mut calls = 0;
        let minted = mint(|buffer| {
            buffer.fill(if calls == 0 { 255 } else { 1 });
            calls += 1;
        });
        assert_eq!(minted.prefix, "nz_111111111111");
        assert!(calls > 2);
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let minted = minted();
        let key = minted.key.expose();
        for at in 0..LENGTH {
            for other in [b'0', b'z', b'_', b' '] {
                let mut changed = key.as_bytes().to_vec();
                if changed[at] == other {
                    continue;
                }
                changed[at] = other;
                let Ok(text) = String::from_utf8(changed) else { continue };
                assert!(PresentedKey::parse(&text).is_err(), "position {at}");
            }
        }
    }

    #[test]
    fn the_alphabet_is_used_evenly() {
        let mut seen = [0_u32; 128];
        let mut state = 1_u64;
        for _ in 0..200 {
            let minted = mint(|buffer| {
                for byte in buffer {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = (state >> 56) as u8;
                }
            });
            for byte in minted.key.expose()[PREFIX_LENGTH + 1..LENGTH - 6].bytes() {
                seen[usize::from(byte)] += 1;
            }
        }
        for letter in ALPHABET {
            assert!(seen[usize::from(*letter)] > 60, "{}", char::from(*letter));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}") {
            let _ = PresentedKey::parse(&text);
        }

        #[test]
        fn a_text_of_the_right_form_needs_the_right_sum(text in "nz_[0-9A-Za-z]{12}_[0-9A-Za-z]{36}") {
            let sum: String = checksum(text.as_bytes()).map(char::from).iter().collect();
            let good = format!("{text}{sum}");
            let bad = format!("{text}000000");
            prop_assert!(PresentedKey::parse(&good).is_ok());
            prop_assert_eq!(PresentedKey::parse(&bad).is_ok(), sum == "000000");
        }
    }
}
