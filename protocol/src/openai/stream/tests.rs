use proptest::prelude::*;

use super::*;

const GOOD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"error\\\"\"}}]}\n\n\
    : comment\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n\
    data: [DONE]\n\n";

fn run(hides: bool, parts: &[&[u8]]) -> (String, Option<StreamFault>, PassedStream) {
    let mut stream = PassedStream::new(hides);
    let mut out = Vec::new();
    for part in parts {
        let passed = stream.push(Bytes::copy_from_slice(part));
        out.extend_from_slice(&passed.bytes);
        if passed.fault.is_some() {
            return (String::from_utf8(out).unwrap(), passed.fault, stream);
        }
    }
    let passed = stream.end();
    out.extend_from_slice(&passed.bytes);
    (String::from_utf8(out).unwrap(), passed.fault, stream)
}

#[test]
fn events_pass_without_being_copied_and_usage_is_read() {
    let mut stream = PassedStream::new(false);
    let chunk = Bytes::from_static(GOOD.as_bytes());
    let passed = stream.push(chunk.clone());
    assert_eq!((passed.bytes.as_ptr(), passed.bytes.len()), (chunk.as_ptr(), chunk.len()));
    assert_eq!(stream.end(), Passed::default());
    assert_eq!(stream.usage().map(|usage| usage.total()), Some(5));
    assert_eq!(stream.produced(), 1);
}

#[test]
fn an_event_that_only_opens_the_reply_is_no_token() {
    let event = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{{{delta}}}}}]}}\n\n");
    let produced = |deltas: &[&str]| {
        let mut stream = PassedStream::new(false);
        for delta in deltas {
            assert_eq!(stream.push(event(delta).into()).fault, None);
        }
        stream.produced()
    };
    let said = r#""content":"a""#;
    for opening in [r#""role":"assistant","content":null"#, r#""role":"assistant","content":"""#] {
        assert_eq!(produced(&[opening, said, said]), 2, "{opening}");
        // Only the first: what comes later may be a token that has no letters yet.
        assert_eq!(produced(&[said, opening, opening]), 3, "{opening}");
    }
    for first in [said, r#""content":"","reasoning_content":"a""#, r#""tool_calls":[{"index":0}]"#]
    {
        assert_eq!(produced(&[first, said]), 2, "{first}");
    }
}

#[test]
fn a_whole_reply_is_one_or_is_none() {
    let good = br#"{"choices":[{"message":{}}],"usage":{"prompt_tokens":1}}"#;
    assert_eq!(said(good).unwrap().map(|usage| usage.prompt), Some(1));
    assert_eq!(said(br#"{"data":[{"embedding":[1]}]}"#).unwrap(), None);
    for bad in [
        r#"{"error":{}}"#,
        "{}",
        r#"{"choices":[]}"#,
        r#"{"object":"error","message":"a"}"#,
        r#"{"detail":"a","usage":{"prompt_tokens":1}}"#,
        "[]",
        "x",
    ] {
        assert!(said(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn usage_that_nobody_asked_for_is_hidden() {
    let (out, fault, stream) = run(true, &[GOOD.as_bytes()]);
    assert_eq!(fault, None);
    let start = GOOD.find("data: {\"choices\":[],").unwrap();
    let end = GOOD.find("data: [DONE]").unwrap();
    assert_eq!(out, format!("{}{}", &GOOD[..start], &GOOD[end..]));
    assert!(stream.usage().is_some());
}

#[test]
fn what_is_an_error_never_passes_and_what_came_before_does() {
    let first = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    for (bad, expected) in [
        ("data: {\"error\":{\"message\":\"UPSTREAM-WORDS\"}}\n\n", StreamFault::UpstreamError),
        ("event: error\ndata: {\"message\":\"UPSTREAM-WORDS\"}\n\n", StreamFault::UpstreamError),
        (
            "data: {\"object\":\"error\",\"message\":\"UPSTREAM-WORDS\"}\n\n",
            StreamFault::UpstreamError,
        ),
        ("data: {\"detail\":\"UPSTREAM-WORDS\"}\n\n", StreamFault::UpstreamError),
        ("data: UPSTREAM-WORDS\n\n", StreamFault::NotJson),
        (
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}\n\n",
            StreamFault::UpstreamError,
        ),
        ("", StreamFault::BrokenOff),
    ] {
        let text = format!("{first}{bad}");
        for at in 0..text.len() {
            let (out, fault, _) = run(false, &[&text.as_bytes()[..at], &text.as_bytes()[at..]]);
            assert_eq!((out.as_str(), fault), (first, Some(expected)), "{bad} cut at {at}");
        }
    }
}

#[test]
fn the_last_event_alone_ends_a_reply_but_is_none() {
    let chunk = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"\"}]}\n\n";
    let text = format!("{chunk}data: [DONE]\n\n");
    let (out, fault, stream) = run(true, &[text.as_bytes()]);
    assert_eq!((out, fault, stream.is_done()), (text.clone(), None, true));
    let (out, fault, _) = run(true, &[chunk.as_bytes()]);
    assert_eq!((out.as_str(), fault), (chunk, Some(StreamFault::BrokenOff)));
    let (out, fault, _) = run(true, &[b"data: [DONE]\n\n"]);
    assert_eq!((out.as_str(), fault), ("", Some(StreamFault::BrokenOff)));
}

#[test]
fn what_the_sdks_choke_on_is_left_out() {
    let text =
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n";
    for idle in [
        "event: ping",
        "event: ping\ndata: {\"type\":\"ping\"}",
        "data:",
        "data: {}",
        "retry: 3000",
        "id: 1",
        "data: {\"choices\":[],\"usage\":null}",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":null}",
    ] {
        let all = format!("{idle}\n\n{text}{idle}\r\n\r\n: comment\n\ndata: [DONE]\n\n");
        for at in 0..all.len() {
            let (out, fault, _) = run(false, &[&all.as_bytes()[..at], &all.as_bytes()[at..]]);
            let expected = format!("{text}: comment\n\ndata: [DONE]\n\n");
            assert_eq!((out, fault), (expected, None), "{idle} cut at {at}");
        }
    }
}

#[test]
fn a_stream_that_is_stopped_ends_as_if_it_had_reached_its_length() {
    let mut stream = PassedStream::new(false);
    let first =
        "data: {\"id\":\"x\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    stream.push(Bytes::from_static(first.as_bytes()));
    let end = stream.stop(Usage { prompt: 1, completion: 1, estimated: true });
    let end = std::str::from_utf8(&end).unwrap();
    for said in
        ["\"id\":\"x\"", "\"finish_reason\":\"length\"", "\"total_tokens\":2", "data: [DONE]\n\n"]
    {
        assert!(end.contains(said), "{end}");
    }
    assert!(!end.contains("\"content\""), "{end}");
}

#[test]
fn a_completion_of_plain_text_is_stopped_in_its_own_shape() {
    let mut stream = PassedStream::new(true);
    let first = "data: {\"choices\":[{\"index\":1,\"text\":\"a\"}]}\n\n";
    stream.push(Bytes::from_static(first.as_bytes()));
    let end = stream.stop(Usage { prompt: 1, completion: 1, estimated: true });
    let expected = "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"length\",\"text\":\"\"},\
        {\"index\":1,\"finish_reason\":\"length\",\"text\":\"\"}]}\n\ndata: [DONE]\n\n";
    assert_eq!(std::str::from_utf8(&end).unwrap(), expected);
}

#[test]
fn a_stream_of_several_prompts_is_done_when_each_of_them_is() {
    let chunk = |index: u8, rest: &str| {
        format!("data: {{\"choices\":[{{\"index\":{index},\"text\":\"a\"{rest}}}]}}\n\n")
    };
    let (first, end) = (chunk(0, "") + &chunk(1, ""), ",\"finish_reason\":\"stop\"");
    let half = first + &chunk(0, end);
    let (_, fault, stream) = run(true, &[half.as_bytes()]);
    assert_eq!((fault, stream.is_done()), (Some(StreamFault::BrokenOff), false));
    let all = half + &chunk(1, end);
    let (_, fault, stream) = run(true, &[all.as_bytes()]);
    assert_eq!((fault, stream.is_done()), (None, true));
}

#[test]
fn an_event_of_many_chunks_is_looked_at_once() {
    let mut stream = PassedStream::new(true);
    stream.push(Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\""));
    let piece = Bytes::from(vec![b'a'; 16]);
    let mut moved = 0;
    let mut place = stream.held.as_ptr();
    for _ in 0..100_000 {
        assert_eq!(stream.push(piece.clone()), Passed::default());
        moved += usize::from(place != stream.held.as_ptr());
        place = stream.held.as_ptr();
    }
    assert!(moved < 40, "moved {moved} times");
    let passed = stream.push(Bytes::from_static(b"\"}}]}\n\n"));
    assert_eq!((passed.bytes.len() > 1_600_000, passed.fault), (true, None));
}

proptest! {
    #[test]
    fn however_it_is_cut_the_same_bytes_pass(
        cuts in prop::collection::vec(0..GOOD.len(), 0..12),
        hides in any::<bool>(),
    ) {
        let mut cuts = cuts;
        cuts.extend([0, GOOD.len()]);
        cuts.sort_unstable();
        let parts: Vec<_> = cuts.windows(2).map(|pair| &GOOD.as_bytes()[pair[0]..pair[1]]).collect();
        let (out, fault, stream) = run(hides, &parts);
        prop_assert_eq!(fault, None);
        prop_assert_eq!(out, run(hides, &[GOOD.as_bytes()]).0);
        prop_assert_eq!(stream.usage().map(|usage| usage.total()), Some(5));
    }
}
