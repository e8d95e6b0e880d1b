//! How a key is presented: `Authorization: Bearer nz_…` (RFC 6750, 2.1).

use crate::api_key::PresentedKey;

/// Why the header holds no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPresented {
    /// Nothing was presented, or with another scheme than `Bearer`.
    #[error("no key was presented")]
    Missing,
    /// Something was presented that is no key of ours.
    #[error("what was presented is no key")]
    Malformed,
}

/// Reads the value of an `Authorization` header. The scheme is compared without case.
///
/// # Errors
/// [`NotPresented`], without any work that costs more than a checksum.
pub fn bearer(value: Option<&[u8]>) -> Result<PresentedKey, NotPresented> {
    let value = value.ok_or(NotPresented::Missing)?;
    let (scheme, token) = value.split_at_checked(7).ok_or(NotPresented::Missing)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(NotPresented::Missing);
    }
    let token = std::str::from_utf8(token.trim_ascii()).map_err(|_| NotPresented::Malformed)?;
    PresentedKey::parse(token).map_err(|_| NotPresented::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::mint;

    fn read(value: &str) -> Result<String, NotPresented> {
        bearer(Some(value.as_bytes())).map(|key| key.prefix().to_owned())
    }

    #[test]
    fn a_bearer_key_is_read_whatever_the_case_of_the_scheme() {
        let minted = mint(|buffer| buffer.fill(5));
        for scheme in ["Bearer", "bearer", "BEARER", "Bearer "] {
            let value = format!("{scheme} {}", minted.key.expose());
            assert_eq!(read(&value), Ok(minted.prefix.clone()));
        }
    }

    #[test]
    fn nothing_or_another_scheme_is_missing() {
        assert_eq!(bearer(None).err(), Some(NotPresented::Missing));
        for value in ["", "Bearer", "Basic bno6eA==", "nz_0123"] {
            assert_eq!(read(value), Err(NotPresented::Missing), "{value}");
        }
    }

    #[test]
    fn what_is_no_key_is_malformed() {
        for value in ["Bearer ", "Bearer sk-123", "Bearer nz_", "bearer nz_0_0"] {
            assert_eq!(read(value), Err(NotPresented::Malformed), "{value}");
        }
        assert_eq!(bearer(Some(b"Bearer \xff")).err(), Some(NotPresented::Malformed));
    }
}
