//! Replies that model servers cut, mark and order in their own ways, and those that are none in any dialect.

use parking_lot::Mutex;
use std::{net::SocketAddr, sync::Arc};

use identity::policy::Policy;
use protocol::route::UpstreamKind;
use serde_json::{Value, json};
use storage::limits::Limits;
use tests::{TestGateway, log, patience::eventually, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::routing::knows;

/// A path of each dialect.
const PATHS: [&str; 4] = ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"];

/// A server with one model, that answers whatever else it is asked with what it is told.
struct Server {
    address: SocketAddr,
    says: Arc<Mutex<String>>,
    _serves: AbortOnDropHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new(String::new()));
        let (tasks, told) = (TaskTracker::new(), Arc::clone(&says));
        let serves = TaskTracker::new().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let says = told.lock().clone();
                tasks.spawn(answer(stream, says));
            }
        });
        Self { address, says, _serves: AbortOnDropHandle::new(serves) }
    }

    fn says(&self, what: &str) {
        what.clone_into(&mut self.says.lock());
    }
}

async fn answer(mut stream: TcpStream, says: String) {
    let mut request = vec![0; 64 * 1024];
    let Ok(length) = stream.read(&mut request).await else { return };
    let models = json!({
        "models": [{ "name": "odd:latest", "model": "odd:latest" }],
        "object": "list", "data": [{ "id": "odd", "object": "model" }],
    });
    let is_get = request[..length].starts_with(b"GET");
    let body = if is_get { models.to_string() } else { says };
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}", body.len());
    let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
}

async fn served(kind: UpstreamKind) -> (TestGateway, Server) {
    let gateway = TestGateway::start().await;
    let server = Server::start().await;
    gateway.add_upstream_of(kind, &format!("odd-{kind}"), server.address).await;
    knows(&gateway, 2).await;
    (gateway, server)
}

fn body(path: &str, stream: bool) -> Value {
    let mut body = json!({ "model": "odd", "stream": stream });
    if path == "/v1/responses" {
        body["input"] = "hi".into();
    } else {
        body["messages"] = json!([{ "role": "user", "content": "hi" }]);
    }
    if path == "/v1/messages" {
        body["max_tokens"] = 9.into();
    }
    body
}

/// What such a server says, whole or streamed: a text, or a call with those arguments.
fn said(kind: UpstreamKind, stream: bool, text: &str, arguments: Option<&str>) -> String {
    let mut message = json!({ "role": "assistant", "content": text });
    if let Some(arguments) = arguments {
        let function = json!({ "name": "f", "arguments": arguments });
        message["tool_calls"] =
            json!([{ "index": 0, "id": "a", "type": "function", "function": function }]);
    }
    match (kind, stream) {
        (UpstreamKind::Ollama, _) => {
            json!({ "model": "odd", "created_at": "x", "message": message, "done": true })
                .to_string()
                + "\n"
        }
        (UpstreamKind::OpenAi, false) => {
            json!({ "choices": [{ "message": message, "finish_reason": "stop" }] }).to_string()
        }
        (UpstreamKind::OpenAi, true) => {
            let chunk = json!({ "choices": [{ "index": 0, "delta": message }] });
            format!("data: {chunk}\n\ndata: [DONE]\n\n")
        }
    }
}

/// Whether replies to that path pass as they are.
fn passes(kind: UpstreamKind, path: &str) -> bool {
    match kind {
        UpstreamKind::Ollama => path == "/api/chat",
        UpstreamKind::OpenAi => path == "/v1/chat/completions",
    }
}

#[tokio::test]
async fn what_cannot_be_translated_shuts_nobody_out_and_its_reason_is_logged() {
    const TIMES: usize = 25;
    for kind in [UpstreamKind::Ollama, UpstreamKind::OpenAi] {
        let (gateway, server) = served(kind).await;
        let other = gateway.another_tenant("other", Limits::default(), Policy::default()).await;
        let other = gateway.key_of(other.id).await;
        for (path, stream) in PATHS.iter().flat_map(|path| [(*path, false), (*path, true)]) {
            let at = format!("{kind} {path} {stream}");
            if passes(kind, path) {
                server.says("data: UPSTREAM-WORDS\n\n");
            } else {
                server.says(&said(kind, stream, "", Some("UPSTREAM-WORDS")));
            }
            let body = body(path, stream);
            for _ in 0..TIMES {
                let reply = post(gateway.address, path, Some(&gateway.key), &body).await;
                let text = reply.text();
                assert_eq!(reply.status, if stream { 200 } else { 502 }, "{at}: {text}");
                assert!(text.contains("The model server failed."), "{at}: {text}");
                assert!(!text.contains("UPSTREAM-WORDS"), "{at}: {text}");
            }
            server.says(&said(kind, stream, "well", None));
            let reply = post(gateway.address, path, Some(&other), &body).await;
            let text = reply.text();
            assert!(reply.status == 200 && text.contains("well"), "{at}: {text}");
            assert!(!text.contains("model server failed"), "{at}: {text}");
        }
        let counted = format!(
            "gateway_upstream_faults_total{{upstream=\"odd-{kind}\",kind=\"untranslatable\"}}"
        );
        let all = (TIMES * 2 * PATHS.len()) as f64;
        eventually("the count", || async { (gateway.metric(&counted).await == all).then_some(()) })
            .await;
    }
    let log = log::keep().text();
    for reason in [
        "a tool call has no name, or arguments that are no JSON object",
        "a tool call of the reply has no name, or arguments that are no JSON object",
    ] {
        assert!(log.contains(reason), "{reason}");
    }
    assert!(!log.contains("UPSTREAM-WORDS"));
}

#[tokio::test]
async fn calls_that_come_mixed_and_without_a_reason_to_end_are_whole_in_every_dialect() {
    let (gateway, server) = served(UpstreamKind::OpenAi).await;
    let delta = |calls: Value| json!({ "choices": [{ "delta": { "tool_calls": calls } }] });
    let part = |index: u8, arguments: &str| json!({ "index": index, "function": { "arguments": arguments } });
    let events = [
        delta(
            json!([{ "index": 0, "id": "a", "function": { "name": "f", "arguments": "{\"x\":" } }]),
        ),
        delta(
            json!([{ "index": 1, "id": "b", "function": { "name": "", "arguments": "{\"y\"" } }]),
        ),
        delta(json!([part(0, "1"), part(1, ":2}")])),
        delta(json!([{ "index": 1, "function": { "name": "g" } }, part(0, "}")])),
    ];
    let events: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let ask = async |path: &str, says: &str| {
        server.says(says);
        post(gateway.address, path, Some(&gateway.key), &body(path, true)).await.text()
    };
    let whole = format!("{events}event: ping\ndata:\n\ndata: [DONE]\n\n");
    let wanted = |path: &str| match path {
        "/v1/messages" => vec![
            r#""id":"a","name":"f""#,
            r#""partial_json":"{\"x\":"#,
            r#""id":"b","name":"g""#,
            r#""partial_json":"{\"y\":2}""#,
            "message_stop",
        ],
        "/v1/responses" => vec![
            r#""call_id":"a","name":"f","arguments":"{\"x\":1}""#,
            r#""call_id":"b","name":"g","arguments":"{\"y\":2}""#,
            "response.completed",
        ],
        "/api/chat" => vec![
            r#""name":"f","arguments":{"x":1}"#,
            r#""name":"g","arguments":{"y":2}"#,
            r#""done":true"#,
        ],
        // It passes, but for what the SDKs choke on.
        _ => vec!["\"tool_calls\"", "data: [DONE]"],
    };
    for path in PATHS {
        let text = ask(path, &whole).await;
        let mut rest = text.as_str();
        for part in wanted(path) {
            let at = rest.find(part).unwrap_or_else(|| panic!("{path} {part}: {text}"));
            rest = &rest[at + part.len()..];
        }
        assert!(!text.contains("event: ping"), "{path}: {text}");
        // Without the mark of an end it is half a reply.
        let text = ask(path, &events).await;
        let last = wanted(path).pop().unwrap();
        assert!(
            text.contains("The model server failed.") && !text.contains(last),
            "{path}: {text}"
        );
    }
}
