//! A client of few words: one connection a request, over hyper or as raw bytes.
//!
//! Whatever it reads, head and body, must not hold a word of the model server's: the scripted Ollama
//! marks each of its errors.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use scripted_ollama::MARKER;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::patience::soon;

/// What came back.
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body, whole.
    pub body: Bytes,
}

impl Reply {
    /// Reads the whole of it.
    async fn read(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap_or_else(|e| panic!("{e}")).to_bytes();
        Self { status: parts.status, headers: parts.headers, body }
    }

    fn without_marker(self) -> Self {
        for (name, value) in &self.headers {
            without_marker(&format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
        without_marker(&self.text());
        self
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The `code` of an OpenAI-shaped error.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A header field as text; empty where it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    }
}

/// Sends a request on a connection of its own and reads the whole reply.
///
/// # Panics
/// Where there is no reply.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Reply {
    send_trusted(address, request).await.without_marker()
}

/// The same, for who may hear the model server's own words.
///
/// # Panics
/// Where there is no reply.
pub async fn send_trusted(address: SocketAddr, request: Request<Full<Bytes>>) -> Reply {
    soon("a reply", async {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("{e}"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        let reply = async move {
            let response = sender.send_request(request).await.unwrap_or_else(|e| panic!("{e}"));
            Reply::read(response).await
        };
        // The connection is driven beside the reply and dropped with it.
        tokio::pin!(reply, connection);
        tokio::select! {
            reply = &mut reply => reply,
            ended = &mut connection => match ended {
                Ok(()) => reply.await,
                Err(error) => panic!("the connection failed: {error}"),
            },
        }
    })
    .await
}

/// `GET`, with a key or without.
pub async fn get(address: SocketAddr, path: &str, key: Option<&str>) -> Reply {
    ask(address, Method::GET, path, key, Bytes::new()).await
}

/// `POST` of a JSON body, with a key or without.
pub async fn post(address: SocketAddr, path: &str, key: Option<&str>, body: &Value) -> Reply {
    ask(address, Method::POST, path, key, body.to_string().into()).await
}

/// Any method and body.
///
/// # Panics
/// Where the request cannot be built.
pub async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: Bytes,
) -> Reply {
    send(address, request(method, path, key, body)).await
}

/// A request with a key or without.
///
/// # Panics
/// Where it cannot be built.
pub fn request(method: Method, path: &str, key: Option<&str>, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "gateway");
    if let Some(key) = key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    request.body(Full::new(body)).unwrap_or_else(|error| panic!("{error}"))
}

/// Sends bytes as they are and reads until the gateway closes.
///
/// # Panics
/// Where the gateway cannot be reached, or does not close.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    soon("the end of the connection", async {
        let mut stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("{e}"));
        let (mut reading, mut writing) = stream.split();
        // The gateway may refuse before it has read everything.
        let write = async {
            let _ = writing.write_all(bytes).await;
        };
        let mut reply = Vec::new();
        let read = async {
            let _ = reading.read_to_end(&mut reply).await;
        };
        tokio::join!(write, read);
        without_marker(&String::from_utf8_lossy(&reply))
    })
    .await
}

/// What was read, which must not hold a word of the model server's.
fn without_marker(read: &str) -> String {
    assert!(!read.contains(MARKER), "a client was told an upstream's words: {read}");
    read.to_owned()
}

/// A reply that is read bit by bit; the connection closes when this is dropped.
pub struct Open {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Open {
    /// `POST` of a JSON body, on a connection of its own.
    ///
    /// # Panics
    /// Where the gateway cannot be reached.
    pub async fn post(address: SocketAddr, path: &str, key: &str, body: &Value) -> Self {
        let body = body.to_string();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        Self::send(address, (head + &body).as_bytes()).await
    }

    /// Sends bytes as they are and leaves the connection open.
    ///
    /// # Panics
    /// Where the gateway cannot be reached.
    pub async fn send(address: SocketAddr, bytes: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("{e}"));
        stream.write_all(bytes).await.unwrap_or_else(|e| panic!("{e}"));
        Self { stream, read: Vec::new() }
    }

    /// Sends more.
    ///
    /// # Panics
    /// Where the connection is closed.
    pub async fn more(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Sends more, unless the connection is closed.
    ///
    /// # Errors
    /// Where it is.
    pub async fn try_more(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads until the reply holds a text so many times; returns all of it so far.
    ///
    /// # Panics
    /// Where it ends before.
    pub async fn until_times(&mut self, text: &str, times: usize) -> String {
        soon(text, async {
            loop {
                let said = without_marker(&String::from_utf8_lossy(&self.read));
                if said.matches(text).count() >= times {
                    return said;
                }
                let count = self.stream.read_buf(&mut self.read).await;
                assert!(matches!(count, Ok(1..)), "{count:?}, after: {said}");
            }
        })
        .await
    }

    /// Reads until the reply holds a text; returns all of it so far.
    ///
    /// # Panics
    /// Where it ends before.
    pub async fn until(&mut self, text: &str) -> String {
        self.until_times(text, 1).await
    }

    /// Reads to the end; returns all of it. A reset is an end, too.
    pub async fn end(mut self) -> String {
        soon("the end of the reply", async {
            let _ = self.stream.read_to_end(&mut self.read).await;
            without_marker(&String::from_utf8_lossy(&self.read))
        })
        .await
    }
}

/// A connection that is kept, for many requests one after another.
pub struct Kept {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    driver: tokio::task::JoinHandle<()>,
}

impl Kept {
    /// Opens one.
    ///
    /// # Panics
    /// Where the gateway cannot be reached.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("{e}"));
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        #[expect(clippy::disallowed_methods, reason = "it is aborted when this is dropped")]
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, driver }
    }

    /// `POST` of a JSON body; the whole reply.
    ///
    /// # Panics
    /// Where there is no reply.
    pub async fn post(&mut self, path: &str, key: &str, body: &Value) -> Reply {
        soon("a reply", async {
            self.sender.ready().await.unwrap_or_else(|e| panic!("{e}"));
            let request = request(Method::POST, path, Some(key), body.to_string().into());
            let sent = self.sender.send_request(request).await;
            Reply::read(sent.unwrap_or_else(|e| panic!("{e}"))).await
        })
        .await
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use scripted_ollama::{Script, Scripted};

    use super::*;

    #[tokio::test]
    #[should_panic(expected = "a client was told an upstream's words")]
    async fn an_upstreams_words_fail_the_test_that_reads_them() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let ollama = Scripted::start(Script::default(), loopback).await.unwrap();
        let body = serde_json::json!({ "model": "no-such-model", "messages": [] });
        post(ollama.address(), "/api/chat", None, &body).await;
    }
}
