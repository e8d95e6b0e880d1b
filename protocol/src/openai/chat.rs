//! The messages of a request to `/v1/chat/completions`, borrowed from its body.
//!
//! Values whose type the client may choose stay as text until it is known which it chose.

use std::borrow::Cow;

use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{body::Text, json::Cursor};

#[derive(Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) role: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) content: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) name: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) reasoning_content: Option<&'a RawValue>,
    /// As OpenRouter has it.
    #[serde(borrow)]
    pub(crate) reasoning_details: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) audio: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) tool_call_id: Option<&'a RawValue>,
}

/// A piece of a message's content.
#[derive(Deserialize)]
pub(crate) struct Part<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) text: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) input_audio: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct ImageUrl<'a> {
    #[serde(borrow)]
    pub(crate) url: Text<'a>,
}

#[derive(Deserialize)]
pub(crate) struct InputAudio<'a> {
    #[serde(borrow)]
    pub(crate) data: Text<'a>,
}

#[derive(Deserialize)]
pub(crate) struct ToolCall<'a> {
    #[serde(borrow)]
    pub(crate) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) function: Option<Function<'a>>,
    #[serde(borrow)]
    pub(crate) custom: Option<Custom<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Function<'a> {
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
    #[serde(borrow)]
    pub(crate) arguments: Option<&'a RawValue>,
}

/// A call of a tool that takes one text.
#[derive(Deserialize)]
pub(crate) struct Custom<'a> {
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
    #[serde(borrow)]
    pub(crate) input: Text<'a>,
}

/// What is read of a tool: the rest passes as it stands.
#[derive(Deserialize)]
pub(crate) struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) function: Option<ToolFunction<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct ToolFunction<'a> {
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
}

/// A tool that is to be called, or those that may be.
#[derive(Deserialize)]
pub(crate) struct ToolChoice<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) custom: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) allowed_tools: Option<AllowedTools<'a>>,
    #[serde(borrow)]
    pub(crate) mode: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) tools: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    pub(crate) function: Option<ToolFunction<'a>>,
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
}

/// The tools that may be called; the newer API has both members beside the type.
#[derive(Deserialize)]
pub(crate) struct AllowedTools<'a> {
    #[serde(borrow)]
    pub(crate) mode: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) tools: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
}

#[derive(Deserialize)]
pub(crate) struct Reasoning<'a> {
    #[serde(borrow)]
    pub(crate) effort: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) mode: Option<Text<'a>>,
    /// As OpenRouter has it, like the next.
    pub(crate) enabled: Option<bool>,
    pub(crate) exclude: Option<bool>,
}

#[derive(Deserialize)]
pub(crate) struct ResponseFormat<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) json_schema: Option<JsonSchema<'a>>,
    /// In the place where llama.cpp has it.
    #[serde(borrow)]
    pub(crate) schema: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct JsonSchema<'a> {
    #[serde(borrow)]
    pub(crate) schema: Option<&'a RawValue>,
}

/// Whether it is one text, or several.
pub(crate) fn are_texts(raw: &RawValue) -> bool {
    // Only an escape can be wrong in a string of a body that has been read.
    let is_text = |text: &str| {
        text.starts_with('"')
            && (memchr(b'\\', text.as_bytes()).is_none()
                || serde_json::from_str::<Text<'_>>(text).is_ok())
    };
    if !raw.get().starts_with('[') {
        return is_text(raw.get());
    }
    let mut are_texts = true;
    Cursor::new(raw.get()).items(|cursor, _| {
        are_texts &= is_text(cursor.value());
        if !are_texts {
            cursor.end();
        }
    });
    are_texts
}

/// One text, or several.
pub(crate) fn texts(raw: &RawValue) -> Option<Vec<Cow<'_, str>>> {
    if raw.get().starts_with('"') {
        let Text(text) = serde_json::from_str(raw.get()).ok()?;
        return Some(vec![text]);
    }
    let texts: Vec<Text<'_>> = serde_json::from_str(raw.get()).ok()?;
    Some(texts.into_iter().map(|Text(text)| text).collect())
}
