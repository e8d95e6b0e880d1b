//! A reply as OpenAI's completion of plain text, whole and streamed.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::{
    chat_reply::{ReplyMeta, write_end, write_usage},
    piece::{Ending, Piece, Reason},
};
use crate::{
    json::{self, splice_string, write_string},
    usage::Usage,
};

/// What is written of one stream.
#[derive(Debug)]
pub(super) struct CompletionStream {
    head: Vec<u8>,
    include_usage: bool,
    /// The prompt, where it is to stand before the reply.
    echo: Option<String>,
}

/// Writes a whole completion; `None` where something is not what it must be.
pub(super) fn write(
    piece: &Piece<'_>,
    ending: Ending,
    usage: Usage,
    (meta, echo): (&ReplyMeta, Option<&str>),
    out: &mut Vec<u8>,
) -> Option<()> {
    write_head(meta, out);
    out.put_slice(b"{\"text\":");
    match echo {
        None => text(piece, out)?,
        Some(echo) => {
            let content = piece.content.filter(|raw| raw.get() != "null");
            let said = content.map_or(Some(Cow::Borrowed("")), |raw| json::text_of(raw.get()))?;
            write_string(&format!("{echo}{said}"), out);
        }
    }
    out.put_slice(b",\"index\":0,\"logprobs\":null,\"finish_reason\":");
    write_string(ending.reason.openai(false), out);
    out.put_slice(b"}],\"usage\":");
    write_usage(usage, out);
    out.put_u8(b'}');
    Some(())
}

// === impl CompletionStream ===

impl CompletionStream {
    pub(super) fn new(meta: &ReplyMeta, include_usage: bool, echo: Option<String>) -> Self {
        let mut head = b"data: ".to_vec();
        write_head(meta, &mut head);
        Self { head, include_usage, echo }
    }

    pub(super) fn piece(&mut self, piece: &Piece<'_>, out: &mut BytesMut) -> Option<()> {
        if let Some(echo) = self.echo.take() {
            self.chunk(out, |out| {
                write_string(&echo, out);
                Some(())
            })?;
        }
        if piece.has_content() { self.chunk(out, |out| text(piece, out)) } else { Some(()) }
    }

    pub(super) fn finish(&mut self, reason: Reason, usage: Usage, out: &mut BytesMut) {
        out.put_slice(&self.head);
        out.put_slice(b"{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":");
        write_string(reason.openai(false), out);
        write_end(&self.head, self.include_usage.then_some(usage), out);
    }

    fn chunk(
        &self,
        out: &mut BytesMut,
        text: impl FnOnce(&mut BytesMut) -> Option<()>,
    ) -> Option<()> {
        out.put_slice(&self.head);
        out.put_slice(b"{\"text\":");
        text(out)?;
        out.put_slice(b",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]}\n\n");
        Some(())
    }
}

fn text(piece: &Piece<'_>, out: &mut impl BufMut) -> Option<()> {
    match piece.content.filter(|raw| raw.get() != "null") {
        Some(content) => splice_string(content.get(), out),
        None => {
            out.put_slice(b"\"\"");
            Some(())
        }
    }
}

fn write_head(meta: &ReplyMeta, out: &mut impl BufMut) {
    out.put_slice(b"{\"id\":\"cmpl-");
    out.put_slice(meta.id.as_bytes());
    out.put_slice(b"\",\"object\":\"text_completion\",\"created\":");
    out.put_slice(meta.created.to_string().as_bytes());
    out.put_slice(b",\"model\":");
    write_string(&meta.model, out);
    out.put_slice(b",\"system_fingerprint\":\"fp_ollama\",\"choices\":[");
}
