//! `/api/chat` and `/api/generate`, read.

use http::StatusCode;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Ask, Lifecycle, Surface, limit, tools, words};
use crate::failure::Failure;
use crate::object::{self, Object, kind};

/// The options that must be whole numbers; the value of any other type is a fault of 500.
const INTEGERS: [&str; 11] = [
    "num_keep",
    "seed",
    "num_predict",
    "top_k",
    "repeat_last_n",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "draft_num_predict",
];

/// The options that must be numbers.
const FLOATS: [&str; 7] = [
    "top_p",
    "min_p",
    "typical_p",
    "temperature",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
];

/// The levels of `think` besides true and false.
const LEVELS: [&str; 4] = ["low", "medium", "high", "max"];

/// Reads the body of `/api/chat`.
pub(crate) fn chat(body: &str) -> Result<Ask, Failure> {
    let request = Object::from_body("ChatRequest", body)?;
    let mut ask = common(&request, Surface::Chat)?;
    if ask.model.trim().is_empty() {
        return Err(Failure::bad_request("model is required"));
    }

    let messages = request.list("messages")?;
    for raw in &messages {
        let message = Object::from_raw("ChatRequest.messages", raw)?;
        let content = message.string("content")?;
        check_tool_calls(&message)?;
        ask.prompt_tokens += words(&content);
        ask.last_is_user = message.string("role")?.eq_ignore_ascii_case("user");
        ask.last = content;
    }
    ask.tools = tools(&request.list("tools")?)?;
    ask.lifecycle = lifecycle(&request, messages.is_empty());
    Ok(ask)
}

/// Reads the body of `/api/generate`.
pub(crate) fn generate(body: &str) -> Result<Ask, Failure> {
    let request = Object::from_body("GenerateRequest", body)?;
    let mut ask = common(&request, Surface::Generate)?;
    ask.last = request.string("prompt")?;
    // A template's own words are part of the prompt, and so is the context, as Ollama counts them.
    let template = words(&request.string("template")?);
    let context = request.list("context")?.len() as u64;
    ask.prompt_tokens = words(&ask.last) + words(&request.string("system")?) + template + context;
    ask.lifecycle = lifecycle(&request, ask.last.is_empty());
    Ok(ask)
}

fn common(request: &Object<'_>, surface: Surface) -> Result<Ask, Failure> {
    Ok(Ask {
        surface,
        model: request.string("model")?,
        stream: request.boolean("stream")?.unwrap_or(true),
        prompt_tokens: 0,
        last: String::new(),
        last_is_user: false,
        tools: Vec::new(),
        format: request.get("format").map_or(Ok(None), format)?,
        think: request.get("think").map(think).transpose()?,
        limit: options(request)?,
        n_predict: None,
        lifecycle: None,
    })
}

fn lifecycle(request: &Object<'_>, is_empty: bool) -> Option<Lifecycle> {
    let keep_alive = request.get("keep_alive").map(RawValue::get);
    let is_zero = matches!(keep_alive, Some("0" | "\"0\"" | "\"0s\"" | "\"0m\""));
    match (is_empty, is_zero) {
        (false, _) => None,
        (true, true) => Some(Lifecycle::Unload),
        (true, false) => Some(Lifecycle::Load),
    }
}

fn format(raw: &RawValue) -> Result<Option<Value>, Failure> {
    match raw.get() {
        "\"\"" => Ok(None),
        "\"json\"" => Ok(Some(Value::Null)),
        _ if kind(raw) == "object" => object::parse(raw).map(Some),
        other => Err(Failure::bad_request(&format!(
            "invalid format: {other}; expected \"json\" or a JSON schema"
        ))),
    }
}

fn think(raw: &RawValue) -> Result<bool, Failure> {
    let level = |text: &str| LEVELS.contains(&text.trim_matches('"'));
    match raw.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        text if kind(raw) == "string" && level(text) => Ok(true),
        text => Err(Failure::bad_request(&format!("invalid think value: {text}"))),
    }
}

/// Checks the options and gives the limit among them.
fn options(request: &Object<'_>) -> Result<Option<usize>, Failure> {
    let Some(options) = request.object("options", "Options")? else {
        return Ok(None);
    };
    let has_type = |name: &str, json: &str, go: &str| match options.get(name) {
        Some(raw) if kind(raw) != json => Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("option {name:?} must be of type {go}"),
        )),
        _ => Ok(()),
    };
    INTEGERS.iter().try_for_each(|name| has_type(name, "number", "integer"))?;
    FLOATS.iter().try_for_each(|name| has_type(name, "number", "float32"))?;
    has_type("stop", "array", "array")?;
    Ok(limit(options.integer("num_predict")?))
}

/// Native calls bear an object, where OpenAI's bear a string.
fn check_tool_calls(message: &Object<'_>) -> Result<(), Failure> {
    for raw in message.list("tool_calls")? {
        let call = Object::from_raw("ChatRequest.messages.tool_calls", raw)?;
        let at = "ChatRequest.messages.tool_calls.function";
        let function = call.object("function", at)?;
        match function.as_ref().and_then(|function| function.get("arguments")) {
            Some(raw) if kind(raw) != "object" => {
                return Err(Failure::bad_request(&format!(
                    "json: cannot unmarshal {} into Go struct field {at}.arguments of type \
                     api.ToolCallFunctionArguments",
                    kind(raw)
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_is_read_with_its_defaults() {
        let ask = chat(
            r#"{"model":"m","messages":[{"role":"system","content":"be brief"},
                {"role":"user","content":"hello there you"}],"options":{"num_predict":4}}"#,
        )
        .unwrap();
        assert!(ask.stream && ask.last_is_user);
        assert_eq!((ask.prompt_tokens, ask.limit), (5, Some(4)));
        assert_eq!(ask.last, "hello there you");
        assert_eq!((ask.think, ask.format, ask.lifecycle), (None, None, None));
    }

    #[test]
    fn what_ollama_refuses_is_refused() {
        let cases = [
            (r#"{"messages":[]}"#, "model is required"),
            (
                r#"{"model":"m","messages":[{"content":[{"type":"text"}]}]}"#,
                "json: cannot unmarshal array into Go struct field ChatRequest.messages.content",
            ),
            (r#"{"model":"m","options":{"seed":"1"}}"#, "option \"seed\" must be of type integer"),
            (r#"{"model":"m","think":"very"}"#, "invalid think value"),
            (r#"{"model":"m","format":3}"#, "invalid format"),
            (
                r#"{"model":"m","messages":[{"tool_calls":[{"function":{"arguments":"{}"}}]}]}"#,
                "json: cannot unmarshal string into Go struct field \
                 ChatRequest.messages.tool_calls.function.arguments",
            ),
            (
                r#"{"model":"m","tools":[{"function":{"parameters":{"properties":{"x":true}}}}]}"#,
                "json: cannot unmarshal value into Go struct field",
            ),
        ];
        for (body, text) in cases {
            let refused = chat(body).unwrap_err();
            assert!(refused.text().starts_with(text), "{body}: {}", refused.text());
        }
    }

    #[test]
    fn a_request_without_words_loads_or_unloads() {
        let of = |body: &str| generate(body).unwrap().lifecycle;
        assert_eq!(of(r#"{"model":"m"}"#), Some(Lifecycle::Load));
        assert_eq!(of(r#"{"model":"m","keep_alive":0}"#), Some(Lifecycle::Unload));
        assert_eq!(of(r#"{"model":"m","prompt":"x","keep_alive":0}"#), None);
    }
}
