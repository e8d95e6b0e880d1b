use super::*;
use crate::{
    error::Code,
    levers::Levers,
    route::{Route, UpstreamKind},
    translate::request::{Request, Target},
};

fn refused(route: Route, body: &str) -> Option<(Code, String)> {
    let request = Request::read(route, body.as_bytes()).unwrap();
    let refusal = |kind: &UpstreamKind| {
        let levers = &Levers::OPEN;
        let target = Target { kind: *kind, model: Some("m"), tokens_max: None, levers };
        request.write(&target).err().map(|error| (error.code, error.field.unwrap_or_default()))
    };
    let refusals: Vec<_> = UpstreamKind::ALL.iter().map(refusal).collect();
    assert_eq!(refusals[0], refusals[1], "{body}");
    refusals.into_iter().next().flatten()
}

fn chat(part: &str) -> String {
    format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"a"}},{{"role":"user","content":[{{"type":"text","text":"b"}},{part}]}}]}}"#
    )
}

fn message(block: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":[{block}]}}]}}"#)
}

fn response(part: &str) -> String {
    format!(r#"{{"model":"m","input":[{{"role":"user","content":[{part}]}}]}}"#)
}

#[test]
fn an_image_behind_a_url_is_refused_whoever_the_upstream_is() {
    let (image, source) = ("messages[1].content[1].image_url", "messages[0].content[0].source");
    let (chats, messages) = (Route::OpenAiChat, Route::AnthropicMessages);
    for (route, body, at) in [
        (
            chats,
            chat(r#"{"type":"image_url","image_url":{"url":"http://169.254.169.254/"}}"#),
            image,
        ),
        (
            chats,
            chat(r#"{"type":"image_url","image_url":{"url":"data:x","url":" http:\/\/a"}}"#),
            image,
        ),
        (chats, chat(r#"{"type":"image_url","image_url":"file:///etc/passwd"}"#), image),
        (chats, chat(r#"{"type":"image_url","\u0069mage_url":"https://a"}"#), image),
        (chats, chat(r#"{"type":"image_url","image_url":"\ud83d"}"#), image),
        (
            chats,
            chat(r#"{"type":"video_url","video_url":{"url":"https://a"}}"#),
            "messages[1].content[1].video_url",
        ),
        (
            Route::OpenAiResponses,
            response(r#"{"type":"input_image","image_url":"https://a"}"#),
            "input[0].content[0].image_url",
        ),
        (
            messages,
            message(r#"{"type":"image","source":{"type":"url","url":"https://a"}}"#),
            source,
        ),
        (
            messages,
            message(
                r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"url","url":"https://a"}}]}"#,
            ),
            "messages[0].content[0].content[0].source",
        ),
    ] {
        let expected = Some((Code::UnsupportedParameter, at.to_owned()));
        assert_eq!(refused(route, &body), expected, "{body}");
    }
    for part in [
        r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,QUJD","detail":"low"}}"#,
        r#"{"type":"image_url","image_url":"DATA:image\/png;base64,QUJD"}"#,
        r#"{"type":"text","text":"see \"image_url\": https://a"}"#,
    ] {
        assert_eq!(refused(Route::OpenAiChat, &chat(part)), None, "{part}");
    }
}

#[test]
fn what_was_fetched_stands_in_the_place_of_its_url() {
    let url = "https://a/\u{e4}?b=\"";
    let quoted = json!(url).to_string();
    let fetched = HashMap::from([(url.to_owned(), "data:image/png;base64,QUJD".to_owned())]);
    let (image, source) = (
        format!(r#"{{"type":"image_url","image_url":{{"url": {quoted} ,"detail":"low"}}}}"#),
        format!(r#"{{"type":"image","source": {{"type":"url","url":{quoted}}} }}"#),
    );
    let (data, base64) = (
        r#"{"type":"image_url","image_url":{"url": "data:image/png;base64,QUJD" ,"detail":"low"}}"#,
        r#"{"type":"image","source": {"type":"base64","media_type":"image/png","data":"QUJD"} }"#,
    );
    for (route, body, expected) in [
        (Route::OpenAiChat, chat(&image), chat(data)),
        (Route::AnthropicMessages, message(&source), message(base64)),
    ] {
        let request = Request::read(route, body.as_bytes()).unwrap();
        assert_eq!(request.remote_images().collect::<Vec<_>>(), [url]);
        let with = String::from_utf8(request.with_images(&fetched)).unwrap();
        let (with, expected): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&with).unwrap(), serde_json::from_str(&expected).unwrap());
        assert_eq!(with, expected);
        assert_eq!(refused(route, &with.to_string()), None);
        // What was not fetched stays, and is refused.
        let without = request.with_images(&HashMap::new());
        assert_eq!(without, body.as_bytes());
    }
}

#[test]
fn no_more_than_so_many_are_told_of_and_the_rest_is_refused() {
    let parts = vec![r#"{"type":"image_url","image_url":"https://a"}"#; REMOTE_IMAGES_MAX + 1];
    let body = chat(&parts.join(","));
    let request = Request::read(Route::OpenAiChat, body.as_bytes()).unwrap();
    assert_eq!(request.remote_images().count(), REMOTE_IMAGES_MAX);
    let fetched = HashMap::from([("https://a".to_owned(), "data:;base64,QUJD".to_owned())]);
    let with = String::from_utf8(request.with_images(&fetched)).unwrap();
    assert!(refused(Route::OpenAiChat, &with).is_some());
}

#[test]
fn only_an_image_is_left_out_of_the_text() {
    let long = "long ".repeat(2_000);
    let image = format!("data:image/png;base64,{}", "QUJD".repeat(2_000));
    let data = &image[22..];
    let wav = format!(r#"{{"type":"input_audio","input_audio":{{"data":"{data}"}}}}"#);
    let block = format!(r#"{{"type":"image","source":{{"type":"base64","data":"{data}"}}}}"#);
    let native = |rest: &str| format!(r#"{{"model":"m",{rest}}}"#);
    let (chats, natives) = (Route::OpenAiChat, Route::OllamaChat);
    for (route, body, images, text) in [
        (chats, chat(&format!(r#"{{"type":"image_url","image_url":"{image}"}}"#)), 1, 200),
        (
            chats,
            chat(&format!(r#"{{"type":"image_url","image_url":{{"url":"{image}"}}}}"#)),
            1,
            200,
        ),
        (chats, chat(&wav), 1, 200),
        (chats, chat(&format!(r#"{{"type":"text","text":"image {long}"}}"#)), 0, 10_200),
        (Route::OpenAiResponses, response(&format!(r#"{{"image_url":"{image}"}}"#)), 1, 200),
        (Route::AnthropicMessages, message(&format!("{block},{block}")), 2, 300),
        (natives, native(&format!(r#""messages":[{{"images":["{data}","{data}"]}}]"#)), 2, 200),
        (Route::OllamaGenerate, native(&format!(r#""prompt":"a","images":["{data}"]"#)), 1, 200),
        // What only looks like an image is text.
        (
            natives,
            native(&format!(r#""messages":[{{"tool_calls":[{{"images":["{data}"]}}]}}]"#)),
            0,
            8_200,
        ),
        (
            natives,
            native(&format!(r#""messages":[{{"content":{{"images":"{data}"}}}}]"#)),
            0,
            8_200,
        ),
    ] {
        let request = Request::read(route, body.as_bytes()).unwrap();
        assert_eq!(request.images, images, "{body}");
        let near = text - 200..=text;
        assert!(near.contains(&request.text_bytes), "{}: {body}", request.text_bytes);
    }
}

#[test]
fn whatever_becomes_a_part_of_the_prompt_is_counted() {
    let long = "a b ".repeat(1_000);
    let counted = |route: Route, field: &str, value: String| {
        let basis = match route {
            Route::OpenAiChat | Route::OllamaChat => r#""messages":[]"#,
            Route::AnthropicMessages => r#""max_tokens":1,"messages":[]"#,
            Route::OpenAiResponses | Route::OpenAiEmbeddings => r#""input":"a""#,
            _ => r#""prompt":"a""#,
        };
        let body = format!(r#"{{"model":"m",{basis},"{field}":{value}}}"#);
        let request =
            Request::read(route, body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert!(request.text_bytes >= 4_000, "{route:?} {field}: {}", request.text_bytes);
    };
    for (route, fields) in [
        (Route::OpenAiChat, &["tools", "functions", "response_format", "documents"][..]),
        (Route::OpenAiCompletions, &["suffix", "anything"]),
        (Route::OpenAiEmbeddings, &["instruction"]),
        (Route::OpenAiResponses, &["instructions", "tools", "text"]),
        (Route::AnthropicMessages, &["system", "tools"]),
        (Route::OllamaChat, &["tools", "format"]),
        (Route::OllamaGenerate, &["system", "suffix", "template", "context", "format"]),
    ] {
        for field in fields {
            let value = match *field {
                "suffix" | "instructions" | "system" | "template" => format!("\"{long}\""),
                _ => format!(r#"{{"x":"{long}"}}"#),
            };
            counted(route, field, value);
        }
    }
}

#[test]
fn token_ids_are_counted_as_what_they_are() {
    let ids = vec!["128000"; 1_000].join(",");
    for (route, field, value, tokens) in [
        (Route::OllamaGenerate, "context", format!("[{ids}]"), 1_000),
        (Route::OpenAiCompletions, "prompt", format!("[{ids}]"), 1_000),
        (Route::OpenAiCompletions, "prompt", format!("[[{ids}],[{ids}]]"), 2_000),
        (Route::OpenAiCompletions, "prompt", r#"["a","b"]"#.to_owned(), 0),
        (Route::OllamaGenerate, "context", "[]".to_owned(), 0),
    ] {
        let body = format!(r#"{{"model":"m","{field}":{value}}}"#);
        let request = Request::read(route, body.as_bytes()).unwrap();
        assert_eq!(request.tokens, tokens, "{field}");
        assert!(request.text_bytes < 20, "{}", request.text_bytes);
    }
}

#[test]
fn a_long_sound_and_a_video_count_for_more_than_an_image() {
    let data = "A".repeat(4_000_000);
    for (route, body) in [
        (
            Route::OpenAiChat,
            chat(&format!(r#"{{"type":"input_audio","input_audio":{{"data":"{data}"}}}}"#)),
        ),
        (
            Route::OpenAiChat,
            chat(&format!(r#"{{"type":"video_url","video_url":{{"url":"data:;base64,{data}"}}}}"#)),
        ),
        (
            Route::OpenAiChat,
            chat(&format!(
                r#"{{"type":"audio_url","audio_url":{{"url":"d\u0061ta:;base64,{data}"}}}}"#
            )),
        ),
    ] {
        let request = Request::read(route, body.as_bytes()).unwrap();
        assert_eq!(request.images, 1);
        assert!(request.tokens > 20_000, "{}", request.tokens);
        assert!(request.text_bytes < 300, "{}", request.text_bytes);
    }
}
