//! What is told of one model (`/api/show`).
//!
//! A model's template, system prompt, parameters and example messages can hold what somebody wrote
//! in confidence; only what describes the model goes on.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The fields that go on, in the order in which Ollama writes them.
const TOLD: [&str; 5] = ["license", "details", "model_info", "capabilities", "modified_at"];

/// The reply without what is not told.
///
/// # Errors
/// Where it is no object.
pub fn filter(reply: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Reply<'a>(#[serde(borrow)] std::collections::HashMap<String, &'a RawValue>);
    let Reply(fields) = serde_json::from_slice(reply)?;
    let mut out = Vec::with_capacity(reply.len());
    out.push(b'{');
    for (name, raw) in TOLD.iter().filter_map(|name| Some((name, fields.get(*name)?))) {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(format!("\"{name}\":").as_bytes());
        out.extend_from_slice(raw.get().as_bytes());
    }
    out.push(b'}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_in_confidence_is_not_told() -> Result<(), serde_json::Error> {
        let reply = br#"{"modelfile":"FROM x","template":"t","system":"s","details":{"family":"f"},
            "capabilities":["tools"],"messages":[],"new_field":"n"}"#;
        assert_eq!(
            filter(reply)?,
            br#"{"details":{"family":"f"},"capabilities":["tools"]}"#.to_vec()
        );
        assert!(filter(b"[]").is_err());
        Ok(())
    }
}
