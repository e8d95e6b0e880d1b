//! The body of an error, in OpenAI's dialect and in Ollama's.

use serde_json::json;

use crate::error::Code;

/// `{"error":{"message","type","param","code"}}`: all four are always there, because SDKs read them
/// without asking.
#[must_use]
pub fn openai_error(code: Code, message: &str, param: Option<&str>) -> String {
    json!({
        "error": { "message": message, "type": code.kind(), "param": param, "code": code.as_str() }
    })
    .to_string()
}

/// `{"error":"…"}`: always a string, because Ollama's clients fail on anything else.
#[must_use]
pub fn ollama_error(message: &str) -> String {
    json!({ "error": message }).to_string()
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
        assert_eq!(ollama_error("a \"b\""), r#"{"error":"a \"b\""}"#);
    }
}
