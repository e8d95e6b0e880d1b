//! What is measured with: a chat that is asked, and its reply as a stream, in the dialects that there are.

use bytes::Bytes;
use protocol::{
    route::UpstreamKind,
    translate::{Reply, ReplyMeta, stream::Translation},
};

/// The chunks of a stream, its end not among them.
pub const CHUNKS: usize = 100;

/// A chat of OpenAI's, or Ollama's, with a question of so many words.
#[must_use]
pub fn chat(words: usize) -> String {
    let text = "word ".repeat(words);
    format!(
        r#"{{"model":"llama3.2","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    )
}

/// What all events of a reply say.
#[must_use]
pub fn meta() -> ReplyMeta {
    ReplyMeta { id: "0".to_owned(), created: 1_795_452_870, model: "llama3.2".to_owned() }
}

/// A line of a stream, as Ollama sends it.
#[must_use]
pub fn line(number: usize) -> Bytes {
    Bytes::from(format!(
        "{{\"model\":\"llama3.2\",\"created_at\":\"2026-11-23T12:00:00.{number:09}Z\",\
         \"message\":{{\"role\":\"assistant\",\"content\":\" word\"}},\"done\":false}}\n"
    ))
}

/// A whole stream of Ollama's, a line at a time.
#[must_use]
pub fn lines() -> Vec<Bytes> {
    let last = "{\"model\":\"llama3.2\",\"created_at\":\"2026-11-23T12:00:01Z\",\"message\":\
        {\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\
        \"prompt_eval_count\":5,\"eval_count\":100}\n";
    (0..CHUNKS).map(line).chain([Bytes::from_static(last.as_bytes())]).collect()
}

/// The same stream in OpenAI's dialect.
#[must_use]
pub fn events() -> Vec<Bytes> {
    let reply = Reply::Chat { include_usage: true };
    let stream = Translation::new(UpstreamKind::Ollama, reply, meta(), 5);
    let lines = lines().into_iter();
    stream.map_or(Vec::new(), |mut stream| lines.map(|line| stream.push(line).0).collect())
}
