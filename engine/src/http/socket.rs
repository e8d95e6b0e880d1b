//! A client's socket with a limit on how long it may take no byte of ours.
//!
//! The limit is kept here, below TLS and below hyper, since only here is it known whether the kernel took a byte.
//! Where the socket takes what it is given at once, no timer is touched.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::seen::Seen;
use crate::telemetry::{self, Closed};

/// A client's socket.
pub(crate) struct Socket {
    stream: TcpStream,
    /// Read already, to find out which protocol is spoken.
    first: Bytes,
    seen: Arc<Seen>,
    stall: Stall,
}

/// How long the socket has taken nothing.
struct Stall {
    limit: Duration,
    /// Kept from one wait to the next; none before the first one.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes wait, and the socket takes none.
    waits: bool,
    /// It took too long: nothing is written any more.
    over: bool,
}

// === impl Socket ===

impl Socket {
    /// `limit`: how long bytes may wait while the socket takes none of them.
    pub(crate) fn new(stream: TcpStream, limit: Duration, seen: Arc<Seen>) -> Self {
        let stall = Stall { limit, timer: None, waits: false, over: false };
        Self { stream, first: Bytes::new(), seen, stall }
    }

    /// Puts bytes that were read back in front of those that come.
    pub(crate) fn put_back(&mut self, first: Bytes) {
        self.first = first;
    }

    /// What the edge knows of this connection.
    pub(crate) fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    fn written(
        &mut self,
        polled: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = polled {
            self.stall.waits = false;
            if let Ok(count) = result {
                self.seen.wrote(count);
            }
            return Poll::Ready(result);
        }
        ready!(self.stall.poll_over(cx));
        telemetry::connection_closed(Closed::WriteTimeout);
        // What the kernel still holds for a client that takes nothing is given up with the connection.
        let _ = self.stream.set_zero_linger();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            let count = self.first.remaining().min(buf.remaining());
            buf.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.stall.over {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.stall.over {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// A socket holds nothing back: what it took is the kernel's.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// === impl Stall ===

impl Stall {
    /// The socket takes nothing now; ready once that has lasted for the limit.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &mut self.timer {
            Some(timer) if self.waits => timer,
            Some(timer) => {
                timer.as_mut().reset(Instant::now() + self.limit);
                timer
            }
            None => self.timer.insert(Box::pin(sleep_until(Instant::now() + self.limit))),
        };
        self.waits = true;
        ready!(timer.as_mut().poll(cx));
        self.over = true;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// A client's end that reads nothing by itself, and the gateway's.
    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (client, Socket::new(stream, Duration::from_millis(200), Arc::default()))
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_fails_after_its_limit_and_stays_failed() {
        let (client, mut socket) = pair().await;
        let bytes = vec![0; 64 << 20];
        let error = socket.write_all(&bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = socket.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }

    #[tokio::test]
    async fn a_slow_reader_that_reads_is_never_too_slow() {
        use tokio::io::AsyncReadExt;
        let (mut client, mut socket) = pair().await;
        let bytes = vec![0; 32 << 20];
        let write = async {
            socket.write_all(&bytes).await.unwrap();
            drop(socket);
        };
        // All of it takes far longer than the limit; no single wait does.
        let read = async {
            let mut buffer = vec![0; 1 << 20];
            let mut every = tokio::time::interval(Duration::from_millis(20));
            let mut all = 0;
            loop {
                every.tick().await;
                match client.read(&mut buffer).await.unwrap() {
                    0 => return all,
                    count => all += count,
                }
            }
        };
        let ((), all) = tokio::join!(write, read);
        assert_eq!(all, 32 << 20);
    }
}
