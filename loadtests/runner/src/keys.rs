//! Keys such as attackers try.

use identity::api_key::{BRAND, Minted};
use rig::seed::minted;

/// A key of the right form that nobody ever made.
pub(crate) fn forged() -> Result<String, String> {
    Ok(minted(None)?.key.expose().to_owned())
}

/// A key with the prefix of another one and a secret of its own: all but Argon2 lets it pass.
pub(crate) fn lookalike(of: &str) -> Result<String, String> {
    Ok(made(Some(of))?.key.expose().to_owned())
}

/// Something that has not even the form of a key.
pub(crate) fn garbage() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(fastrand::usize(1..80)).collect()
}

fn made(prefix_of: Option<&str>) -> Result<Minted, String> {
    minted(
        prefix_of
            .and_then(|key| key.strip_prefix(BRAND))
            .map(|rest| rest.bytes().take_while(|byte| *byte != b'_').map(place).collect()),
    )
}

/// The place of a character among the digits of base 62.
const fn place(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' => byte - b'A' + 10,
        b'a'..=b'z' => byte - b'a' + 36,
        _ => byte.wrapping_sub(b'0'),
    }
}

#[cfg(test)]
mod tests {
    use identity::api_key::PresentedKey;

    use super::*;

    #[test]
    fn a_lookalike_has_the_prefix_and_the_form_but_is_another_key() {
        let real = minted(None).unwrap();
        let other = lookalike(real.key.expose()).unwrap();
        let Ok(presented) = PresentedKey::parse(&other) else { panic!("malformed") };
        assert_eq!(presented.prefix(), real.prefix);
        assert_ne!(other, real.key.expose());
    }

    #[test]
    fn what_is_forged_has_the_form_and_garbage_has_not() {
        assert!(PresentedKey::parse(&forged().unwrap()).is_ok());
        assert!(PresentedKey::parse(&garbage()).is_err());
    }
}
