//! What a client replays and no model server has a place for: told in words, so that nothing is lost without a
//! word, and no session ends over it.

use crate::json::{Cursor, text_of};

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

/// The texts of a JSON value of any shape that mean something to a reader, a line each: no ciphers, no files.
pub(super) fn words(raw: &str) -> String {
    words_under(raw, &TOLD)
}

/// The same, of the fields of these names alone.
///
/// No tree is made of the value: it may be as large as a body.
pub(super) fn words_under(raw: &str, names: &[&str]) -> String {
    let mut words = String::new();
    gather(&mut Cursor::new(raw), "text", names, &mut words);
    words
}

fn gather(cursor: &mut Cursor<'_>, key: &str, names: &[&str], words: &mut String) {
    match cursor.peek() {
        Some(b'[') => cursor.items(|cursor, _| gather(cursor, key, names, words)),
        Some(b'{') => {
            let (mut is_text, mut data) = (false, None);
            cursor.members(|cursor, key| match &*key {
                "media_type" => is_text = cursor.value() == "\"text/plain\"",
                "data" => data = Some(cursor.value()),
                key => gather(cursor, key, names, words),
            });
            if let Some(data) = data.filter(|_| is_text && names.contains(&"text")) {
                say(data, words);
            }
        }
        _ => {
            let raw = cursor.value();
            if names.contains(&key) {
                say(raw, words);
            }
        }
    }
}

/// Puts the text of a string behind the others.
fn say(raw: &str, words: &mut String) {
    let text = text_of(raw).unwrap_or_default();
    if !text.is_empty() && !words.is_empty() {
        words.push('\n');
    }
    words.push_str(&text);
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
        // The file may stand before what says that it is text.
        let turned = r#"{"source":{"data":"C","media_type":"text/plain"},"data":"D"}"#;
        assert_eq!(words(turned), "C");
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
