//! How a key is presented: `Authorization: Bearer nz_…` (RFC 6750, 2.1), or `x-api-key: nz_…`, as
//! Anthropic's SDKs do.

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

/// Reads the values of `Authorization` and of `x-api-key`. Where both are there, the first counts: some SDKs
/// send what they find in their environment as the other.
///
/// # Errors
/// [`NotPresented`], without any work that costs more than a checksum.
pub fn presented(
    authorization: Option<&[u8]>,
    api_key: Option<&[u8]>,
) -> Result<PresentedKey, NotPresented> {
    match (bearer(authorization), api_key) {
        (Err(NotPresented::Missing), Some(key)) => token(key),
        (presented, _) => presented,
    }
}

fn token(value: &[u8]) -> Result<PresentedKey, NotPresented> {
    let token = std::str::from_utf8(value.trim_ascii()).map_err(|_| NotPresented::Malformed)?;
    PresentedKey::parse(token).map_err(|_| NotPresented::Malformed)
}

/// Reads the value of an `Authorization` header. The scheme is compared without case.
fn bearer(value: Option<&[u8]>) -> Result<PresentedKey, NotPresented> {
    let value = value.ok_or(NotPresented::Missing)?;
    let (scheme, rest) = value.split_at_checked(7).ok_or(NotPresented::Missing)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(NotPresented::Missing);
    }
    token(rest)
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
    fn a_key_may_stand_in_a_header_of_its_own() {
        let minted = mint(|buffer| buffer.fill(5));
        let key = minted.key.expose().as_bytes();
        let read = |bearer, key| presented(bearer, key).map(|key| key.prefix().to_owned());
        assert_eq!(read(None, Some(key)), Ok(minted.prefix.clone()));
        assert_eq!(read(Some(b"Basic bno6eA=="), Some(key)), Ok(minted.prefix.clone()));
        assert_eq!(read(Some(b"Bearer x"), Some(key)), Err(NotPresented::Malformed));
        assert_eq!(read(None, Some(b"sk-ant-1")), Err(NotPresented::Malformed));
        assert_eq!(read(None, Some(b"\xff")), Err(NotPresented::Malformed));
        assert_eq!(read(None, None), Err(NotPresented::Missing));
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
