//! Whatever clients and model servers send: nothing panics, and what is written is well formed.
//!
//! What is sent is made in three ways: bytes at random; JSON at random, of the names and words that the
//! dialects know; and the golden inputs, with some of their values, lines or bytes changed.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::{Index, select},
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::{
    OLLAMA, OPENAI, Pair, REQUESTS, Streamed, WHOLE_OLLAMA, WHOLE_OPENAI, meta, pair, parts_at,
    stream,
};
use crate::{
    body::Fields,
    levers::Levers,
    ollama::stream::NativeStream,
    openai::stream::PassedStream,
    route::{Route, UpstreamKind},
    sse,
    translate::{
        Echo, Reply,
        request::{Outgoing, Request, Target},
        whole::whole,
    },
};

/// Names of fields, of requests and of replies.
const NAMES: &str = "model Model name messages role content type text image_url url input_audio data refusal \
    reasoning reasoning_content reasoning_effort effort thinking think tools tool_choice \
    tool_calls tool_call_id tool_name function arguments parameters properties description \
    id index call_id tool_use_id input input_schema output summary source system \
    instructions stream stream_options include_usage max_tokens max_completion_tokens \
    max_output_tokens temperature top_p top_k seed stop stop_sequences n best_of echo suffix \
    prompt raw context template images format response_format json_schema schema options \
    num_predict num_ctx keep_alive logprobs top_logprobs logit_bias dimensions \
    encoding_format modalities metadata user message response done done_reason \
    prompt_eval_count eval_count error choices delta finish_reason usage prompt_tokens \
    completion_tokens embedding embeddings";

/// Values that are something to one dialect or another, or to no parser what they seem to be.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "-0",
    "3.0",
    "0.5",
    "1e999",
    "18446744073709551616",
    "{}",
    "[]",
    "[ ]",
    "\"\"",
    "\" \"",
    "\"m\"",
    "\"user\"",
    "\"assistant\"",
    "\"system\"",
    "\"developer\"",
    "\"tool\"",
    "\"text\"",
    "\"input_text\"",
    "\"image\"",
    "\"image_url\"",
    "\"tool_use\"",
    "\"tool_result\"",
    "\"function\"",
    "\"function_call\"",
    "\"function_call_output\"",
    "\"auto\"",
    "\"none\"",
    "\"required\"",
    "\"any\"",
    "\"high\"",
    "\"json\"",
    "\"json_object\"",
    "\"json_schema\"",
    "\"stop\"",
    "\"length\"",
    "\"tool_calls\"",
    "\"base64\"",
    "\"AACAPw==\"",
    "\"data:image/png;base64,QUJD\"",
    "\"data:,\"",
    "\"https://a/b.png\"",
    "\"{\\\"a\\\":1}\"",
    "\"{\"",
    "\"\\ud83d\"",
    "\"\\ud83d\\ude00\"",
    "\"\\u0000\\n\\r\\u2028\"",
    "\"\u{2028}\u{85}\u{7f}\"",
    "[\"\\udc00\"]",
    "{\"\\ud83d\":1}",
    "[0.1,-2,3e4]",
];

const ROUTES: [Route; 11] = [
    Route::OllamaChat,
    Route::OllamaGenerate,
    Route::OllamaEmbed,
    Route::OllamaEmbeddings,
    Route::OllamaShow,
    Route::OpenAiChat,
    Route::OpenAiCompletions,
    Route::OpenAiEmbeddings,
    Route::OpenAiResponses,
    Route::AnthropicMessages,
    Route::AnthropicCount,
];

/// Every reply that may be a stream.
const STREAMED: [fn() -> Reply; 8] = [
    || Reply::Chat { include_usage: true },
    || Reply::Chat { include_usage: false },
    || Reply::Completion { include_usage: true, echo: Some("\u{2028}\"Once".to_owned()) },
    || Reply::Completion { include_usage: false, echo: None },
    || Reply::Response(Box::<Echo>::default()),
    || Reply::Message,
    || Reply::Native(Route::OllamaChat),
    || Reply::Native(Route::OllamaGenerate),
];

/// And those that are whole alone.
const WHOLE: [fn() -> Reply; 4] = [
    || Reply::Embedding { base64: true },
    || Reply::Embedding { base64: false },
    || Reply::Native(Route::OllamaEmbed),
    || Reply::Native(Route::OllamaEmbeddings),
];

/// What is done to a golden input.
#[derive(Clone, Debug)]
enum Change {
    /// Another value in the place of one, in some line.
    Value(Index, Index, String),
    /// A line is left out.
    Drop(Index),
    /// A line stands somewhere else, too.
    Copy(Index, Index),
    /// Another byte in the place of one.
    Byte(Index, u8),
    /// The end is missing.
    Cut(Index),
}

// === What is sent ===

fn object(fields: &BTreeMap<&str, String>) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn any_name() -> impl Strategy<Value = &'static str> {
    select(NAMES.split_whitespace().collect::<Vec<_>>())
}

/// A JSON text.
fn any_json() -> impl Strategy<Value = String> {
    let deep = 1..3_usize;
    let leaf = prop_oneof![
        12 => select(VALUES).prop_map(str::to_owned),
        2 => any::<String>().prop_map(|text| json!(text).to_string()),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        1 => deep.prop_map(|levels| "[".repeat(levels * 100) + &"]".repeat(levels * 100)),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            1 => vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            3 => btree_map(any_name(), inner, 0..6).prop_map(|fields| object(&fields)),
        ]
    })
}

/// An object, which mostly names a model.
fn any_object() -> impl Strategy<Value = String> {
    (any::<bool>(), btree_map(any_name(), any_json(), 0..8)).prop_map(|(is_named, mut fields)| {
        if is_named {
            fields.insert("model", "\"m\"".to_owned());
        }
        object(&fields)
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        8 => (index(), index(), any_json()).prop_map(|(line, at, value)| Change::Value(line, at, value)),
        1 => index().prop_map(Change::Drop),
        1 => (index(), index()).prop_map(|(from, to)| Change::Copy(from, to)),
        1 => (index(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => index().prop_map(Change::Cut),
    ]
}

/// Golden inputs, changed.
fn changed(inputs: Vec<&'static str>) -> impl Strategy<Value = Vec<u8>> {
    (select(inputs), vec(any_change(), 0..5)).prop_map(|(text, changes)| {
        changes.iter().fold(text.as_bytes().to_vec(), |text, change| change.made(text))
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let golden = REQUESTS.iter().flat_map(|(_, _, cases)| *cases).map(|(_, text)| *text).collect();
    prop_oneof![
        1 => vec(any::<u8>(), 0..80),
        4 => any_object().prop_map(String::into_bytes),
        8 => changed(golden),
    ]
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let golden = OLLAMA.iter().chain(OPENAI).map(|(_, text)| *text).collect();
    let lines = |before: &'static str, after: &'static str| {
        let line = prop_oneof![9 => any_object(), 1 => Just("[DONE]".to_owned())];
        vec(line, 0..6).prop_map(move |lines| {
            lines
                .iter()
                .map(|line| format!("{before}{line}{after}"))
                .collect::<String>()
                .into_bytes()
        })
    };
    prop_oneof![
        1 => vec(any::<u8>(), 0..80),
        2 => lines("", "\n"),
        2 => lines("data: ", "\n\n"),
        8 => changed(golden),
    ]
}

fn any_reply() -> impl Strategy<Value = Vec<u8>> {
    let golden = WHOLE_OLLAMA.iter().chain(WHOLE_OPENAI).map(|(_, text)| *text);
    let vectors = [
        r#"{"model":"m","embeddings":[[0.1,-2],[3e4]],"prompt_eval_count":3}"#,
        r#"{"data":[{"embedding":[0.5]},{"embedding":"AACAPw=="}],"usage":{"prompt_tokens":3}}"#,
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 0..80),
        4 => any_object().prop_map(String::into_bytes),
        8 => changed(golden.chain(vectors).collect()),
    ]
}

// === impl Change ===

impl Change {
    fn made(&self, text: Vec<u8>) -> Vec<u8> {
        if text.is_empty() {
            return text;
        }
        let mut lines: Vec<Vec<u8>> =
            text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        match self {
            Self::Value(line, at, value) => {
                let line = line.get_mut(&mut lines);
                if let Some(made) = replaced(line, at, value) {
                    *line = made;
                }
            }
            Self::Drop(line) => drop(lines.remove(line.index(lines.len()))),
            Self::Copy(from, to) => lines.insert(to.index(lines.len()), from.get(&lines).clone()),
            Self::Byte(at, byte) => {
                let mut text = text;
                *at.get_mut(&mut text) = *byte;
                return text;
            }
            Self::Cut(at) => return text[..at.index(text.len())].to_vec(),
        }
        lines.concat()
    }
}

/// A line with another value in the place of one; none where it holds no JSON.
fn replaced(line: &[u8], at: &Index, other: &str) -> Option<Vec<u8>> {
    const HOLE: &str = "<here>";
    fn count(value: &Value) -> usize {
        let inner: usize = match value {
            Value::Array(items) => items.iter().map(count).sum(),
            Value::Object(fields) => fields.values().map(count).sum(),
            _ => 0,
        };
        1 + inner
    }
    fn put(value: &mut Value, left: &mut usize) {
        if *left == 0 {
            *value = HOLE.into();
        }
        *left = left.wrapping_sub(1);
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| put(item, left)),
            Value::Object(fields) => fields.values_mut().for_each(|field| put(field, left)),
            _ => {}
        }
    }
    let text = std::str::from_utf8(line).ok()?;
    let start = text.find('{')?;
    let mut tree: Value = serde_json::from_str(&text[start..]).ok()?;
    let mut left = at.index(count(&tree));
    put(&mut tree, &mut left);
    let made = tree.to_string().replace(&format!("\"{HOLE}\""), other);
    Some(format!("{}{made}\n", &text[..start]).into_bytes())
}

// === What is written ===

/// Whether it is one JSON value; how deep it is does not matter.
fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// One JSON value that every client can read: no half characters, and no deeper than parsers go.
fn read(text: &str, whole: &impl fmt::Debug) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}\nin {whole:?}"))
}

/// Checks that a translated stream is made of events or lines, and tells whether it says that it is whole.
fn is_whole(reply: &Reply, text: &str) -> bool {
    if !reply.is_sse() {
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        let lines: Vec<Value> = text.split_terminator('\n').map(|line| read(line, &text)).collect();
        let is_done = |line: &Value| line["done"] == true;
        let whole = lines.last().is_some_and(is_done);
        assert_eq!(
            lines.iter().filter(|line| is_done(line)).count(),
            usize::from(whole),
            "{text:?}"
        );
        return whole;
    }
    assert!(text.is_empty() || text.ends_with("\n\n"), "{text:?}");
    let mut kinds = Vec::new();
    for event in text.split_terminator("\n\n") {
        let (kind, data) = match event.split_once('\n') {
            Some((kind, data)) => (kind.strip_prefix("event: ").unwrap(), data),
            None => ("", event),
        };
        let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("{text:?}"));
        if data == "[DONE]" {
            kinds.push(data.to_owned());
            continue;
        }
        let data = read(data, &text);
        assert_eq!(data["type"].as_str().unwrap_or_default(), kind, "{text:?}");
        kinds.push(kind.to_owned());
    }
    let ends: &[&str] = match reply {
        Reply::Response(_) => &["response.completed", "response.incomplete"],
        Reply::Message => &["message_stop"],
        _ => &["[DONE]"],
    };
    let is_end = |kind: &String| ends.contains(&kind.as_str());
    let whole = kinds.last().is_some_and(is_end);
    assert_eq!(kinds.iter().filter(|kind| is_end(kind)).count(), usize::from(whole), "{text:?}");
    assert_eq!(text.as_bytes().ends_with(sse::DONE), whole && ends == ["[DONE]"], "{text:?}");
    whole
}

proptest! {
    #[test]
    fn whatever_is_asked_is_refused_or_written_as_json_for_the_one_model(body in any_body()) {
        let targets = UpstreamKind::ALL.iter().flat_map(|kind| {
            let levers = &Levers { may_unload: false, ..Levers::OPEN };
            let target = |(model, tokens_max)| Target { kind: *kind, model, tokens_max, levers };
            [(None, None), (Some("the \"model\""), Some(7))].map(target)
        });
        for route in ROUTES {
            let Ok(request) = Request::read(route, &body) else { continue };
            for target in targets.clone() {
                let Ok(Outgoing { body: made, .. }) = request.write(&target) else { continue };
                let made = made.as_deref().unwrap_or(&body);
                prop_assert!(is_json(made), "{route} {target:?}: {}", String::from_utf8_lossy(made));
                // The strict reading: no second model, in whatever case.
                let fields = Fields::of_body(made, &["model"], None).unwrap();
                let named = match fields.string("model").unwrap() {
                    None => Fields::of_body(made, &["name"], None).unwrap().string("name").unwrap(),
                    model => model,
                };
                let expected = target.model.unwrap_or(&request.model);
                prop_assert_eq!(named.as_deref(), Some(expected), "{} {:?}", route, target);
            }
        }
    }

    #[test]
    fn whatever_is_streamed_becomes_events_or_lines_and_ends_well_or_with_an_error(
        text in any_stream(),
        cuts in vec(any::<usize>(), 0..6),
    ) {
        for from in UpstreamKind::ALL {
            for reply in STREAMED {
                let pair: Pair = pair("any", *from, reply);
                let Streamed { text, fault, .. } = stream(&pair, parts_at(&text, &cuts));
                prop_assert_eq!(is_whole(&reply(), &text), fault.is_none(), "{} {}", from, text);
            }
        }
    }

    #[test]
    fn whatever_is_streamed_passes_without_a_panic(
        text in any_stream(),
        cuts in vec(any::<usize>(), 0..6),
    ) {
        let (mut native, mut passed) = (NativeStream::default(), PassedStream::new(true));
        for part in parts_at(&text, &cuts) {
            native.push(Bytes::copy_from_slice(part));
            passed.push(Bytes::copy_from_slice(part));
        }
        native.end();
        passed.end();
    }

    #[test]
    fn whatever_is_replied_is_refused_or_becomes_json(text in any_reply()) {
        for from in UpstreamKind::ALL {
            for reply in STREAMED.iter().chain(&WHOLE) {
                if let Ok((made, _)) = whole(&text, *from, &reply(), &meta(), 5) {
                    read(&String::from_utf8(made).unwrap(), &String::from_utf8_lossy(&text));
                }
            }
        }
    }
}
