//! Requests, replies and streams, with what must become of them.
//!
//! | folder | what stands there |
//! |---|---|
//! | `…_request` | bodies of each dialect, and beside each what both kinds of upstream are sent |
//! | `from_ollama`, `from_openai` | streams of upstreams |
//! | `stream_…` | what each dialect makes of them |
//! | `whole_ollama`, `whole_openai` | whole replies of upstreams |
//! | `whole_…` | what each dialect makes of them |
//! | `whole_embedding` | vectors of both kinds of upstream, and what each dialect makes of them |
//! | `passed_…` | what of a stream passes to a client of its own dialect |
//!
//! The inputs are written after the sources of the servers and of the SDKs, not recorded; the
//! snapshots are the exact bytes. Each stream is fed whole, byte by byte and at random places, with
//! newlines of both kinds and with and without the last one: the events are the same.

mod properties;

use bytes::Bytes;
use insta::{assert_snapshot, with_settings};
use proptest::prelude::*;

use crate::{
    body::BodyError,
    error::Code,
    levers::Levers,
    ollama::stream::{NativeStream, Passed},
    openai::stream::PassedStream,
    route::{Route, UpstreamKind},
    sse::{self, Events},
    translate::{
        Echo, Reply, ReplyMeta, StreamFault,
        request::{Outgoing, Request, Target},
        stream::Translation,
        whole::whole,
    },
};

macro_rules! cases {
    ($folder:literal, $ending:literal: $($case:literal),+ $(,)?) => {
        &[$(($case, include_str!(concat!($folder, "/", $case, ".", $ending)))),+]
    };
}

type Cases = &'static [(&'static str, &'static str)];

const CHAT: Cases = cases!["chat_request", "json":
    "simple", "parts_and_image", "tools_round_trip", "json_schema", "json_object", "stop_string",
    "stop_list", "sampling", "reasoning", "developer", "langchain", "llamaindex", "audio",
    "refused_image_url", "refused_tool_choice", "refused_twice", "stream_options", "no_most",
    "old_functions", "odd_history", "refused_nothing_said",
    "schema_beside_the_type", "refused_without_schema", "refused_two_schemas", "no_words_to_stop_at",
    "allowed_tools",
];
const MESSAGE: Cases = cases!["message_request", "json":
    "simple", "system_and_sampling", "tools_round_trip", "forced_tool", "image", "thinking",
    "refused_url", "refused_server_tool", "refused_without_max", "tool_error", "tool_reference",
    "odd_blocks", "documents", "refused_document", "refused_block", "thoughts", "images_of_results",
    "orphans", "late_system", "refused_nothing_said",
    "schema_and_effort", "older_format", "nothing_in_objects", "refused_two_formats",
    "refused_task_budget",
];
const RESPONSE: Cases = cases!["response_request", "json":
    "text", "tools_round_trip", "parts_and_schema", "refused_previous", "refused_tool",
    "refused_image_url", "thought_and_said", "namespaces", "found_tools", "refused_namespace",
    "refused_item_reference", "refused_part_as_item", "refused_empty", "refused_only_secrets",
    "words_between", "odd_items", "orphans", "allowed_tools", "sampling", "refused_moderation",
];
const COMPLETION: Cases = cases!["completion_request", "json":
    "simple", "list_of_one", "two_prompts", "tokens", "refused_choices", "refused_best_of",
    "logprobs", "suffix_and_echo",
];
const EMBEDDING: Cases = cases!["embedding_request", "json":
    "text", "list", "refused_tokens", "refused_token_lists", "refused_empty", "refused_format",
];
const NATIVE: Cases =
    cases!["native_request", "json": "chat", "chat_tools", "chat_odd_history", "chat_without_stop"];
const GENERATE: Cases =
    cases!["native_request", "json": "generate", "refused_raw", "refused_context"];

const REQUESTS: [(&str, Route, Cases); 7] = [
    ("chat_request", Route::OpenAiChat, CHAT),
    ("message_request", Route::AnthropicMessages, MESSAGE),
    ("response_request", Route::OpenAiResponses, RESPONSE),
    ("completion_request", Route::OpenAiCompletions, COMPLETION),
    ("embedding_request", Route::OpenAiEmbeddings, EMBEDDING),
    ("native_request", Route::OllamaChat, NATIVE),
    ("native_request", Route::OllamaGenerate, GENERATE),
];

const OLLAMA: Cases = cases!["from_ollama", "ndjson":
    "plain", "thinking", "thinking_and_content", "tools_on_done_line", "tools_on_earlier_lines",
    "content_on_done_line", "empty", "length", "load", "unicode", "logprobs", "error_line",
    "error_first", "no_done_line", "not_json", "half_surrogates", "tools_odd_arguments", "bad_arguments", "done_without_reason",
];
const OPENAI: Cases = cases!["from_openai", "sse":
    "plain", "without_usage", "tools_in_parts", "reasoning", "length", "without_done",
    "broken_off", "done_without_reason", "error", "not_json", "comments", "repeated_names",
    "line_ends", "half_surrogates", "length_in_a_call", "logprobs", "object_error", "tools_mixed", "tools_named_late", "tools_without_arguments", "tools_odd_arguments", "tools_without_index", "text_in_a_call", "not_an_object", "thinking_phases", "content_parts", "keep_alives", "late_reason", "aborted", "only_done", "refusal", "function_call",
    "object", "object_with_calls", "object_with_error", "object_without_reason",
];
const WHOLE_OLLAMA: Cases = cases!["whole_ollama", "json":
    "plain", "thinking", "tools", "length", "empty", "logprobs", "error", "unfinished",
    "half_surrogate", "tools_odd_arguments", "bad_arguments",
];
const WHOLE_OPENAI: Cases = cases!["whole_openai", "json":
    "plain", "tools", "reasoning", "length", "error", "no_choice", "half_arguments", "logprobs",
    "half_surrogate", "content_is_a_list", "length_in_a_call", "detail", "tools_odd_arguments", "content_parts", "refusal", "two_names", "function_call", "aborted", "without_reason", "nameless_call", "untold_content",
];
/// Streams that only ever pass.
const PASSED: Cases = cases!["from_openai", "sse": "text"];
const EMBEDDED_OLLAMA: Cases =
    cases!["whole_embedding", "json": "ollama", "ollama_without_count", "ollama_error"];
const EMBEDDED_OPENAI: Cases =
    cases!["whole_embedding", "json": "openai", "openai_base64", "openai_error"];

/// A dialect of clients, an upstream's streams and whole replies, and the names of the folders.
struct Pair {
    name: &'static str,
    from: UpstreamKind,
    reply: fn() -> Reply,
    streams: Cases,
    replies: Cases,
}

const fn pair(name: &'static str, from: UpstreamKind, reply: fn() -> Reply) -> Pair {
    let (streams, replies) = match from {
        UpstreamKind::Ollama => (OLLAMA, WHOLE_OLLAMA),
        UpstreamKind::OpenAi => (OPENAI, WHOLE_OPENAI),
    };
    Pair { name, from, reply, streams, replies }
}

const PAIRS: [Pair; 10] = [
    pair("chat", UpstreamKind::Ollama, || Reply::Chat { include_usage: true }),
    pair("completion", UpstreamKind::Ollama, || Reply::Completion {
        include_usage: true,
        echo: Some("Once".to_owned()),
    }),
    pair("chat_without_usage", UpstreamKind::Ollama, || Reply::Chat { include_usage: false }),
    pair("completion_without_echo", UpstreamKind::Ollama, || Reply::Completion {
        include_usage: false,
        echo: None,
    }),
    pair("response", UpstreamKind::Ollama, || Reply::Response(Box::<Echo>::default())),
    pair("message", UpstreamKind::Ollama, || Reply::Message),
    pair("openai_to_response", UpstreamKind::OpenAi, || Reply::Response(Box::<Echo>::default())),
    pair("openai_to_message", UpstreamKind::OpenAi, || Reply::Message),
    pair("openai_to_native_chat", UpstreamKind::OpenAi, || Reply::Native(Route::OllamaChat)),
    pair("openai_to_native_generate", UpstreamKind::OpenAi, || {
        Reply::Native(Route::OllamaGenerate)
    }),
];

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Streamed {
    text: String,
    fault: Option<StreamFault>,
    produced: u64,
}

fn meta() -> ReplyMeta {
    ReplyMeta {
        id: "019a0f4e7c1d".to_owned(),
        created: 1_767_225_600,
        model: "llama3.2".to_owned(),
    }
}

fn snapshot(folder: &str, case: &str, text: &str) {
    with_settings!({
        snapshot_path => folder,
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        assert_snapshot!(case, text);
    });
}

/// Does with a stream what the gateway does: what it becomes, and an error at its end for a fault.
fn stream<'a>(pair: &Pair, parts: impl IntoIterator<Item = &'a [u8]>) -> Streamed {
    let mut translation = Translation::new(pair.from, (pair.reply)(), meta(), 5).unwrap();
    let mut text = Vec::new();
    let mut fault = None;
    for part in parts {
        let (bytes, failed) = translation.push(Bytes::copy_from_slice(part));
        text.extend_from_slice(&bytes);
        fault = failed;
        if fault.is_some() {
            break;
        }
    }
    if fault.is_none() {
        let (bytes, failed) = translation.end();
        text.extend_from_slice(&bytes);
        fault = failed;
    }
    if fault.is_some() {
        let code = Code::UpstreamFailed;
        text.extend_from_slice(&translation.fail(code, code.message(), None));
    }
    let text = String::from_utf8(text).unwrap();
    Streamed { text, fault, produced: translation.produced() }
}

/// Every case of every pair.
fn streams() -> impl Iterator<Item = (&'static Pair, &'static str, &'static str)> {
    PAIRS.iter().flat_map(|pair| pair.streams.iter().map(move |(case, text)| (pair, *case, *text)))
}

fn parts_at<'a>(text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

#[test]
fn requests_become_what_stands_beside_them() {
    let sent = |request: &Request<'_>, kind| {
        let target = Target {
            kind,
            model: Some("the-model"),
            tokens_max: request.tokens_max.is_none().then_some(77),
            levers: &Levers::OPEN,
        };
        let said =
            |error: &BodyError| format!("{error} ({})", error.field.as_deref().unwrap_or_default());
        match request.write(&target) {
            Ok(Outgoing { path, body }) => {
                let body = body.unwrap_or_else(|| b"as it came".to_vec());
                format!("{path}\n{}", String::from_utf8(body).unwrap())
            }
            Err(error) => said(&error),
        }
    };
    for (folder, route, cases) in REQUESTS {
        for (case, body) in cases {
            let text = match Request::read(route, body.as_bytes()) {
                Ok(request) => {
                    let Request { model, stream, tokens_max, text_bytes, images, reply, .. } =
                        &request;
                    format!(
                        "model {model}, stream {stream}, tokens_max {tokens_max:?}, text_bytes {text_bytes}, images {images}\n{reply:?}\n\nollama {}\n\nopenai {}",
                        sent(&request, UpstreamKind::Ollama),
                        sent(&request, UpstreamKind::OpenAi),
                    )
                }
                Err(error) => {
                    format!("{error} ({})", error.field.as_deref().unwrap_or_default())
                }
            };
            snapshot(folder, case, &text);
        }
    }
}

#[test]
fn replies_become_what_stands_beside_them() {
    for pair in &PAIRS {
        for (case, native) in pair.replies {
            let text = match whole(native.as_bytes(), pair.from, &(pair.reply)(), &meta(), 5) {
                Ok((reply, usage)) => {
                    format!("{usage:?}\n{}", String::from_utf8(reply).unwrap())
                }
                Err(error) => format!("{error:?}"),
            };
            assert!(!text.contains("UPSTREAM-WORDS"), "{} {case}", pair.name);
            snapshot(&format!("whole_{}", pair.name), case, &text);
        }
    }
}

#[test]
fn embeddings_become_what_stands_beside_them() {
    type Shape = (&'static str, Reply);
    let openai: [Shape; 2] = [
        ("float", Reply::Embedding { base64: false }),
        ("base64", Reply::Embedding { base64: true }),
    ];
    let native: [Shape; 2] = [
        ("embed", Reply::Native(Route::OllamaEmbed)),
        ("embeddings", Reply::Native(Route::OllamaEmbeddings)),
    ];
    for (from, cases, shapes) in [
        (UpstreamKind::Ollama, EMBEDDED_OLLAMA, openai),
        (UpstreamKind::OpenAi, EMBEDDED_OPENAI, native),
    ] {
        for ((case, text), (name, reply)) in
            cases.iter().flat_map(|case| shapes.iter().map(move |shape| (*case, shape)))
        {
            let text = match whole(text.as_bytes(), from, reply, &meta(), 5) {
                Ok((reply, usage)) => format!("{usage:?}\n{}", String::from_utf8(reply).unwrap()),
                Err(error) => format!("{error:?}"),
            };
            assert!(!text.contains("UPSTREAM-WORDS"), "{case} {name}");
            snapshot("whole_embedding", &format!("{case}_as_{name}"), &text);
        }
    }
}

#[test]
fn streams_pass_as_stands_beside_them() {
    let snapshot = |folder: &str, case: &str, passed: Vec<Passed>| {
        let bytes: Vec<_> = passed.iter().flat_map(|passed| passed.bytes.to_vec()).collect();
        let fault = passed.into_iter().find_map(|passed| passed.fault);
        let text = format!("fault {fault:?}\n{}", String::from_utf8(bytes).unwrap());
        assert!(!text.contains("UPSTREAM-WORDS"), "{case}");
        self::snapshot(folder, case, &text);
    };
    for (case, text) in OPENAI.iter().chain(PASSED) {
        for (folder, hides) in [("passed_openai", false), ("passed_openai_without_usage", true)] {
            let mut stream = PassedStream::new(hides);
            let first = stream.push(Bytes::from_static(text.as_bytes()));
            let last = if first.fault.is_none() { stream.end() } else { Passed::default() };
            snapshot(folder, case, vec![first, last]);
        }
    }
    for (case, text) in OLLAMA {
        let mut stream = NativeStream::default();
        let first = stream.push(Bytes::from_static(text.as_bytes()));
        let last = if first.fault.is_none() { stream.end() } else { Passed::default() };
        snapshot("passed_ollama", case, vec![first, last]);
    }
}

#[test]
fn streams_become_what_stands_beside_them() {
    for (pair, case, text) in streams() {
        let Streamed { text, fault, produced } = stream(pair, [text.as_bytes()]);
        let text = format!("fault {fault:?}, produced {produced}\n{text}");
        snapshot(&format!("stream_{}", pair.name), case, &text);
    }
}

/// How a stream of that dialect ends where it is whole.
fn is_whole(pair: &Pair, text: &str) -> bool {
    match (pair.reply)() {
        Reply::Chat { .. } | Reply::Completion { .. } => text.as_bytes().ends_with(sse::DONE),
        Reply::Response(_) => {
            text.contains("event: response.completed\n")
                || text.contains("event: response.incomplete\n")
        }
        Reply::Message => text.ends_with("data: {\"type\":\"message_stop\"}\n\n"),
        Reply::Native(_) | Reply::Embedding { .. } => text.contains("\"done\":true"),
    }
}

#[test]
fn a_stream_is_done_or_says_that_it_failed() {
    for (pair, case, text) in streams() {
        let Streamed { text, fault, .. } = stream(pair, [text.as_bytes()]);
        let at = format!("{} {case}: {text}", pair.name);
        assert_eq!(is_whole(pair, &text), fault.is_none(), "{at}");
        assert_eq!(text.contains("\"The model server failed.\""), fault.is_some(), "{at}");
        assert!(!text.contains("UPSTREAM-WORDS"), "{at}");
    }
}

#[test]
fn every_event_is_json_and_says_its_kind() {
    for (pair, case, text) in streams() {
        let Streamed { text, .. } = stream(pair, [text.as_bytes()]);
        if matches!((pair.reply)(), Reply::Native(_)) {
            // Where Python splits lines, too.
            assert!(!text.contains(['\u{85}', '\u{2028}', '\u{2029}']), "{} {case}", pair.name);
            for line in text.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
            continue;
        }
        let mut events = Events::default();
        events.push(Bytes::from(text));
        while let Some(event) = events.next_event().unwrap() {
            if event.data == "[DONE]" {
                continue;
            }
            let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
            let kind = data["type"].as_str().unwrap_or_default();
            assert_eq!(event.kind, kind, "{} {case}", pair.name);
        }
        assert_eq!(events.finish(), None);
    }
}

#[test]
fn a_stream_in_single_bytes_gives_the_same_events() {
    for (pair, case, text) in streams() {
        let whole = stream(pair, [text.as_bytes()]);
        assert_eq!(stream(pair, text.as_bytes().chunks(1)), whole, "{} {case}", pair.name);
    }
}

#[test]
fn newlines_of_either_kind_give_the_same_events() {
    for (pair, case, text) in streams() {
        let whole = stream(pair, [text.as_bytes()]);
        let crlf = text.replace('\n', "\r\n");
        let mut others = vec![crlf, text.trim_end_matches('\n').to_owned()];
        if pair.from == UpstreamKind::Ollama {
            others.push(text.replace('\n', "\n\n\r\n"));
        }
        for other in others {
            assert_eq!(stream(pair, [other.as_bytes()]), whole, "{} {case}", pair.name);
        }
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_never_a_success() {
    for (pair, case, text) in streams() {
        // What is whole without the rest: no more than newlines are missing, or what says only how much
        // was used.
        let end = match pair.from {
            UpstreamKind::Ollama => text.len() - 1,
            UpstreamKind::OpenAi => text.find("\"finish_reason\":\"").unwrap_or(text.len() - 2),
        };
        for at in 0..end {
            let cut = stream(pair, [&text.as_bytes()[..at]]);
            assert!(cut.fault.is_some(), "{} {case} cut at {at}", pair.name);
            assert!(!is_whole(pair, &cut.text), "{} {case} cut at {at}", pair.name);
        }
    }
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_the_events_are_the_same(
        case in 0..streams().count(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let Some((pair, _, text)) = streams().nth(case) else { return Ok(()) };
        let text = text.as_bytes();
        prop_assert_eq!(stream(pair, parts_at(text, &cuts)), stream(pair, [text]));
    }
}
