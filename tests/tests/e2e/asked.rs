//! What others outside are asked, however often the gateway is asked.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use storage::limits::Limits;
use tests::{Setup, TestGateway, get, patience::eventually, post, raw};
use tokio::net::TcpListener;

use crate::{settings, whole_chat};

/// How often the model server was asked for that path.
fn asked(gateway: &TestGateway, path: &str) -> usize {
    gateway.ollama.requests().iter().filter(|seen| seen.path == path).count()
}

#[tokio::test]
async fn upstreams_are_asked_once_a_second_for_what_is_loaded_and_for_their_version() {
    let gateway = TestGateway::start().await;
    let began = Instant::now();
    for _ in 0..5 {
        for path in ["/api/ps", "/api/version"] {
            let asking = (0..40).map(|_| get(gateway.address, path, Some(&gateway.key)));
            for reply in join_all(asking).await {
                assert_eq!(reply.status, 200, "{}", reply.text());
            }
        }
    }
    let most = began.elapsed().as_secs() as usize + 2;
    for path in ["/api/ps", "/api/version"] {
        let times = asked(&gateway, path);
        assert!((1..=most).contains(&times), "{path}: {times} times of {most}");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_asked_no_more_often_by_those_who_leave() {
    // It accepts and is silent, but for its models.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("silent=http://{}", silent.local_addr().unwrap());
    let asks = Mutex::new(0);
    let serve = async {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = silent.accept().await.unwrap();
            let mut head = [0; 1_024];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await.unwrap();
            if head[..read].starts_with(b"GET /api/tags") {
                let body = "{\"models\":[{\"name\":\"llama3.2:latest\"}]}";
                let reply =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let write = tokio::io::AsyncWriteExt::write_all(&mut stream, reply.as_bytes());
                write.await.unwrap();
            } else {
                *asks.lock() += 1;
            }
            open.push(stream);
        }
    };
    let ask = async {
        let gateway = TestGateway::with(settings([("NEURONETZ_UPSTREAMS", &url)])).await;
        eventually("the upstream", || async {
            let ready = get(gateway.admin, "/readyz", None).await.json();
            (ready["upstreams"][0]["status"] == "up").then_some(())
        })
        .await;
        let began = Instant::now();
        for _ in 0..20 {
            let asking = get(gateway.address, "/api/ps", Some(&gateway.key));
            let left = tokio::time::timeout(Duration::from_millis(20), asking).await;
            assert!(left.is_err(), "an answer");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(*asks.lock(), 1);
        let reply = get(gateway.address, "/api/ps", Some(&gateway.key)).await;
        assert_eq!(reply.status, 503, "{}", reply.text());
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    };
    tokio::select! {
        () = ask => {}
        () = serve => {}
    }
}

#[tokio::test]
async fn what_an_upstream_is_asked_for_counts_as_a_request_and_lists_do_not() {
    let gateway = TestGateway::start().await;
    let (_, key) = gateway.limited(Limits { rpm: Some(3), ..Limits::default() }).await;
    for path in ["/api/ps", "/v1/models", "/api/version", "/api/tags", "/api/ps"] {
        let reply = get(gateway.address, path, Some(&key)).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    for path in ["/api/ps", "/api/version"] {
        let reply = get(gateway.address, path, Some(&key)).await;
        let remaining = reply.header("x-ratelimit-remaining-requests");
        assert_eq!((reply.status.as_u16(), remaining.as_str()), (429, "0"), "{path}");
    }
    let reply = post(gateway.address, "/api/chat", Some(&key), &whole_chat("hi")).await;
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert_eq!(get(gateway.address, "/v1/models", Some(&key)).await.status, 200);
    // They cost no tokens and hold no place afterwards.
    let limits = Limits { tpm: Some(1), concurrency: Some(1), ..Limits::default() };
    let (_, key) = gateway.limited(limits).await;
    for _ in 0..3 {
        assert_eq!(get(gateway.address, "/api/ps", Some(&key)).await.status, 200);
    }
    let events = gateway.audited(12).await;
    assert!(events.iter().all(|event| event.usage.total() == 0));
}

#[tokio::test]
async fn the_parts_are_asked_once_a_second_how_they_are_and_strangers_learn_no_names() {
    let setup = Setup { postgres: true, redis: true, ..Setup::default() };
    let mut gateway = TestGateway::with(setup).await;
    let redis = gateway.redis().port;
    // How often Redis was pinged, as it counts itself.
    let pings = async || {
        let told = raw(([127, 0, 0, 1], redis).into(), b"INFO commandstats\r\nQUIT\r\n").await;
        let calls = told.split_once("cmdstat_ping:calls=").map_or("0", |(_, rest)| rest);
        calls.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let before = pings().await;
    let began = Instant::now();
    for _ in 0..5 {
        let asking = (0..40)
            .map(|number| get([gateway.address, gateway.admin][number % 2], "/readyz", None));
        for reply in join_all(asking).await {
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }
    let most = began.elapsed().as_secs() + 2;
    let times = pings().await - before;
    assert!((1..=most).contains(&times), "{times} times of {most}");
    let stranger = get(gateway.address, "/readyz", None).await;
    for hidden in ["upstreams", "ollama", "waiting", "127.0.0.1"] {
        assert!(!stranger.text().contains(hidden), "{}", stranger.text());
    }
    assert_eq!(stranger.json()["limits"], json!("ok"));
    let operator = get(gateway.admin, "/readyz", None).await.json();
    assert_eq!(operator["upstreams"][0]["name"], json!("ollama"));
    // What it says is no older than a second.
    gateway.redis().stop();
    let stopped = Instant::now();
    eventually("the loss", || async {
        let ready = get(gateway.address, "/readyz", None).await;
        (ready.json()["limits"] == json!("unavailable")).then_some(())
    })
    .await;
    assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
}
