//! How a key is presented: `Authorization: Bearer nz_…` (RFC 6750, 2.1), or `x-api-key: nz_…`, as
//! Anthropic's SDKs do.
//!
//! SDKs send what they find in their environment: a key of another provider beside ours, or a field with
//! nothing in it. Only what begins as our keys do ([`BRAND`]) is taken for one of ours.

use crate::api_key::{BRAND, PresentedKey};

/// Why the header holds no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPresented {
    /// Nothing was presented, or with another scheme than `Bearer`.
    #[error("no key was presented")]
    Missing,
    /// Something was presented that is no key of ours.
    #[error("what was presented is no key")]
    Malformed,
    /// Two different keys of ours were presented: nobody says which of them counts.
    #[error("two different keys were presented")]
    Ambiguous,
}

/// Reads the values of `Authorization` and of `x-api-key`. Where both hold something, the one that is ours counts.
///
/// # Errors
/// [`NotPresented`], without any work that costs more than a checksum.
pub fn presented(
    authorization: Option<&[u8]>,
    api_key: Option<&[u8]>,
) -> Result<PresentedKey, NotPresented> {
    let bearer = authorization.and_then(bearer);
    let Some(api_key) = api_key.map(<[u8]>::trim_ascii).filter(|key| !key.is_empty()) else {
        return bearer.ok_or(NotPresented::Missing).and_then(token);
    };
    match bearer {
        Some(bearer) if is_ours(bearer) && is_ours(api_key) && bearer != api_key => {
            Err(NotPresented::Ambiguous)
        }
        Some(bearer) if is_ours(bearer) => token(bearer),
        _ => token(api_key),
    }
}

/// Whether it begins as our keys do. One of ours that was cut or mistyped is ours, too: it must not be passed
/// over in silence.
fn is_ours(value: &[u8]) -> bool {
    value.starts_with(BRAND.as_bytes())
}

fn token(value: &[u8]) -> Result<PresentedKey, NotPresented> {
    let token = std::str::from_utf8(value).map_err(|_| NotPresented::Malformed)?;
    PresentedKey::parse(token).map_err(|_| NotPresented::Malformed)
}

/// What the value of an `Authorization` header bears; `None` where it is empty or of another scheme. The
/// scheme is compared without case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    let rest = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::mint;

    fn read(authorization: Option<&str>, api_key: Option<&str>) -> Result<String, NotPresented> {
        let key = presented(authorization.map(str::as_bytes), api_key.map(str::as_bytes));
        key.map(|key| key.secret().expose().to_owned())
    }

    #[test]
    fn a_bearer_key_is_read_whatever_the_case_of_the_scheme() {
        let minted = mint(|buffer| buffer.fill(5));
        let key = minted.key.expose();
        for scheme in ["Bearer", "bearer", "BEARER", "Bearer "] {
            assert_eq!(read(Some(&format!("{scheme} {key}")), None), Ok(key.to_owned()));
        }
    }

    #[test]
    fn of_two_credentials_the_one_that_is_ours_counts() {
        let [one, two] = [5, 7].map(|byte| mint(|buffer| buffer.fill(byte)).key);
        let (one, two) = (one.expose(), two.expose());
        let cut = &one[..20];
        let bearers = ["Bearer sk-other", "Bearer ", "Bearer", "Basic bno6eA==", "", one];
        // What stands beside a key of ours and is none.
        for api_key in [None, Some(""), Some(" "), Some("sk-ant-1"), Some("NZ_1")] {
            let bearer = format!("Bearer {one}");
            assert_eq!(read(Some(&bearer), api_key), Ok(one.to_owned()), "{api_key:?}");
        }
        for authorization in bearers.map(Some).into_iter().chain([None]) {
            assert_eq!(read(authorization, Some(one)), Ok(one.to_owned()), "{authorization:?}");
            for api_key in [None, Some(""), Some(" ")] {
                let is_foreign = authorization == Some("Bearer sk-other");
                let expected =
                    if is_foreign { NotPresented::Malformed } else { NotPresented::Missing };
                assert_eq!(read(authorization, api_key), Err(expected), "{authorization:?}");
            }
            let foreign = read(authorization, Some("sk-ant-1"));
            assert_eq!(foreign, Err(NotPresented::Malformed), "{authorization:?}");
        }
        let of_both = |bearer: &str, key: &str| read(Some(&format!("Bearer {bearer}")), Some(key));
        assert_eq!(of_both(one, one), Ok(one.to_owned()));
        assert_eq!(of_both(one, &format!(" {one} ")), Ok(one.to_owned()));
        for (bearer, api_key) in [(one, two), (two, one), (one, cut), (cut, one), (one, "nz_")] {
            assert_eq!(of_both(bearer, api_key), Err(NotPresented::Ambiguous));
        }
        // One of ours that is damaged is not passed over for want of another.
        assert_eq!(of_both(cut, "sk-ant-1"), Err(NotPresented::Malformed));
        assert_eq!(of_both("sk-other", cut), Err(NotPresented::Malformed));
        assert_eq!(of_both(cut, cut), Err(NotPresented::Malformed));
    }

    #[test]
    fn nothing_or_another_scheme_is_missing() {
        for value in ["", "Bearer", "Bearer ", "Basic bno6eA==", "nz_0123"] {
            assert_eq!(read(Some(value), None), Err(NotPresented::Missing), "{value}");
        }
        assert_eq!(read(None, None), Err(NotPresented::Missing));
    }

    #[test]
    fn what_is_no_key_is_malformed() {
        for value in ["Bearer sk-123", "Bearer nz_", "bearer nz_0_0"] {
            assert_eq!(read(Some(value), None), Err(NotPresented::Malformed), "{value}");
        }
        for value in [&b"Bearer \xff"[..], b"Bearer nz_\xff"] {
            assert_eq!(presented(Some(value), None).err(), Some(NotPresented::Malformed));
        }
        assert_eq!(presented(None, Some(b"\xff")).err(), Some(NotPresented::Malformed));
    }
}
