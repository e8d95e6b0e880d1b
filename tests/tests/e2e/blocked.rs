//! Paths that are blocked, however they are spelled.

use bytes::Bytes;
use http::Method;
use tests::{Open, TestGateway, client::ask, raw};

const BLOCKED: [(Method, &str); 6] = [
    (Method::POST, "/api/pull"),
    (Method::POST, "/api/push"),
    (Method::POST, "/api/create"),
    (Method::POST, "/api/copy"),
    (Method::DELETE, "/api/delete"),
    (Method::POST, "/api/blobs/sha256:0000"),
];

#[tokio::test]
async fn the_six_are_403_with_a_key_and_401_without_whatever_the_method() {
    let gateway = TestGateway::start().await;
    let body = || Bytes::from_static(b"{\"model\":\"llama3.2\"}");
    for (method, path) in BLOCKED {
        for method in [method, Method::POST, Method::GET, Method::PUT, Method::DELETE] {
            let without = ask(gateway.address, method.clone(), path, None, body()).await;
            assert_eq!(without.status, 401, "{method} {path}");
            let with = ask(gateway.address, method.clone(), path, Some(&gateway.key), body()).await;
            assert_eq!(with.status, 403, "{method} {path}");
            assert!(with.json()["error"].is_string() && !with.header("x-request-id").is_empty());
        }
    }
    assert_eq!(gateway.ollama.produced().mutations, 0);
    let audited = gateway.audited(BLOCKED.len() * 5).await;
    assert!(audited.iter().all(|event| event.status == 403));
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_past() {
    let gateway = TestGateway::start().await;
    for path in [
        "/api//pull",
        "/api/%70ull",
        "/API/PULL",
        "/api/pull/",
        "/api/blobs/../pull",
        "/api/./pull",
        "//api/pull",
        "/api/%2e%2e/api/pull",
        "/api%2Fpull",
        "/api/pull%20",
        "/v1/../api/delete",
        "/api/Delete",
        "/api/%64elete?x=y",
        "/api/blobs",
        "/api/pull;x",
        "/api/pull%00",
        "http://gateway/api/pull",
        "http://other.example/api//pull",
    ] {
        for (key, expected) in [(None, [401, 404]), (Some(gateway.key.as_str()), [403, 404])] {
            let authorization =
                key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: gateway\r\n{authorization}Connection: close\r\n\
                 Content-Length: 2\r\n\r\n{{}}"
            );
            let reply = raw(gateway.address, request.as_bytes()).await;
            let status: u16 = reply[9..12].parse().unwrap();
            assert!(expected.contains(&status), "{path}: {reply}");
            assert!(reply.to_lowercase().contains("x-request-id: req_"), "{path}: {reply}");
        }
    }
    assert_eq!(gateway.ollama.produced().mutations, 0);
    assert!(gateway.ollama.requests().iter().all(|seen| seen.path == "/api/tags"));
}

#[tokio::test]
async fn the_authority_of_an_absolute_uri_changes_nothing() {
    let gateway = TestGateway::start().await;
    let request = format!(
        "GET http://elsewhere.example/v1/models HTTP/1.1\r\nHost: gateway\r\n\
         Authorization: Bearer {}\r\nConnection: close\r\n\r\n",
        gateway.key
    );
    let reply = Open::send(gateway.address, request.as_bytes()).await.end().await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}
