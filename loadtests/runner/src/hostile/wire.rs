//! HTTP/1.1 as cheaply as it can be spoken: requests are made beforehand, of answers no more is read than is
//! needed. The attackers must not be what the honest tenant's time goes into.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

/// The most that is read of one answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a connection, and how long an answer may take, on whatever machine.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    read: BytesMut,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// What follows the head, with the framing of chunks in it.
    pub(crate) body: Bytes,
    /// When the first byte of the body was there.
    pub(crate) first_byte: Instant,
    /// Nothing more can be asked on this connection.
    pub(crate) is_last: bool,
}

/// Connects from that address, which is one of loopback's; `receives` bytes fit into its socket, or as many
/// as the system says.
pub(crate) async fn connect(
    from: Ipv4Addr,
    to: SocketAddr,
    receives: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receives {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
    let stream = timeout(ANSWER_MAX, socket.connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The head of a POST.
pub(crate) fn head(path: &str, key: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// A POST.
pub(crate) fn post(path: &str, key: &str, body: &str) -> Bytes {
    Bytes::from(head(path, key, body.len()) + body)
}

/// A GET.
pub(crate) fn get(path: &str, key: &str) -> Bytes {
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\r\n");
    Bytes::from(head)
}

// === impl Wire ===

impl Wire {
    /// Connects.
    pub(crate) async fn open(from: Ipv4Addr, to: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: connect(from, to, None).await?, read: BytesMut::new() })
    }

    /// Asks, and reads the whole answer, also where it comes before the request is whole.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        let (mut reader, mut writer) = self.stream.split();
        let read = &mut self.read;
        let answer = async {
            let mut first_byte = None;
            loop {
                if let Some(head) = Head::read(read) {
                    if first_byte.is_none() && (read.len() > head.length || head.is_whole(read)) {
                        first_byte = Some(Instant::now());
                    }
                    if head.is_whole(read) {
                        let first_byte = first_byte.unwrap_or_else(Instant::now);
                        return Ok(head.answer(read, first_byte));
                    }
                }
                if read.len() > ANSWER_BYTES_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if reader.read_buf(read).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        let asked = async {
            tokio::pin!(answer);
            tokio::select! {
                answer = &mut answer => answer,
                // Whoever was refused in the middle of a request may still read why.
                _ = writer.write_all(request) => answer.await,
            }
        };
        timeout(ANSWER_MAX, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The head of an answer, as far as it matters.
struct Head {
    status: u16,
    length: usize,
    /// None where it comes in chunks.
    body: Option<usize>,
    is_last: bool,
}

// === impl Head ===

impl Head {
    /// The head, where all of it is there.
    fn read(read: &[u8]) -> Option<Self> {
        let length = find(read, b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&read[..length]).to_ascii_lowercase();
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let status = text.get(9..12)?.parse().ok()?;
        let is_chunked = field("transfer-encoding") == Some("chunked");
        let body = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let is_last = field("connection") == Some("close");
        Some(Self { status, length, body: (!is_chunked).then_some(body), is_last })
    }

    fn is_whole(&self, read: &[u8]) -> bool {
        match self.body {
            Some(body) => read.len() >= self.length + body,
            // No body that is asked for here has this in the middle.
            None => read[self.length..].ends_with(b"0\r\n\r\n"),
        }
    }

    /// Takes the answer out of what was read.
    fn answer(&self, read: &mut BytesMut, first_byte: Instant) -> Answer {
        let all = self.body.map_or(read.len(), |body| self.length + body);
        let mut whole = read.split_to(all);
        let body = whole.split_off(self.length).freeze();
        Answer { status: self.status, body, first_byte, is_last: self.is_last }
    }
}

// === impl Answer ===

impl Answer {
    /// Its status, and the code where it is a refusal that has one.
    pub(crate) fn told(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let code = ["\"code\":\"", "\"code\": \""]
            .iter()
            .find_map(|name| text.split_once(name)?.1.split_once('"'))
            .map(|(code, _)| code);
        match code {
            Some(code) if self.status != 200 => format!("{} {code}", self.status),
            _ => self.status.to_string(),
        }
    }
}

/// Where bytes stand among others.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Option<Answer> {
        let mut read = BytesMut::from(text);
        let head = Head::read(&read).filter(|head| head.is_whole(&read))?;
        Some(head.answer(&mut read, Instant::now()))
    }

    #[test]
    fn an_answer_is_whole_with_its_length_or_its_last_chunk() {
        assert!(answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").is_none());
        let whole = answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").unwrap();
        assert_eq!((whole.told().as_str(), whole.is_last), ("200", false));
        assert!(
            answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").is_none()
        );
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert_eq!(answer(text).unwrap().body.as_ref(), b"1\r\na\r\n0\r\n\r\n");
    }

    #[test]
    fn a_refusal_is_told_with_its_code() {
        let text =
            "HTTP/1.1 429 x\r\nconnection: close\r\ncontent-length: 14\r\n\r\n{\"code\":\"rpm\"}";
        let refused = answer(text).unwrap();
        assert_eq!((refused.told().as_str(), refused.is_last), ("429 rpm", true));
    }
}
