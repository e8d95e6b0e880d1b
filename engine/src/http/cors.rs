//! What a browser is told that asks for a page of another origin (Fetch, 3.2).
//!
//! Callers prove themselves with a key that they put in by hand, never with what a browser adds by itself. So any
//! page may ask, with any header fields, and read the answer: another origin gains nothing that it did not have.
//! Credentials of the browser's own are never allowed.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// Header fields that a browser shows to a script of another origin.
const EXPOSED: &str = "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, server-timing, \
    x-queue-position, x-estimated, allow, accept-encoding, www-authenticate, \
    x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, \
    x-budget-limit-tokens, x-budget-remaining-tokens, x-budget-reset";
/// What is allowed where no names are asked for, or none that are names: the star means all but `authorization`.
const ALLOWED: &str = "authorization, *";
/// The longest list of names that is said again, in bytes.
const ASKED_BYTES_MAX: usize = 4 * 1024;

/// What a browser asks before it asks what a page wants.
pub(crate) struct Preflight {
    /// The names of the page's header fields.
    names: Option<HeaderValue>,
}

// === impl Preflight ===

impl Preflight {
    /// The preflight that a request is; `None` of any other.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        if method != Method::OPTIONS
            || !headers.contains_key(header::ORIGIN)
            || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let mut lists = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let names = match (lists.next(), lists.next()) {
            (Some(names), None) if are_names(names) => Some(names.clone()),
            _ => None,
        };
        Some(Self { names })
    }
}

/// Allows what an endpoint answers to (`allowed`), with whatever header fields are asked for.
pub(crate) fn allow(allowed: &'static str, preflight: Option<Preflight>, answer: &mut HeaderMap) {
    for (name, value) in [
        (header::ALLOW, allowed),
        (header::ACCESS_CONTROL_ALLOW_METHODS, allowed),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        (header::VARY, "origin, access-control-request-method, access-control-request-headers"),
    ] {
        answer.insert(name, HeaderValue::from_static(value));
    }
    let names = preflight.and_then(|preflight| preflight.names);
    let names = names.unwrap_or(HeaderValue::from_static(ALLOWED));
    answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
}

/// Lets the page that asked read the answer.
pub(crate) fn expose(answer: &mut HeaderMap) {
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    answer.entry(header::VARY).or_insert(HeaderValue::from_static("origin"));
}

/// Whether it is a list of names of header fields, of a length that can be said again.
fn are_names(list: &HeaderValue) -> bool {
    let list = list.as_bytes();
    let is_name = |name: &[u8]| HeaderName::from_bytes(name.trim_ascii()).is_ok();
    list.len() <= ASKED_BYTES_MAX && list.split(|byte| *byte == b',').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that are allowed to who asks for these.
    fn allowed(asked: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://chat.example"));
        headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        for asked in asked {
            let asked = HeaderValue::from_str(asked).unwrap();
            headers.append(header::ACCESS_CONTROL_REQUEST_HEADERS, asked);
        }
        let mut answer = HeaderMap::new();
        allow("POST, OPTIONS", Preflight::of(&Method::OPTIONS, &headers), &mut answer);
        answer[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().to_owned()
    }

    #[test]
    fn names_are_allowed_as_they_are_asked_for_and_nothing_else_is_said_again() {
        for asked in ["authorization", "authorization,content-type, x-any-thing", "X-Stainless-OS"]
        {
            assert_eq!(allowed(&[asked]), asked);
        }
        let long = "x-a,".repeat(ASKED_BYTES_MAX / 4) + "x";
        for asked in [&[][..], &["a b"], &["a,,b"], &["x\"y"], &[&long], &["x-a", "x-b"], &[""]] {
            assert_eq!(allowed(asked), ALLOWED, "{asked:?}");
        }
    }

    #[test]
    fn only_a_browser_before_a_request_sends_a_preflight() {
        let of = |method, names: &[HeaderName]| {
            let value = |name: &HeaderName| (name.clone(), HeaderValue::from_static("x"));
            Preflight::of(&method, &names.iter().map(value).collect()).is_some()
        };
        let both = [header::ORIGIN, header::ACCESS_CONTROL_REQUEST_METHOD];
        assert!(of(Method::OPTIONS, &both));
        assert!(!of(Method::GET, &both) && !of(Method::OPTIONS, &both[..1]));
        assert!(!of(Method::OPTIONS, &both[1..]));
    }
}
