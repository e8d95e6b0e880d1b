//! The replies of the upstream, as Ollama writes them, built once for each length.

use std::{cell::RefCell, collections::HashMap, fmt::Write, rc::Rc};

/// The one model.
pub(crate) const MODEL: &str = "llama3.2";

const CREATED_AT: &str = "2026-01-01T00:00:00.123456789Z";
const WORDS: [&str; 8] = [" The", " model", " says", " one", " word", " after", " the", " other"];
const PROMPT_TOKENS: usize = 26;
const TOKEN_NS: usize = 1_000_000;

/// Whose lines they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dialect {
    /// `/api/chat`
    Native,
    /// `/v1/chat/completions`
    OpenAi,
}

/// A streamed reply, head and all, and where its parts end.
pub(crate) struct Stream {
    bytes: Vec<u8>,
    /// The ends of the parts that a server flushes: each line, and the end of the body.
    ends: Vec<usize>,
}

/// What has been built so far, by dialect and number of pieces.
#[derive(Default)]
pub(crate) struct Replies {
    wholes: Built<[u8]>,
    streams: Built<Stream>,
}

type Built<T> = RefCell<HashMap<(Dialect, usize), Rc<T>>>;

// === impl Stream ===

impl Stream {
    fn new(lines: &[String], content_type: &str) -> Self {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let mut stream =
            Self { bytes: head.into_bytes(), ends: Vec::with_capacity(lines.len() + 1) };
        for line in lines {
            stream.bytes.extend_from_slice(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes());
            stream.ends.push(stream.bytes.len());
        }
        stream.bytes.extend_from_slice(b"0\r\n\r\n");
        stream.ends.push(stream.bytes.len());
        stream
    }

    /// What is written at once, `gather` parts together. The head goes with the first.
    pub(crate) fn writes(&self, gather: usize) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.chunks(gather).filter_map(move |ends| {
            let end = *ends.last()?;
            let part = self.bytes.get(start..end);
            start = end;
            part
        })
    }
}

// === impl Replies ===

impl Replies {
    /// A reply that is not streamed.
    pub(crate) fn whole(&self, dialect: Dialect, chunks: usize) -> Rc<[u8]> {
        let mut known = self.wholes.borrow_mut();
        let build = || json(&whole(dialect, chunks)).into();
        Rc::clone(known.entry((dialect, chunks)).or_insert_with(build))
    }

    /// A streamed reply.
    pub(crate) fn stream(&self, dialect: Dialect, chunks: usize) -> Rc<Stream> {
        let mut known = self.streams.borrow_mut();
        let build = || {
            Rc::new(match dialect {
                Dialect::Native => Stream::new(&native_lines(chunks), "application/x-ndjson"),
                Dialect::OpenAi => Stream::new(&openai_lines(chunks), "text/event-stream"),
            })
        };
        Rc::clone(known.entry((dialect, chunks)).or_insert_with(build))
    }
}

/// An answer in JSON, head and all.
pub(crate) fn json(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// `/api/tags`
pub(crate) fn tags() -> String {
    format!("{{\"models\":[{}]}}", entry(""))
}

/// `/api/ps`
pub(crate) fn ps() -> String {
    format!(
        "{{\"models\":[{}]}}",
        entry(",\"expires_at\":\"2099-01-01T00:00:00Z\",\"size_vram\":1")
    )
}

/// `/api/show`
pub(crate) fn show() -> String {
    "{\"details\":{\"format\":\"gguf\",\"family\":\"llama\"},\
     \"model_info\":{\"general.architecture\":\"llama\",\"llama.context_length\":131072},\
     \"capabilities\":[\"completion\"]}"
        .to_owned()
}

/// `/v1/models`
pub(crate) fn models() -> String {
    format!(
        "{{\"object\":\"list\",\"data\":[{{\"id\":\"{MODEL}\",\"object\":\"model\",\
         \"created\":1767225600,\"owned_by\":\"library\"}}]}}"
    )
}

fn entry(more: &str) -> String {
    format!(
        "{{\"name\":\"{MODEL}:latest\",\"model\":\"{MODEL}:latest\",\"modified_at\":\"{CREATED_AT}\",\
         \"size\":2019393189,\"digest\":\"a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72\",\
         \"details\":{{\"parent_model\":\"\",\"format\":\"gguf\",\"family\":\"llama\",\
         \"families\":[\"llama\"],\"parameter_size\":\"3.2B\",\"quantization_level\":\"Q4_K_M\"}}{more}}}"
    )
}

fn words(count: usize) -> impl Iterator<Item = &'static str> {
    WORDS.into_iter().cycle().take(count)
}

fn counts(chunks: usize) -> String {
    format!(
        "\"total_duration\":{},\"load_duration\":{TOKEN_NS},\"prompt_eval_count\":{PROMPT_TOKENS},\
         \"prompt_eval_duration\":{},\"eval_count\":{chunks},\"eval_duration\":{}",
        (PROMPT_TOKENS + chunks + 1) * TOKEN_NS,
        PROMPT_TOKENS * TOKEN_NS,
        chunks * TOKEN_NS,
    )
}

fn native_lines(chunks: usize) -> Vec<String> {
    let head = format!("{{\"model\":\"{MODEL}\",\"created_at\":\"{CREATED_AT}\",\"message\":");
    let line = |word: &str, rest: &str| {
        format!("{head}{{\"role\":\"assistant\",\"content\":\"{word}\"}},{rest}}}\n")
    };
    let mut lines: Vec<String> = words(chunks).map(|word| line(word, "\"done\":false")).collect();
    let counts = counts(chunks);
    lines.push(line("", &format!("\"done\":true,\"done_reason\":\"stop\",{counts}")));
    lines
}

fn openai_lines(chunks: usize) -> Vec<String> {
    let head = format!(
        "data: {{\"id\":\"chatcmpl-123\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\
         \"model\":\"{MODEL}\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{{\"index\":0,\"delta\":"
    );
    let line = |word: &str, reason: &str| {
        format!(
            "{head}{{\"role\":\"assistant\",\"content\":\"{word}\"}},\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let mut lines: Vec<String> = words(chunks).map(|word| line(word, "null")).collect();
    lines.push(line("", "\"stop\""));
    lines.push("data: [DONE]\n\n".to_owned());
    lines
}

fn whole(dialect: Dialect, chunks: usize) -> String {
    let mut said = String::new();
    for word in words(chunks) {
        said.push_str(word);
    }
    let mut body = String::new();
    let counts = counts(chunks);
    let written = match dialect {
        Dialect::Native => write!(
            body,
            "{{\"model\":\"{MODEL}\",\"created_at\":\"{CREATED_AT}\",\"message\":{{\"role\":\
             \"assistant\",\"content\":\"{said}\"}},\"done\":true,\"done_reason\":\"stop\",{counts}}}"
        ),
        Dialect::OpenAi => write!(
            body,
            "{{\"id\":\"chatcmpl-123\",\"object\":\"chat.completion\",\"created\":1767225600,\
             \"model\":\"{MODEL}\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{{\"index\":0,\
             \"message\":{{\"role\":\"assistant\",\"content\":\"{said}\"}},\"finish_reason\":\"stop\"}}],\
             \"usage\":{{\"prompt_tokens\":{PROMPT_TOKENS},\"completion_tokens\":{chunks},\
             \"total_tokens\":{}}}}}",
            PROMPT_TOKENS + chunks
        ),
    };
    debug_assert!(written.is_ok());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_written_line_by_line_or_at_once() {
        let replies = Replies::default();
        let stream = replies.stream(Dialect::Native, 100);
        // A hundred pieces, the line that ends them, the end of the body.
        assert_eq!(stream.writes(1).count(), 102);
        assert_eq!(stream.writes(200).count(), 1);
        let all: Vec<u8> = stream.writes(7).flatten().copied().collect();
        assert_eq!(all, stream.bytes);
        assert!(all.ends_with(b"\n\r\n0\r\n\r\n"));
    }

    #[test]
    fn a_whole_reply_says_its_length() {
        let reply = Replies::default().whole(Dialect::OpenAi, 10);
        let text = String::from_utf8_lossy(&reply).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }

    #[test]
    fn every_line_is_json() {
        for line in native_lines(3) {
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
        }
        for line in openai_lines(3).iter().take(4) {
            let json = line.strip_prefix("data: ").unwrap();
            assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{line}");
        }
        for body in [tags(), ps(), show(), models()] {
            assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok(), "{body}");
        }
    }
}
