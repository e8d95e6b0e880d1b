//! Error bodies, in both dialects.

use serde::Serialize;

use crate::error::Code;

#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

/// OpenAI's shape: all four fields are always there.
#[must_use]
pub fn openai_error(code: Code, message: &str, param: Option<&str>) -> String {
    let error = Error { message, r#type: code.kind(), param, code: code.as_str() };
    serde_json::to_string(&Body { error }).unwrap_or_default()
}

/// Ollama's shape: one string. Its clients fail on anything else.
#[must_use]
pub fn ollama_error(message: &str) -> String {
    serde_json::json!({ "error": message }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_are_what_the_clients_expect() {
        assert_eq!(
            openai_error(Code::ModelNotFound, "No \"m\".", Some("model")),
            r#"{"error":{"message":"No \"m\".","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#
        );
        assert_eq!(ollama_error("no"), r#"{"error":"no"}"#);
    }
}
