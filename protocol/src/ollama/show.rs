//! `/api/show`: what a model is, without what its maker wrote into it.
//!
//! Ollama's reply holds the system prompt, the template, the example messages and the whole
//! modelfile, which may be another tenant's secret. So the reply is made anew from an allow-list,
//! and a field that a later version adds stays out until somebody has looked at it.

use serde_json::value::RawValue;

use super::{BadReply, tags};
use crate::body::Fields;

/// What is let through: facts of the weights, in the order in which they are written.
const VISIBLE: [&str; 5] = ["license", "details", "model_info", "capabilities", "modified_at"];

/// The reply with the visible fields only, each as it stood.
///
/// # Errors
/// [`BadReply`] where it is no JSON object, or a visible field stands in it more than once.
pub fn filter(body: &[u8]) -> Result<String, BadReply> {
    let fields = Fields::of_body(body, &VISIBLE, None).map_err(|_| BadReply)?;
    let visible = VISIBLE.iter().filter_map(|name| Some((*name, fields.get(name)?)));
    Ok(render(visible))
}

/// The reply of a gateway whose model's server does not tell: what is not known is left empty.
#[must_use]
pub fn unknown(modified_at: jiff::Timestamp) -> String {
    serde_json::json!({
        "details": tags::details(),
        "model_info": {},
        "capabilities": [],
        "modified_at": modified_at.to_string(),
    })
    .to_string()
}

/// The whole reply, for whoever is trusted with it.
///
/// # Errors
/// [`BadReply`] where it is no JSON object.
pub fn whole(body: &[u8]) -> Result<(), BadReply> {
    Fields::of_body(body, &VISIBLE, None).map(drop).map_err(|_| BadReply)
}

fn render<'a>(fields: impl Iterator<Item = (&'static str, &'a RawValue)>) -> String {
    let mut reply = String::from("{");
    for (at, (name, raw)) in fields.enumerate() {
        if at > 0 {
            reply.push(',');
        }
        reply.push('"');
        reply.push_str(name);
        reply.push_str("\":");
        reply.push_str(raw.get());
    }
    reply.push('}');
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_maker_wrote_does_not_pass() {
        let body = br#"{"modelfile":"SECRET","parameters":"SECRET","template":"SECRET",
            "system":"SECRET","messages":[{"content":"SECRET"}],"adapter":"SECRET",
            "details":{"family":"llama","parent_model":""},"model_info":{"general.size":1.50},
            "capabilities":["completion"],"modified_at":"2026-01-02T03:04:05Z","license":"MIT"}"#;
        let expected = concat!(
            r#"{"license":"MIT","details":{"family":"llama","parent_model":""},"#,
            r#""model_info":{"general.size":1.50},"capabilities":["completion"],"#,
            r#""modified_at":"2026-01-02T03:04:05Z"}"#
        );
        assert_eq!(filter(body).as_deref(), Ok(expected));
    }

    #[test]
    fn what_is_no_object_is_no_reply() {
        assert_eq!(filter(b"{}").as_deref(), Ok("{}"));
        for body in ["", "[]", "x", r#"{"details":1,"details":2}"#] {
            assert_eq!(filter(body.as_bytes()), Err(BadReply), "{body}");
        }
    }
}
