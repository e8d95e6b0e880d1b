//! Bodies that come packed: read within the same limits as others, and sent on as they were meant.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use storage::limits::Limits;
use tests::{Open, Reply, Setup, TestGateway, get, patience::eventually, post, send};

use crate::{chat, settings, whole_chat, with};

const CHAT: &str = "/v1/chat/completions";
const CODINGS: [&str; 2] = ["gzip", "zstd"];

fn pack(coding: &str, plain: &[u8]) -> Vec<u8> {
    if coding == "zstd" {
        return zstd::encode_all(plain, 3).unwrap();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

async fn send_packed(
    gateway: &TestGateway,
    (path, key): (&str, &str),
    coding: &str,
    packed: impl Into<Bytes>,
) -> Reply {
    let request = Request::post(path)
        .header("host", "gateway")
        .header("authorization", format!("Bearer {key}"))
        .header("content-encoding", coding)
        .body(Full::new(packed.into()))
        .unwrap();
    send(gateway.address, request).await
}

async fn ask(gateway: &TestGateway, path: &str, coding: &str, body: &Value) -> Reply {
    let packed = pack(coding, body.to_string().as_bytes());
    send_packed(gateway, (path, &gateway.key), coding, packed).await
}

/// The text of what the model server was asked last.
fn sent(gateway: &TestGateway) -> String {
    let seen = gateway.ollama.requests().pop().unwrap();
    assert!(seen.headers.get("content-encoding").is_none());
    assert!(seen.headers.get("transfer-encoding").is_none());
    assert_eq!(seen.headers["content-length"].to_str().unwrap(), seen.body.len().to_string());
    String::from_utf8(seen.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_packed_body_means_what_is_in_it_in_every_dialect() {
    for openai in [false, true] {
        let gateway = TestGateway::with(Setup { openai, ..Setup::default() }).await;
        let message = with(whole_chat("packed words"), "max_tokens", json!(9));
        let response = json!({ "model": "llama3.2", "input": "packed words" });
        let text = json!({ "model": "llama3.2", "prompt": "packed words", "stream": false });
        let embed = json!({ "model": "llama3.2", "input": "packed words" });
        for (path, body) in [
            (CHAT, whole_chat("packed words")),
            (CHAT, chat("packed words")),
            ("/v1/completions", text.clone()),
            ("/v1/responses", with(response.clone(), "stream", json!(true))),
            ("/v1/responses", response),
            ("/v1/messages", with(message.clone(), "stream", json!(true))),
            ("/v1/messages", message),
            ("/v1/embeddings", embed.clone()),
            ("/api/chat", whole_chat("packed words")),
            ("/api/chat", chat("packed words")),
            ("/api/generate", text),
            ("/api/embed", embed),
        ] {
            for coding in CODINGS {
                let reply = ask(&gateway, path, coding, &body).await;
                assert_eq!(reply.status, 200, "{path} {coding}: {}", reply.text());
                let sent = sent(&gateway);
                assert!(sent.contains("packed words"), "{path} {coding}: {sent}");
            }
        }
    }
}

#[tokio::test]
async fn ollamas_own_dialect_goes_on_byte_for_byte() {
    let gateway = TestGateway::start().await;
    let body = whole_chat(&"long enough to be unpacked in pieces ".repeat(20_000));
    for coding in ["gzip", "x-gzip", "zstd", "ZSTD"] {
        let packed = pack(&coding.to_lowercase(), body.to_string().as_bytes());
        let reply = send_packed(&gateway, ("/api/chat", &gateway.key), coding, packed).await;
        assert_eq!(reply.status, 200, "{coding}: {}", reply.text());
        assert_eq!(sent(&gateway), body.to_string(), "{coding}");
    }
    // Several parts are one body.
    let text = body.to_string();
    let (one, two) = text.as_bytes().split_at(text.len() / 2);
    for coding in CODINGS {
        let packed = [pack(coding, one), pack(coding, two)].concat();
        let reply = send_packed(&gateway, ("/api/chat", &gateway.key), coding, packed).await;
        assert_eq!((reply.status.as_u16(), sent(&gateway)), (200, text.clone()), "{coding}");
    }
    let identity = Bytes::from(text.clone());
    let reply = send_packed(&gateway, ("/api/chat", &gateway.key), "identity", identity).await;
    assert_eq!((reply.status.as_u16(), sent(&gateway)), (200, text));
}

#[tokio::test]
async fn a_packed_body_may_come_in_chunks_after_it_was_asked_for() {
    let gateway = TestGateway::start().await;
    for coding in CODINGS {
        let packed = pack(coding, whole_chat("in chunks").to_string().as_bytes());
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
             Content-Encoding: {coding}\r\nTransfer-Encoding: chunked\r\n\
             Expect: 100-continue\r\n\r\n",
            gateway.key
        );
        let mut open = Open::send(gateway.address, head.as_bytes()).await;
        open.until("HTTP/1.1 100").await;
        for part in packed.chunks(7) {
            open.more(format!("{:x}\r\n", part.len()).as_bytes()).await;
            open.more(&[part, b"\r\n"].concat()).await;
        }
        open.more(b"0\r\n\r\n").await;
        open.until("HTTP/1.1 200").await;
        assert!(sent(&gateway).contains("in chunks"));
    }
    // What is not taken is refused without being asked for.
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
         Content-Encoding: br\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
        gateway.key
    );
    let said = Open::send(gateway.address, head.as_bytes()).await.end().await;
    assert!(said.starts_with("HTTP/1.1 415"), "{said}");
}

#[tokio::test]
async fn a_body_that_does_not_unpack_is_refused_with_the_reason() {
    let gateway = TestGateway::start().await;
    let plain = whole_chat(&"hi ".repeat(300)).to_string().into_bytes();
    for coding in CODINGS {
        let packed = pack(coding, &plain);
        let trailed = [packed.as_slice(), b"{}"].concat();
        for body in [&packed[..packed.len() - 1], &packed[..4], &[], &trailed, &plain] {
            let body = Bytes::copy_from_slice(body);
            let reply = send_packed(&gateway, (CHAT, &gateway.key), coding, body.clone()).await;
            let told = (reply.status.as_u16(), reply.code());
            assert_eq!(told, (400, "malformed_request".to_owned()), "{coding} {body:?}");
            for path in ["/api/chat", "/v1/messages"] {
                let reply = send_packed(&gateway, (path, &gateway.key), coding, body.clone()).await;
                assert_eq!(reply.status, 400, "{coding}");
                assert!(reply.text().contains("does not unpack"), "{}", reply.text());
            }
        }
    }
    assert!(gateway.ollama.requests().iter().all(|seen| seen.path == "/api/tags"));
}

#[tokio::test]
async fn a_bomb_is_refused_and_holds_up_nobody() {
    let gateway = TestGateway::with(settings([("NEURONETZ_SERVER_THREADS", "1")])).await;
    let spaces = |length: usize| with(whole_chat(""), "pad", json!(" ".repeat(length))).to_string();
    for coding in CODINGS {
        for (length, expected) in [(8 << 20, "hundred times"), (65 << 20, "hundred times")] {
            let bomb = Bytes::from(pack(coding, spaces(length).as_bytes()));
            assert!(bomb.len() < length / 500);
            let bombs =
                (0..4).map(|_| send_packed(&gateway, (CHAT, &gateway.key), coding, bomb.clone()));
            let beside = get(gateway.address, "/healthz", None);
            let (refused, beside) = tokio::join!(futures_util::future::join_all(bombs), beside);
            assert_eq!(beside.status, 200);
            for reply in refused {
                let told = (reply.status.as_u16(), reply.code());
                assert_eq!(told, (413, "request_too_large".to_owned()), "{coding}");
                assert!(reply.text().contains(expected), "{}", reply.text());
            }
        }
    }
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &whole_chat("hi")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn what_a_body_unpacks_to_counts_against_its_limit_and_against_the_room() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_SERVER_BODY_BYTES_MAX", "512KiB"),
        ("NEURONETZ_SERVER_BODIES_BYTES_PER_TENANT_MAX", "1800KiB"),
    ]))
    .await;
    // What the decoder holds counts while it is at work.
    for (coding, fits) in [("gzip", 3), ("zstd", 2)] {
        let large = ask(&gateway, CHAT, coding, &whole_chat(&"x".repeat(512 * 1024))).await;
        assert_eq!((large.status.as_u16(), large.code().as_str()), (413, "request_too_large"));
        assert!(!large.text().contains("hundred times"), "{}", large.text());
        // Each holds all that it unpacked to as long as it is under way.
        let words = "x".repeat(450 * 1024);
        let held = whole_chat(&format!("[[hang-head]] {words}"));
        let packed = pack(coding, held.to_string().as_bytes());
        assert!(packed.len() < 16 * 1024);
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
             Content-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
            gateway.key,
            packed.len()
        );
        let before = gateway.ollama.produced().requests;
        let text = [head.as_bytes(), &packed].concat();
        let mut under_way = Vec::new();
        for count in 1..=fits {
            under_way.push(Open::send(gateway.address, &text).await);
            gateway.ollama.until(|done| done.requests >= before + count).await;
        }
        let reply = ask(&gateway, CHAT, coding, &whole_chat(&words)).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "overloaded"));
        drop(under_way);
        eventually("room", || async {
            let reply = ask(&gateway, CHAT, coding, &whole_chat(&words)).await;
            (reply.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_body_that_unpacks_to_a_large_one_counts_as_a_request_before_it_does() {
    let gateway = TestGateway::start().await;
    for coding in CODINGS {
        let (_, key) = gateway.limited(Limits { rpm: Some(2), ..Limits::default() }).await;
        let nonsense = json!({ "model": 1, "messages": "x".repeat(300 * 1024) });
        let packed = Bytes::from(pack(coding, nonsense.to_string().as_bytes()));
        assert!(packed.len() < 16 * 1024);
        let mut told = Vec::new();
        for _ in 0..4 {
            let reply = send_packed(&gateway, (CHAT, &key), coding, packed.clone()).await;
            told.push(reply.status.as_u16());
        }
        assert_eq!(told, [400, 400, 429, 429], "{coding}");
        // A good one counts once.
        let (_, key) = gateway.limited(Limits { rpm: Some(5), ..Limits::default() }).await;
        let large = pack(coding, whole_chat(&"x".repeat(300 * 1024)).to_string().as_bytes());
        let reply = send_packed(&gateway, (CHAT, &key), coding, large).await;
        let left = reply.header("x-ratelimit-remaining-requests");
        assert_eq!((reply.status.as_u16(), left.as_str()), (200, "4"), "{}", reply.text());
    }
}
