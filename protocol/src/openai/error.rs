//! The body of an error, in each dialect.

use std::borrow::Cow;

use serde_json::json;

use crate::{error::Code, id::RequestId};

/// `{"error":{"message","type","param","code"}}`: all four are always there, because SDKs read them
/// without asking.
#[must_use]
pub fn openai_error(code: Code, message: &str, param: Option<&str>) -> String {
    json!({
        "error": { "message": message, "type": code.kind(), "param": param, "code": code.as_str() }
    })
    .to_string()
}

/// `{"error":"…"}`: always a string, because Ollama's clients fail on anything else. The message names what is meant.
#[must_use]
pub fn ollama_error(message: &str, param: Option<&str>) -> String {
    json!({ "error": named(message, param) }).to_string()
}

/// `{"type":"error","error":{"type","message"},"request_id"}`: Anthropic's SDKs go by the status and show the
/// message, which names what is meant. Our own word stands beside it, as `code`. Within a stream there is no id: its
/// head has told it.
#[must_use]
pub fn anthropic_error(
    code: Code,
    message: &str,
    param: Option<&str>,
    request: Option<RequestId>,
) -> String {
    let kind = match code.status() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    let mut body = json!({
        "type": "error", "error": { "type": kind, "message": named(message, param), "code": code.as_str() }
    });
    if let Some(request) = request {
        body["request_id"] = request.to_string().into();
    }
    body.to_string()
}

/// The message, after the field or place that is meant where it does not name it itself.
fn named<'a>(message: &'a str, param: Option<&str>) -> Cow<'a, str> {
    match param {
        Some(param) if !message.contains(param) => format!("`{param}`: {message}").into(),
        _ => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_shape() {
        assert_eq!(
            openai_error(Code::InvalidRequest, "a \"b\"\n", Some("messages[0]")),
            r#"{"error":{"message":"a \"b\"\n","type":"invalid_request_error","param":"messages[0]","code":"invalid_request"}}"#
        );
        assert_eq!(
            openai_error(Code::Internal, "x", None),
            r#"{"error":{"message":"x","type":"server_error","param":null,"code":"internal_error"}}"#
        );
        assert_eq!(
            anthropic_error(Code::ModelNotFound, "x", None, None),
            r#"{"type":"error","error":{"type":"not_found_error","message":"x","code":"model_not_found"}}"#
        );
        assert_eq!(ollama_error("a \"b\"", None), r#"{"error":"a \"b\""}"#);
    }

    #[test]
    fn a_dialect_without_param_names_the_place_in_the_message() {
        let place = Some("messages[2].content");
        assert_eq!(ollama_error("No.", place), r#"{"error":"`messages[2].content`: No."}"#);
        let text = anthropic_error(Code::InvalidRequest, "No.", place, None);
        assert!(text.contains(r#""message":"`messages[2].content`: No.""#), "{text}");
        assert_eq!(ollama_error("No `tools`.", Some("tools")), r#"{"error":"No `tools`."}"#);
    }
}
