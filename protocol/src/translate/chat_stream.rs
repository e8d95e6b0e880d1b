//! A streamed reply as OpenAI's chat completion chunks.
//!
//! The order of events is the one that Ollama's own front has, because clients are tested against
//! it: the role once, with the first piece's content even where that is empty; a chunk for each piece
//! (two where thinking and content come together, thinking first); at the end, the finish reason, the
//! usage if it was asked for, and `[DONE]`.
//!
//! Thinking goes out as `reasoning` (Ollama, OpenRouter) and as `reasoning_content` (vLLM, llama.cpp,
//! DeepSeek): clients read one or the other, and the second copy costs a few bytes of a thinking
//! chunk and nothing anywhere else.
//!
//! A chunk is not serialized. What is the same in all chunks is built once; the content is spliced
//! in between, escaped as the upstream escaped it. In the steady state nothing is allocated.

use bytes::{BufMut, BytesMut};
use serde_json::value::RawValue;

use super::{
    calls,
    chat_reply::{ReplyMeta, write_end, write_head},
    piece::{CallPiece, Piece, Reason},
};
use crate::{
    json::{splice_list, splice_string, write_string},
    usage::Usage,
};

/// The end of a chunk that is not the last, after its delta.
const CHUNK_END: &[u8] = b",\"finish_reason\":null}]}\n\n";
/// The beginning of the first chunk and of every other one, after the head.
const FIRST: &[u8] = b"{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":";
const NEXT: &[u8] = b"{\"index\":0,\"delta\":{\"content\":";

/// What is written of one stream.
#[derive(Debug)]
pub(super) struct ChatStream {
    meta: ReplyMeta,
    include_usage: bool,
    /// An event up to its list of choices, which is still empty.
    head: Vec<u8>,
    /// A chunk that is not the first, up to its content.
    next: Vec<u8>,
    /// The role has been sent.
    is_started: bool,
    /// Tool calls have been sent.
    has_calls: bool,
}

/// What goes into one chunk.
#[derive(Clone, Copy, Default)]
struct Delta<'a> {
    content: Option<&'a RawValue>,
    thinking: Option<&'a RawValue>,
    calls: &'a [CallPiece<'a>],
    logprobs: Option<&'a RawValue>,
}

// === impl ChatStream ===

impl ChatStream {
    /// All its events carry `meta`.
    pub(super) fn new(meta: ReplyMeta, include_usage: bool) -> Self {
        let mut head = b"data: ".to_vec();
        write_head(&meta, "chat.completion.chunk", &mut head);
        let next = [head.as_slice(), NEXT].concat();
        Self { meta, include_usage, head, next, is_started: false, has_calls: false }
    }

    /// Writes the chunks of a piece; `None` where something is not what it must be.
    pub(super) fn piece(
        &mut self,
        piece: &Piece<'_>,
        is_last: bool,
        out: &mut BytesMut,
    ) -> Option<()> {
        if is_last && self.is_started && !piece.carries() && piece.logprobs.is_none() {
            return Some(());
        }
        let Piece { content, thinking, logprobs, .. } = *piece;
        let mut delta = Delta { content, thinking, calls: &piece.calls, logprobs };
        if thinking.is_some() && (piece.has_content() || !piece.calls.is_empty()) {
            let first = Delta { content: None, calls: &[], ..delta };
            self.chunk(first, out)?;
            delta = Delta { thinking: None, logprobs: None, ..delta };
        }
        self.chunk(delta, out)
    }

    fn chunk(&mut self, delta: Delta<'_>, out: &mut BytesMut) -> Option<()> {
        let content = delta.content.map_or("\"\"", RawValue::get);
        // OpenAI says null beside calls.
        let content = if content == "null" { "\"\"" } else { content };
        out.reserve(self.next.len() + content.len() + 128);
        if self.is_started {
            out.put_slice(&self.next);
        } else {
            out.put_slice(&self.head);
            out.put_slice(FIRST);
            self.is_started = true;
        }
        splice_string(content, out)?;
        if let Some(thinking) = delta.thinking {
            out.put_slice(b",\"reasoning\":");
            splice_string(thinking.get(), out)?;
            out.put_slice(b",\"reasoning_content\":");
            splice_string(thinking.get(), out)?;
        }
        if !delta.calls.is_empty() {
            out.put_slice(b",\"tool_calls\":");
            calls::write(delta.calls, &self.meta.id, out)?;
            self.has_calls = true;
        }
        out.put_u8(b'}');
        if let Some(logprobs) = delta.logprobs {
            out.put_slice(b",\"logprobs\":{\"content\":");
            splice_list(logprobs.get(), out)?;
            out.put_u8(b'}');
        }
        out.put_slice(CHUNK_END);
        Some(())
    }

    /// Writes the end.
    pub(super) fn finish(&mut self, reason: Reason, usage: Usage, out: &mut BytesMut) {
        out.put_slice(&self.head);
        out.put_slice(b"{\"index\":0,\"delta\":{},\"finish_reason\":");
        write_string(reason.openai(self.has_calls), out);
        write_end(&self.head, self.include_usage.then_some(usage), out);
    }
}
