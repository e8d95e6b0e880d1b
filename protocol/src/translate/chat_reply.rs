//! A whole reply as a completion of OpenAI's chat.

use bytes::BufMut;

use super::{
    calls,
    piece::{Ending, Piece},
};
use crate::{
    json::{splice_list, splice_string, write_string},
    sse,
    usage::Usage,
};

/// What the gateway says of a reply, in place of the model server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyMeta {
    /// The id of the reply, without what stands before it in each dialect (`chatcmpl-`, `msg_`).
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The model, as the client is to see it.
    pub model: String,
}

/// Writes a completion; `None` where something is not what it must be.
///
/// Thinking goes out under both of its names, as in a stream (see [`super::chat_stream`]).
pub(super) fn write(
    piece: &Piece<'_>,
    ending: Ending,
    usage: Usage,
    meta: &ReplyMeta,
    out: &mut Vec<u8>,
) -> Option<()> {
    write_head(meta, "chat.completion", out);
    out.put_slice(b"{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    match piece.content.filter(|raw| raw.get() != "null") {
        Some(content) => splice_string(content.get(), out)?,
        None => out.put_slice(b"\"\""),
    }
    if let Some(thinking) = piece.thinking {
        out.put_slice(b",\"reasoning\":");
        splice_string(thinking.get(), out)?;
        out.put_slice(b",\"reasoning_content\":");
        splice_string(thinking.get(), out)?;
    }
    if !piece.calls.is_empty() {
        out.put_slice(b",\"tool_calls\":");
        calls::write(&piece.calls, &meta.id, out)?;
    }
    out.put_slice(b"}");
    if let Some(logprobs) = piece.logprobs {
        out.put_slice(b",\"logprobs\":{\"content\":");
        splice_list(logprobs.get(), out)?;
        out.put_u8(b'}');
    }
    out.put_slice(b",\"finish_reason\":");
    write_string(ending.reason.openai(!piece.calls.is_empty()), out);
    out.put_slice(b"}],\"usage\":");
    write_usage(usage, out);
    out.put_u8(b'}');
    Some(())
}

/// Writes a completion or a chunk up to its first choice.
pub(super) fn write_head(meta: &ReplyMeta, object: &str, out: &mut impl BufMut) {
    out.put_slice(b"{\"id\":\"chatcmpl-");
    out.put_slice(meta.id.as_bytes());
    out.put_u8(b'"');
    out.put_slice(b",\"object\":");
    write_string(object, out);
    out.put_slice(b",\"created\":");
    out.put_slice(meta.created.to_string().as_bytes());
    out.put_slice(b",\"model\":");
    write_string(&meta.model, out);
    out.put_slice(b",\"system_fingerprint\":\"fp_ollama\",\"choices\":[");
}

/// Writes what follows the finish reason of a stream, whose chunks begin with `head`: the usage, where it was
/// asked for, and the end.
pub(super) fn write_end(head: &[u8], usage: Option<Usage>, out: &mut impl BufMut) {
    out.put_slice(b"}]}\n\n");
    if let Some(usage) = usage {
        out.put_slice(head);
        out.put_slice(b"],\"usage\":");
        write_usage(usage, out);
        out.put_slice(b"}\n\n");
    }
    out.put_slice(sse::DONE);
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
