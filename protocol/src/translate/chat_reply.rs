//! A whole reply of `/api/chat` as a completion of OpenAI's.

use bytes::BufMut;

use super::{calls, finish_reason};
use crate::{
    json::{splice_list, splice_string, write_string},
    ollama::reply::{Line, is_filled},
    usage::Usage,
};

/// What the gateway says of a reply, in place of the model server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyMeta {
    /// The id of the completion (`chatcmpl-…`).
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The model, as the client is to see it.
    pub model: String,
}

/// Why a reply cannot be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// It is no JSON object of the shape that is promised.
    #[error("the reply is not what the model server's API promises")]
    NotJson,
    /// It says that the model server failed.
    #[error("the model server reported an error")]
    UpstreamError,
    /// It does not say that it is done: the model stopped in the middle.
    #[error("the reply broke off")]
    BrokenOff,
}

/// Translates a whole reply, and tells what it used.
///
/// Thinking goes out under both of its names, as in a stream (see [`super::chat_stream`]).
///
/// # Errors
/// [`ReplyError`] where it is no whole reply. Nothing of it may reach the client then.
pub fn chat_reply(native: &[u8], meta: &ReplyMeta) -> Result<(Vec<u8>, Usage), ReplyError> {
    let line = Line::read(native).ok_or(ReplyError::NotJson)?;
    if line.error.is_some() {
        return Err(ReplyError::UpstreamError);
    }
    if line.done != Some(true) {
        return Err(ReplyError::BrokenOff);
    }
    let usage = Usage {
        prompt: line.prompt_tokens(),
        completion: line.produced_tokens(),
        estimated: false,
    };
    let mut out = Vec::with_capacity(native.len() + 512);
    write_head(meta, "chat.completion", &mut out);
    out.put_slice(b"{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    write_message(&line, meta, &mut out).ok_or(ReplyError::NotJson)?;
    out.put_slice(b"],\"usage\":");
    write_usage(usage, &mut out);
    out.put_u8(b'}');
    Ok((out, usage))
}

/// What follows the role, up to the end of the choice; `None` where something is not what it must
/// be.
fn write_message(line: &Line<'_>, meta: &ReplyMeta, out: &mut Vec<u8>) -> Option<()> {
    let message = line.message?;
    match message.content {
        Some(content) => splice_string(content.get(), out)?,
        None => out.put_slice(b"\"\""),
    }
    if let Some(thinking) = message.thinking.filter(|raw| is_filled(Some(raw))) {
        out.put_slice(b",\"reasoning\":");
        splice_string(thinking.get(), out)?;
        out.put_slice(b",\"reasoning_content\":");
        splice_string(thinking.get(), out)?;
    }
    let mut has_calls = false;
    if let Some(raw) = message.tool_calls.filter(|raw| is_filled(Some(raw))) {
        out.put_slice(b",\"tool_calls\":");
        has_calls = calls::write(raw, &meta.id, 0, out)? > 0;
    }
    out.put_slice(b"}");
    if let Some(logprobs) = line.logprobs.filter(|raw| is_filled(Some(raw))) {
        out.put_slice(b",\"logprobs\":{\"content\":");
        splice_list(logprobs.get(), out)?;
        out.put_u8(b'}');
    }
    out.put_slice(b",\"finish_reason\":");
    write_string(finish_reason(line.done_reason.as_deref(), has_calls), out);
    out.put_u8(b'}');
    Some(())
}

/// Writes a completion or a chunk up to its first choice.
pub(super) fn write_head(meta: &ReplyMeta, object: &str, out: &mut impl BufMut) {
    out.put_slice(b"{\"id\":");
    write_string(&meta.id, out);
    out.put_slice(b",\"object\":");
    write_string(object, out);
    out.put_slice(b",\"created\":");
    out.put_slice(meta.created.to_string().as_bytes());
    out.put_slice(b",\"model\":");
    write_string(&meta.model, out);
    out.put_slice(b",\"system_fingerprint\":\"fp_ollama\",\"choices\":[");
}

/// Writes a usage object.
pub(super) fn write_usage(usage: Usage, out: &mut impl BufMut) {
    let Usage { prompt, completion, .. } = usage;
    let total = usage.total();
    let text = format!(
        r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total}}}"#
    );
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta() -> ReplyMeta {
        ReplyMeta { id: "chatcmpl-1".to_owned(), created: 1, model: "m".to_owned() }
    }

    fn fault(native: &str) -> ReplyError {
        chat_reply(native.as_bytes(), &meta()).unwrap_err()
    }

    #[test]
    fn what_is_no_whole_reply_is_never_a_completion() {
        for native in
            ["", "x", "[]", r#"{"done":true}"#, r#"{"message":{"content":1},"done":true}"#]
        {
            assert_eq!(fault(native), ReplyError::NotJson, "{native}");
        }
        assert_eq!(fault(r#"{"error":"boom"}"#), ReplyError::UpstreamError);
        for native in ["{}", r#"{"message":{"content":"half"},"done":false}"#] {
            assert_eq!(fault(native), ReplyError::BrokenOff, "{native}");
        }
    }

    proptest! {
        #[test]
        fn every_text_arrives_as_it_was(content in any::<String>(), thinking in any::<String>()) {
            let native = serde_json::json!({
                "message": { "role": "assistant", "content": content, "thinking": thinking },
                "done": true, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 4,
            });
            let (bytes, usage) = chat_reply(native.to_string().as_bytes(), &meta()).unwrap();
            let reply: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let message = &reply["choices"][0]["message"];
            prop_assert_eq!(&message["content"], &content);
            if thinking.is_empty() {
                prop_assert!(message.get("reasoning").is_none());
            } else {
                prop_assert_eq!(&message["reasoning"], &thinking);
                prop_assert_eq!(&message["reasoning_content"], &thinking);
            }
            prop_assert_eq!(usage.total(), 7);
        }
    }
}
