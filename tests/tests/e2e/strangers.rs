//! Wrong keys, and what they cost others.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use identity::{api_key::mint, hashing::Hashing};
use jiff::Timestamp;
use storage::{keys::NewKey, limits::Limits};
use tests::{
    Setup, TestGateway, get,
    patience::{PATIENCE, eventually},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{auth::with_prefix_of, settings};

const WRONG: &str = "gateway_key_verifications_total{result=\"wrong\"}";
const REMEMBERED: &str = "gateway_key_verifications_total{result=\"remembered\"}";
/// How many connections an attacker has.
const CONNECTIONS: usize = 64;

/// Hashes as dear as in production.
fn dear() -> Setup {
    settings([
        ("NEURONETZ_KEYS_ARGON2_MEMORY_KIB", "19456"),
        ("NEURONETZ_KEYS_ARGON2_ITERATIONS", "2"),
    ])
}

/// A key whose hash is as dear.
async fn dear_key(gateway: &TestGateway) -> String {
    let minted = mint(|buffer| getrandom::fill(buffer).unwrap());
    let key = NewKey {
        tenant: gateway.tenant.id,
        name: "dear".to_owned(),
        prefix: minted.prefix,
        hash: Hashing::OWASP.hash(&minted.key, &[9; 16]).unwrap(),
        models: None,
        limits: Limits::default(),
        log_prompts: false,
        expires_at: None,
        at: Timestamp::now(),
    };
    gateway.storage.keys.create(key).await.unwrap();
    minted.key.expose().to_owned()
}

/// The status that a key gets, asked from an address of the loopback network. However long it takes.
async fn ask_from(host: u8, gateway: SocketAddr, key: &str) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    let mut stream = socket.connect(gateway).await.unwrap();
    let head = format!(
        "GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply).await;
    reply.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// An attacker who knows the prefix of a key, at an address of the loopback network.
async fn attack_from(host: u8, gateway: SocketAddr, key: &str) -> Infallible {
    let guesses = (0..CONNECTIONS).map(async |_| {
        loop {
            let status = ask_from(host, gateway, &with_prefix_of(key)).await;
            assert!(matches!(status, 401 | 429), "{status}");
        }
    });
    let mut ends: Vec<Infallible> = join_all(guesses).await;
    ends.remove(0)
}

/// How long the owner of a key, at an address of the loopback network, needs until it is let in. A client
/// that is refused tries again after a second, as it is told.
async fn let_in_from(host: u8, gateway: &TestGateway, key: &str) -> Duration {
    let began = Instant::now();
    while ask_from(host, gateway.address, key).await != 200 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    began.elapsed()
}

async fn compared(gateway: &TestGateway, count: f64) {
    let what = format!("{count} comparisons");
    eventually(&what, || async { (gateway.metric(WRONG).await >= count).then_some(()) }).await;
}

/// An attack, and what the owner sees of it.
async fn attacked(owner_at: u8) -> Duration {
    let gateway = TestGateway::with(dear()).await;
    let key = dear_key(&gateway).await;
    let seen = async {
        compared(&gateway, 5.0).await;
        let_in_from(owner_at, &gateway, &key).await
    };
    tokio::select! {
        never = attack_from(1, gateway.address, &key) => match never {},
        took = seen => took,
    }
}

#[tokio::test]
async fn who_knows_a_prefix_does_not_keep_its_owner_out() {
    let took = attacked(2).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn not_even_at_the_same_address() {
    // Two seconds where a hash takes 30 ms: as long as one comparison for each of the connections.
    let took = attacked(1).await;
    assert!(took < PATIENCE, "{took:?}");
}

#[tokio::test]
async fn an_address_burns_no_more_than_its_share_with_wrong_keys() {
    let gateway = TestGateway::start().await;
    let seen = async {
        // What is answered at once, and what was under way when it was used up.
        compared(&gateway, 90.0).await;
        let began = Instant::now();
        compared(&gateway, 110.0).await;
        began.elapsed()
    };
    let took = tokio::select! {
        never = attack_from(1, gateway.address, &gateway.key) => match never {},
        took = seen => took,
    };
    // 20 at ten a second.
    assert!(took > Duration::from_millis(1_500), "{took:?}");
}

#[tokio::test]
async fn the_same_wrong_key_again_costs_no_hash() {
    let gateway = TestGateway::start().await;
    let wrong = with_prefix_of(&gateway.key);
    for _ in 0..30 {
        let reply = get(gateway.address, "/v1/models", Some(&wrong)).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (401, "invalid_api_key"));
    }
    assert!(gateway.metric(WRONG).await <= 2.0);
    assert!(gateway.metric(REMEMBERED).await >= 28.0);
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_refused_and_its_proven_keys_pass() {
    let gateway = TestGateway::with(settings([("NEURONETZ_KEYS_FAILURES_PER_MINUTE", "6")])).await;
    let proven = async || ask_from(1, gateway.address, &gateway.key).await;
    assert_eq!(proven().await, 200);
    let (_, late) = gateway.key(None).await;
    let seen = async {
        eventually("the refusal", || async {
            let wrong = with_prefix_of(&gateway.key);
            let reply = tokio::time::timeout(
                Duration::from_secs(2),
                get(gateway.address, "/v1/models", Some(&wrong)),
            );
            reply.await.is_ok_and(|reply| reply.code() == "too_many_failures").then_some(())
        })
        .await;
        assert_eq!(proven().await, 200);
        assert_eq!(ask_from(1, gateway.address, &late).await, 429);
        assert_eq!(ask_from(2, gateway.address, &late).await, 200);
        // Now it is proven.
        assert_eq!(ask_from(1, gateway.address, &late).await, 200);
    };
    tokio::select! {
        never = attack_from(1, gateway.address, &gateway.key) => match never {},
        () = seen => {}
    }
}
