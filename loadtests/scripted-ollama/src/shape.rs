//! How a plan looks on the wire, piece by piece, on each surface.

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::ask::Surface;
use crate::clock::{self, Clock};
use crate::failure;
use crate::go;
use crate::plan::{Call, Piece, Plan};
use crate::refusals::Refusal;

/// Nanoseconds that the first token takes, and each after it, as the last line tells.
const LOAD_NS: u64 = 1_000_000;
const TOKEN_NS: u64 = 10_000_000;

/// A plan in the form of its surface.
pub(crate) struct Shape {
    plan: Plan,
    /// The model's name, escaped, without quotes.
    model: BytesMut,
    /// What `id` and `created` say in every chunk of an OpenAI stream.
    id: u64,
    created: Timestamp,
    counts: bool,
}

// === impl Shape ===

impl Shape {
    /// `counts`: whether the last line tells them.
    pub(crate) fn new(plan: Plan, clock: &Clock, id: u64, counts: bool) -> Self {
        let mut model = BytesMut::new();
        go::write_escaped(&mut model, &plan.model);
        Self { plan, model, id: id % 999, created: clock.now(), counts }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn is_openai(&self) -> bool {
        self.plan.surface.is_openai()
    }

    pub(crate) fn content_type(&self) -> &'static str {
        if self.is_openai() { "text/event-stream" } else { "application/x-ndjson" }
    }

    /// Writes the piece of this number, without the end of its line.
    pub(crate) fn piece(&self, number: usize, clock: &Clock, out: &mut BytesMut) {
        let Some(piece) = self.plan.piece(number) else { return };
        match self.plan.surface {
            Surface::Chat => {
                self.head(clock, out);
                out.put_slice(b"\"message\":{\"role\":\"assistant\",\"content\":\"");
                native_chat(&piece, out);
                out.put_slice(b"},\"done\":false}");
            }
            Surface::Generate => {
                self.head(clock, out);
                native_generate(&piece, out);
                out.put_slice(b",\"done\":false}");
            }
            Surface::OpenAiChat { .. } => {
                self.openai_head("chat.completion.chunk", out);
                out.put_slice(b"[{\"index\":0,\"delta\":{");
                if number == 0 {
                    out.put_slice(b"\"role\":\"assistant\",");
                }
                openai_delta(&piece, out);
                out.put_slice(b"},\"finish_reason\":null}]}");
            }
            Surface::OpenAiCompletion { .. } => {
                self.openai_head("text_completion", out);
                out.put_slice(b"[{\"text\":\"");
                if let Piece::Content(text) = &piece {
                    go::write_escaped(out, text);
                }
                out.put_slice(b"\",\"index\":0,\"finish_reason\":null}]}");
            }
        }
    }

    /// What follows the last piece, line by line, each without its end.
    pub(crate) fn last(&self, clock: &Clock) -> Vec<BytesMut> {
        let reason = self.plan.finish_reason();
        match self.plan.surface {
            Surface::Chat | Surface::Generate => vec![self.done(clock)],
            Surface::OpenAiChat { include_usage } => {
                let finish = json!([{ "index": 0, "delta": {}, "finish_reason": reason }]);
                self.openai_end("chat.completion.chunk", &finish, include_usage)
            }
            Surface::OpenAiCompletion { include_usage } => {
                let finish = json!([{ "text": "", "index": 0, "finish_reason": reason }]);
                self.openai_end("text_completion", &finish, include_usage)
            }
        }
    }

    /// The line that tells of an error mid-stream. Ollama's own front loses the text: what it sends
    /// is an empty delta with no model.
    pub(crate) fn error(&self, refusal: Option<Refusal>) -> BytesMut {
        if let Some(refusal) = refusal {
            let (status, text) = refusal.says(self.is_openai());
            return self.told(status, &text);
        }
        if self.is_openai() {
            let empty = json!({ "id": "", "object": "chat.completion.chunk", "model": "",
                "choices": [{ "index": 0, "delta": {}, "finish_reason": null }] });
            let mut line = BytesMut::from("data: ");
            go::write(&mut line, &empty);
            return line;
        }
        failure::native_body(&format!("the model stopped: {}", failure::MARKER))
    }

    /// The line that tells why a request is refused, as the servers word it that are not Ollama's front.
    fn told(&self, status: u16, text: &str) -> BytesMut {
        if !self.is_openai() {
            return failure::native_body(text);
        }
        let mut line = BytesMut::from("data: ");
        go::write(&mut line, &json!({ "error": { "message": text, "type": "x", "code": status } }));
        line
    }

    /// The whole answer, not streamed.
    pub(crate) fn whole(&self, clock: &Clock) -> BytesMut {
        let (thinking, content, calls) = self.plan.whole(usize::MAX);
        match self.plan.surface {
            Surface::Chat => {
                let mut message = json!({ "role": "assistant", "content": content });
                if !thinking.is_empty() {
                    message["thinking"] = json!(thinking);
                }
                if !calls.is_empty() {
                    message["tool_calls"] = calls.iter().map(|call| native_call(call)).collect();
                }
                self.native_whole(clock, "message", &message, None)
            }
            Surface::Generate => {
                let thinking = (!thinking.is_empty()).then_some(thinking);
                self.native_whole(clock, "response", &json!(content), thinking)
            }
            Surface::OpenAiChat { .. } => {
                let mut message = json!({ "role": "assistant", "content": content });
                if !thinking.is_empty() {
                    message["reasoning"] = json!(thinking);
                }
                if !calls.is_empty() {
                    message["tool_calls"] = calls.iter().map(|call| openai_call(call)).collect();
                }
                self.openai_whole("chat.completion", "message", &message)
            }
            Surface::OpenAiCompletion { .. } => {
                self.openai_whole("text_completion", "text", &json!(content))
            }
        }
    }

    /// The beginning of every native line.
    fn head(&self, clock: &Clock, out: &mut BytesMut) {
        out.put_slice(b"{\"model\":\"");
        out.put_slice(&self.model);
        out.put_slice(b"\",\"created_at\":\"");
        clock::write(out, clock.now());
        out.put_slice(b"\",");
    }

    fn openai_head(&self, object: &str, out: &mut BytesMut) {
        let kind = if object == "text_completion" { "cmpl" } else { "chatcmpl" };
        let (id, created) = (self.id, self.created.as_second());
        out.put_slice(
            format!("data: {{\"id\":\"{kind}-{id}\",\"object\":\"{object}\",").as_bytes(),
        );
        out.put_slice(format!("\"created\":{created},\"model\":\"").as_bytes());
        out.put_slice(&self.model);
        out.put_slice(b"\",\"system_fingerprint\":\"fp_ollama\",\"choices\":");
    }

    /// The line that says that all is said.
    fn done(&self, clock: &Clock) -> BytesMut {
        let mut line = BytesMut::with_capacity(320);
        self.head(clock, &mut line);
        line.put_slice(match self.plan.surface {
            Surface::Chat => b"\"message\":{\"role\":\"assistant\",\"content\":\"\"}".as_slice(),
            _ => b"\"response\":\"\"".as_slice(),
        });
        line.put_slice(b",\"done\":true,\"done_reason\":\"");
        line.put_slice(self.plan.reason.as_bytes());
        line.put_slice(b"\"");
        if self.counts {
            line.put_slice(self.counts().as_bytes());
        }
        line.put_slice(b"}");
        line
    }

    /// The counts of a native answer, as fields behind others; a count of 0 is left out.
    fn counts(&self) -> String {
        let (prompt, eval) = (self.plan.prompt_tokens, self.plan.count() as u64);
        let mut text = format!(
            ",\"total_duration\":{},\"load_duration\":{LOAD_NS}",
            LOAD_NS + (prompt + eval) * TOKEN_NS
        );
        for (name, count) in [("prompt_eval", prompt), ("eval", eval)] {
            if count > 0 {
                let took = count * TOKEN_NS;
                text.push_str(&format!(",\"{name}_count\":{count},\"{name}_duration\":{took}"));
            }
        }
        text
    }

    fn native_whole(
        &self,
        clock: &Clock,
        field: &str,
        value: &Value,
        thinking: Option<String>,
    ) -> BytesMut {
        let mut out = BytesMut::with_capacity(512);
        self.head(clock, &mut out);
        out.put_slice(format!("\"{field}\":").as_bytes());
        go::write(&mut out, value);
        if let Some(thinking) = thinking {
            out.put_slice(b",\"thinking\":");
            go::write(&mut out, &thinking);
        }
        out.put_slice(
            format!(",\"done\":true,\"done_reason\":\"{}\"", self.plan.reason).as_bytes(),
        );
        if self.counts {
            out.put_slice(self.counts().as_bytes());
        }
        out.put_slice(b"}");
        out
    }

    fn usage(&self) -> Value {
        let (prompt, completion) = (self.plan.prompt_tokens, self.plan.count() as u64);
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        })
    }

    fn openai_end(&self, object: &str, finish: &Value, include_usage: bool) -> Vec<BytesMut> {
        let mut lines = Vec::with_capacity(3);
        let mut line = BytesMut::new();
        self.openai_head(object, &mut line);
        go::write(&mut line, finish);
        line.put_slice(b"}");
        lines.push(line);
        if include_usage {
            let mut line = BytesMut::new();
            self.openai_head(object, &mut line);
            line.put_slice(b"[],\"usage\":");
            go::write(&mut line, &self.usage());
            line.put_slice(b"}");
            lines.push(line);
        }
        lines.push(BytesMut::from("data: [DONE]"));
        lines
    }

    fn openai_whole(&self, object: &str, field: &str, value: &Value) -> BytesMut {
        let kind = if object == "text_completion" { "cmpl" } else { "chatcmpl" };
        let choice =
            json!({ "index": 0, field: value, "finish_reason": self.plan.finish_reason() });
        go::to_bytes(&json!({
            "id": format!("{kind}-{}", self.id),
            "object": object,
            "created": self.created.as_second(),
            "model": self.plan.model,
            "system_fingerprint": "fp_ollama",
            "choices": [choice],
            "usage": self.usage(),
        }))
    }
}

/// The rest of a message behind `"content":"`, up to its closing brace.
fn native_chat(piece: &Piece<'_>, out: &mut BytesMut) {
    match piece {
        Piece::Content(text) => {
            go::write_escaped(out, text);
            out.put_slice(b"\"");
        }
        Piece::Thinking(text) => {
            out.put_slice(b"\",\"thinking\":\"");
            go::write_escaped(out, text);
            out.put_slice(b"\"");
        }
        Piece::Call(call) => {
            out.put_slice(b"\",\"tool_calls\":");
            go::write(out, &json!([native_call(call)]));
        }
    }
}

fn native_generate(piece: &Piece<'_>, out: &mut BytesMut) {
    match piece {
        Piece::Content(text) => {
            out.put_slice(b"\"response\":\"");
            go::write_escaped(out, text);
            out.put_slice(b"\"");
        }
        Piece::Thinking(text) => {
            out.put_slice(b"\"response\":\"\",\"thinking\":\"");
            go::write_escaped(out, text);
            out.put_slice(b"\"");
        }
        Piece::Call(_) => out.put_slice(b"\"response\":\"\""),
    }
}

fn openai_delta(piece: &Piece<'_>, out: &mut BytesMut) {
    out.put_slice(b"\"content\":\"");
    match piece {
        Piece::Content(text) => {
            go::write_escaped(out, text);
            out.put_slice(b"\"");
        }
        Piece::Thinking(text) => {
            out.put_slice(b"\",\"reasoning\":\"");
            go::write_escaped(out, text);
            out.put_slice(b"\"");
        }
        Piece::Call(call) => {
            out.put_slice(b"\",\"tool_calls\":");
            go::write(out, &json!([openai_call(call)]));
        }
    }
}

fn native_call(call: &Call) -> Value {
    json!({
        "id": call.id,
        "function": { "index": call.index, "name": call.name, "arguments": call.arguments },
    })
}

/// OpenAI's calls bear their arguments as a string.
fn openai_call(call: &Call) -> Value {
    json!({
        "id": call.id,
        "index": call.index,
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments.to_string() },
    })
}

/// The answer to a request that only loads or unloads a model.
pub(crate) fn lifecycle(surface: Surface, model: &str, reason: &str, clock: &Clock) -> BytesMut {
    let at = clock.now().to_string();
    let (field, empty) = match surface {
        Surface::Chat => ("message", json!({ "role": "assistant", "content": "" })),
        _ => ("response", json!("")),
    };
    go::to_bytes(&json!({
        "model": model, "created_at": at, field: empty, "done": true, "done_reason": reason,
    }))
}
