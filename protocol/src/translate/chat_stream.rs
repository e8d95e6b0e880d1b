//! A streamed native reply → `chat.completion.chunk` events, line by line.
//!
//! The order of events is the one that SDKs rely on: the role once and first, then what the model
//! says, then one chunk with the finish reason, then, if it was asked for, one with the usage and no
//! choices, then `[DONE]`. A stream that breaks off gets an error event and no `[DONE]`: to the SDKs
//! an end alone is a success.

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use super::{
    StreamFault,
    chat_reply::{
        FINGERPRINT, Logprobs, NativeCall, NativeReply, ReplyMeta, ToolCall, UsageBody,
        finish_reason,
    },
};
use crate::{error::Code, openai::error::openai_error, usage::Usage};

/// The state of one stream.
pub struct ChatStream {
    id: String,
    /// What every chunk begins with, up to its choices.
    prefix: String,
    include_usage: bool,
    role_sent: bool,
    calls: usize,
    produced: u64,
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Head<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    system_fingerprint: &'static str,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    delta: Delta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

// === impl ChatStream ===

impl ChatStream {
    /// A stream that has not begun.
    #[must_use]
    pub fn new(meta: ReplyMeta, include_usage: bool) -> Self {
        let head = Head {
            id: &meta.id,
            object: "chat.completion.chunk",
            created: meta.created,
            model: &meta.model,
            system_fingerprint: FINGERPRINT,
        };
        // An object without its closing brace: the choices follow.
        let mut prefix = serde_json::to_string(&head).unwrap_or_default();
        prefix.pop();
        prefix.insert_str(0, "data: ");
        Self {
            id: meta.id,
            prefix,
            include_usage,
            role_sent: false,
            calls: 0,
            produced: 0,
            usage: None,
        }
    }

    /// Translates one whole line; the events are appended to `out`.
    ///
    /// # Errors
    /// [`StreamFault`], after which nothing may follow but [`error_event`].
    pub fn line(&mut self, line: &[u8], out: &mut BytesMut) -> Result<(), StreamFault> {
        let reply: NativeReply<'_> =
            serde_json::from_slice(line).map_err(|_| StreamFault::NotJson)?;
        if reply.error.is_some() {
            return Err(StreamFault::UpstreamError);
        }
        if self.usage.is_some() {
            // Nothing that comes after the last line is part of the reply.
            return Ok(());
        }
        let message = reply.message.unwrap_or_default();
        let mut logprobs = reply.logprobs.map(|content| Logprobs { content });
        if !message.thinking.is_empty() {
            let thinking = Some(message.thinking.as_ref());
            let delta =
                Delta { reasoning: thinking, reasoning_content: thinking, ..Delta::default() };
            self.chunk(delta, logprobs.take(), out);
            self.produced += 1;
        }
        let says = !message.content.is_empty() || !message.tool_calls.is_empty();
        if says || logprobs.is_some() || !self.role_sent {
            let content = Some(message.content.as_ref());
            let tool_calls = self.tool_calls(&message.tool_calls);
            self.chunk(Delta { content, tool_calls, ..Delta::default() }, logprobs, out);
            self.calls += message.tool_calls.len();
            self.produced += u64::from(says);
        }
        if reply.done {
            let usage = Usage {
                prompt: reply.prompt_eval_count,
                completion: reply.eval_count,
                estimated: false,
            };
            self.usage = Some(usage);
            self.finish(reply.done_reason.as_deref(), usage, out);
        }
        Ok(())
    }

    /// The upstream has ended the stream.
    ///
    /// # Errors
    /// [`StreamFault::BrokenOff`] where its last line never came.
    pub fn end(&mut self, out: &mut BytesMut) -> Result<(), StreamFault> {
        self.usage.ok_or(StreamFault::BrokenOff)?;
        out.put_slice(b"data: [DONE]\n\n");
        Ok(())
    }

    /// What the upstream said of its usage, once it has.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// How many lines said something: an estimate of the tokens, where the upstream never says.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    fn tool_calls<'a>(&self, calls: &'a [NativeCall<'a>]) -> Vec<ToolCall<'a>> {
        let calls = calls.iter().enumerate();
        calls.map(|(at, call)| ToolCall::new(call, self.calls + at, &self.id)).collect()
    }

    fn chunk(&mut self, mut delta: Delta<'_>, logprobs: Option<Logprobs<'_>>, out: &mut BytesMut) {
        if !self.role_sent {
            self.role_sent = true;
            delta.role = Some("assistant");
            delta.content.get_or_insert("");
        }
        self.write(&[Choice { index: 0, delta, logprobs, finish_reason: None }], None, out);
    }

    fn finish(&mut self, done_reason: Option<&str>, usage: Usage, out: &mut BytesMut) {
        let finish_reason = Some(finish_reason(done_reason, self.calls > 0));
        let choice = Choice { index: 0, delta: Delta::default(), logprobs: None, finish_reason };
        self.write(&[choice], None, out);
        if self.include_usage {
            self.write(&[], Some(usage.into()), out);
        }
    }

    fn write(&self, choices: &[Choice<'_>], usage: Option<UsageBody>, out: &mut BytesMut) {
        out.put_slice(self.prefix.as_bytes());
        out.put_slice(b",\"choices\":");
        // Writing to memory cannot fail, and these types have nothing that JSON has not.
        let _ = serde_json::to_writer((&mut *out).writer(), choices);
        if let Some(usage) = usage {
            out.put_slice(b",\"usage\":");
            let _ = serde_json::to_writer((&mut *out).writer(), &usage);
        }
        out.put_slice(b"}\n\n");
    }
}

/// The event that tells of a failure in the middle of a stream. No `[DONE]` follows it.
pub fn error_event(code: Code, message: &str, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(openai_error(code, message, None).as_bytes());
    out.put_slice(b"\n\n");
}
