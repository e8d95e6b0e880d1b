//! The same request again and again: one that is refused, or one that costs the gateway more than the client.

use bytes::Bytes;

use super::Attack;
use crate::{
    hostile::{config::Kind, wire},
    keys,
};

const PATH: &str = "/v1/chat/completions";
/// What asks for nothing that the audit is to know.
const UNKEYED: &[u8] = b"GET /readyz";

/// What those of a kind send, where it is always the same.
pub(super) fn requests(kind: Kind, key: &str) -> Vec<Bytes> {
    match kind {
        Kind::RefusedRpm => vec![wire::post(PATH, key, &body(kind, "hi"))],
        Kind::Causes500 => vec![wire::post(PATH, key, &body(kind, "[[status 500]] hi"))],
        Kind::StatusLoops => {
            ["/api/ps", "/api/version", "/readyz"].map(|path| wire::get(path, key)).into()
        }
        _ => Vec::new(),
    }
}

/// Whether the audit is expected to know of a request: of all but the one for health, which has no key.
pub(super) fn is_audited(request: &[u8]) -> bool {
    !request.starts_with(UNKEYED)
}

/// A request with a key that was never tried before and is none.
pub(super) fn wrong_key(attack: &Attack, turn: usize) -> Result<Bytes, String> {
    let of = attack.prefixes.get(turn % attack.prefixes.len().max(1));
    let key = match of.filter(|_| attack.of.kind == Kind::WrongPrefix) {
        Some(of) => keys::lookalike(of)?,
        None => keys::forged()?,
    };
    Ok(wire::post(PATH, &key, &body(attack.of.kind, "hi")))
}

fn body(kind: Kind, words: &str) -> String {
    let model = kind.name();
    format!(
        "{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{words}\"}}]}}"
    )
}
