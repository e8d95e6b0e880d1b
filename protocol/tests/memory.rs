//! How much is allocated to read a request and to write it for a model server.

use allocation_counter::{AllocationInfo, measure};
use protocol::{
    levers::Levers,
    route::{Route, UpstreamKind},
    translate::request::{Request, Target},
};

/// What reading and writing a body allocates; whether it was refused.
fn cost(route: Route, kind: UpstreamKind, body: &str) -> (AllocationInfo, bool) {
    let mut is_refused = false;
    let info = measure(|| {
        let target = Target { kind, model: Some("m"), tokens_max: None, levers: &Levers::OPEN };
        let written = Request::read(route, body.as_bytes()).and_then(|one| one.write(&target));
        is_refused = written.is_err();
    });
    (info, is_refused)
}

fn many(item: &str, count: usize) -> String {
    vec![item; count].join(",")
}

/// Tenths of a byte that were allocated for each byte of a body, all in all and at once.
fn per_byte(info: &AllocationInfo, body: &str) -> (u64, u64) {
    let bytes = body.len() as u64;
    (info.bytes_total * 10 / bytes, info.bytes_max * 10 / bytes)
}

#[test]
fn a_body_within_its_bounds_takes_a_few_times_its_size() {
    let said = r#"{"role":"user","content":"What is the weather like in Berlin today?"}"#;
    let messages = format!(r#"{{"model":"m","messages":[{}]}}"#, many(said, 4_000));
    let text = "word ".repeat(8 * 1_024 * 1_024 / 5);
    let large = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let inputs = format!(
        r#"{{"model":"m","input":[{}]}}"#,
        many(r#""A sentence of some words that is to be embedded.""#, 2_000)
    );
    let tool = r#"{"type":"function","name":"f","description":"Tells it","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}"#;
    let tools = format!(r#"{{"model":"m","input":"a","tools":[{}]}}"#, many(tool, 1_000));
    let prompt = format!(r#"{{"model":"m","prompt":"{text}"}}"#);
    for (name, route, body, most) in [
        ("4,000 messages", Route::OpenAiChat, &messages, 60),
        ("8 MiB of text", Route::OpenAiChat, &large, 15),
        ("2,000 texts to embed", Route::OpenAiEmbeddings, &inputs, 45),
        ("1,000 tools of a response", Route::OpenAiResponses, &tools, 65),
        ("a prompt of 8 MiB", Route::OpenAiCompletions, &prompt, 20),
    ] {
        for kind in [UpstreamKind::Ollama, UpstreamKind::OpenAi] {
            let (info, is_refused) = cost(route, kind, body);
            let (total, at_once) = per_byte(&info, body);
            println!("{name}, {kind}: {total} / {at_once} tenths of a byte per byte");
            assert!(!is_refused, "{name}");
            assert!(at_once <= most, "{name}, {kind}: {at_once} > {most}");
        }
    }
}

#[test]
fn a_body_of_nothing_but_tiny_things_is_refused_at_no_cost() {
    const BYTES: usize = 16 * 1_024 * 1_024;
    let filled = |before: &str, item: &str, after: &str| {
        format!("{before}{}{after}", many(item, BYTES / (item.len() + 1)))
    };
    let tiny = r#"{"role":"user","content":"a"}"#;
    for (route, before, item, after) in [
        (Route::OpenAiChat, r#"{"model":"m","messages":["#, tiny, "]}"),
        (Route::OllamaChat, r#"{"model":"m","messages":["#, "{}", "]}"),
        (Route::OpenAiResponses, r#"{"model":"m","input":["#, tiny, "]}"),
        (
            Route::OpenAiChat,
            r#"{"model":"m","messages":[{"role":"user","content":["#,
            r#"{"type":"text","text":""}"#,
            "]}]}",
        ),
        (Route::OpenAiEmbeddings, r#"{"model":"m","input":["#, r#""a""#, "]}"),
        (Route::OpenAiCompletions, r#"{"model":"m","prompt":["#, r#""a""#, "]}"),
        (Route::OpenAiChat, r#"{"model":"m","messages":[1],"stop":["#, r#""""#, "]}"),
        (Route::OllamaChat, r#"{"model":"m","messages":[],"options":{"stop":["#, r#""""#, "]}}"),
        (Route::OpenAiChat, r#"{"model":"m","messages":[1],"modalities":["#, r#""""#, "]}"),
        (Route::OpenAiChat, r#"{"model":"m","messages":[1],"tools":["#, "1", "]}"),
        (Route::OpenAiChat, r#"{"model":"m","messages":[],"#, r#""x":1"#, "}"),
    ] {
        let body = filled(before, item, after);
        for kind in [UpstreamKind::Ollama, UpstreamKind::OpenAi] {
            let (info, is_refused) = cost(route, kind, &body);
            assert!(is_refused, "{route}: {before}");
            let AllocationInfo { bytes_max, .. } = info;
            println!("{route} {before}…: {bytes_max} bytes at once");
            assert!(bytes_max < 64 * 1_024, "{route}, {before}: {bytes_max} bytes at once");
        }
    }
}

#[test]
fn what_a_response_says_again_is_kept_as_text() {
    const BYTES: usize = 4 * 1_024 * 1_024;
    let list = many("[]", BYTES / 3);
    let body = format!(r#"{{"model":"m","input":"a","metadata":{{"a":[{list}]}}}}"#);
    let (info, is_refused) = cost(Route::OpenAiResponses, UpstreamKind::Ollama, &body);
    assert!(!is_refused);
    let (_, at_once) = per_byte(&info, &body);
    println!("said again: {at_once} tenths of a byte per byte");
    assert!(at_once <= 25, "{at_once}");
}
