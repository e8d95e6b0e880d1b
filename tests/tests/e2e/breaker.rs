//! The breaker of an upstream: what one tenant provokes is not everybody's loss.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
    },
};

use futures_util::future::join_all;
use identity::policy::Policy;
use serde_json::json;
use storage::limits::Limits;
use tests::{Open, Reply, TestGateway, patience::eventually, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{routing::knows, settings, whole_chat, with};

const PATH: &str = "/v1/chat/completions";

/// A gateway with two tenants, and the key of the second one.
async fn two_tenants(env: &[(&'static str, &str)]) -> (TestGateway, String) {
    let mut setup = settings([("NEURONETZ_UPSTREAM_BREAKER_PAUSE", "1s")]);
    setup.env.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let gateway = TestGateway::with(setup).await;
    let other = gateway.another_tenant("other", Limits::default(), Policy::default()).await;
    let key = gateway.key_of(other.id).await;
    (gateway, key)
}

async fn ask(gateway: &TestGateway, key: &str, words: &str) -> Reply {
    post(gateway.address, PATH, Some(key), &whole_chat(words)).await
}

async fn state(gateway: &TestGateway, upstream: &str) -> f64 {
    gateway.metric(&format!("gateway_breaker_state{{upstream=\"{upstream}\"}}")).await
}

#[tokio::test]
async fn what_one_tenant_provokes_leaves_another_served() {
    for fault in ["[[status 500]]", "[[status 503]]", "[[html 502]]"] {
        let (gateway, other) = two_tenants(&[]).await;
        for _ in 0..15 {
            assert_eq!(ask(&gateway, &gateway.key, fault).await.status.as_u16() / 100, 5);
        }
        assert_eq!(ask(&gateway, &other, "hi").await.status, 200, "{fault}");
        // And so on for a while, several at a time.
        for _ in 0..15 {
            let provoked = join_all((0..5).map(|_| ask(&gateway, &gateway.key, fault)));
            let served = join_all([ask(&gateway, &other, "hi"), ask(&gateway, &other, "hi")]);
            let (provoked, served) = tokio::join!(provoked, served);
            assert!(provoked.iter().all(|reply| reply.status.as_u16() / 100 == 5), "{fault}");
            assert!(served.iter().all(|reply| reply.status == 200), "{fault}");
        }
        assert!(state(&gateway, "ollama").await < 1.0, "{fault}");
    }
}

#[tokio::test]
async fn streams_of_one_tenant_that_break_leave_another_served() {
    for fault in ["[[error-line 1]]", "[[reset 1]]", "[[cut 1]]"] {
        let (gateway, other) = two_tenants(&[]).await;
        let body = with(whole_chat(fault), "stream", json!(true));
        for _ in 0..25 {
            let broken = Open::post(gateway.address, PATH, &gateway.key, &body).await.end().await;
            assert!(broken.contains("upstream_failed"), "{fault}: {broken}");
        }
        assert_eq!(ask(&gateway, &other, "hi").await.status, 200, "{fault}");
    }
}

#[tokio::test]
async fn a_tenant_whose_requests_are_too_slow_leaves_another_served() {
    let timeout = ("NEURONETZ_UPSTREAM_COLD_FIRST_BYTE_TIMEOUT", "300ms");
    let (gateway, other) = two_tenants(&[timeout]).await;
    let slow = join_all((0..40).map(|_| ask(&gateway, &gateway.key, "[[hang-head]]"))).await;
    assert!(slow.iter().all(|reply| reply.status == 504));
    assert_eq!(ask(&gateway, &other, "hi").await.status, 200);
}

#[tokio::test]
async fn half_open_one_tenant_keeps_nobody_out() {
    let calls_min = ("NEURONETZ_UPSTREAM_BREAKER_CALLS_MIN", "4");
    let (gateway, other) = two_tenants(&[calls_min]).await;
    // Faults of several tenants open it.
    for key in [&gateway.key, &other, &gateway.key, &other] {
        assert_eq!(ask(&gateway, key, "[[status 500]]").await.code(), "upstream_failed");
    }
    assert_eq!(ask(&gateway, &other, "hi").await.code(), "upstream_unavailable");
    // One goes on with them when the pause is over, and the others are served.
    eventually("the end of the pause", || async {
        let reply = ask(&gateway, &gateway.key, "[[status 500]]").await;
        (reply.code() == "upstream_failed").then_some(())
    })
    .await;
    for _ in 0..3 {
        assert_eq!(ask(&gateway, &gateway.key, "[[status 500]]").await.code(), "upstream_failed");
        assert_eq!(ask(&gateway, &other, "hi").await.status, 200);
    }
    assert!(state(&gateway, "ollama").await < 1.0);
}

#[tokio::test]
async fn what_a_request_may_have_provoked_is_tried_on_one_more_upstream_only() {
    let gateway = TestGateway::start().await;
    let mut all = Vec::new();
    for name in ["one", "two", "three"] {
        let odd = Odd::start().await;
        gateway.add_upstream(name, odd.address).await;
        all.push(odd);
    }
    knows(&gateway, 4).await;
    let asked = || all.iter().map(|odd| odd.posts.load(SeqCst)).sum::<usize>();
    let body = with(whole_chat("hi"), "model", json!("odd"));
    for (how, calls) in [(FAILS, 2), (CRASHES, 2), (UNAVAILABLE, 3), (NONSENSE, 1)] {
        all.iter().for_each(|odd| odd.how.store(how, SeqCst));
        let before = asked();
        let reply = post(gateway.address, PATH, Some(&gateway.key), &body).await;
        assert_eq!(reply.status.as_u16() / 100, 5, "{how}");
        assert_eq!(asked() - before, calls, "{how}");
    }
}

/// A server with one model that answers as it is told.
struct Odd {
    address: SocketAddr,
    how: Arc<AtomicU8>,
    /// What it was asked beside its models.
    posts: Arc<AtomicUsize>,
    _serves: AbortOnDropHandle<()>,
}

/// It names its model, and answers whatever else it is asked with something that is no reply.
const NONSENSE: u8 = 0;
/// It closes every connection without a word.
const SILENT: u8 = 1;
/// It names its model, and closes all else without a word.
const CRASHES: u8 = 2;
/// It names its model, and answers all else with 500.
const FAILS: u8 = 3;
/// The same with 503.
const UNAVAILABLE: u8 = 4;

impl Odd {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let how = Arc::new(AtomicU8::new(NONSENSE));
        let posts = Arc::new(AtomicUsize::new(0));
        let (tasks, told, count) = (TaskTracker::new(), Arc::clone(&how), Arc::clone(&posts));
        let serves = TaskTracker::new().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(answer(stream, told.load(SeqCst), Arc::clone(&count)));
            }
        });
        Self { address, how, posts, _serves: AbortOnDropHandle::new(serves) }
    }
}

async fn answer(mut stream: TcpStream, how: u8, posts: Arc<AtomicUsize>) {
    let mut request = vec![0; 64 * 1024];
    let Ok(length) = stream.read(&mut request).await else { return };
    let is_get = request[..length].starts_with(b"GET");
    posts.fetch_add(usize::from(!is_get), SeqCst);
    let models = json!({ "models": [{ "name": "odd:latest", "model": "odd:latest" }] });
    let (status, body) = match how {
        SILENT => return,
        _ if is_get => (200, models.to_string()),
        CRASHES => return,
        FAILS => (500, "{}".to_owned()),
        UNAVAILABLE => (503, "{}".to_owned()),
        _ => (200, "nonsense".to_owned()),
    };
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}", body.len());
    let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
}

#[tokio::test]
async fn what_cannot_be_translated_does_not_count_and_a_dead_server_does_for_one_tenant_alone() {
    let pause = ("NEURONETZ_UPSTREAM_BREAKER_PAUSE", "60s");
    let (gateway, other) = two_tenants(&[pause]).await;
    let odd = Odd::start().await;
    gateway.add_upstream("odd", odd.address).await;
    knows(&gateway, 2).await;
    let body = with(whole_chat("hi"), "model", json!("odd"));
    for _ in 0..20 {
        for key in [&gateway.key, &other] {
            let reply = post(gateway.address, PATH, Some(key), &body).await;
            assert_eq!(reply.code(), "upstream_failed");
        }
    }
    assert!(state(&gateway, "odd").await < 1.0);
    let counted = "gateway_upstream_faults_total{upstream=\"odd\",kind=\"untranslatable\"}";
    assert_eq!(gateway.metric(counted).await, 40.0);
    // It hears and says nothing: neither to who asks, who is one tenant alone, nor to the gateway itself.
    odd.how.store(SILENT, SeqCst);
    eventually("the breaker", || async {
        post(gateway.address, PATH, Some(&gateway.key), &body).await;
        (state(&gateway, "odd").await >= 2.0).then_some(())
    })
    .await;
}
