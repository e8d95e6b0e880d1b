//! One connection: which protocol, its time limits, its end.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::error::Code;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use super::{
    body::ReplyBody,
    io::{Io, Seen},
    refusal,
};
use crate::{gateway::Gateway, pipeline};

/// How an HTTP/2 connection begins (RFC 9113, 3.4), as far as it has to be read to be sure.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Streams at once on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 256;

/// How often a quiet HTTP/2 peer is asked whether it is still there.
const H2_PING_EVERY: Duration = Duration::from_secs(30);

/// How long, and how much, is swallowed of a request that was refused before it had arrived. Closing
/// at once would reset the connection, and the client would never read why.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 128 * 1024 * 1024;

type Answer = Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, Infallible>> + Send>>;

/// Serves a connection without TLS; the first bytes say which protocol.
pub(super) async fn serve_plain(gateway: Arc<Gateway>, mut stream: TcpStream) {
    let mut first = BytesMut::with_capacity(H2_PREFACE.len());
    let limit = gateway.server.header_timeout;
    let read = timeout(limit, read_preface(&mut stream, &mut first));
    let draining = gateway.life.draining().clone();
    let is_h2 = match draining.run_until_cancelled(read).await {
        Some(Ok(Ok(is_h2))) => is_h2,
        Some(Err(_)) if !first.is_empty() => return say_too_slow(stream).await,
        None | Some(_) => return,
    };
    if is_h2 {
        serve_h2(gateway, stream, first.freeze()).await;
    } else {
        serve_h1(gateway, stream, first.freeze()).await;
    }
}

/// Serves a connection with TLS; ALPN has said which protocol.
pub(super) async fn serve_tls(gateway: Arc<Gateway>, stream: TlsStream<TcpStream>) {
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        serve_h2(gateway, stream, Bytes::new()).await;
    } else {
        serve_h1(gateway, stream, Bytes::new()).await;
    }
}

async fn serve_h1<S>(gateway: Arc<Gateway>, stream: S, first: Bytes)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seen = Arc::new(Seen::default());
    let io = TokioIo::new(Io::new(stream, first, Arc::clone(&seen), refusal::raw));
    let service = {
        let (gateway, seen) = (Arc::clone(&gateway), Arc::clone(&seen));
        service_fn(move |request: Request<Incoming>| -> Answer {
            let (gateway, seen) = (Arc::clone(&gateway), Arc::clone(&seen));
            Box::pin(async move { Ok(pipeline::answer(gateway, Some(seen), request).await) })
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(gateway.server.header_timeout)
        .max_buf_size(roomy(gateway.server.header_bytes_max))
        .serve_connection(io, service);
    let mut draining = pin!(gateway.life.draining().cancelled());
    let mut told = false;
    let ended = std::future::poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx)
    })
    .await;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    match ended {
        Ok(()) => {}
        Err(error) if error.is_timeout() && !parts.read_buf.is_empty() => {
            let _ = stream.flush().await;
            return say_too_slow(stream.into_inner()).await;
        }
        Err(error) => tracing::debug!(%error, "connection ended"),
    }
    if seen.body_left() {
        linger(stream).await;
    } else {
        let _ = timeout(LINGER_TIME, stream.shutdown()).await;
    }
}

async fn serve_h2<S>(gateway: Arc<Gateway>, stream: S, first: Bytes)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Io::new(stream, first, Arc::default(), refusal::raw));
    let service = {
        let gateway = Arc::clone(&gateway);
        service_fn(move |request: Request<Incoming>| -> Answer {
            let gateway = Arc::clone(&gateway);
            Box::pin(async move { Ok(pipeline::answer(gateway, None, request).await) })
        })
    };
    let headers_max = u32::try_from(roomy(gateway.server.header_bytes_max)).unwrap_or(u32::MAX);
    let connection = http2::Builder::new(Tracked(gateway.connections.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(headers_max)
        .keep_alive_interval(H2_PING_EVERY)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut draining = pin!(gateway.life.draining().cancelled());
    let mut told = false;
    let ended = std::future::poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// What hyper may read of a head, in bytes: more than our own limit, so that in most cases it is ours
/// that answers.
fn roomy(header_bytes_max: usize) -> usize {
    (header_bytes_max * 2).max(16 * 1024)
}

/// Runs the streams of an HTTP/2 connection where shutdown can wait for them.
#[derive(Clone)]
struct Tracked(tokio_util::task::TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Reads until it is sure whether the connection begins like HTTP/2.
async fn read_preface(stream: &mut TcpStream, first: &mut BytesMut) -> std::io::Result<bool> {
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
