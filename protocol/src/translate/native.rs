//! A reply of an OpenAI-compatible server as Ollama's, whole and streamed.
//!
//! Ollama gives the arguments of a call whole, as an object: parts are gathered until the next call
//! begins or the reply ends.

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json, value::RawValue};

use super::{
    calls,
    chat_reply::ReplyMeta,
    piece::{CallPiece, Ending, Piece, Reason},
};
use crate::{
    json::{escape_line_ends, splice_list, splice_string, write_string},
    openai::reply::text_of,
    route::Route,
    usage::Usage,
};

/// What is written of one stream.
#[derive(Debug)]
pub(super) struct NativeLines {
    meta: ReplyMeta,
    /// A line up to what the model said.
    head: Vec<u8>,
    is_chat: bool,
    call: Option<Gathered>,
}

/// A call whose arguments are still coming.
#[derive(Debug)]
struct Gathered {
    index: usize,
    id: String,
    name: String,
    arguments: String,
}

/// Writes a whole reply; `None` where something is not what it must be.
pub(super) fn write(
    piece: &Piece<'_>,
    ending: Ending,
    usage: Usage,
    (meta, route): (&ReplyMeta, Route),
) -> Option<Vec<u8>> {
    let lines = NativeLines::new(meta.clone(), route);
    let call = |call| Gathered::new(call, &meta.id)?.call();
    let calls: Option<Vec<Value>> = piece.calls.iter().map(call).collect();
    let calls = calls?;
    let mut reply = lines.last(ending.reason, usage);
    let said = if lines.is_chat { &mut reply["message"] } else { &mut reply };
    said[if lines.is_chat { "content" } else { "response" }] =
        match piece.content.filter(|raw| raw.get() != "null") {
            Some(content) => text_of(Some(content))?.into(),
            None => "".into(),
        };
    if let Some(thinking) = text_of(piece.thinking) {
        said["thinking"] = thinking.into();
    }
    if !calls.is_empty() {
        said["tool_calls"] = calls.into();
    }
    if let Some(logprobs) = piece.logprobs {
        reply["logprobs"] = serde_json::from_str(logprobs.get()).ok()?;
    }
    Some(reply.to_string().into_bytes())
}

// === impl NativeLines ===

impl NativeLines {
    pub(super) fn new(meta: ReplyMeta, route: Route) -> Self {
        let is_chat = route == Route::OllamaChat;
        let mut head = b"{\"model\":".to_vec();
        write_string(&meta.model, &mut head);
        head.extend_from_slice(b",\"created_at\":");
        write_string(&created_at(&meta), &mut head);
        head.extend_from_slice(if is_chat {
            b",\"message\":{\"role\":\"assistant\",\"content\":"
        } else {
            b",\"response\":"
        });
        Self { meta, head, is_chat, call: None }
    }

    pub(super) fn piece(&mut self, piece: &Piece<'_>, out: &mut BytesMut) -> Option<()> {
        let start = out.len();
        self.lines(piece, out)?;
        escape_line_ends(out, start);
        Some(())
    }

    fn lines(&mut self, piece: &Piece<'_>, out: &mut BytesMut) -> Option<()> {
        if piece.has_content() || piece.thinking.is_some() {
            self.line(piece.content, piece.thinking, piece.logprobs, out)?;
        }
        for part in &piece.calls {
            match &mut self.call {
                Some(call) if call.index == part.index && part.name.is_none() => {
                    call.arguments.push_str(&part.arguments.text()?);
                }
                _ => {
                    self.flush(out)?;
                    self.call = Some(Gathered::new(part, &self.meta.id)?);
                }
            }
        }
        Some(())
    }

    /// Writes the end; `None` where a call is not whole, unless it was the greatest length that cut it off:
    /// Ollama's dialect has no half of a call.
    pub(super) fn finish(
        &mut self,
        reason: Reason,
        usage: Usage,
        out: &mut BytesMut,
    ) -> Option<()> {
        let start = out.len();
        if self.flush(out).is_none() && reason != Reason::Length {
            return None;
        }
        out.put_slice(self.last(reason, usage).to_string().as_bytes());
        out.put_u8(b'\n');
        escape_line_ends(out, start);
        Some(())
    }

    fn line(
        &self,
        content: Option<&RawValue>,
        thinking: Option<&RawValue>,
        logprobs: Option<&RawValue>,
        out: &mut BytesMut,
    ) -> Option<()> {
        out.put_slice(&self.head);
        match content.filter(|raw| raw.get() != "null") {
            Some(content) => splice_string(content.get(), out)?,
            None => out.put_slice(b"\"\""),
        }
        if let Some(thinking) = thinking {
            out.put_slice(b",\"thinking\":");
            splice_string(thinking.get(), out)?;
        }
        if self.is_chat {
            out.put_u8(b'}');
        }
        if let Some(logprobs) = logprobs {
            out.put_slice(b",\"logprobs\":");
            splice_list(logprobs.get(), out)?;
        }
        out.put_slice(b",\"done\":false}\n");
        Some(())
    }

    /// Writes the call that has been gathered.
    fn flush(&mut self, out: &mut BytesMut) -> Option<()> {
        let Some(call) = self.call.take() else { return Some(()) };
        let call = call.call()?;
        out.put_slice(&self.head);
        out.put_slice(b"\"\",\"tool_calls\":[");
        out.put_slice(call.to_string().as_bytes());
        out.put_slice(if self.is_chat { b"]},\"done\":false}\n" } else { b"],\"done\":false}\n" });
        Some(())
    }

    fn last(&self, reason: Reason, usage: Usage) -> Value {
        let mut line = json!({
            "model": self.meta.model,
            "created_at": created_at(&self.meta),
            "done": true,
            "done_reason": reason.ollama(),
            "prompt_eval_count": usage.prompt,
            "eval_count": usage.completion,
        });
        if self.is_chat {
            line["message"] = json!({ "role": "assistant", "content": "" });
        } else {
            line["response"] = "".into();
        }
        line
    }
}

// === impl Gathered ===

impl Gathered {
    fn new(part: &CallPiece<'_>, reply: &str) -> Option<Self> {
        Some(Self {
            index: part.index,
            id: calls::id(part, reply).into_owned(),
            name: part.name.as_deref()?.to_owned(),
            arguments: part.arguments.text()?.into_owned(),
        })
    }

    fn call(&self) -> Option<Value> {
        let Self { index, id, name, arguments } = self;
        let arguments = calls::object(arguments)?;
        let function = json!({ "index": index, "name": name, "arguments": arguments });
        Some(json!({ "id": id, "function": function }))
    }
}

fn created_at(meta: &ReplyMeta) -> String {
    Timestamp::from_second(meta.created).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        route::UpstreamKind,
        translate::{Reply, stream::Translation},
    };

    #[test]
    fn a_stream_that_is_stopped_in_a_call_ends_without_it() {
        let meta = ReplyMeta { id: "0".to_owned(), created: 0, model: "m".to_owned() };
        let reply = Reply::Native(Route::OllamaChat);
        let mut stream = Translation::new(UpstreamKind::OpenAi, reply, meta, 1).unwrap();
        let half = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":\
            {\"name\":\"f\",\"arguments\":\"{\\\"a\"}}]}}]}\n\n";
        let (bytes, fault) = stream.push(Bytes::from_static(half.as_bytes()));
        assert_eq!((bytes.len(), fault), (0, None));
        let usage = Usage { prompt: 1, completion: 2, estimated: true };
        let line: Value = serde_json::from_slice(&stream.stop(usage)).unwrap();
        assert_eq!((&line["done"], &line["done_reason"]), (&json!(true), &json!("length")));
        assert_eq!(line["message"], json!({ "role": "assistant", "content": "" }));
        assert_eq!(stream.usage(), Some(usage));
    }
}
