//! A reply as Anthropic's message, whole and streamed.
//!
//! A stream is a sequence of blocks (thinking, text, a tool's use), each begun, filled and ended before
//! the next one begins. The tokens of the prompt stand in its first event, before anybody has counted
//! them: there they are an estimate, and the last event but one corrects it.
//!
//! Source: <https://docs.anthropic.com/en/api/messages-streaming>.

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json, value::RawValue};

use super::{
    calls,
    chat_reply::ReplyMeta,
    piece::{Arguments, CallPiece, Ending, Piece, Reason},
};
use crate::{
    json::{splice_string, write_string},
    openai::reply::text_of,
    sse,
    usage::Usage,
};

/// What is written of one stream.
#[derive(Debug)]
pub(super) struct MessageStream {
    meta: ReplyMeta,
    /// What the prompt is taken for, in tokens.
    prompt: u64,
    is_started: bool,
    open: Option<Block>,
    /// Blocks that have been begun.
    blocks: usize,
    has_calls: bool,
}

/// A block that is being filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Call(usize),
}

/// Writes a whole message of pieces; `None` where something is not what it must be.
pub(super) fn write(
    pieces: &[Piece<'_>],
    ending: Ending,
    usage: Usage,
    meta: &ReplyMeta,
) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let mut has_calls = false;
    for piece in pieces {
        if let Some(thinking) = text_of(piece.thinking) {
            content.push(json!({ "type": "thinking", "thinking": thinking, "signature": "" }));
        }
        if piece.has_content() {
            content.push(json!({ "type": "text", "text": text_of(piece.content)? }));
        }
        for call in &piece.calls {
            let (id, name) = (calls::id(call, &meta.id), call.name.as_deref()?);
            let input = calls::object(&call.arguments.text()?)?;
            content.push(json!({ "type": "tool_use", "id": id, "name": name, "input": input }));
        }
        has_calls |= !piece.calls.is_empty();
    }
    let mut message = message(meta, usage);
    message["content"] = content.into();
    message["stop_reason"] = ending.reason.anthropic(has_calls).into();
    Some(message.to_string().into_bytes())
}

/// A message without content.
fn message(meta: &ReplyMeta, usage: Usage) -> Value {
    json!({
        "id": format!("msg_{}", meta.id),
        "type": "message",
        "role": "assistant",
        "model": meta.model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": { "input_tokens": usage.prompt, "output_tokens": usage.completion },
    })
}

// === impl MessageStream ===

impl MessageStream {
    pub(super) fn new(meta: ReplyMeta, prompt: u64) -> Self {
        Self { meta, prompt, is_started: false, open: None, blocks: 0, has_calls: false }
    }

    pub(super) fn piece(&mut self, piece: &Piece<'_>, out: &mut BytesMut) -> Option<()> {
        self.start(out);
        if let Some(thinking) = piece.thinking {
            self.begin(
                Block::Thinking,
                out,
                || json!({ "type": "thinking", "thinking": "", "signature": "" }),
            );
            self.delta("thinking_delta", "thinking", thinking, out)?;
        }
        if let Some(content) = piece.content.filter(|_| piece.has_content()) {
            self.begin(Block::Text, out, || json!({ "type": "text", "text": "" }));
            self.delta("text_delta", "text", content, out)?;
        }
        piece.calls.iter().try_for_each(|call| self.call(call, out))
    }

    pub(super) fn finish(&mut self, reason: Reason, usage: Usage, out: &mut BytesMut) {
        self.start(out);
        self.end(out);
        let last = json!({
            "type": "message_delta",
            "delta": { "stop_reason": reason.anthropic(self.has_calls), "stop_sequence": null },
            "usage": { "input_tokens": usage.prompt, "output_tokens": usage.completion },
        });
        event(&last, out);
        event(&json!({ "type": "message_stop" }), out);
    }

    fn start(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.is_started, true) {
            return;
        }
        let usage = Usage { prompt: self.prompt, completion: 0, estimated: true };
        event(&json!({ "type": "message_start", "message": message(&self.meta, usage) }), out);
    }

    fn call(&mut self, call: &CallPiece<'_>, out: &mut BytesMut) -> Option<()> {
        if let Some(name) = &call.name {
            self.has_calls = true;
            let id = calls::id(call, &self.meta.id);
            let block = || json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
            self.begin(Block::Call(call.index), out, block);
        }
        // A part of a call that is not open has no place in a sequence of blocks.
        if self.open != Some(Block::Call(call.index)) {
            return None;
        }
        match &call.arguments {
            Arguments::Text(raw) => self.delta("input_json_delta", "partial_json", raw, out),
            Arguments::Object(_) | Arguments::Held(_) => {
                let text = call.arguments.text()?;
                self.delta_head("input_json_delta", "partial_json", out);
                write_string(&text, out);
                out.put_slice(DELTA_END);
                Some(())
            }
            Arguments::Empty => Some(()),
        }
    }

    /// Begins a block, unless it is open already.
    fn begin(&mut self, block: Block, out: &mut BytesMut, content: impl FnOnce() -> Value) {
        if self.open == Some(block) {
            return;
        }
        self.end(out);
        let (index, content_block) = (self.blocks, content());
        let begun = json!({ "type": "content_block_start", "index": index, "content_block": content_block });
        event(&begun, out);
        self.blocks += 1;
        self.open = Some(block);
    }

    /// Ends the block that is open.
    fn end(&mut self, out: &mut BytesMut) {
        if self.open.take().is_some() {
            event(&json!({ "type": "content_block_stop", "index": self.blocks - 1 }), out);
        }
    }

    fn delta(&self, kind: &str, field: &str, text: &RawValue, out: &mut BytesMut) -> Option<()> {
        self.delta_head(kind, field, out);
        splice_string(text.get(), out)?;
        out.put_slice(DELTA_END);
        Some(())
    }

    fn delta_head(&self, kind: &str, field: &str, out: &mut BytesMut) {
        out.put_slice(
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":",
        );
        out.put_slice((self.blocks - 1).to_string().as_bytes());
        out.put_slice(b",\"delta\":{\"type\":\"");
        out.put_slice(kind.as_bytes());
        out.put_slice(b"\",\"");
        out.put_slice(field.as_bytes());
        out.put_slice(b"\":");
    }
}

const DELTA_END: &[u8] = b"}}\n\n";

fn event(data: &Value, out: &mut BytesMut) {
    let kind = data["type"].as_str().unwrap_or_default();
    sse::named_event(kind, data.to_string().as_bytes(), out);
}
