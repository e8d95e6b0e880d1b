//! What an OpenAI-compatible server says beside the two plain strings of a message: a list of parts as content
//! (Mistral's reasoning models), a list of details as reasoning (OpenRouter).
//!
//! Sources: <https://docs.mistral.ai/capabilities/reasoning/>,
//! <https://openrouter.ai/docs/use-cases/reasoning-tokens>.

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{json, translate::piece::Piece};

/// A text of its own.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) is_thinking: bool,
    /// A JSON string with something in it.
    pub(crate) text: Box<RawValue>,
}

/// A part of a content, or a detail of a reasoning.
#[derive(Deserialize)]
struct Part<'a> {
    r#type: Option<String>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    summary: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
}

/// The texts of a content that is a list, in its order; `None` where a part of it is no text.
pub(crate) fn content(raw: &RawValue) -> Option<Vec<Said>> {
    let mut all: Vec<(bool, String)> = Vec::new();
    let mut add = |is_thinking: bool, text: String| match all.last_mut() {
        Some((last, said)) if *last == is_thinking => said.push_str(&text),
        _ => all.push((is_thinking, text)),
    };
    for raw in serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok()? {
        if raw.get().starts_with('"') {
            add(false, json::text_of(raw.get())?.into_owned());
            continue;
        }
        let part: Part<'_> = json::read_object(raw.get())?;
        match part.r#type.as_deref() {
            Some("thinking" | "reasoning") => {
                let thought = [part.thinking, part.reasoning, part.text, part.summary];
                add(true, inner(thought.into_iter().flatten().next()?)?);
            }
            Some("refusal") => add(false, inner(part.refusal?)?),
            // It only points to a source.
            Some("reference") => {}
            _ => add(false, inner(part.text?)?),
        }
    }
    all.retain(|(_, text)| !text.is_empty());
    all.into_iter().map(|(is_thinking, text)| Said::new(is_thinking, &text)).collect()
}

/// The texts among the details of a reasoning.
pub(crate) fn details(raw: &RawValue) -> Option<Said> {
    let parts: Vec<Part<'_>> = serde_json::from_str(raw.get()).ok()?;
    let texts = parts.iter().filter_map(|part| inner(part.text.or(part.summary)?));
    let text: String = texts.collect();
    if text.is_empty() { None } else { Said::new(true, &text) }
}

/// All the thinking as one text, and after it all the content.
pub(crate) fn joined(all: &[Said]) -> Option<Vec<Said>> {
    let text = |is_thinking: bool| -> Option<String> {
        let own = all.iter().filter(|said| said.is_thinking == is_thinking);
        own.map(|said| json::text_of(said.text.get())).collect()
    };
    let both = [(true, text(true)?), (false, text(false)?)];
    let both = both.into_iter().filter(|(_, text)| !text.is_empty());
    both.map(|(is_thinking, text)| Said::new(is_thinking, &text)).collect()
}

/// A string, or the texts of a list of parts.
fn inner(raw: &RawValue) -> Option<String> {
    if raw.get().starts_with('"') {
        return json::text_of(raw.get()).map(std::borrow::Cow::into_owned);
    }
    let parts: Vec<Part<'_>> = serde_json::from_str(raw.get()).ok()?;
    parts.iter().map(|part| json::text_of(part.text?.get())).collect()
}

// === impl Said ===

impl Said {
    fn new(is_thinking: bool, text: &str) -> Option<Self> {
        to_raw_value(text).ok().map(|text| Self { is_thinking, text })
    }

    /// What a piece says, thinking first.
    pub(crate) fn of_piece(piece: &Piece<'_>) -> Vec<Self> {
        let said = |is_thinking, text: &RawValue| Self { is_thinking, text: text.to_owned() };
        let thinking = piece.thinking.map(|text| said(true, text));
        let content = piece.content.filter(|_| piece.has_content()).map(|text| said(false, text));
        thinking.into_iter().chain(content).collect()
    }

    /// The same as a piece.
    pub(crate) fn piece(&self) -> Piece<'_> {
        let text = Some(&*self.text);
        if self.is_thinking {
            Piece { thinking: text, ..Piece::default() }
        } else {
            Piece { content: text, ..Piece::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<(bool, String)>> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let text =
            |said: Said| (said.is_thinking, json::text_of(said.text.get()).unwrap().into_owned());
        content(raw).map(|said| said.into_iter().map(text).collect())
    }

    #[test]
    fn parts_are_texts_in_their_order() {
        let said = |parts: &[(bool, &str)]| {
            Some(
                parts
                    .iter()
                    .map(|(is_thinking, text)| (*is_thinking, (*text).to_owned()))
                    .collect(),
            )
        };
        let list = r#"[{"type":"thinking","thinking":[{"type":"text","text":"a"},{"text":"b"}],"closed":true},
            {"type":"text","text":"c"},"d",{"type":"reference","reference_ids":[1]},
            {"type":"reasoning","text":"e"},{"type":"text","text":""},{"type":"refusal","refusal":"f"}]"#;
        assert_eq!(read(list), said(&[(true, "ab"), (false, "cd"), (true, "e"), (false, "f")]));
        assert_eq!(read("[]"), said(&[]));
        for bad in [r#"[{"type":"image_url","image_url":"a"}]"#, "[1]", r#"[{"type":"thinking"}]"#]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn details_of_a_reasoning_are_one_text() {
        let said = |text: &str| {
            details(serde_json::from_str(text).unwrap()).map(|said| said.text.get().to_owned())
        };
        let list = r#"[{"type":"reasoning.summary","summary":"a"},{"type":"reasoning.encrypted","data":"x"},
            {"type":"reasoning.text","text":"b","signature":null}]"#;
        assert_eq!(said(list).as_deref(), Some("\"ab\""));
        assert_eq!((said("[]"), said("{}")), (None, None));
    }
}
