//! A refusal, in Ollama's words, on whichever surface it was earned.
//!
//! Every text holds [`MARKER`], so that a test can search every byte that a client received for it.

use http::{StatusCode, header};
use serde::Serialize;

use crate::go;
use crate::refusals::Refusal;
use crate::reply::{self, Reply};

/// Stands in every text of an error: all of them belong to the model server alone.
pub const MARKER: &str = "UPSTREAM-WORDS";

/// Why a request is not served.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    text: String,
    is_page: bool,
    refusal: Option<Refusal>,
    retry_after: Option<usize>,
}

#[derive(Serialize)]
struct Native<'a> {
    error: &'a str,
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

// === impl Failure ===

impl Failure {
    /// A refusal in the server's own words, marked.
    pub(crate) fn new(status: StatusCode, text: &str) -> Self {
        Self {
            status,
            text: format!("{text} {MARKER}"),
            is_page: false,
            refusal: None,
            retry_after: None,
        }
    }

    /// What is wrong with the request, marked.
    pub(crate) fn bad_request(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// No such model, marked as well: what a gateway says of it are its own words.
    pub(crate) fn model_not_found(text: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// A refusal as real servers word it.
    pub(crate) fn refusal(refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..Self::bad_request("") }
    }

    /// The same, with a `Retry-After` of so many seconds where one is given.
    pub(crate) fn retry_after(self, seconds: Option<usize>) -> Self {
        Self { retry_after: seconds, ..self }
    }

    /// A refusal that is a page of HTML, as a proxy in front would send it.
    pub(crate) fn page(status: StatusCode) -> Self {
        let text = format!("<html><h1>{} {MARKER}</h1></html>", status.as_u16());
        Self { status, text, is_page: true, refusal: None, retry_after: None }
    }

    /// What the refusal says.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The refusal as an answer, in the shape of the surface that was asked.
    pub(crate) fn into_reply(self, is_openai: bool) -> Reply {
        let Self { mut status, mut text, is_page, refusal, retry_after } = self;
        if is_page {
            return reply::html(status, text);
        }
        if let Some((code, says)) = refusal.map(|refusal| refusal.says(is_openai)) {
            (status, text) = (StatusCode::from_u16(code).unwrap_or(status), says);
        }
        let body = if is_openai { openai_body(&text, status) } else { native_body(&text) };
        let mut reply = reply::json_status(status, body.freeze());
        if let Some(seconds) = retry_after {
            reply.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        reply
    }
}

/// OpenAI's shape of an error, as Ollama fills it.
pub(crate) fn openai_body(message: &str, status: StatusCode) -> bytes::BytesMut {
    let kind = match status {
        StatusCode::BAD_REQUEST => "invalid_request_error",
        StatusCode::NOT_FOUND => "not_found_error",
        _ => "api_error",
    };
    go::to_bytes(&OpenAi { error: OpenAiError { message, kind, param: None, code: None } })
}

/// Ollama's shape of an error: a line of a stream as well as a body.
pub(crate) fn native_body(text: &str) -> bytes::BytesMut {
    go::to_bytes(&Native { error: text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_are_ollamas() {
        assert_eq!(native_body("x"), &br#"{"error":"x"}"#[..]);
        let body = openai_body("x", StatusCode::NOT_FOUND);
        let expected =
            br#"{"error":{"message":"x","type":"not_found_error","param":null,"code":null}}"#;
        assert_eq!(body, &expected[..]);
    }

    #[test]
    fn words_of_the_server_are_marked() {
        for failure in [
            Failure::bad_request("model is required"),
            Failure::model_not_found("model 'x' not found"),
            Failure::page(StatusCode::BAD_GATEWAY),
        ] {
            assert!(failure.text().contains(MARKER), "{}", failure.text());
        }
    }
}
