//! Clients that do not read what they asked for, and clients that leave: what they hold comes back, and what was
//! made for them is charged.

use bytes::Bytes;
use engine::gateway::Ended;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::{error::Code, outcome::Outcome};
use serde_json::{Value, json};
use storage::limits::Limits;
use storage::revocations::Revocation;
use tests::{
    Open, Setup, TestGateway,
    patience::{eventually, soon},
    post,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{chat, settings, whole_chat, with};

const PATHS: [&str; 4] = ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"];

/// More than all buffers on the way hold.
const ENDLESS: &str = "[[chunks 4000000]]";

fn streamed(words: &str) -> Value {
    with(chat(words), "stream", json!(true))
}

fn body_for(path: &str, words: &str) -> Value {
    match path {
        "/v1/responses" => {
            with(with(streamed(words), "input", json!(words)), "messages", Value::Null)
        }
        "/v1/messages" => with(streamed(words), "max_tokens", json!(9_000_000)),
        _ => streamed(words),
    }
}

/// A connection whose client never reads: a small receive buffer, and nothing taken out of it.
async fn unread_h1(gateway: &TestGateway, path: &str, key: &str, body: &Value) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let mut stream = socket.connect(gateway.address).await.unwrap();
    let mut body = body.clone();
    body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    stream
}

/// An HTTP/2 connection that gives streams a window of nothing.
struct Windowless {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Windowless {
    async fn open(gateway: &TestGateway) -> Self {
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        #[expect(clippy::disallowed_methods, reason = "it is aborted when this is dropped")]
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, _driver: AbortOnDropHandle::new(driver) }
    }

    /// The head of the reply, and its body that cannot come.
    async fn post(&mut self, (gateway, key): (&TestGateway, &str), body: &Value) -> Incoming {
        let request = Request::post(format!("http://{}/api/chat", gateway.address))
            .header("authorization", format!("Bearer {key}"))
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        self.sender.ready().await.unwrap();
        let response = soon("a head", self.sender.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body()
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_in_time_and_gives_all_back() {
    let gateway = TestGateway::with(settings([("NEURONETZ_SERVER_WRITE_TIMEOUT", "300ms")])).await;
    let mut windowless = Windowless::open(&gateway).await;
    let mut unread = Vec::new();
    let mut bodies = Vec::new();
    for path in PATHS {
        unread.push(unread_h1(&gateway, path, &gateway.key, &body_for(path, ENDLESS)).await);
    }
    for _ in 0..4 {
        bodies.push(windowless.post((&gateway, &gateway.key), &streamed("[[chunks 650]]")).await);
    }
    let events = gateway.audited(8).await;
    gateway.ollama.until(|done| done.open == 0).await;
    for event in events {
        assert_eq!(event.outcome, Outcome::TimedOut, "{event:?}");
        assert_eq!(event.code, Some(Code::ReplyUnread), "{event:?}");
        // What the upstream had sent was made, whether or not it was read.
        assert!(event.usage.completion >= 600, "{event:?}");
    }
    let breaker = gateway.metric("gateway_breaker_state{upstream=\"ollama\"}").await;
    assert_eq!(breaker, 0.0, "a client's pause is not the upstream's fault");
}

#[tokio::test]
async fn at_the_end_every_stream_is_on_record_whether_or_not_it_is_read() {
    let mut gateway =
        TestGateway::with(settings([("NEURONETZ_SERVER_DRAIN_TIMEOUT", "200ms")])).await;
    let mut windowless = Windowless::open(&gateway).await;
    let mut bodies = Vec::new();
    for _ in 0..25 {
        bodies.push(windowless.post((&gateway, &gateway.key), &streamed("[[hang 3]]")).await);
    }
    gateway.ollama.until(|done| done.open == 25).await;
    gateway.stop().await;
    assert_eq!(gateway.ended().await, Ended::InOrder { unstored: 0 });
    let events = gateway.audited(25).await;
    assert!(events.iter().all(|event| event.outcome == Outcome::Stopped), "{events:?}");
}

#[tokio::test]
async fn a_key_that_is_revoked_cuts_what_nobody_reads() {
    let gateway = TestGateway::start().await;
    let mut windowless = Windowless::open(&gateway).await;
    let (key, text) = gateway.key(None).await;
    let _body = windowless.post((&gateway, &text), &streamed("[[hang 3]]")).await;
    gateway.ollama.until(|done| done.open == 1).await;
    let (at, reason) = (jiff::Timestamp::now(), "leaked".to_owned());
    let revocation = Revocation { key: key.id, at, reason, cut: true };
    gateway.storage.revocations.revoke(revocation).await.unwrap();
    gateway.ollama.until(|done| done.open == 0).await;
    let event = gateway.audited_one().await;
    assert_eq!((event.outcome, event.code), (Outcome::Refused, Some(Code::KeyRevoked)));
}

#[tokio::test]
async fn whole_replies_that_nobody_reads_are_bounded_and_their_slots_come_back() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_SERVER_WRITE_TIMEOUT", "500ms"),
        ("NEURONETZ_SERVER_REPLIES_BYTES_PER_TENANT_MAX", "20MiB"),
    ]))
    .await;
    let (_, key) = gateway.limited(Limits { concurrency: Some(6), ..Limits::default() }).await;
    let path = "/v1/chat/completions";
    let long = whole_chat("[[long 6291456]]");
    let mut unread = Vec::new();
    for _ in 0..6 {
        unread.push(unread_h1(&gateway, path, &key, &long).await);
    }
    let events = gateway.audited(6).await;
    let refused = events.iter().filter(|event| event.code == Some(Code::Overloaded)).count();
    assert!((1..6).contains(&refused), "{refused} of 6 found no room: {events:?}");
    // Another tenant has a share of its own.
    let other = gateway.another_tenant("other", Limits::default(), Default::default()).await;
    let reply = post(gateway.address, path, Some(&gateway.key_of(other.id).await), &long).await;
    assert_eq!((reply.status.as_u16(), reply.body.len() > 6_000_000), (200, true));
    // The slots came back although nothing was read, and the room does in time.
    let reply = eventually("room for another reply", || async {
        let reply = post(gateway.address, path, Some(&key), &long).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert!(reply.body.len() > 6_000_000);
}

#[tokio::test]
async fn a_long_reply_of_one_dialect_passes_as_it_comes() {
    let gateway = TestGateway::with(settings([
        // There is no room to hold it.
        ("NEURONETZ_SERVER_REPLIES_BYTES_PER_TENANT_MAX", "2MiB"),
    ]))
    .await;
    let body = whole_chat("[[long 8388608]]");
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &body).await;
    assert_eq!(reply.status, 200);
    let said = reply.json()["message"]["content"].as_str().unwrap().len();
    assert!(said >= 8_388_608, "{said}");
    let event = gateway.audited_one().await;
    assert_eq!((event.outcome, event.usage.estimated), (Outcome::Completed, false));
    assert!(event.usage.completion > 0 && event.usage.prompt > 0, "{event:?}");
}

#[tokio::test]
async fn who_leaves_before_the_first_byte_is_charged_for_what_was_made() {
    let gateway = TestGateway::start().await;
    let words = format!("[[chunks 400]][[pace 2]] {}", "x".repeat(4_000));
    // From this the speed of the model is learned.
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat(&words)).await;
    assert_eq!(reply.status, 200);
    let took = gateway.audited(1).await[0].total;
    let limited = with(whole_chat(&words), "options", json!({ "num_predict": 350 }));
    let left = Open::post(gateway.address, "/api/chat", &gateway.key, &limited).await;
    eventually("the request to be sent", || async {
        let taken = gateway.metric("gateway_upstream_slots_taken{upstream=\"ollama\"}").await;
        (taken == 1.0).then_some(())
    })
    .await;
    tokio::time::sleep(took / 2).await;
    drop(left);
    let events = gateway.audited(2).await;
    let event = events.iter().find(|event| event.outcome == Outcome::ClientLeft).unwrap();
    assert!(event.usage.estimated && event.usage.prompt >= 1_000, "{event:?}");
    assert!((100..=350).contains(&event.usage.completion), "{event:?}");
}

#[tokio::test]
async fn who_leaves_the_queue_uses_up_nothing() {
    let gateway = TestGateway::with(settings([("NEURONETZ_UPSTREAM_SLOTS", "1")])).await;
    let limits = Limits { rpm: Some(10), tpm: Some(100_000), ..Limits::default() };
    let (_, key) = gateway.limited(limits).await;
    let mut open =
        Open::post(gateway.address, "/api/chat", &gateway.key, &streamed("[[hang 1]]")).await;
    open.until("done").await;
    let queued = async |depth: f64| {
        eventually("the depth of the queue", || async {
            let waiting = gateway.metric("gateway_queue_depth{upstream=\"ollama\"}").await;
            (waiting == depth).then_some(())
        })
        .await;
    };
    for _ in 0..4 {
        let waiting = Open::post(gateway.address, "/api/chat", &key, &whole_chat("hi")).await;
        queued(1.0).await;
        drop(waiting);
        queued(0.0).await;
    }
    let left = gateway.audited(4).await;
    assert!(left.iter().all(|event| event.usage.total() == 0), "{left:?}");
    drop(open);
    let reply = eventually("the slot", || async {
        let reply = post(gateway.address, "/api/chat", Some(&key), &whole_chat("hi")).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), "9");
}

#[tokio::test]
async fn a_stream_that_passes_what_it_may_have_is_ended() {
    for openai in [false, true] {
        let gateway = TestGateway::with(Setup { openai, ..Setup::default() }).await;
        let words = "[[unbound]][[chunks 5000]]";
        for (path, field) in [("/v1/chat/completions", "max_tokens"), ("/api/chat", "options")] {
            let most = if field == "options" { json!({ "num_predict": 20 }) } else { json!(20) };
            let body = with(streamed(words), field, most);
            let reply = Open::post(gateway.address, path, &gateway.key, &body).await.end().await;
            assert!(reply.contains("\"length\""), "{path}: {reply}");
        }
        let events = gateway.audited(2).await;
        for event in events {
            assert!((20..200).contains(&event.usage.completion), "{event:?}");
            assert_eq!(event.outcome, Outcome::Completed);
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_again_hears_why_its_stream_ended() {
    let gateway =
        TestGateway::with(settings([("NEURONETZ_UPSTREAM_TOTAL_TIMEOUT", "400ms")])).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let request = Request::post(format!("http://{}/api/chat", gateway.address))
        .header("authorization", format!("Bearer {}", gateway.key))
        .body(Full::new(Bytes::from(streamed("[[hang 2]]").to_string())))
        .unwrap();
    let read = async {
        let body = sender.send_request(request).await.unwrap().into_body();
        let said = body.collect().await.unwrap().to_bytes();
        String::from_utf8_lossy(&said).into_owned()
    };
    let said = soon("the reply", async {
        tokio::select! {
            said = read => said,
            ended = connection => panic!("the connection ended: {ended:?}"),
        }
    })
    .await;
    assert!(said.ends_with("{\"error\":\"The model server did not answer in time.\"}\n"), "{said}");
}
