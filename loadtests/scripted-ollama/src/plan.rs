//! What an answer will say, piece by piece, decided before its first byte.
//!
//! A piece is a chunk and a chunk is a token. Pieces are slices of one text, so an answer of any
//! number of chunks costs the memory of its words.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::Value;

use crate::ask::{Ask, Surface};
use crate::directives::{self, Directives};
use crate::schema;
use crate::script::{Model, Script};

/// How an answer begins, so that nobody takes it for a model's.
const OPENING: &str = "This is the scripted Ollama:";

/// What a model that thinks thinks.
const THOUGHT: &str = "The script says what to answer.";

/// Words of the last message that are echoed.
const ECHO_WORDS: usize = 12;

/// Bytes of JSON in a chunk.
const JSON_CHUNK: usize = 4;

/// An answer, before it is said.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) surface: Surface,
    /// The model as the client spelled it: Ollama says it back so.
    pub(crate) model: String,
    pub(crate) prompt_tokens: u64,
    /// `stop`, or `length` where the client's limit ends it.
    pub(crate) reason: &'static str,
    thinking: Pieces,
    content: Pieces,
    calls: Vec<Call>,
    content_count: usize,
    /// Bytes of the first content chunk, if it is to be long.
    long: Option<usize>,
    count: usize,
}

/// One chunk of an answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece<'a> {
    Thinking(&'a str),
    Content(Cow<'a, str>),
    Call(&'a Call),
}

/// A call of a tool.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) arguments: Value,
}

/// A text in pieces, each with the blank before it.
#[derive(Debug)]
struct Pieces {
    text: Cow<'static, str>,
    ranges: Vec<Range<usize>>,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn new(ask: &Ask, model: &Model, words: &Directives, script: &Script) -> Self {
        // A model that can think does, unless told not to.
        let thinks = model.can("thinking") && ask.think.unwrap_or(true);
        let thinking = if thinks { Pieces::words(THOUGHT.into()) } else { Pieces::none() };
        let calls = calls(ask);
        let content = if calls.is_empty() { content(ask, model, words) } else { Pieces::none() };

        let is_free = calls.is_empty() && ask.format.is_none() && words.text.is_none();
        let chunks = words.chunks.or(script.chunks.filter(|_| is_free));
        let content_count = match chunks {
            Some(chunks) if !content.ranges.is_empty() => chunks,
            _ => content.ranges.len(),
        };
        let all = thinking.ranges.len() + content_count + calls.len();
        let limit = ask.limit.filter(|_| !words.unbound).unwrap_or(usize::MAX);
        Self {
            surface: ask.surface,
            model: ask.model.clone(),
            prompt_tokens: ask.prompt_tokens,
            reason: if all > limit { "length" } else { "stop" },
            thinking,
            content,
            calls,
            content_count,
            long: words.long,
            count: all.min(limit),
        }
    }

    /// How many pieces there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The piece of this number, below [`Self::count`].
    pub(crate) fn piece(&self, number: usize) -> Option<Piece<'_>> {
        if number >= self.count {
            return None;
        }
        if let Some(thought) = self.thinking.get(number) {
            return Some(Piece::Thinking(thought));
        }
        let number = number - self.thinking.ranges.len();
        if number >= self.content_count {
            return self.calls.get(number - self.content_count).map(Piece::Call);
        }
        match self.long {
            Some(bytes) if number == 0 => Some(Piece::Content("x".repeat(bytes).into())),
            _ => self.content.get_around(number).map(|word| Piece::Content(word.into())),
        }
    }

    /// The pieces up to a number, put together: thinking, content and calls.
    pub(crate) fn whole(&self, count: usize) -> (String, String, Vec<&Call>) {
        let (mut thinking, mut content, mut calls) = (String::new(), String::new(), Vec::new());
        for piece in (0..count).map_while(|number| self.piece(number)) {
            match piece {
                Piece::Thinking(text) => thinking.push_str(text),
                Piece::Content(text) => content.push_str(&text),
                Piece::Call(call) => calls.push(call),
            }
        }
        (thinking, content, calls)
    }

    /// The reason for the end as OpenAI's clients know it.
    pub(crate) fn finish_reason(&self) -> &'static str {
        match self.reason {
            "stop" if !self.calls.is_empty() => "tool_calls",
            reason => reason,
        }
    }
}

fn content(ask: &Ask, model: &Model, words: &Directives) -> Pieces {
    if let Some(text) = &words.text {
        return Pieces::words(text.clone().into());
    }
    if let Some(schema) = &ask.format {
        return Pieces::of_length(schema::minimal(schema).to_string(), JSON_CHUNK);
    }
    if let Some(reply) = &model.reply {
        return Pieces::words(reply.clone().into());
    }
    let mut text = String::with_capacity(128);
    text.push_str(OPENING);
    let said = directives::without_words(&ask.last);
    for word in said.split_whitespace().take(ECHO_WORDS) {
        text.push(' ');
        text.push_str(word);
    }
    Pieces::words(text.into())
}

/// A call of every tool whose name the user mentions.
fn calls(ask: &Ask) -> Vec<Call> {
    let mentioned = |name: &str| !name.is_empty() && ask.last_is_user && ask.last.contains(name);
    let tools = ask.tools.iter().filter(|tool| mentioned(&tool.name));
    let call = |(index, tool): (usize, &crate::ask::Tool)| Call {
        id: format!("call_{:08}", ask.prompt_tokens * 100 + index as u64),
        index,
        name: tool.name.clone(),
        arguments: match &tool.parameters {
            Value::Object(_) => schema::minimal(&tool.parameters),
            _ => Value::Object(serde_json::Map::new()),
        },
    };
    tools.enumerate().map(call).collect()
}

// === impl Pieces ===

impl Pieces {
    fn none() -> Self {
        Self { text: "".into(), ranges: Vec::new() }
    }

    /// Word by word, every word with the blanks before it.
    fn words(text: Cow<'static, str>) -> Self {
        let mut ranges = Vec::with_capacity(text.len() / 5 + 1);
        let mut start = 0;
        let mut in_word = false;
        for (at, c) in text.char_indices() {
            if c.is_whitespace() && in_word {
                ranges.push(start..at);
                start = at;
            }
            in_word = !c.is_whitespace();
        }
        if start < text.len() {
            ranges.push(start..text.len());
        }
        Self { text, ranges }
    }

    /// At least so many bytes a piece, cut between characters.
    fn of_length(text: String, bytes: usize) -> Self {
        let mut ranges = Vec::with_capacity(text.len() / bytes + 1);
        let mut start = 0;
        for (at, _) in text.char_indices() {
            if at - start >= bytes {
                ranges.push(start..at);
                start = at;
            }
        }
        ranges.push(start..text.len());
        Self { text: text.into(), ranges }
    }

    fn get(&self, number: usize) -> Option<&str> {
        self.text.get(self.ranges.get(number)?.clone())
    }

    /// The piece of this number, beginning anew behind the last.
    fn get_around(&self, number: usize) -> Option<&str> {
        self.get(number.checked_rem(self.ranges.len())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(body: &str, model: &Model) -> Plan {
        let ask = crate::ask::native::chat(body).unwrap();
        let mut words = Directives::default();
        words.read(&ask.last);
        Plan::new(&ask, model, &words, &Script::default())
    }

    fn user(text: &str) -> String {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#)
    }

    #[test]
    fn the_last_message_is_echoed_word_by_word_without_its_magic() {
        let plan = plan(&user("Why is [[crlf]] the sky blue?"), &Model::named("m"));
        assert_eq!(plan.whole(99).1, "This is the scripted Ollama: Why is the sky blue?");
        assert_eq!(plan.piece(1), Some(Piece::Content(" is".into())));
        assert_eq!((plan.count(), plan.reason, plan.prompt_tokens), (10, "stop", 6));
    }

    #[test]
    fn chunks_and_limits_set_the_length() {
        let many = plan(&user("[[chunks 100]]"), &Model::named("m"));
        assert_eq!(many.count(), 100);
        assert!(many.piece(99).is_some() && many.piece(100).is_none());

        let body = user("[[chunks 100]]").replace("}]}", "}],\"options\":{\"num_predict\":3}}");
        let few = plan(&body, &Model::named("m"));
        assert_eq!((few.count(), few.reason), (3, "length"));
    }

    #[test]
    fn a_text_is_said_to_the_letter() {
        let plan = plan(&user("[[text a\u{2028}b  c ü]]"), &Model::named("m"));
        assert_eq!(plan.whole(99).1, "a\u{2028}b  c ü");
    }

    #[test]
    fn a_mentioned_tool_is_called_with_what_it_requires() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"use weather now"}],
            "tools":[{"type":"function","function":{"name":"weather","parameters":{
            "type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}},
            {"type":"function","function":{"name":"clock"}}]}"#;
        let plan = plan(body, &Model::named("m"));
        let (_, content, calls) = plan.whole(99);
        assert_eq!((content.as_str(), calls.len()), ("", 1));
        assert_eq!(calls[0].arguments.to_string(), r#"{"city":"scripted"}"#);
        assert_eq!(plan.finish_reason(), "tool_calls");
    }

    #[test]
    fn json_is_said_where_json_is_asked() {
        let body = user("x").replace("}]}", "}],\"format\":\"json\"}");
        let plan = plan(&body, &Model::named("m"));
        assert_eq!(plan.whole(99).1, r#"{"scripted":true}"#);
        assert!(plan.count() > 1);
    }

    #[test]
    fn a_thinking_model_thinks_unless_told_not_to() {
        let model = Model { capabilities: vec!["thinking".to_owned()], ..Model::named("m") };
        assert_eq!(plan(&user("x"), &model).piece(0), Some(Piece::Thinking("The")));
        let body = user("x").replace("}]}", "}],\"think\":false}");
        assert_eq!(plan(&body, &model).piece(0), Some(Piece::Content("This".into())));
    }
}
