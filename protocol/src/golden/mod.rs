//! Requests, replies and streams, with what must become of them.
//!
//! | folder | from | to |
//! |---|---|---|
//! | `chat_request` | the body of `/v1/chat/completions` | the body of `/api/chat` |
//! | `chat_reply` | the whole reply of `/api/chat` | a completion |
//! | `chat_stream` | the lines of `/api/chat` | server-sent events |
//!
//! The inputs are written after the sources of the servers and of the SDKs, not recorded; the
//! snapshots beside them are the exact bytes. Each stream is fed whole, byte by byte and at random
//! places, with newlines of both kinds and with and without the last one: the events are the same.

use bytes::{Bytes, BytesMut};
use insta::{assert_snapshot, with_settings};
use proptest::prelude::*;

use crate::{
    error::Code,
    ndjson::Lines,
    sse,
    translate::{
        StreamFault,
        chat_reply::{ReplyMeta, chat_reply},
        chat_request::chat_request,
        chat_stream::{ChatStream, error_event},
    },
};

macro_rules! cases {
    ($folder:literal, $ending:literal: $($case:literal),+ $(,)?) => {
        &[$(($case, include_str!(concat!($folder, "/", $case, ".", $ending)))),+]
    };
}

const REQUESTS: &[(&str, &str)] = cases!["chat_request", "json":
    "simple", "parts_and_image", "tools_round_trip", "json_schema", "json_object", "stop_string",
    "stop_list", "sampling", "reasoning", "developer", "langchain", "llamaindex", "audio",
    "refused_image_url", "refused_tool_choice", "refused_twice",
];

const REPLIES: &[(&str, &str)] = cases!["chat_reply", "json":
    "plain", "thinking", "tools", "length", "empty", "logprobs", "error", "unfinished",
];

const STREAMS: &[(&str, &str)] = cases!["chat_stream", "ndjson":
    "plain", "thinking", "thinking_and_content", "tools_on_done_line", "tools_on_earlier_lines",
    "content_on_done_line", "empty", "length", "load", "unicode", "logprobs", "error_line",
    "error_first", "no_done_line", "not_json",
];

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Streamed {
    events: String,
    fault: Option<StreamFault>,
    produced: u64,
}

fn meta() -> ReplyMeta {
    ReplyMeta {
        id: "chatcmpl-019a0f4e7c1d".to_owned(),
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

/// Does with a stream what the gateway does: events for lines, and an error event for a fault.
fn stream<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Streamed {
    let mut lines = Lines::default();
    let mut chat = ChatStream::new(meta(), true);
    let mut out = BytesMut::new();
    let run = || -> Result<(), StreamFault> {
        for part in parts {
            lines.push(Bytes::copy_from_slice(part));
            while let Some(line) = lines.next_line()? {
                chat.line(&line, &mut out)?;
            }
        }
        if let Some(line) = lines.finish() {
            chat.line(&line, &mut out)?;
        }
        chat.end(&mut out)
    };
    let fault = run().err();
    if fault.is_some() {
        error_event(Code::UpstreamFailed, Code::UpstreamFailed.message(), &mut out);
    }
    let events = String::from_utf8(out.to_vec()).unwrap();
    Streamed { events, fault, produced: chat.produced() }
}

fn parts_at<'a>(text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

#[test]
fn requests_become_what_stands_beside_them() {
    for (case, body) in REQUESTS {
        let text = match chat_request(body.as_bytes()) {
            Ok(request) => {
                let native = String::from_utf8(request.native.clone()).unwrap();
                format!("{request:?}\n{native}")
            }
            Err(error) => format!("{error} ({})", error.field.as_deref().unwrap_or_default()),
        };
        snapshot("chat_request", case, &text);
    }
}

#[test]
fn replies_become_what_stands_beside_them() {
    for (case, native) in REPLIES {
        let text = match chat_reply(native.as_bytes(), &meta()) {
            Ok((reply, usage)) => format!("{usage:?}\n{}", String::from_utf8(reply).unwrap()),
            Err(error) => format!("{error:?}"),
        };
        snapshot("chat_reply", case, &text);
    }
}

#[test]
fn streams_become_what_stands_beside_them() {
    for (case, lines) in STREAMS {
        let Streamed { events, fault, produced } = stream([lines.as_bytes()]);
        snapshot("chat_stream", case, &format!("fault {fault:?}, produced {produced}\n{events}"));
    }
}

#[test]
fn a_stream_is_done_or_says_that_it_failed() {
    for (case, lines) in STREAMS {
        let Streamed { events, fault, .. } = stream([lines.as_bytes()]);
        let is_done = events.as_bytes().ends_with(sse::DONE);
        assert_eq!(is_done, fault.is_none(), "{case}");
        assert_eq!(events.contains("data: {\"error\":{"), fault.is_some(), "{case}");
        assert!(!events.contains("UPSTREAM-WORDS"), "{case}");
    }
}

#[test]
fn a_stream_in_single_bytes_gives_the_same_events() {
    for (case, lines) in STREAMS {
        assert_eq!(stream(lines.as_bytes().chunks(1)), stream([lines.as_bytes()]), "{case}");
    }
}

#[test]
fn newlines_of_either_kind_give_the_same_events() {
    for (case, lines) in STREAMS {
        let whole = stream([lines.as_bytes()]);
        for other in [
            lines.replace('\n', "\r\n"),
            lines.replace('\n', "\n\n\r\n"),
            lines.trim_end_matches('\n').to_owned(),
        ] {
            assert_eq!(stream([other.as_bytes()]), whole, "{case}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_never_a_success() {
    for (case, lines) in STREAMS {
        // What is left of the last line is whole only if no more than its newline is missing.
        for at in 0..lines.len() - 1 {
            let cut = stream([&lines.as_bytes()[..at]]);
            assert!(cut.fault.is_some(), "{case} cut at {at}");
            assert!(!cut.events.contains("[DONE]"), "{case} cut at {at}");
        }
    }
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_the_events_are_the_same(
        case in 0..STREAMS.len(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let lines = STREAMS[case].1.as_bytes();
        prop_assert_eq!(stream(parts_at(lines, &cuts)), stream([lines]));
    }
}
