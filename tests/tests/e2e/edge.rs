//! The edge of a connection: what one client may take of it, and how long.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use engine::gateway::Ended;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::{error::Code, outcome::Outcome};
use serde_json::json;
use storage::audit::AuditEvent;
use tests::{
    Open, Setup, TestGateway,
    patience::{eventually, soon},
    post, send,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use crate::{
    chat,
    frames::{
        self, CONTINUATION, DATA, HEADERS, PING, PREFACE, PRIORITY, SETTINGS, WINDOW_UPDATE, frame,
    },
    settings, whole_chat, with,
};

/// Whatever was done before, others are served.
async fn others_are_served(gateway: &TestGateway) {
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// The connections that ask for nothing, as bytes: what is sent at once, and what is sent again and again.
fn idlers() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    let ping = frame(PING, 0, 0, &[7; 8]);
    let part = frame(HEADERS, 1, 1, &[0x82]);
    vec![
        ("half a preface", PREFACE[..7].to_vec(), Vec::new()),
        ("a preface", PREFACE.to_vec(), Vec::new()),
        ("half of SETTINGS", [PREFACE, &frame(SETTINGS, 0, 0, &[0; 6])[..12]].concat(), Vec::new()),
        ("no request", begun.clone(), Vec::new()),
        ("PING", begun.clone(), ping),
        ("a head without end", [begun, part].concat(), frame(CONTINUATION, 0, 1, b"")),
    ]
}

#[tokio::test]
async fn connections_that_ask_for_nothing_are_closed_and_lock_nobody_out() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_SERVER_HEADER_TIMEOUT", "300ms"),
        ("NEURONETZ_SERVER_CONNECTIONS_MAX", "6"),
    ]))
    .await;
    let address = gateway.address;
    let opened = idlers().into_iter().map(|(what, begin, again)| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&begin).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let mut read = Vec::new();
        let mut every = tokio::time::interval(Duration::from_millis(50));
        let keep_on = async {
            loop {
                every.tick().await;
                let _ = writing.write_all(&again).await;
            }
        };
        soon(what, async {
            tokio::select! {
                ended = reading.read_to_end(&mut read) => drop(ended),
                () = keep_on => {}
            }
        })
        .await;
    });
    let (_, ()) = tokio::join!(futures_util::future::join_all(opened), others_are_served(&gateway));
    let closed = gateway.metric("gateway_connections_closed_total{reason=\"first_request\"}").await;
    assert!(closed > 5.9, "{closed}");
    eventually("the end of all", || async {
        (gateway.metric("gateway_connections_open").await < 0.1).then_some(())
    })
    .await;
}

/// A client of HTTP/2 that keeps its connection open, and what becomes of it.
async fn h2(
    address: SocketAddr,
) -> (hyper::client::conn::http2::SendRequest<Full<Bytes>>, impl Future<Output = hyper::Result<()>>)
{
    let stream = TcpStream::connect(address).await.unwrap();
    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap()
}

fn asked(gateway: &TestGateway, words: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://{}/api/chat", gateway.address))
        .header("authorization", format!("Bearer {}", gateway.key))
        .body(Full::new(Bytes::from(chat(words).to_string())))
        .unwrap()
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_and_one_with_a_long_stream_is_not() {
    let setup = settings([("NEURONETZ_SERVER_IDLE_TIMEOUT", "300ms")]);
    let gateway = TestGateway::with(setup).await;
    let (mut sender, connection) = h2(gateway.address).await;
    let asks = async {
        // A second and a half, during which it asks for nothing more.
        let words = asked(&gateway, "[[chunks 30]] [[pace 50]]");
        let reply = sender.send_request(words).await.unwrap();
        let text = reply.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("\"done\":true"));
        std::future::pending::<()>().await;
    };
    soon("the end of the idle connection", async {
        tokio::select! {
            () = asks => {}
            ended = connection => drop(ended),
        }
    })
    .await;
    assert!(gateway.metric("gateway_connections_closed_total{reason=\"idle\"}").await > 0.9);
}

#[tokio::test]
async fn a_stop_waits_for_no_connection_without_a_request() {
    let mut gateway = TestGateway::start().await;
    let mut held = Vec::new();
    for (_, begin, _) in idlers() {
        held.push(Open::send(gateway.address, &begin).await);
    }
    for begin in [&b""[..], b"GET /healthz HTTP/1.1\r\nHost: g"] {
        held.push(Open::send(gateway.address, begin).await);
    }
    let mut kept = Open::send(gateway.address, b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n").await;
    kept.until("200 OK").await;
    eventually("the connections", || async {
        (gateway.metric("gateway_connections_open").await > 8.9).then_some(())
    })
    .await;
    let began = Instant::now();
    gateway.stop().await;
    assert_eq!(gateway.ended().await, Ended::InOrder { unstored: 0 });
    // The time to drain is half a minute.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop((held, kept));
}

#[tokio::test]
async fn a_stop_waits_for_no_handshake_of_tls_and_serves_what_was_begun() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    let env = vec![
        ("NEURONETZ_SERVER_TLS_CERTIFICATE", path("cert.pem")),
        ("NEURONETZ_SERVER_TLS_KEY", path("key.pem")),
    ];
    let mut gateway = TestGateway::with(Setup { env, ..Setup::default() }).await;
    // The first bytes of a ClientHello.
    let half = Open::send(gateway.address, b"\x16\x03\x01\x02\x00\x01\x00\x01").await;
    let none = Open::send(gateway.address, b"").await;
    eventually("the connections", || async {
        (gateway.metric("gateway_connections_open").await > 1.9).then_some(())
    })
    .await;
    let began = Instant::now();
    gateway.stop().await;
    assert_eq!(gateway.ended().await, Ended::InOrder { unstored: 0 });
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop((half, none));
}

#[tokio::test]
async fn http2_streams_under_way_at_a_stop_come_to_their_end() {
    let mut gateway = TestGateway::start().await;
    let (mut sender, connection) = h2(gateway.address).await;
    let asks = async {
        let words = asked(&gateway, "[[chunks 30]] [[pace 50]]");
        let mut body = sender.send_request(words).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        gateway.stop().await;
        let text = body.collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("\"done\":true"));
    };
    // The client's end of the connection is told of the end before its last stream has ended.
    let _ = soon("the last reply", async { tokio::join!(asks, connection) }).await;
    assert_eq!(gateway.ended().await, Ended::InOrder { unstored: 0 });
    assert_eq!(gateway.audited_one().await.outcome, Outcome::Completed);
}

/// A connection from an address of loopback that is not the usual one.
async fn connect_from(host: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((host, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_the_rest_are_closed_at_once() {
    let setup = settings([("NEURONETZ_SERVER_CONNECTIONS_PER_ADDRESS_MAX", "3")]);
    let gateway = TestGateway::with(setup).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = connect_from([127, 0, 0, 2], gateway.address).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
        held.push(stream);
    }
    let mut more = connect_from([127, 0, 0, 2], gateway.address).await;
    let read = soon("the end of one too many", more.read(&mut [0; 64])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(gateway.metric("gateway_connections_closed_total{reason=\"address\"}").await > 0.9);
    others_are_served(&gateway).await;
    held.pop();
    eventually("a place that was given back", || async {
        let mut stream = connect_from([127, 0, 0, 2], gateway.address).await;
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n").await;
        matches!(stream.read(&mut [0; 64]).await, Ok(1..)).then_some(())
    })
    .await;
}

/// Reads to the end, whatever comes.
async fn swallow(mut reading: tokio::net::tcp::OwnedReadHalf) {
    let _ = tokio::io::copy(&mut reading, &mut tokio::io::sink()).await;
}

#[tokio::test]
async fn a_flood_of_frames_without_progress_ends_its_connection() {
    let gateway = TestGateway::start().await;
    let open = frame(HEADERS, 4, 1, &frames::post("/api/chat", &gateway.key));
    let head = frame(HEADERS, 1, 1, &[0x82]);
    let floods: [(&str, Vec<u8>, Vec<u8>); 7] = [
        ("PING", Vec::new(), frame(PING, 0, 0, &[1; 8])),
        ("SETTINGS", Vec::new(), frame(SETTINGS, 0, 0, b"")),
        ("PRIORITY", Vec::new(), frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", Vec::new(), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("an unknown type", Vec::new(), frame(0xEE, 0, 0, b"")),
        ("DATA without data", open, frame(DATA, 0, 1, b"")),
        ("CONTINUATION", head, frame(CONTINUATION, 0, 1, b"")),
    ];
    for (what, begin, again) in floods {
        let begin = [PREFACE, &frame(SETTINGS, 0, 0, b""), &begin].concat();
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&begin).await.unwrap();
        let (reading, mut writing) = stream.into_split();
        let flood = again.repeat(500);
        let ends = async {
            // A hundred thousand frames, ten times what passes at once.
            for _ in 0..200 {
                if writing.write_all(&flood).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        soon(what, async {
            tokio::select! {
                () = swallow(reading) => {}
                () = ends => {}
            }
        })
        .await;
        others_are_served(&gateway).await;
    }
    assert!(gateway.metric("gateway_connections_closed_total{reason=\"flood\"}").await > 4.9);
}

#[tokio::test]
async fn streams_opened_and_reset_again_and_again_end_their_connection() {
    let gateway = TestGateway::start().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
    let (reading, mut writing) = stream.into_split();
    let ends = async {
        for number in 0..50_000_u32 {
            let id = 2 * number + 1;
            let head = frame(HEADERS, 5, id, &frames::get("/healthz"));
            let both = [head, frame(frames::RST_STREAM, 0, id, &[0, 0, 0, 8])].concat();
            if writing.write_all(&both).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    soon("the end of the connection", async {
        tokio::select! {
            () = swallow(reading) => {}
            () = ends => {}
        }
    })
    .await;
    others_are_served(&gateway).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go_and_its_request_settled() {
    let setup = settings([("NEURONETZ_SERVER_WRITE_TIMEOUT", "500ms")]);
    let gateway = TestGateway::with(setup).await;
    let body = with(chat("[[chunks 400000]]"), "stream", json!(true)).to_string();
    let h1 = format!(
        "POST /api/chat HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        gateway.key,
        body.len()
    );
    // All the window there is, so that only the socket is in the way.
    let wide = [&[0, 4][..], &0x7FFF_FFFF_u32.to_be_bytes()].concat();
    let h2 = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &wide),
        &frame(WINDOW_UPDATE, 0, 0, &0x7FFE_0000_u32.to_be_bytes()),
        &frame(HEADERS, 4, 1, &frames::post("/api/chat", &gateway.key)),
        &frame(DATA, 1, 1, body.as_bytes()),
    ]
    .concat();
    let mut held = Vec::new();
    for (count, begin) in [h1.into_bytes(), h2].into_iter().enumerate() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(gateway.address).await.unwrap();
        stream.write_all(&begin).await.unwrap();
        let events = gateway.audited(count + 1).await;
        let unread = |event: &&AuditEvent| event.code == Some(Code::ReplyUnread);
        assert_eq!(events.iter().filter(unread).count(), count + 1, "{events:#?}");
        gateway.ollama.until(|done| done.open == 0).await;
        held.push(stream);
    }
    let closed = "gateway_connections_closed_total{reason=\"write_timeout\"}";
    eventually("both connections to be closed", || async {
        (gateway.metric(closed).await > 1.9).then_some(())
    })
    .await;
    others_are_served(&gateway).await;
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_given_up_and_the_others_go_on() {
    let setup = settings([("NEURONETZ_SERVER_WRITE_TIMEOUT", "500ms")]);
    let gateway = TestGateway::with(setup).await;
    // A window of no byte for each stream.
    let shut = [&[0, 4][..], &0_u32.to_be_bytes()].concat();
    let mut begin = [PREFACE, &frame(SETTINGS, 0, 0, &shut)].concat();
    let bodies = [chat("[[chunks 400000]]"), whole_chat("[[chunks 5000]]")];
    for (id, body) in [1, 3].into_iter().zip(&bodies) {
        begin.extend(frame(HEADERS, 4, id, &frames::post("/api/chat", &gateway.key)));
        begin.extend(frame(DATA, 1, id, body.to_string().as_bytes()));
    }
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&begin).await.unwrap();
    let reset = soon("the resets", frames::resets(&mut stream, 2)).await;
    assert_eq!(reset, [1, 3]);
    gateway.ollama.until(|done| done.open == 0).await;
    gateway.audited(2).await;
    assert!(gateway.metric("gateway_streams_stalled_total").await > 1.9);
    // The connection goes on.
    let asked = frame(HEADERS, 5, 5, &frames::get("/healthz"));
    stream.write_all(&asked).await.unwrap();
    assert!(!soon("an answer", frames::until_reset(&mut stream, 5)).await);
}

#[tokio::test]
async fn a_field_that_two_may_read_in_two_ways_is_refused() {
    let gateway = TestGateway::start().await;
    let key = format!("Bearer {}", gateway.key);
    for (name, first, second) in [
        ("authorization", key.as_str(), "Bearer nz_other"),
        ("authorization", key.as_str(), key.as_str()),
        ("x-api-key", gateway.key.as_str(), "nz_other"),
        ("host", "a", "b"),
        ("content-type", "application/json", "text/plain"),
    ] {
        let request = || {
            let uri = format!("http://{}/v1/models", gateway.address);
            let mut request = Request::get(uri);
            if name != "authorization" {
                request = request.header("authorization", &key);
            }
            request.header(name, first).header(name, second).body(Full::<Bytes>::default()).unwrap()
        };
        let reply = send(gateway.address, request()).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "malformed_request".to_owned()));
        let (mut sender, connection) = h2(gateway.address).await;
        let reply = soon("a reply", async {
            tokio::select! {
                reply = sender.send_request(request()) => reply.unwrap(),
                ended = connection => panic!("{ended:?}"),
            }
        })
        .await;
        assert_eq!(reply.status(), 400, "{name}");
    }
    others_are_served(&gateway).await;
}

#[tokio::test]
async fn http2_heads_that_mean_something_else_in_http1_go_no_further() {
    let gateway = TestGateway::start().await;
    let body = whole_chat("hi").to_string();
    let fields = [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("content-length", "3"),
        ("content-length", "99999"),
    ];
    for (name, value) in fields {
        let head = [frames::post("/api/chat", &gateway.key), frames::literal(name, value)].concat();
        let begin = [
            PREFACE,
            &frame(SETTINGS, 0, 0, b""),
            &frame(HEADERS, 4, 1, &head),
            &frame(DATA, 1, 1, body.as_bytes()),
        ];
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&begin.concat()).await.unwrap();
        let ended = soon(name, frames::until_reset(&mut stream, 1)).await;
        assert!(ended, "{name}: {value}");
    }
    assert!(gateway.ollama.requests().iter().all(|seen| seen.path == "/api/tags"));
    others_are_served(&gateway).await;
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_at_the_start_and_compared_with_what_may_be_needed() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // What is started takes the limits over.
    setrlimit(Resource::Nofile, Rlimit { current: Some(300), maximum }).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", directory.path().join("gateway.db").display());
    let process = tests::process::Process::start([
        ("DATABASE_URL", database),
        ("NEURONETZ_SERVER_CONNECTIONS_MAX", "1000000".to_owned()),
        ("NEURONETZ_SERVER_THREADS", "1".to_owned()),
    ])
    .await;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let log = process.text();
    assert!(log.contains("raised the limit of open files"), "{log}");
    let fits = maximum.is_none_or(|maximum| maximum > 2_000_000);
    assert_eq!(log.contains("too few open files are allowed"), !fits, "{log}");
}
