//! What a client replays and no model server has a place for: told in words, so that nothing is lost without a
//! word, and no session ends over it.

use serde_json::Value;

use crate::surrogate::mended;

/// The fields whose texts say what a block or an item is about.
const TOLD: [&str; 18] = [
    "title",
    "url",
    "source",
    "text",
    "content",
    "stdout",
    "stderr",
    "error_code",
    "tool_name",
    "query",
    "queries",
    "code",
    "logs",
    "command",
    "commands",
    "message",
    "filename",
    "revised_prompt",
];

/// The longest name of a kind that is repeated.
const KIND_LENGTH_MAX: usize = 64;

/// A block or an item of a kind that no model server knows, with what it says.
pub(super) fn told(kind: &str, says: &str) -> String {
    let kind = kind.get(..KIND_LENGTH_MAX).unwrap_or(kind);
    match (kind, says) {
        ("", "") => "[something was left out]".to_owned(),
        ("", says) => says.to_owned(),
        (kind, "") => format!("[{kind} was left out]"),
        (kind, says) => format!("[{kind}]\n{says}"),
    }
}

/// The texts of a value of any shape that mean something to a reader, a line each: no ciphers, no files.
pub(super) fn words(raw: &str) -> String {
    words_under(raw, &TOLD)
}

/// The same, of the fields of these names alone.
pub(super) fn words_under(raw: &str, names: &[&str]) -> String {
    let mut lines = Vec::new();
    if let Ok(value) = serde_json::from_str::<Value>(&mended(raw)) {
        gather(&value, "text", names, &mut lines);
    }
    lines.join("\n")
}

fn gather(value: &Value, key: &str, names: &[&str], lines: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.is_empty() && names.contains(&key) => lines.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| gather(item, key, names, lines)),
        Value::Object(fields) => {
            let is_text = fields.get("media_type").is_some_and(|kind| kind == "text/plain");
            for (key, value) in fields {
                let key = if is_text && key == "data" { "text" } else { key };
                gather(value, key, names, lines);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_value_are_found_wherever_they_stand() {
        let raw = r#"[{"type":"web_search_result","title":"A","url":"https://a","encrypted_content":"x9"},
            {"content":{"type":"document","source":{"type":"text","media_type":"text/plain","data":"B\ud83d"}}},
            {"source":{"type":"base64","media_type":"application/pdf","data":"QUJD"}},5,null]"#;
        assert_eq!(words(raw), "A\nhttps://a\nB\u{fffd}");
        assert_eq!(words("\"plain\""), "plain");
        assert_eq!(words("{"), "");
    }

    #[test]
    fn what_says_nothing_is_named() {
        assert_eq!(told("x", ""), "[x was left out]");
        assert_eq!(told("x", "y"), "[x]\ny");
        assert_eq!(told("", "y"), "y");
        assert_eq!(told("", ""), "[something was left out]");
    }
}
