//! A body that passes to an upstream of its own dialect, OpenAI's: what has to be another there.

use super::chat_request::Given;
use crate::{
    body::{BodyError, Fields},
    openai::write::limit_name,
};

/// The fields that say how long a reply may be; the newer one stands first, and wins.
const LIMITS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// A field and its new value.
pub(super) type Change = (&'static str, String);

/// The most tokens of a chat's reply. `held_to`: what it is, whatever the client says; `said`: what the
/// client's word is taken for.
///
/// A server may know only one of the two fields: where both are there, they say the same.
pub(super) fn chat_limit(
    given: &Given<'_>,
    model: &str,
    held_to: Option<u64>,
    said: Option<u64>,
) -> Result<Vec<Change>, BodyError> {
    let mut names: Vec<_> = LIMITS.into_iter().filter(|name| given.get(name).is_some()).collect();
    let most = match (held_to, said) {
        (Some(most), _) => {
            let name = limit_name(model);
            if !names.contains(&name) {
                names.push(name);
            }
            most
        }
        (None, Some(most)) if names.len() > 1 => most,
        (None, _) => return Ok(Vec::new()),
    };
    let mut changes = Vec::new();
    for name in names {
        if given.most(name)? != Some(most) {
            changes.push((name, most.to_string()));
        }
    }
    Ok(changes)
}

/// The options of a stream, with the wish for its usage among them.
pub(super) fn with_usage<const N: usize>(given: &Fields<'_, N>) -> Result<Change, BodyError> {
    const KNOWN: [&str; 1] = ["include_usage"];
    let options = match given.get("stream_options") {
        None => "{\"include_usage\":true}".to_owned(),
        Some(raw) => {
            let options = Fields::of_object(raw, &KNOWN, "stream_options.")?;
            let change = [("include_usage", "true".to_owned())];
            let made = options.replaced(raw.get().as_bytes(), &change);
            String::from_utf8_lossy(&made).into_owned()
        }
    };
    Ok(("stream_options", options))
}
