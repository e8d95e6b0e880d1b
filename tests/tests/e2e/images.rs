//! Images that a request names by their address.

use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use identity::policy::Policy;
use serde_json::{Value, json};
use storage::limits::Limits;
use tests::{Setup, TestGateway, patience::eventually, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use crate::{chat, settings, whole_chat};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nand what else there is to an image";
const CHAT: &str = "/v1/chat/completions";
const PLACE: &str = "messages[0].content[0].image_url";

/// A web server that has images and worse.
struct Web {
    port: u16,
    /// The heads of the requests that came.
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Web {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heads);
        let tasks = TaskTracker::new();
        let task = tasks.spawn(async move {
            // One after the other: what stays open is held until the end.
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                kept.lock().push(head);
                let _ = stream.write_all(&answer(&path)).await;
                if path == "/slow.png" {
                    open.push(stream);
                }
            }
        });
        Self { port, heads, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(path: &str) -> Vec<u8> {
    let whole = |status: &str, more: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let png = "content-type: image/png\r\n";
    match path {
        "/a.png" | "/b.png" => whole("200 OK", png, PNG),
        "/moved.png" => whole("302 Found", "content-type: image/png\r\nlocation: /a.png\r\n", PNG),
        "/page.png" => whole("200 OK", "content-type: text/html\r\n", PNG),
        "/liar.png" => whole("200 OK", png, b"<svg onload=alert(1)>"),
        "/packed.png" => {
            whole("200 OK", "content-type: image/png\r\ncontent-encoding: gzip\r\n", PNG)
        }
        "/large.png" => whole("200 OK", png, &[PNG, &[0; 4_096]].concat()),
        // It does not say how long it is.
        "/endless.png" => {
            let head = format!("HTTP/1.1 200 OK\r\n{png}\r\n");
            [head.as_bytes(), PNG, &[0; 65_536]].concat()
        }
        "/slow.png" => format!("HTTP/1.1 200 OK\r\n{png}content-length: 999\r\n\r\n").into_bytes(),
        _ => whole("404 Not Found", png, PNG),
    }
}

/// A chat about the image at that address.
fn about(url: &str) -> Value {
    let mut body = chat("");
    body["messages"][0]["content"] = json!([
        { "type": "image_url", "image_url": { "url": url } },
        { "type": "text", "text": "what is it" },
    ]);
    body
}

fn fetching(openai: bool, more: &[(&'static str, &str)]) -> Setup {
    let mut setup = settings([
        ("NEURONETZ_IMAGES_FETCH", "true"),
        ("NEURONETZ_IMAGES_ALLOW_PRIVATE", "true"),
        ("NEURONETZ_IMAGES_BYTES_MAX", "2KiB"),
        ("NEURONETZ_IMAGES_COUNT_MAX", "2"),
        ("NEURONETZ_IMAGES_TIMEOUT", "500ms"),
    ]);
    setup.env.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    setup.env.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Setup { openai, ..setup }
}

/// What the model server was asked, without the questions which models it has.
fn asked(gateway: &TestGateway) -> Vec<String> {
    let seen = gateway.ollama.requests().into_iter().filter(|seen| seen.method == "POST");
    seen.map(|seen| String::from_utf8(seen.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn an_image_at_an_address_is_refused_unless_the_operator_allows_it() {
    let web = Web::start().await;
    for openai in [false, true] {
        let gateway = TestGateway::with(Setup { openai, ..Setup::default() }).await;
        let reply =
            post(gateway.address, CHAT, Some(&gateway.key), &about(&web.url("/a.png"))).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "unsupported_parameter"));
        assert!(asked(&gateway).is_empty());
    }
    assert!(web.heads().is_empty());
}

#[tokio::test]
async fn an_address_of_our_own_network_is_refused_where_images_are_fetched() {
    let web = Web::start().await;
    let setup = fetching(false, &[("NEURONETZ_IMAGES_ALLOW_PRIVATE", "false")]);
    let gateway = TestGateway::with(setup).await;
    let port = web.port;
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "169.254.169.254",
        "[::ffff:10.0.0.1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0177.0.0.1",
        "0x7f000001",
    ] {
        let url = format!("http://{host}:{port}/a.png");
        let reply = post(gateway.address, CHAT, Some(&gateway.key), &about(&url)).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "image_unavailable"),
            "{url}"
        );
        assert_eq!(reply.json()["error"]["param"], PLACE);
        assert!(!reply.text().contains(host), "{}", reply.text());
    }
    assert!(web.heads().is_empty() && asked(&gateway).is_empty());
}

#[tokio::test]
async fn an_image_is_fetched_for_every_dialect_and_every_kind_of_upstream() {
    let web = Web::start().await;
    let url = web.url("/a.png");
    let text = json!({ "type": "input_text", "text": "what is it" });
    let image = json!({ "type": "input_image", "image_url": url });
    let responses = json!({
        "model": "llama3.2", "input": [{ "role": "user", "content": [text, image] }],
    });
    let block = json!({ "type": "image", "source": { "type": "url", "url": url } });
    let messages = json!({
        "model": "llama3.2", "max_tokens": 50,
        "messages": [{ "role": "user", "content": [block, { "type": "text", "text": "what is it" }] }],
    });
    for openai in [false, true] {
        let gateway = TestGateway::with(fetching(openai, &[])).await;
        for (path, body) in
            [(CHAT, &about(&url)), ("/v1/responses", &responses), ("/v1/messages", &messages)]
        {
            let reply = post(gateway.address, path, Some(&gateway.key), body).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            assert!(reply.text().contains("what is it"), "{path}: {}", reply.text());
            let sent = asked(&gateway).pop().unwrap();
            assert!(sent.contains(&STANDARD.encode(PNG)), "{path}: {sent}");
            assert!(!sent.contains("http://"), "{path}: {sent}");
        }
        assert_eq!(asked(&gateway).len(), 3);
        for head in web.heads() {
            let head = head.to_lowercase();
            assert!(head.contains(&format!("host: 127.0.0.1:{}\r\n", web.port)), "{head}");
            for hidden in ["authorization", "nz_", "cookie", "x-request-id"] {
                assert!(!head.contains(hidden), "{head}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_image_within_its_limits_is_refused() {
    let web = Web::start().await;
    let gateway = TestGateway::with(fetching(false, &[])).await;
    for path in [
        "/moved.png",
        "/page.png",
        "/liar.png",
        "/packed.png",
        "/large.png",
        "/endless.png",
        "/slow.png",
        "/none.png",
    ] {
        let url = web.url(path);
        let reply = post(gateway.address, CHAT, Some(&gateway.key), &about(&url)).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "image_unavailable"),
            "{path}"
        );
        assert_eq!(reply.json()["error"]["param"], PLACE, "{path}");
    }
    // No redirect was followed.
    assert_eq!(web.heads().iter().filter(|head| head.contains("/a.png")).count(), 0);
    assert!(asked(&gateway).is_empty());
}

#[tokio::test]
async fn of_several_images_the_one_that_cannot_be_had_is_named() {
    let web = Web::start().await;
    let gateway = TestGateway::with(fetching(false, &[])).await;
    let mut body = about(&web.url("/a.png"));
    let content = body["messages"][0]["content"].as_array_mut().unwrap();
    let second = json!({ "type": "image_url", "image_url": { "url": web.url("/none.png") } });
    content.push(second);
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &body).await;
    assert_eq!(reply.json()["error"]["param"], "messages[0].content[2].image_url");
    let content = body["messages"][0]["content"].as_array_mut().unwrap();
    content.push(json!({ "type": "image_url", "image_url": { "url": web.url("/b.png") } }));
    let before = web.heads().len();
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &body).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "invalid_request"));
    assert_eq!(web.heads().len(), before, "three are more than two");
}

#[tokio::test]
async fn a_request_that_is_refused_fetches_nothing_and_one_that_failed_holds_nothing() {
    let web = Web::start().await;
    let gateway = TestGateway::with(fetching(false, &[])).await;
    let (_, once) = gateway.limited(Limits { rpm: Some(1), ..Limits::default() }).await;
    let body = about(&web.url("/none.png"));
    // It came to no upstream, so that it uses up nothing.
    for _ in 0..2 {
        let reply = post(gateway.address, CHAT, Some(&once), &body).await;
        assert_eq!(reply.code(), "image_unavailable", "{}", reply.text());
    }
    assert_eq!(post(gateway.address, CHAT, Some(&once), &whole_chat("hi")).await.status, 200);
    assert_eq!(post(gateway.address, CHAT, Some(&once), &body).await.code(), "rate_limit_requests");
    assert_eq!(web.heads().len(), 2);
    // What could not be done with the image either costs nobody a request.
    let mut wrong = about(&web.url("/a.png"));
    wrong["messages"][0]["content"][1] = json!({ "type": "video_url" });
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &wrong).await;
    assert_eq!(reply.code(), "unsupported_parameter", "{}", reply.text());
    assert_eq!(web.heads().len(), 2);
    let (_, single) = gateway.limited(Limits { concurrency: Some(1), ..Limits::default() }).await;
    for _ in 0..3 {
        let reply = post(gateway.address, CHAT, Some(&single), &body).await;
        assert_eq!(reply.code(), "image_unavailable", "{}", reply.text());
    }
}

#[tokio::test]
async fn a_fetched_image_takes_room_among_the_bodies() {
    let web = Web::start().await;
    let setup = fetching(
        false,
        &[
            ("NEURONETZ_IMAGES_BYTES_MAX", "1MiB"),
            ("NEURONETZ_SERVER_BODY_BYTES_MAX", "8KiB"),
            ("NEURONETZ_SERVER_BODIES_BYTES_MAX", "8KiB"),
        ],
    );
    let gateway = TestGateway::with(setup).await;
    let ask = async |path: &str| {
        post(gateway.address, CHAT, Some(&gateway.key), &about(&web.url(path))).await
    };
    let reply = ask("/endless.png").await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "overloaded"));
    assert_eq!(ask("/a.png").await.status, 200, "the room is given back");
}

#[tokio::test]
async fn a_tenant_whose_hosts_hang_leaves_turns_to_others() {
    let web = Web::start().await;
    let gateway = TestGateway::with(fetching(false, &[("NEURONETZ_IMAGES_TIMEOUT", "60s")])).await;
    let hangs = about(&web.url("/slow.png"));
    let mut slow = FuturesUnordered::new();
    for _ in 0..80 {
        slow.push(post(gateway.address, CHAT, Some(&gateway.key), &hangs));
    }
    // The first part of an image is waited for, and nobody else of that tenant has come to the host.
    let shares = eventually("the share of a tenant", || async {
        (web.heads().len() >= 16).then(|| web.heads().len())
    });
    let share = tokio::select! {
        share = shares => share,
        Some(reply) = slow.next() => panic!("{}", reply.text()),
    };
    assert!(share < 64, "{share}");
    let other = gateway.another_tenant("other", Limits::default(), Policy::default()).await;
    let key = gateway.key_of(other.id).await;
    let body = about(&web.url("/a.png"));
    let began = Instant::now();
    tokio::select! {
        reply = post(gateway.address, CHAT, Some(&key), &body) => assert_eq!(reply.status, 200),
        () = async { while slow.next().await.is_some() {} } => panic!("it waited for the others"),
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn images_are_fetched_from_the_hosts_that_are_allowed_alone() {
    let web = Web::start().await;
    let setup = fetching(false, &[("NEURONETZ_IMAGES_ALLOWED_HOSTS", "127.0.0.1,*.example")]);
    let gateway = TestGateway::with(setup).await;
    let ask = async |url: &str| post(gateway.address, CHAT, Some(&gateway.key), &about(url)).await;
    assert_eq!(ask(&web.url("/a.png")).await.status, 200);
    let reply = ask(&format!("http://localhost:{}/a.png", web.port)).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "image_unavailable"));
    for url in ["ftp://127.0.0.1/a.png", "http://u:p@127.0.0.1/a.png", "file:///etc/passwd"] {
        assert_eq!(ask(url).await.code(), "image_unavailable", "{url}");
    }
    assert_eq!(web.heads().len(), 1);
}
