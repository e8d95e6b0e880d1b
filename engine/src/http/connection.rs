//! One connection: which protocol, its time limits, its end.

use std::{
    convert::Infallible,
    future::Future,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use http::{Request, Response, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::error::Code;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::server::TlsStream;

use super::{
    frames::Counted,
    io::Io,
    quiet::{Limits, Quiet},
    refusal,
    seen::{Seen, Served},
    socket::Socket,
    streams::{Flow, Streams},
};
use crate::{
    gateway::Gateway,
    pipeline,
    telemetry::{self, Closed},
};

/// How an HTTP/2 connection begins (RFC 9113, 3.4), as far as it has to be read to be sure.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Streams at once on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 256;

/// How often a quiet HTTP/2 peer is asked whether it is still there.
const H2_PING_EVERY: Duration = Duration::from_secs(30);

/// Bytes of one stream's reply that are held while its client takes none: two frames of the usual size.
const H2_SEND_BYTES_MAX: usize = 32 * 1024;

/// Streams that a client opened and reset before they were looked at; one more ends the connection.
const H2_PENDING_RESETS_MAX: usize = 32;

/// How long, and how much, is swallowed of a request that was refused before it had arrived. Closing
/// at once would reset the connection, and the client would never read why.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 128 * 1024 * 1024;

type Answer = Pin<Box<dyn Future<Output = Result<Response<Served>, Infallible>> + Send>>;

/// How a connection ended.
enum Ended {
    ByItself(hyper::Result<()>),
    /// It had no request for too long.
    Quiet(Closed),
}

/// Serves a connection without TLS; the first bytes say which protocol.
pub(super) async fn serve_plain(gateway: Arc<Gateway>, mut socket: Socket, peer: IpAddr) {
    let began = Instant::now();
    let mut first = BytesMut::with_capacity(H2_PREFACE.len());
    let limit = began + gateway.server.header_timeout;
    let read = timeout_at(limit, read_preface(&mut socket, &mut first));
    let draining = gateway.life.draining().clone();
    let is_h2 = match draining.run_until_cancelled(read).await {
        Some(Ok(Ok(is_h2))) => is_h2,
        Some(Err(_)) => {
            telemetry::connection_closed(Closed::FirstRequest);
            if !first.is_empty() {
                say_too_slow(socket).await;
            }
            return;
        }
        None | Some(Ok(Err(_))) => return,
    };
    socket.put_back(first.freeze());
    let seen = Arc::clone(socket.seen());
    if is_h2 {
        serve_h2(gateway, (socket, peer), seen, began).await;
    } else {
        serve_h1(gateway, (socket, peer), seen).await;
    }
}

/// Serves a connection with TLS; ALPN has said which protocol.
pub(super) async fn serve_tls(gateway: Arc<Gateway>, stream: TlsStream<Socket>, peer: IpAddr) {
    let (socket, session) = stream.get_ref();
    let seen = Arc::clone(socket.seen());
    if session.alpn_protocol() == Some(b"h2") {
        serve_h2(gateway, (stream, peer), seen, Instant::now()).await;
    } else {
        serve_h1(gateway, (stream, peer), seen).await;
    }
}

/// Answers one request; it is open until its answer is dropped. `flow`: of an HTTP/2 stream.
fn answer(
    (gateway, peer): (&Arc<Gateway>, IpAddr),
    seen: &Arc<Seen>,
    flow: Option<Arc<Flow>>,
    request: Request<Incoming>,
) -> Answer {
    let (gateway, open) = (Arc::clone(gateway), seen.begin());
    let seen = flow.is_none().then(|| {
        seen.head_taken(request.headers().contains_key(header::TRANSFER_ENCODING));
        Arc::clone(seen)
    });
    Box::pin(async move {
        let response = pipeline::answer(gateway, seen, peer, request).await;
        Ok(response.map(|body| open.over(body, flow)))
    })
}

async fn serve_h1<S>(gateway: Arc<Gateway>, (stream, peer): (S, IpAddr), seen: Arc<Seen>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Io::new(stream, Arc::clone(&seen), refusal::raw));
    let service = service_fn(|request| answer((&gateway, peer), &seen, None, request));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(gateway.server.header_timeout)
        .max_buf_size(roomy(gateway.server.header_bytes_max))
        .serve_connection(io, service);
    // hyper's timer for the head of a request runs while none is under way, too.
    let mut quiet = Quiet::new(Arc::clone(&seen), Instant::now(), None);
    let ended = until_quiet(&gateway, &mut quiet, |cx, tell| {
        if tell {
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx)
    })
    .await;
    let ended = match ended {
        Ended::ByItself(ended) => ended,
        Ended::Quiet(why) => return telemetry::connection_closed(why),
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    match ended {
        Ok(()) => {}
        Err(error) if error.is_timeout() => {
            let first = seen.begun() == 0;
            telemetry::connection_closed(if first { Closed::FirstRequest } else { Closed::Idle });
            if !parts.read_buf.is_empty() {
                let _ = timeout(LINGER_TIME, stream.flush()).await;
                return say_too_slow(stream.into_inner()).await;
            }
        }
        Err(error) => tracing::debug!(%error, "connection ended"),
    }
    if seen.body_left() {
        linger(stream).await;
    } else {
        let _ = timeout(LINGER_TIME, stream.shutdown()).await;
    }
}

async fn serve_h2<S>(
    gateway: Arc<Gateway>,
    (stream, peer): (S, IpAddr),
    seen: Arc<Seen>,
    began: Instant,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let server = &gateway.server;
    let streams = Streams::new(gateway.connections.clone(), server.give_up_timeout());
    let begin = || Some(streams.begin());
    let service = service_fn(|request| answer((&gateway, peer), &seen, begin(), request));
    let headers_max = u32::try_from(roomy(server.header_bytes_max)).unwrap_or(u32::MAX);
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(headers_max)
        .max_send_buf_size(H2_SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
        .keep_alive_interval(H2_PING_EVERY)
        .serve_connection(TokioIo::new(Counted::new(stream)), service);
    let mut connection = pin!(connection);
    let limits = Limits { first: server.header_timeout, idle: server.idle_timeout };
    let mut quiet = Quiet::new(Arc::clone(&seen), began, Some(limits));
    let ended = until_quiet(&gateway, &mut quiet, |cx, tell| {
        if tell {
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
    match ended {
        Ended::ByItself(Ok(())) => {}
        Ended::ByItself(Err(error)) => tracing::debug!(%error, "connection ended"),
        Ended::Quiet(why) => telemetry::connection_closed(why),
    }
}

/// Polls a connection to its end, or until it has had no request for too long. Where the gateway drains, `poll` is
/// told so, once.
async fn until_quiet(
    gateway: &Gateway,
    quiet: &mut Quiet,
    mut poll: impl FnMut(&mut Context<'_>, bool) -> Poll<hyper::Result<()>>,
) -> Ended {
    let mut draining = pin!(gateway.life.draining().cancelled());
    let mut told = false;
    std::future::poll_fn(|cx| {
        let tell = !told && draining.as_mut().poll(cx).is_ready();
        if tell {
            told = true;
            quiet.drain();
        }
        match poll(cx, tell) {
            Poll::Ready(ended) => Poll::Ready(Ended::ByItself(ended)),
            Poll::Pending => quiet.poll_over(cx).map(Ended::Quiet),
        }
    })
    .await
}

/// What hyper may read of a head, in bytes: more than our own limit, so that in most cases it is ours
/// that answers.
fn roomy(header_bytes_max: usize) -> usize {
    (header_bytes_max * 2).max(16 * 1024)
}

/// Reads until it is sure whether the connection begins like HTTP/2.
async fn read_preface(stream: &mut Socket, first: &mut BytesMut) -> std::io::Result<bool> {
    loop {
        let known = first.len().min(H2_PREFACE.len());
        if first[..known] != H2_PREFACE[..known] {
            return Ok(false);
        }
        if known == H2_PREFACE.len() {
            return Ok(true);
        }
        if stream.read_buf(first).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The head did not come in time, and a part of it did.
async fn say_too_slow<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let answer = refusal::raw(Code::RequestTimeout);
    let said = stream.write_all(&answer);
    if matches!(timeout(LINGER_TIME, said).await, Ok(Ok(()))) {
        linger(stream).await;
    }
}

/// Closes the connection so that the client can read the last answer: first our side, then, once it
/// has been quiet or has sent enough, the other.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let swallow = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = timeout(LINGER_TIME, swallow).await;
}
