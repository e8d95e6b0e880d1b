//! HTTP/2, TLS, `HEAD`, `OPTIONS`, what goes upstream.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::outcome::Outcome;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::json;
use tests::{
    Reply, Setup, TestGateway,
    client::{ask, request},
    get,
    patience::{eventually, soon},
    post, raw, send,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{chat, whole_chat};

#[tokio::test]
async fn head_is_get_without_a_body() {
    let gateway = TestGateway::start().await;
    for path in ["/v1/models", "/v1/models/llama3.2", "/api/tags", "/healthz", "/api/version", "/"]
    {
        let whole = get(gateway.address, path, Some(&gateway.key)).await;
        let head = ask(gateway.address, Method::HEAD, path, Some(&gateway.key), Bytes::new()).await;
        assert_eq!((head.status, head.body.len()), (whole.status, 0), "{path}");
        assert_eq!(head.header("content-type"), whole.header("content-type"));
        assert_eq!(head.header("content-length"), whole.body.len().to_string(), "{path}");
    }
    let unkeyed = ask(gateway.address, Method::HEAD, "/v1/models", None, Bytes::new()).await;
    assert_eq!((unkeyed.status.as_u16(), unkeyed.body.len()), (401, 0));
}

#[tokio::test]
async fn the_base_address_answers_as_ollamas_does() {
    let gateway = TestGateway::start().await;
    for key in [None, Some(gateway.key.as_str()), Some("sk-foreign")] {
        let reply = get(gateway.address, "/", key).await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "Ollama is running"));
        assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
        assert!(reply.header("x-request-id").starts_with("req_"));
    }
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let reply = ask(gateway.address, method, "/", None, Bytes::new()).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (405, "method_not_allowed".to_owned()));
        assert_eq!(reply.header("allow"), "GET, HEAD, OPTIONS");
    }
}

#[tokio::test]
async fn options_answer_a_browser_without_a_key() {
    let gateway = TestGateway::start().await;
    for (path, allow) in
        [("/v1/chat/completions", "POST, OPTIONS"), ("/api/tags", "GET, HEAD, OPTIONS")]
    {
        let reply = from_a_page(&gateway, request(Method::OPTIONS, path, None, Bytes::new())).await;
        assert_eq!(reply.status, 204);
        assert_eq!(reply.header("allow"), allow);
        assert_eq!(reply.header("access-control-allow-origin"), "*");
        assert!(reply.header("access-control-allow-headers").contains("authorization"));
    }
}

#[tokio::test]
async fn a_preflight_allows_whatever_fields_are_asked_for_wherever_it_goes() {
    let gateway = TestGateway::start().await;
    for path in [
        "/",
        "/v1/chat/completions",
        "/v1/messages?beta=true",
        "/v1/models/hf.co%2FOrg%2FM",
        "/api/chat",
        "/api/pull",
        "/v1/v1/models",
    ] {
        let asked = |names: &str| {
            let mut asked = request(Method::OPTIONS, path, None, Bytes::new());
            for (name, value) in [
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", names),
            ] {
                asked.headers_mut().insert(name, value.parse().unwrap());
            }
            asked
        };
        for names in ["authorization,content-type,x-of-an-sdk-to-come", "HTTP-Referer, X-Title"] {
            let reply = from_a_page(&gateway, asked(names)).await;
            assert_eq!(reply.status, 204, "{path}: {}", reply.text());
            assert_eq!(reply.header("access-control-allow-headers"), names);
            assert_eq!(reply.header("access-control-allow-origin"), "*");
            assert!(reply.header("vary").contains("access-control-request-headers"));
            assert!(reply.headers.get("access-control-allow-credentials").is_none());
        }
        let reply = from_a_page(&gateway, asked("no name, x-a")).await;
        assert_eq!(reply.header("access-control-allow-headers"), "authorization, *", "{path}");
    }
    // Who is no browser is told what there is.
    let reply = ask(gateway.address, Method::OPTIONS, "/v1/v1/models", None, Bytes::new()).await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn a_page_of_another_origin_may_read_what_it_is_refused() {
    let gateway = TestGateway::start().await;
    let fails = json!({ "model": "no-such-model", "messages": [] }).to_string();
    for (method, path, key, body, status) in [
        (Method::GET, "/v1/models", None, String::new(), 401),
        (Method::POST, "/v1/messages", None, fails.clone(), 401),
        (Method::POST, "/api/chat", Some(&gateway.key), fails.clone(), 404),
        (Method::GET, "/v1/v1/models", Some(&gateway.key), String::new(), 404),
        (Method::PUT, "/v1/models", Some(&gateway.key), String::new(), 405),
        (Method::POST, "/api/pull", Some(&gateway.key), fails, 403),
    ] {
        let asked = request(method, path, key.map(String::as_str), body.into());
        let reply = from_a_page(&gateway, asked).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), "*", "{path}");
        assert_eq!(reply.header("vary"), "origin", "{path}");
        for name in ["x-request-id", "retry-after", "x-should-retry", "x-budget-reset", "allow"] {
            let exposed = reply.header("access-control-expose-headers");
            assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}: {exposed}");
        }
    }
}

#[tokio::test]
async fn a_page_of_another_origin_may_read_what_it_is_answered() {
    let gateway = TestGateway::start().await;
    for key in [Some(gateway.key.as_str()), None] {
        let asked = || request(Method::GET, "/v1/models", key, Bytes::new());
        let reply = from_a_page(&gateway, asked()).await;
        assert_eq!(reply.header("access-control-allow-origin"), "*");
        assert!(reply.header("access-control-expose-headers").contains("x-request-id"));
        // Who is no page is not told what only a browser heeds.
        let reply = send(gateway.address, asked()).await;
        assert!(reply.headers.get("access-control-allow-origin").is_none());
    }
}

/// Sends a request as a browser does for a page of another origin.
async fn from_a_page(gateway: &TestGateway, mut asked: Request<Full<Bytes>>) -> Reply {
    let origin = http::HeaderValue::from_static("https://chat.example");
    asked.headers_mut().insert(http::header::ORIGIN, origin);
    send(gateway.address, asked).await
}

#[tokio::test]
async fn another_method_is_405_and_says_which() {
    let gateway = TestGateway::start().await;
    let reply =
        ask(gateway.address, Method::PUT, "/v1/chat/completions", Some(&gateway.key), Bytes::new());
    let reply = reply.await;
    assert_eq!((reply.status.as_u16(), reply.code()), (405, "method_not_allowed".to_owned()));
    assert_eq!(reply.header("allow"), "POST, OPTIONS");
}

#[tokio::test]
async fn what_a_client_sends_besides_the_body_does_not_go_upstream() {
    let gateway = TestGateway::start().await;
    let request = Request::post("/api/chat")
        .header("host", "evil.example")
        .header("authorization", format!("Bearer {}", gateway.key))
        .header("cookie", "a=b")
        .header("origin", "http://evil.example")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-stainless-lang", "python")
        .header("connection", "x-secret")
        .header("x-secret", "s")
        .body(Full::new(Bytes::from(whole_chat("hi").to_string())))
        .unwrap();
    let reply = send(gateway.address, request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = gateway.ollama.requests().pop().unwrap();
    assert_eq!(seen.headers["host"], gateway.ollama.address().to_string());
    let mut names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected =
        ["accept", "content-length", "content-type", "host", "user-agent", "x-request-id"];
    assert_eq!(names, expected);
    assert_eq!(seen.headers["x-request-id"].to_str().unwrap(), reply.header("x-request-id"));
}

#[tokio::test]
async fn one_connection_serves_request_after_request() {
    let gateway = TestGateway::start().await;
    let body = whole_chat("hi").to_string();
    let request = format!(
        "POST /api/chat HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        gateway.key,
        body.len()
    );
    let last = "GET /healthz HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n";
    // Pipelined, with a body in the middle: the next head begins where the body ends.
    let reply = raw(gateway.address, format!("{request}{request}{last}").as_bytes()).await;
    assert_eq!(reply.matches("HTTP/1.1 200").count(), 3, "{reply}");
}

#[tokio::test]
async fn http2_by_prior_knowledge_streams_and_multiplexes() {
    let gateway = TestGateway::start().await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let requests = async {
        let asked = (0..8).map(|number| {
            let mut sender = sender.clone();
            let body = chat(&format!("number {number}")).to_string();
            let request = Request::post(format!("http://{}/api/chat", gateway.address))
                .header("authorization", format!("Bearer {}", gateway.key))
                .body(Full::new(Bytes::from(body)))
                .unwrap();
            async move {
                let reply = sender.send_request(request).await.unwrap();
                let status = reply.status();
                assert!(reply.headers().contains_key("x-request-id"));
                let text = reply.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(status, 200);
                assert!(String::from_utf8_lossy(&text).contains("\"done\":true"));
            }
        });
        futures_util::future::join_all(asked).await
    };
    soon("eight replies", async {
        tokio::select! {
            done = requests => assert_eq!(done.len(), 8),
            ended = connection => panic!("the connection ended: {ended:?}"),
        }
    })
    .await;
    assert_eq!(gateway.audited(8).await.len(), 8);
}

#[tokio::test]
async fn http2_has_the_same_limits_and_the_same_cancellation() {
    let gateway = TestGateway::start().await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let request = |path: &str, header: &str, body: String| {
        Request::post(format!("http://{}{path}", gateway.address))
            .header("authorization", format!("Bearer {}", gateway.key))
            .header("x-large", header)
            .body(Full::new(Bytes::from(body)))
            .unwrap()
    };
    let asked = async {
        let large = request("/v1/chat/completions", &"x".repeat(100 * 1024), String::new());
        let reply = sender.send_request(large).await.unwrap();
        assert_eq!(reply.status(), 431);
        assert!(reply.headers().contains_key("x-request-id"));
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("headers_too_large"));

        let hanging = request("/api/chat", "small", chat("[[hang 1]]").to_string());
        let mut reply = sender.send_request(hanging).await.unwrap().into_body();
        assert!(reply.frame().await.unwrap().is_ok());
        gateway.ollama.until(|done| done.open == 1).await;
        // The stream is given up and the connection goes on.
        drop(reply);
        gateway.ollama.until(|done| done.open == 0).await;
        let whole = request("/api/chat", "small", whole_chat("hi").to_string());
        assert_eq!(sender.send_request(whole).await.unwrap().status(), 200);
    };
    soon("the replies", async {
        tokio::select! {
            () = asked => {}
            ended = connection => panic!("the connection ended: {ended:?}"),
        }
    })
    .await;
    // The refused head had proven nobody.
    let events = gateway.audited(2).await;
    let left = events.iter().filter(|event| event.outcome == Outcome::ClientLeft).count();
    assert_eq!(left, 1, "{events:#?}");
}

struct Certificate {
    directory: tempfile::TempDir,
}

impl Certificate {
    fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap() };
        this.renew();
        this
    }

    /// Puts another certificate in the place of the one there is.
    fn renew(&self) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(self.path("cert.pem"), made.cert.pem()).unwrap();
        made.cert.der().to_vec()
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn der(&self) -> rustls::pki_types::CertificateDer<'static> {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateDer::from_pem_file(self.path("cert.pem")).unwrap()
    }

    fn connector(&self, protocols: &[&[u8]]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

#[tokio::test]
async fn tls_speaks_what_alpn_says_and_follows_its_files() {
    let certificate = Certificate::new();
    let env = vec![
        ("NEURONETZ_SERVER_TLS_CERTIFICATE", certificate.path("cert.pem")),
        ("NEURONETZ_SERVER_TLS_KEY", certificate.path("key.pem")),
    ];
    let gateway = TestGateway::with(Setup { env, ..Setup::default() }).await;
    let connect = async |protocols: &[&[u8]]| {
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        certificate.connector(protocols).connect(name, stream).await
    };
    for (offered, spoken) in [
        (vec![b"h2".as_slice(), b"http/1.1"], Some(b"h2".as_slice())),
        (vec![b"http/1.1"], Some(b"http/1.1")),
        (vec![], None),
    ] {
        let stream = connect(&offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), spoken);
        let request =
            Request::get("https://localhost/healthz").body(Full::<Bytes>::default()).unwrap();
        let status = if spoken == Some(b"h2") {
            let io = TokioIo::new(stream);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::select! {
                reply = sender.send_request(request) => reply.unwrap().status(),
                ended = connection => panic!("{ended:?}"),
            }
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::select! {
                reply = sender.send_request(request) => reply.unwrap().status(),
                ended = connection => panic!("{ended:?}"),
            }
        };
        assert_eq!(status, 200);
    }
    let renewed = certificate.renew();
    eventually("the new certificate", || async {
        let stream = connect(&[]).await.ok()?;
        let served = stream.get_ref().1.peer_certificates()?.first()?.to_vec();
        (served == renewed).then_some(())
    })
    .await;
    // A broken file changes nothing.
    std::fs::write(certificate.path("key.pem"), "no key").unwrap();
    let plain = raw(gateway.address, b"GET /healthz HTTP/1.1\r\n\r\n").await;
    assert!(!plain.contains("200 OK"), "{plain}");
    assert!(connect(&[]).await.is_ok());
}

/// Nagle's algorithm and delayed acknowledgements hold a small chunk back for 40 ms: with either leg
/// without `TCP_NODELAY`, a hundred chunks in a row take seconds.
#[tokio::test]
async fn no_chunk_waits_for_an_acknowledgement() {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let gateway = TestGateway::start().await;
    post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    let mut open =
        tests::Open::post(gateway.address, "/api/chat", &gateway.key, &chat("[[hang 2]]")).await;
    open.until(" is").await;
    // The sockets of this process are the gateway's, the client's and the scripted server's.
    let ports = [gateway.address.port(), gateway.ollama.address().port()];
    let mut found = [0; 2];
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let number = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        // A copy of the descriptor; what is no socket has no address.
        let Ok(copy) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else { continue };
        let socket = std::net::TcpStream::from(copy);
        let (Ok(local), Ok(peer)) = (socket.local_addr(), socket.peer_addr()) else { continue };
        // The gateway is the server of the first port and the client of the second one.
        let leg = match (local.port() == ports[0], peer.port() == ports[1]) {
            (true, _) => 0,
            (_, true) => 1,
            _ => continue,
        };
        assert!(socket.nodelay().unwrap(), "leg {leg} holds chunks back");
        found[leg] += 1;
    }
    assert!(found.iter().all(|count| *count > 0), "{found:?}");
}
