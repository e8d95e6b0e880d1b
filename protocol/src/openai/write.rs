//! A chat as the body of `/v1/chat/completions`, for an upstream that speaks OpenAI's dialect.
//!
//! What was thought before is left out: OpenAI's API has no place for it in a request.

use std::{borrow::Cow, collections::VecDeque};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    json::compact,
    ollama::chat::{Body, Choice, Format, Image, Message, Think},
};

/// As much base64 as tells what kind of file it is.
const MAGIC_CHARS: usize = 16;

/// What a file is, by its first bytes.
enum Media {
    Image(&'static str),
    Audio(&'static str),
}

/// Calls that have no id of their own get one, and their results the same.
#[derive(Default)]
struct Ids {
    /// Name and id of the calls that wait for a result.
    waiting: VecDeque<(String, String)>,
    made: usize,
}

/// Writes it.
pub(crate) fn write(body: &Body<'_>, model: &str) -> Vec<u8> {
    let mut ids = Ids::default();
    let messages: Vec<Value> =
        body.messages.iter().map(|message| self::message(message, &mut ids)).collect();
    let mut out = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    };
    put("model", Some(model.into()));
    put("messages", Some(messages.into()));
    put("stream", Some(body.stream.into()));
    put("stream_options", body.stream.then(|| json!({ "include_usage": true })));
    let options = &body.options;
    put("max_tokens", options.num_predict.map(Value::from));
    put("temperature", options.temperature.and_then(value));
    put("top_p", options.top_p.and_then(value));
    put("top_k", options.top_k.map(Value::from));
    put("seed", options.seed.map(Value::from));
    put("frequency_penalty", options.frequency_penalty.and_then(value));
    put("presence_penalty", options.presence_penalty.and_then(value));
    put("stop", (!options.stop.is_empty()).then(|| json!(options.stop)));
    put("response_format", body.format.as_ref().and_then(format));
    let tools = body.tools.as_deref().and_then(value);
    put("tool_choice", tools.as_ref().and_then(|_| choice(&body.choice)));
    put("tools", tools);
    put("reasoning_effort", body.think.as_ref().and_then(effort).map(Value::from));
    put("logprobs", body.logprobs.map(Value::from));
    put("top_logprobs", body.top_logprobs.map(Value::from));
    Value::Object(out).to_string().into_bytes()
}

fn value(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok()
}

fn message(message: &Message<'_>, ids: &mut Ids) -> Value {
    let mut out = json!({ "role": message.role, "content": content(message) });
    if !message.tool_calls.is_empty() {
        let calls: Vec<Value> = message
            .tool_calls
            .iter()
            .map(|call| {
                let function = &call.function;
                let id = ids.of_call(call.id.as_deref(), &function.name);
                json!({
                    "id": id,
                    "type": "function",
                    "function": {
                        "name": function.name,
                        "arguments": compact(function.arguments.get()),
                    },
                })
            })
            .collect();
        out["tool_calls"] = calls.into();
    }
    if message.role == "tool" {
        let id = message.tool_call_id.as_deref();
        out["tool_call_id"] = ids.of_result(id, message.tool_name.as_deref()).into();
    }
    out
}

fn content(message: &Message<'_>) -> Value {
    if message.images.is_empty() {
        return Value::from(&*message.content);
    }
    let mut parts = Vec::new();
    if !message.content.is_empty() {
        parts.push(json!({ "type": "text", "text": message.content }));
    }
    parts.extend(message.images.iter().map(part));
    parts.into()
}

fn part(image: &Image<'_>) -> Value {
    match media(image.data()) {
        Media::Audio(format) => {
            json!({ "type": "input_audio", "input_audio": { "data": image.data(), "format": format } })
        }
        Media::Image(kind) => {
            let url = format!("data:{kind};base64,{}", image.data());
            json!({ "type": "image_url", "image_url": { "url": url } })
        }
    }
}

/// What a file in base64 is. Who cannot be told apart is taken for a picture, as Ollama does.
fn media(data: &str) -> Media {
    let magic = data.get(..MAGIC_CHARS).unwrap_or(data);
    let bytes = STANDARD.decode(magic).unwrap_or_default();
    match &*bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Media::Audio("wav"),
        [b'I', b'D', b'3', ..] | [0xff, 0xfb | 0xf3 | 0xf2, ..] => Media::Audio("mp3"),
        [b'R', b'I', b'F', b'F', ..] => Media::Image("image/webp"),
        [0xff, 0xd8, ..] => Media::Image("image/jpeg"),
        [b'G', b'I', b'F', ..] => Media::Image("image/gif"),
        _ => Media::Image("image/png"),
    }
}

fn format(format: &Format<'_>) -> Option<Value> {
    Some(match format {
        Format::Word(_) => json!({ "type": "json_object" }),
        Format::Schema(schema) => json!({
            "type": "json_schema",
            "json_schema": { "name": "reply", "schema": value(schema)? },
        }),
    })
}

fn choice(choice: &Choice<'_>) -> Option<Value> {
    match choice {
        Choice::Auto | Choice::Never => None,
        Choice::Required => Some("required".into()),
        Choice::Named(name) => Some(json!({ "type": "function", "function": { "name": name } })),
    }
}

/// To think, without a word on how much, is what such a model does anyway.
fn effort(think: &Think) -> Option<&'static str> {
    match think {
        Think::Switch(true) => None,
        Think::Switch(false) => Some("none"),
        Think::Level("max") => Some("xhigh"),
        Think::Level(level) => Some(level),
    }
}

// === impl Ids ===

impl Ids {
    fn of_call(&mut self, id: Option<&str>, name: &str) -> String {
        let id = id.map_or_else(
            || {
                self.made += 1;
                format!("call_{}", self.made)
            },
            str::to_owned,
        );
        self.waiting.push_back((name.to_owned(), id.clone()));
        id
    }

    /// The id of the call that a result belongs to: its own, or that of the first call of its function
    /// that waits, or of the first that waits at all.
    fn of_result<'a>(&mut self, id: Option<&'a str>, name: Option<&str>) -> Cow<'a, str> {
        let by_id = id.and_then(|id| self.waiting.iter().position(|(_, waiting)| waiting == id));
        let by_name =
            || name.and_then(|name| self.waiting.iter().position(|(waiting, _)| waiting == name));
        let waiting = self.waiting.remove(by_id.or_else(by_name).unwrap_or(0));
        match (id, waiting) {
            (Some(id), _) => Cow::Borrowed(id),
            (None, Some((_, waiting))) => Cow::Owned(waiting),
            (None, None) => Cow::Borrowed("call_0"),
        }
    }
}
