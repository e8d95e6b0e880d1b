//! One HTTP/1.1 connection to an upstream, for one call at a time.
//!
//! The caller's own task reads and writes it: no other task stands between the socket and the client, so
//! that a chunk passes with one wake-up, and a connection that is dropped is closed there and then, in the
//! middle of whatever the upstream is sending. While a reply is quiet it holds no buffer.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio_util::{either::Either, io::poll_read_buf};

use super::{
    connect::Stream,
    reply::{Head, Malformed},
};
use crate::telemetry;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// A connection. Dropped, it is closed at once.
pub(super) struct Connection {
    stream: Option<Stream>,
    /// What was read and not yet taken.
    pub(super) buffer: BytesMut,
    /// A call is under way on it.
    pub(super) is_busy: bool,
}

/// Why a connection is of no more use. Says nothing of what the upstream sent.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The network.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The upstream closed it before its time.
    #[error("the connection was closed")]
    Closed,
    /// What came is no HTTP.
    #[error("the reply is no HTTP: {0}")]
    Malformed(#[from] Malformed),
}

/// A call that got no reply.
pub(super) struct Failed {
    pub(super) why: Broken,
    /// Whether the upstream may have heard anything of it.
    pub(super) is_sent: bool,
}

/// A request on its way out, and its reply on the way in.
struct Exchange<'c> {
    connection: &'c mut Connection,
    out: bytes::buf::Chain<Bytes, Bytes>,
    is_sent: bool,
    is_flushed: bool,
    /// Why no more can be sent. The reply may have come before.
    unsendable: Option<io::Error>,
}

// === impl Broken ===

impl Broken {
    /// Whether the upstream ended the connection, in whatever way.
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ),
            Self::Malformed(_) => false,
        }
    }
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream: Some(stream), buffer: BytesMut::new(), is_busy: false }
    }

    /// Whether it may be used for another call: nothing has come on it that nobody asked for, an end above
    /// all.
    pub(super) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.stream {
            _ if !self.buffer.is_empty() => false,
            None => false,
            Some(Either::Left(tcp)) => {
                matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Some(Either::Right(tls)) => {
                let (tcp, session) = tls.get_mut();
                // What was decrypted together with the end of the last reply is in no socket any more.
                let has_more = !matches!(
                    session.process_new_packets(),
                    Ok(state) if state.plaintext_bytes_to_read() == 0
                );
                let mut cx = Context::from_waker(Waker::noop());
                !has_more && tcp.poll_read_ready(&mut cx).is_pending()
            }
        }
    }

    /// Sends a request and waits for the head of its reply, which may come before all of the request has
    /// gone. Not safe to drop: the connection is of no use then.
    pub(super) async fn exchange(&mut self, head: Bytes, body: Bytes) -> Result<Head, Failed> {
        let mut exchange = Exchange {
            connection: self,
            out: head.chain(body),
            is_sent: false,
            is_flushed: false,
            unsendable: None,
        };
        let polled = poll_fn(|cx| exchange.poll(cx)).await;
        let (is_sent, is_whole) = (exchange.is_sent, exchange.is_flushed);
        match polled {
            Ok(mut head) => {
                head.keeps &= is_whole;
                Ok(head)
            }
            Err(why) => Err(Failed { why, is_sent }),
        }
    }

    /// Reads more into the buffer; 0 at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(0)) };
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        if let Either::Left(tcp) = stream {
            // There is no buffer before there is something to be read.
            ready!(tcp.poll_read_ready(cx))?;
        }
        self.buffer.reserve(READ_BYTES);
        let read = poll_read_buf(Pin::new(stream), cx, &mut self.buffer);
        if read.is_pending() && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        read
    }
}

impl Drop for Connection {
    /// In the middle of a call the time until the socket is closed is a metric.
    fn drop(&mut self) {
        let left = Instant::now();
        drop(self.stream.take());
        if self.is_busy {
            telemetry::cancelled(left.elapsed());
        }
    }
}

// === impl Exchange ===

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Broken>> {
        if !self.is_flushed
            && self.unsendable.is_none()
            && let Poll::Ready(Err(error)) = self.poll_send(cx)
        {
            self.unsendable = Some(error);
        }
        loop {
            if !self.connection.buffer.is_empty()
                && let Some(head) = Head::take(&mut self.connection.buffer)?
            {
                return Poll::Ready(Ok(head));
            }
            match (self.connection.poll_fill(cx), self.unsendable.take()) {
                (Poll::Ready(Ok(1..)), unsendable) => self.unsendable = unsendable,
                (_, Some(error)) | (Poll::Ready(Err(error)), None) => {
                    return Poll::Ready(Err(error.into()));
                }
                (Poll::Ready(Ok(0)), None) => return Poll::Ready(Err(Broken::Closed)),
                (Poll::Pending, None) => return Poll::Pending,
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.connection.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut stream = Pin::new(stream);
        while self.out.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 2];
            let count = self.out.chunks_vectored(&mut slices);
            let sent = ready!(stream.as_mut().poll_write_vectored(cx, &slices[..count]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_sent = true;
            self.out.advance(sent);
        }
        ready!(stream.poll_flush(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::upstream::reply::{Framing, Taken};

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        (Connection::new(Either::Left(ours)), theirs)
    }

    async fn read(connection: &mut Connection, framing: &mut Framing) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            match framing.take(&mut connection.buffer).unwrap() {
                Taken::Data(data) => out.extend_from_slice(&data),
                Taken::End => return out,
                Taken::More => {
                    assert_ne!(poll_fn(|cx| connection.poll_fill(cx)).await.unwrap(), 0);
                }
            }
        }
    }

    #[tokio::test]
    async fn one_call_follows_another_on_one_connection() {
        let (mut ours, mut theirs) = pair().await;
        for _ in 0..3 {
            assert!(ours.is_open());
            let calls = async {
                let head = ours.exchange("POST ".into(), "body".into()).await;
                let Ok(mut head) = head else { panic!("no head") };
                assert!(head.keeps);
                read(&mut ours, &mut head.framing).await
            };
            let answers = async {
                let mut asked = [0; 9];
                theirs.read_exact(&mut asked).await.unwrap();
                assert_eq!(&asked, b"POST body");
                let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                theirs.write_all(reply).await.unwrap();
            };
            assert_eq!(tokio::join!(calls, answers).0, b"ok");
        }
    }

    #[tokio::test]
    async fn what_is_closed_or_says_something_by_itself_is_not_open() {
        let (mut ours, theirs) = pair().await;
        drop(theirs);
        // The end is heard when the socket is next looked at.
        assert_eq!(poll_fn(|cx| ours.poll_fill(cx)).await.unwrap(), 0);
        assert!(!ours.is_open());
        let (mut ours, mut theirs) = pair().await;
        theirs.write_all(b"x").await.unwrap();
        assert_eq!(poll_fn(|cx| ours.poll_fill(cx)).await.unwrap(), 1);
        assert!(!ours.is_open());
    }

    #[tokio::test]
    async fn what_comes_by_itself_while_nothing_is_asked_is_noticed_before_the_next_call() {
        let (mut ours, mut theirs) = pair().await;
        assert!(ours.is_open());
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let Some(Either::Left(tcp)) = &ours.stream else { panic!("no TCP") };
        tcp.readable().await.unwrap();
        assert!(!ours.is_open());
    }

    /// Both ends of a TLS connection.
    async fn tls_pair() -> (Connection, tokio_rustls::server::TlsStream<TcpStream>) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        // Nothing comes but what the test sends.
        server.send_tls13_tickets = 0;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let (client, server) = (Arc::new(client), Arc::new(server));
        let (ours, theirs) = tokio::join!(
            tokio_rustls::TlsConnector::from(client).connect("a".try_into().unwrap(), ours),
            tokio_rustls::TlsAcceptor::from(server).accept(theirs)
        );
        (Connection::new(Either::Right(Box::new(ours.unwrap()))), theirs.unwrap())
    }

    #[tokio::test]
    async fn what_was_decrypted_behind_the_end_of_a_reply_is_noticed_before_the_next_call() {
        let (mut ours, mut theirs) = tls_pair().await;
        assert!(ours.is_open());
        // The longest record, and another one that is read from the socket together with its end.
        theirs.write_all(&[b'x'; READ_BYTES]).await.unwrap();
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        theirs.flush().await.unwrap();
        let mut read = 0;
        while read < READ_BYTES {
            read += poll_fn(|cx| ours.poll_fill(cx)).await.unwrap();
        }
        ours.buffer.advance(READ_BYTES);
        assert!(!ours.is_open());
    }

    #[tokio::test]
    async fn an_answer_to_half_a_request_is_heard_and_the_connection_is_not_kept() {
        let (mut ours, mut theirs) = pair().await;
        let large = Bytes::from(vec![b'x'; 64 * 1024 * 1024]);
        let calls = ours.exchange("POST ".into(), large);
        let answers = async {
            let reply = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
            theirs.write_all(reply).await.unwrap();
        };
        let (Ok(head), ()) = tokio::join!(calls, answers) else { panic!("no head") };
        assert_eq!((head.status.as_u16(), head.keeps), (413, false));
    }

    #[tokio::test]
    async fn who_closes_without_an_answer_may_have_heard_it() {
        let (mut ours, mut theirs) = pair().await;
        let calls = ours.exchange("POST ".into(), Bytes::new());
        let leaves = async {
            theirs.read_exact(&mut [0; 5]).await.unwrap();
            drop(theirs);
        };
        let (Err(Failed { why: Broken::Closed, is_sent: true }), ()) = tokio::join!(calls, leaves)
        else {
            panic!("an answer")
        };
    }

    #[tokio::test]
    async fn a_quiet_connection_holds_no_buffer() {
        let (mut ours, mut theirs) = pair().await;
        theirs.write_all(b"abc").await.unwrap();
        assert_eq!(poll_fn(|cx| ours.poll_fill(cx)).await.unwrap(), 3);
        ours.buffer.advance(3);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(ours.poll_fill(&mut cx).is_pending());
        assert_eq!(ours.buffer.capacity(), 0);
    }
}
