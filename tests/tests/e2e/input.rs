//! Heads and bodies that are wrong, too large, too slow, or can be read in two ways.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;
use tests::{Open, TestGateway, client::ask, get, patience::eventually, post, raw, send};

use crate::{chat, settings, whole_chat, with};

const MIB: usize = 1 << 20;

/// Whatever was refused before, the gateway goes on.
async fn goes_on(gateway: &TestGateway) {
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

async fn refused(gateway: &TestGateway, path: &str, body: &str, code: &str) {
    let reply =
        ask(gateway.address, Method::POST, path, Some(&gateway.key), body.to_owned().into()).await;
    assert!(reply.status.is_client_error(), "{body}: {} {}", reply.status, reply.text());
    assert!(reply.header("x-request-id").starts_with("req_"));
    assert!(!reply.text().contains("UPSTREAM-WORDS"), "{}", reply.text());
    if path.starts_with("/v1/") {
        assert_eq!(reply.code(), code, "{body}: {}", reply.text());
        assert!(reply.json()["error"]["message"].as_str().is_some_and(|text| !text.is_empty()));
    } else {
        assert!(reply.json()["error"].is_string(), "{body}: {}", reply.text());
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_done_are_refused_in_both_dialects() {
    let gateway = TestGateway::start().await;
    let messages = r#""messages":[{"role":"user","content":"hi"}]"#;
    let cases = [
        (String::new(), "invalid_json"),
        ("not json".to_owned(), "invalid_json"),
        ("[]".to_owned(), "invalid_json"),
        (format!(r#"{{"model":"llama3.2",{messages}"#), "invalid_json"),
        (format!(r#"{{"model":"llama3.2",{messages}}} {{}}"#), "invalid_json"),
        (format!("\u{feff}{{\"model\":\"llama3.2\",{messages}}}"), "invalid_json"),
        (format!("{{{messages}}}"), "model_required"),
        (format!(r#"{{"model":"",{messages}}}"#), "model_required"),
        (format!(r#"{{"model":7,{messages}}}"#), "invalid_request"),
        (format!(r#"{{"model":["llama3.2"],{messages}}}"#), "invalid_request"),
        (format!(r#"{{"model":"llama3.2","stream":"yes",{messages}}}"#), "invalid_request"),
        (format!(r#"{{"model":"a b",{messages}}}"#), "invalid_model_name"),
        (format!(r#"{{"model":"{}",{messages}}}"#, "/".repeat(513)), "invalid_model_name"),
        (format!(r#"{{"model":"../x",{messages}}}"#), "model_not_found"),
        (format!(r#"{{"model":"llama3.2","MODEL":"x",{messages}}}"#), "ambiguous_field"),
        (format!(r#"{{"model":"llama3.2","model":"x",{messages}}}"#), "ambiguous_field"),
        (format!(r#"{{"Model":"llama3.2",{messages}}}"#), "ambiguous_field"),
        (format!(r#"{{"mod\u0065l":"llama3.2","model":"x",{messages}}}"#), "ambiguous_field"),
        (format!(r#"{{"model":"no-such-model",{messages}}}"#), "model_not_found"),
    ];
    for (body, code) in &cases {
        for path in ["/api/chat", "/v1/chat/completions"] {
            refused(&gateway, path, body, code).await;
        }
    }
    // These mean something to Ollama alone; the body of the other dialect is written anew.
    for fields in [r#""Options":{},"options":{}"#, r#""Keep_Alive":0"#, r#""Stream":true"#] {
        let body = format!(r#"{{"model":"llama3.2",{fields},{messages}}}"#);
        refused(&gateway, "/api/chat", &body, "ambiguous_field").await;
    }
    // None of them has come to the upstream.
    assert!(gateway.ollama.requests().iter().all(|seen| seen.path == "/api/tags"));
    goes_on(&gateway).await;
}

#[tokio::test]
async fn wrong_types_inside_are_refused_before_they_reach_the_upstream() {
    let gateway = TestGateway::start().await;
    for (field, value) in [
        ("messages", json!("hi")),
        ("messages", json!([1])),
        ("messages", json!([{ "role": "user", "content": 5 }])),
        ("max_tokens", json!("many")),
        ("temperature", json!("hot")),
        ("stop", json!({ "a": 1 })),
        ("n", json!(3)),
        ("tools", json!({})),
        ("response_format", json!("json")),
    ] {
        let body = with(chat("hi"), field, value).to_string();
        let reply = ask(
            gateway.address,
            Method::POST,
            "/v1/chat/completions",
            Some(&gateway.key),
            body.clone().into(),
        )
        .await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert!(reply.json()["error"]["param"].is_string(), "{body}: {}", reply.text());
    }
    goes_on(&gateway).await;
}

#[tokio::test]
async fn sixty_five_mebibytes_are_too_large_announced_or_not() {
    let gateway = TestGateway::start().await;
    let announced = format!(
        "POST /api/chat HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\n\r\n",
        gateway.key,
        65 * MIB
    );
    let mut bytes = announced.into_bytes();
    bytes.resize(bytes.len() + 65 * MIB, b' ');
    let reply = raw(gateway.address, &bytes).await;
    assert!(reply.starts_with("HTTP/1.1 413") && reply.contains("x-request-id"), "{reply}");
    drop(bytes);

    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        gateway.key
    );
    let mut bytes = head.into_bytes();
    for _ in 0..65 {
        bytes.extend_from_slice(b"100000\r\n");
        bytes.resize(bytes.len() + MIB, b' ');
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let reply = raw(gateway.address, &bytes).await;
    assert!(reply.starts_with("HTTP/1.1 413") && reply.contains("request_too_large"), "{reply}");
    goes_on(&gateway).await;
}

#[tokio::test]
async fn a_body_just_below_the_limit_is_passed_on() {
    let setup = settings([("NEURONETZ_SERVER_BODY_BYTES_MAX", "1MiB")]);
    let gateway = TestGateway::with(setup).await;
    let words = "x".repeat(MIB - 1_000);
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat(&words)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let words = "x".repeat(MIB);
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat(&words)).await;
    assert_eq!(reply.status, 413);
}

#[tokio::test]
async fn all_bodies_together_have_a_limit() {
    let setup = settings([
        ("NEURONETZ_SERVER_BODY_BYTES_MAX", "64KiB"),
        ("NEURONETZ_SERVER_BODIES_BYTES_MAX", "64KiB"),
    ]);
    let gateway = TestGateway::with(setup).await;
    // A body is held as long as its upstream may have to be asked again.
    let words = "x".repeat(40_000);
    let path = "/v1/chat/completions";
    let held = whole_chat(&format!("[[hang-head]] {words}"));
    let held = Open::post(gateway.address, path, &gateway.key, &held).await;
    gateway.ollama.until(|done| done.requests > 1).await;
    let reply = post(gateway.address, path, Some(&gateway.key), &chat(&words)).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (503, "overloaded".to_owned()));
    assert!(!reply.header("retry-after").is_empty());
    drop(held);
    eventually("room", || async {
        let reply = post(gateway.address, path, Some(&gateway.key), &chat(&words)).await;
        (reply.status == 200).then_some(())
    })
    .await;
    goes_on(&gateway).await;
}

#[tokio::test]
async fn a_body_that_is_packed_in_another_way_is_refused_unread() {
    let gateway = TestGateway::start().await;
    // The first bytes of a bomb; no more of it is ever unpacked.
    let bomb = Bytes::from_static(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xec\xc1\x01\x01");
    for coding in ["br", "deflate", "compress", "gzip, gzip", "zstd, gzip", "none"] {
        let request = Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {}", gateway.key))
            .header("content-encoding", coding)
            .body(Full::new(bomb.clone()))
            .unwrap();
        let reply = send(gateway.address, request).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (415, "unsupported_encoding".to_owned()));
        assert_eq!(reply.header("accept-encoding"), "gzip, zstd");
        assert!(reply.text().contains("gzip or with zstd"), "{}", reply.text());
    }
    goes_on(&gateway).await;
}

#[tokio::test]
async fn large_heads_are_refused_with_a_body_and_an_id() {
    let gateway = TestGateway::start().await;
    for size in [100 * 1024, 400 * 1024] {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nHost: g\r\nx-large: {}\r\n\r\n", "x".repeat(size));
        let reply = raw(gateway.address, request.as_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 431"), "{size}: {reply}");
        assert!(reply.to_lowercase().contains("x-request-id: req_"), "{size}: {reply}");
        assert!(reply.contains("headers_too_large"), "{size}: {reply}");
    }
    let many = "x-a: b\r\n".repeat(300);
    let reply = raw(
        gateway.address,
        format!("GET /v1/models HTTP/1.1\r\nHost: g\r\n{many}\r\n").as_bytes(),
    )
    .await;
    assert!(reply.starts_with("HTTP/1.1 431"), "{reply}");
    let path = format!("/v1/models/{}", "x".repeat(9_000));
    let reply = get(gateway.address, &path, Some(&gateway.key)).await;
    assert_eq!(reply.status, 414);
    goes_on(&gateway).await;
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_the_connection_closed() {
    let gateway = TestGateway::start().await;
    // Bodies that are right in each reading, so that nothing but the head is a reason to refuse.
    let body = whole_chat("hi").to_string();
    let length = body.len();
    let chunks = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let after = "GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n";
    let with_length = |head: &str| (format!("{head}Content-Length: {length}\r\n"), body.clone());
    for (head, rest) in [
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), chunks.clone()),
        (format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"), chunks.clone()),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n".to_owned(), chunks.clone()),
        with_length(&format!("Content-Length: {}\r\n", length + 1)),
        (format!("Content-Length: {length}, {}\r\n", length + 1), body.clone()),
        (format!("Content-Length: +{length}\r\n"), body.clone()),
        with_length("X-Folded: a\r\n b\r\n"),
        ("Transfer-Encoding : chunked\r\n".to_owned(), chunks.clone()),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), chunks.clone()),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), chunks.clone()),
    ] {
        let request = format!(
            "POST /api/chat HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n{head}\r\n{rest}{after}",
            gateway.key
        );
        let reply = raw(gateway.address, request.as_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{head}: {reply}");
        assert!(reply.contains("not well-formed HTTP"), "{head}: {reply}");
        assert!(reply.to_lowercase().contains("x-request-id: req_"), "{head}: {reply}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{head}: {reply}");
    }
    assert!(gateway.ollama.requests().iter().all(|seen| seen.path == "/api/tags"));
    goes_on(&gateway).await;
}

#[tokio::test]
async fn broken_chunks_are_refused() {
    let gateway = TestGateway::start().await;
    let request = format!(
        "POST /api/chat HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
         Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        gateway.key
    );
    let reply = raw(gateway.address, request.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    assert!(reply.to_lowercase().contains("x-request-id: req_"), "{reply}");
    goes_on(&gateway).await;
}

#[tokio::test]
async fn a_slow_head_is_told_so_and_an_idle_connection_is_closed() {
    let gateway = TestGateway::with(settings([("NEURONETZ_SERVER_HEADER_TIMEOUT", "300ms")])).await;
    for part in ["GET", "GET /healthz HTTP/1.1\r\nHost: gate"] {
        let reply = Open::send(gateway.address, part.as_bytes()).await.end().await;
        assert!(reply.starts_with("HTTP/1.1 408"), "{part}: {reply}");
        assert!(reply.to_lowercase().contains("x-request-id: req_"), "{part}: {reply}");
    }
    assert_eq!(Open::send(gateway.address, b"").await.end().await, "");
    let kept = "GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n";
    let reply = Open::send(gateway.address, kept.as_bytes()).await.end().await;
    assert!(reply.starts_with("HTTP/1.1 200") && !reply.contains("HTTP/1.1 408"), "{reply}");
    goes_on(&gateway).await;
}

#[tokio::test]
async fn a_slow_body_is_told_so() {
    let gateway =
        TestGateway::with(settings([("NEURONETZ_SERVER_BODY_GAP_TIMEOUT", "300ms")])).await;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 500\r\n\r\n{{\"model\":",
        gateway.key
    );
    let reply = Open::send(gateway.address, request.as_bytes()).await.end().await;
    assert!(reply.starts_with("HTTP/1.1 408") && reply.contains("request_timeout"), "{reply}");
    goes_on(&gateway).await;
}
