//! A reply as OpenAI's response, whole and streamed.
//!
//! A response is a list of items: what was thought, a message, the calls of functions. A stream tells of
//! each of them when it begins, as it grows, and when it is whole, and of the response in the end, all in
//! a rising order of numbers. Nothing is stored: a response cannot be fetched again or gone on from.
//!
//! Source: <https://platform.openai.com/docs/api-reference/responses-streaming>.

use bytes::BytesMut;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    calls,
    chat_reply::ReplyMeta,
    echo::{Echo, Echoed},
    piece::{CallPiece, Piece, Reason},
    tools::{self, Kind},
};
use crate::{error::Code, openai::reply::text_of, sse, usage::Usage};

/// Where an item, or the response, stands.
const IN_PROGRESS: &str = "in_progress";
const COMPLETED: &str = "completed";
const INCOMPLETE: &str = "incomplete";

/// What is written of one stream, or of a whole response.
#[derive(Debug)]
pub(super) struct ResponseStream {
    meta: ReplyMeta,
    echo: Echo,
    number: u64,
    is_started: bool,
    /// The items that are whole.
    output: Vec<Value>,
    open: Option<Item>,
    /// The id of the item that is growing, or has just grown up.
    item_id: String,
}

/// An item that is growing.
#[derive(Debug)]
enum Item {
    Reasoning(String),
    Message(String),
    Call { index: usize, id: String, name: String, arguments: String },
}

/// Writes a whole response of pieces; `None` where something is not what it must be.
pub(super) fn write(
    pieces: &[Piece<'_>],
    reason: Reason,
    usage: Usage,
    (meta, echo): (&ReplyMeta, &Echo),
) -> Option<Vec<u8>> {
    let mut stream = ResponseStream::new(meta.clone(), echo.clone());
    let mut events = BytesMut::new();
    for piece in pieces {
        stream.piece(piece, &mut events)?;
        events.clear();
    }
    stream.close(status(reason), &mut events);
    serde_json::to_vec(&stream.echoed(&stream.ended(reason, usage))).ok()
}

// === impl ResponseStream ===

impl ResponseStream {
    pub(super) fn new(meta: ReplyMeta, echo: Echo) -> Self {
        Self {
            meta,
            echo,
            number: 0,
            is_started: false,
            output: Vec::new(),
            open: None,
            item_id: String::new(),
        }
    }

    pub(super) fn piece(&mut self, piece: &Piece<'_>, out: &mut BytesMut) -> Option<()> {
        self.start(out);
        if let Some(thinking) = piece.thinking {
            self.reasoning(&text_of(Some(thinking))?, out);
        }
        if piece.has_content() {
            self.text(&text_of(piece.content)?, out);
        }
        piece.calls.iter().try_for_each(|call| self.call(call, out))
    }

    pub(super) fn finish(&mut self, reason: Reason, usage: Usage, out: &mut BytesMut) {
        self.start(out);
        self.close(status(reason), out);
        let response = self.ended(reason, usage);
        let kind =
            if reason == Reason::Stop { "response.completed" } else { "response.incomplete" };
        self.told(kind, &response, out);
    }

    /// The stream goes no further.
    pub(super) fn fail(&mut self, code: Code, message: &str, out: &mut BytesMut) {
        self.start(out);
        let mut response = self.response("failed");
        response["error"] = json!({ "code": code.as_str(), "message": message });
        self.told("response.failed", &response, out);
    }

    fn start(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.is_started, true) {
            return;
        }
        for kind in ["response.created", "response.in_progress"] {
            let response = self.response(IN_PROGRESS);
            self.told(kind, &response, out);
        }
    }

    fn reasoning(&mut self, more: &str, out: &mut BytesMut) {
        if !matches!(self.open, Some(Item::Reasoning(_))) {
            self.begin(Item::Reasoning(String::new()), out);
            let part = json!({ "type": "summary_text", "text": "" });
            self.of_item(
                "response.reasoning_summary_part.added",
                "summary_index",
                json!({ "part": part }),
                out,
            );
        }
        if let Some(Item::Reasoning(text)) = &mut self.open {
            text.push_str(more);
        }
        let delta = json!({ "delta": more });
        self.of_item("response.reasoning_summary_text.delta", "summary_index", delta, out);
    }

    fn text(&mut self, more: &str, out: &mut BytesMut) {
        if !matches!(self.open, Some(Item::Message(_))) {
            self.begin(Item::Message(String::new()), out);
            let part = json!({ "part": text_part("") });
            self.of_item("response.content_part.added", "content_index", part, out);
        }
        if let Some(Item::Message(text)) = &mut self.open {
            text.push_str(more);
        }
        let delta = json!({ "delta": more, "logprobs": [] });
        self.of_item("response.output_text.delta", "content_index", delta, out);
    }

    fn call(&mut self, call: &CallPiece<'_>, out: &mut BytesMut) -> Option<()> {
        if let Some(name) = &call.name {
            let (id, name) =
                (calls::id(call, &self.meta.id).into_owned(), name.clone().into_owned());
            self.begin(Item::Call { index: call.index, id, name, arguments: String::new() }, out);
        }
        let more = call.arguments.text()?;
        match &mut self.open {
            Some(Item::Call { index, arguments, .. }) if *index == call.index => {
                arguments.push_str(&more);
            }
            // A part of a call that is not open has no place in a sequence of items.
            _ => return None,
        }
        if !more.is_empty() && self.kind() == Kind::Function {
            let delta = json!({ "delta": more });
            self.of_item("response.function_call_arguments.delta", "", delta, out);
        }
        Some(())
    }

    fn begin(&mut self, item: Item, out: &mut BytesMut) {
        self.close(COMPLETED, out);
        let kind = match item {
            Item::Reasoning(_) => "rs",
            Item::Message(_) => "msg",
            Item::Call { .. } => "fc",
        };
        self.item_id = format!("{kind}_{}_{}", self.meta.id, self.output.len());
        let added = self.item(&item, IN_PROGRESS);
        self.open = Some(item);
        let at = self.output.len();
        let added = json!({ "output_index": at, "item": added });
        self.event("response.output_item.added", added, out);
    }

    /// Tells that the item which is growing grows no more: it is whole, or was cut off.
    fn close(&mut self, status: &str, out: &mut BytesMut) {
        let Some(item) = self.open.take() else { return };
        let whole = self.item(&item, status);
        match &item {
            Item::Reasoning(text) => {
                let (done, part) =
                    (json!({ "text": text }), json!({ "type": "summary_text", "text": text }));
                self.of_item("response.reasoning_summary_text.done", "summary_index", done, out);
                let part = json!({ "part": part });
                self.of_item("response.reasoning_summary_part.done", "summary_index", part, out);
            }
            Item::Message(text) => {
                let done = json!({ "text": text, "logprobs": [] });
                self.of_item("response.output_text.done", "content_index", done, out);
                let part = json!({ "part": text_part(text) });
                self.of_item("response.content_part.done", "content_index", part, out);
            }
            Item::Call { name, arguments, .. } => self.called(name, arguments, out),
        }
        let done = json!({ "output_index": self.output.len(), "item": whole });
        self.event("response.output_item.done", done, out);
        self.output.push(whole);
    }

    /// Tells with what a tool is called, as far as a stream of its kind tells it.
    fn called(&mut self, function: &str, arguments: &str, out: &mut BytesMut) {
        let names = self.echo.names();
        match names.kind(function) {
            Kind::Function => {
                let done = json!({ "name": names.client(function), "arguments": arguments });
                self.of_item("response.function_call_arguments.done", "", done, out);
            }
            Kind::Custom => {
                let input = tools::input_of(arguments);
                let delta = json!({ "delta": input });
                self.of_item("response.custom_tool_call_input.delta", "", delta, out);
                let done = json!({ "input": input });
                self.of_item("response.custom_tool_call_input.done", "", done, out);
            }
            Kind::Search => {}
        }
    }

    /// What the call that is growing is to the client.
    fn kind(&self) -> Kind {
        match &self.open {
            Some(Item::Call { name, .. }) => self.echo.names().kind(name),
            _ => Kind::Function,
        }
    }

    fn item(&self, item: &Item, status: &str) -> Value {
        let (id, is_grown) = (&self.item_id, status != IN_PROGRESS);
        match item {
            Item::Reasoning(text) => {
                let part = json!({ "type": "summary_text", "text": text });
                let summary = if is_grown { vec![part] } else { Vec::new() };
                json!({ "id": id, "type": "reasoning", "summary": summary })
            }
            Item::Message(text) => {
                let content = if is_grown { vec![text_part(text)] } else { Vec::new() };
                json!({
                    "id": id, "type": "message", "status": status, "role": "assistant",
                    "content": content,
                })
            }
            Item::Call { id: call, name, arguments, .. } => {
                let arguments = is_grown.then_some(arguments.as_str());
                let names = self.echo.names();
                let kind = names.kind(name).item();
                let mut item = json!({ "id": id, "type": kind, "status": status, "call_id": call });
                names.call(name, arguments, &mut item);
                item
            }
        }
    }

    /// An event about the item that is growing, or has just grown up.
    fn of_item(&mut self, kind: &str, part: &str, mut data: Value, out: &mut BytesMut) {
        data["item_id"] = self.item_id.as_str().into();
        data["output_index"] = self.output.len().into();
        if !part.is_empty() {
            data[part] = 0.into();
        }
        self.event(kind, data, out);
    }

    fn event(&mut self, kind: &str, mut data: Value, out: &mut BytesMut) {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        sse::named_event(kind, data.to_string().as_bytes(), out);
    }

    /// An event that tells all of the response.
    fn told(&mut self, kind: &'static str, response: &Value, out: &mut BytesMut) {
        #[derive(Serialize)]
        struct Told<'t> {
            response: Echoed<'t>,
            r#type: &'static str,
            sequence_number: u64,
        }
        let sequence_number = self.number;
        self.number += 1;
        let told = Told { response: self.echoed(response), r#type: kind, sequence_number };
        // Nothing of it can fail to be written.
        let told = serde_json::to_vec(&told).unwrap_or_default();
        sse::named_event(kind, &told, out);
    }

    fn echoed<'e>(&'e self, response: &'e Value) -> Echoed<'e> {
        Echoed { response, echo: &self.echo }
    }

    fn ended(&self, reason: Reason, usage: Usage) -> Value {
        let mut response = self.response(status(reason));
        match reason {
            Reason::Stop => {}
            Reason::Length => {
                response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
            }
            Reason::Filtered => {
                response["incomplete_details"] = json!({ "reason": "content_filter" });
            }
        }
        response["usage"] = json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": usage.completion,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": usage.total(),
        });
        response
    }

    fn response(&self, status: &str) -> Value {
        json!({
            "id": format!("resp_{}", self.meta.id),
            "object": "response",
            "created_at": self.meta.created,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "model": self.meta.model,
            "output": self.output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
            "store": false,
            "temperature": null,
            "text": { "format": { "type": "text" } },
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "truncation": "disabled",
            "usage": null,
            "user": null,
        })
    }
}

/// How the response ended, and what was growing when it did.
const fn status(reason: Reason) -> &'static str {
    if reason.is_cut() { INCOMPLETE } else { COMPLETED }
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
