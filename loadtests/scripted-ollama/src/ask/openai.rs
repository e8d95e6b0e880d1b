//! `/v1/chat/completions` and `/v1/completions`, read as Ollama's own front reads them.

use serde_json::Value;
use serde_json::value::RawValue;

use super::{Ask, Surface, limit, tools, words};
use crate::failure::Failure;
use crate::object::{self, Object, kind};

/// Reads the body of `/v1/chat/completions`.
pub(crate) fn chat(body: &str) -> Result<Ask, Failure> {
    let request = Object::from_body("ChatCompletionRequest", body)?;
    let include_usage = include_usage(&request)?;
    let mut ask = common(&request, Surface::OpenAiChat { include_usage })?;

    let messages = request.list("messages")?;
    if messages.is_empty() {
        return Err(Failure::bad_request("[] is too short - 'messages'"));
    }
    for raw in messages {
        let message = Object::from_raw("ChatCompletionRequest.messages", raw)?;
        let content = content(&message)?;
        check_tool_calls(&message)?;
        ask.prompt_tokens += words(&content);
        ask.last_is_user = message.string("role")?.eq_ignore_ascii_case("user");
        ask.last = content;
    }
    ask.tools = tools(&request.list("tools")?)?;
    ask.format = format(&request)?;
    ask.think = match request.string("reasoning_effort")?.as_str() {
        "" => None,
        "none" => Some(false),
        _ => Some(true),
    };
    Ok(ask)
}

/// Reads the body of `/v1/completions`.
pub(crate) fn completion(body: &str) -> Result<Ask, Failure> {
    let request = Object::from_body("CompletionRequest", body)?;
    let include_usage = include_usage(&request)?;
    let mut ask = common(&request, Surface::OpenAiCompletion { include_usage })?;
    ask.last = request.string("prompt")?;
    ask.prompt_tokens = words(&ask.last);
    Ok(ask)
}

fn common(request: &Object<'_>, surface: Surface) -> Result<Ask, Failure> {
    let model = request.string("model")?;
    if model.trim().is_empty() {
        return Err(Failure::bad_request("model is required"));
    }
    Ok(Ask {
        surface,
        model,
        stream: request.boolean("stream")?.unwrap_or(false),
        prompt_tokens: 0,
        last: String::new(),
        last_is_user: false,
        tools: Vec::new(),
        format: None,
        think: None,
        limit: limit(request.integer("max_tokens")?),
        n_predict: limit(request.integer("n_predict").ok().flatten()),
        lifecycle: None,
    })
}

fn include_usage(request: &Object<'_>) -> Result<bool, Failure> {
    let options = request.object("stream_options", "StreamOptions")?;
    let asked = options.map(|options| options.boolean("include_usage")).transpose()?;
    Ok(asked.flatten().unwrap_or(false))
}

fn format(request: &Object<'_>) -> Result<Option<Value>, Failure> {
    let Some(format) = request.object("response_format", "ResponseFormat")? else {
        return Ok(None);
    };
    match format.string("type")?.as_str() {
        "json_object" => Ok(Some(Value::Null)),
        "json_schema" => {
            let schema = format.object("json_schema", "JsonSchema")?;
            schema.and_then(|schema| schema.get("schema")).map(object::parse).transpose()
        }
        _ => Ok(None),
    }
}

/// A string, or the texts among the parts; nothing only beside tool calls.
fn content(message: &Object<'_>) -> Result<String, Failure> {
    match message.get("content") {
        None if message.get("tool_calls").is_some() => Ok(String::new()),
        None => Err(Failure::bad_request("invalid message content type: <nil>")),
        Some(raw) if kind(raw) == "string" => object::parse(raw),
        Some(raw) if kind(raw) == "array" => parts(raw),
        Some(_) => Err(Failure::bad_request("invalid message content type: float64")),
    }
}

fn parts(raw: &RawValue) -> Result<String, Failure> {
    let mut texts = Vec::new();
    let list: Vec<&RawValue> = object::parse(raw)?;
    for raw in list {
        let part = Object::from_raw("ChatCompletionRequest.messages.content", raw)?;
        match part.string("type")?.as_str() {
            "text" => texts.push(part.string("text")?),
            "image_url" | "input_audio" => {}
            _ => return Err(Failure::bad_request("invalid message format")),
        }
    }
    Ok(texts.join("\n"))
}

fn check_tool_calls(message: &Object<'_>) -> Result<(), Failure> {
    for raw in message.list("tool_calls")? {
        let call = Object::from_raw("ChatCompletionRequest.messages.tool_calls", raw)?;
        let function = call.object("function", "ToolCall.function")?;
        let arguments = match function {
            Some(function) => function.string("arguments")?,
            None => String::new(),
        };
        if serde_json::from_str::<serde_json::Map<String, Value>>(&arguments).is_err() {
            return Err(Failure::bad_request("invalid tool call arguments"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_is_read_with_parts_and_a_schema() {
        let ask = chat(
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},
                "messages":[{"role":"user","content":[{"type":"text","text":"a b"},
                {"type":"text","text":"c"}]}],"max_tokens":7,"reasoning_effort":"none",
                "response_format":{"type":"json_schema","json_schema":{"schema":{"type":"null"}}}}"#,
        )
        .unwrap();
        assert_eq!(ask.surface, Surface::OpenAiChat { include_usage: true });
        assert_eq!((ask.last.as_str(), ask.prompt_tokens), ("a b\nc", 3));
        assert_eq!((ask.limit, ask.think, ask.stream), (Some(7), Some(false), true));
        assert_eq!(ask.format, Some(serde_json::json!({"type": "null"})));
    }

    #[test]
    fn what_ollamas_front_refuses_is_refused() {
        let cases = [
            (r#"{"model":"m","messages":[]}"#, "[] is too short - 'messages'"),
            (
                r#"{"model":"m","messages":[{"role":"user"}]}"#,
                "invalid message content type: <nil>",
            ),
            (
                r#"{"model":"m","messages":[{"content":3}]}"#,
                "invalid message content type: float64",
            ),
            (
                r#"{"model":"m","messages":[{"content":"","tool_calls":[{"function":{}}]}]}"#,
                "invalid tool call arguments",
            ),
        ];
        for (body, text) in cases {
            let refused = chat(body).unwrap_err();
            assert!(refused.text().starts_with(text), "{body}: {}", refused.text());
        }
        assert!(completion(r#"{"model":"m","prompt":["a"]}"#).is_err());
    }
}
