//! The model server that everything is measured on: Ollama's wire format on hand-written HTTP/1.1, with
//! replies that are built once. One thread. It must cost little, since it shares the machine with what
//! is measured.

use std::{io, net::SocketAddr, rc::Rc};

use memchr::memmem;
use rig::out::say;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::LocalSet,
    time::{Instant, sleep_until},
};

use crate::{
    marks::Marks,
    replies::{self, Dialect, Replies},
};

/// Connections that wait to be accepted: thousands come at once.
const BACKLOG: u32 = 4_096;
/// Where a request's buffer begins.
const BUFFER: usize = 2_048;
/// The longest request.
const REQUEST_MAX: usize = 1024 * 1024;

/// One request.
struct Request {
    /// Its method and path.
    route: Route,
    marks: Marks,
    /// How many bytes of the buffer it is.
    length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Chat(Dialect),
    Tags,
    Ps,
    Version,
    Show,
    Models,
    Root,
    Unknown,
}

/// Listens, says where on standard output, and serves until the process ends.
pub(crate) async fn serve(listen: SocketAddr) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot listen on {listen}: {error}");
    let socket = TcpSocket::new_v4().map_err(failed)?;
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(listen).map_err(failed)?;
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    say(&format!("http://{}", listener.local_addr().map_err(failed)?));
    let replies = Rc::new(Replies::default());
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await.map_err(failed)?;
            let replies = Rc::clone(&replies);
            // A peer that leaves is no fault.
            tokio::task::spawn_local(async move { drop(converse(stream, &replies).await) });
        }
    };
    LocalSet::new().run_until(accept).await
}

/// Serves a connection until its peer closes it.
async fn converse(mut stream: TcpStream, replies: &Replies) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let request = loop {
            if let Some(request) = parse(&buffer)? {
                break request;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..request.length);
        answer(&mut stream, &request, replies).await?;
    }
}

async fn answer(stream: &mut TcpStream, request: &Request, replies: &Replies) -> io::Result<()> {
    let marks = &request.marks;
    let body = match request.route {
        // Ollama streams where nothing is said, OpenAI does not.
        Route::Chat(dialect) if marks.stream.unwrap_or(dialect == Dialect::Native) => {
            return answer_stream(stream, marks, dialect, replies).await;
        }
        Route::Chat(dialect) => {
            return stream.write_all(&replies.whole(dialect, marks.chunks)).await;
        }
        Route::Tags => replies::tags(),
        Route::Ps => replies::ps(),
        Route::Version => "{\"version\":\"0.20.0\"}".to_owned(),
        Route::Show => replies::show(),
        Route::Models => replies::models(),
        Route::Root => "\"Ollama is running\"".to_owned(),
        Route::Unknown => {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        }
    };
    stream.write_all(&replies::json(&body)).await
}

async fn answer_stream(
    stream: &mut TcpStream,
    marks: &Marks,
    dialect: Dialect,
    replies: &Replies,
) -> io::Result<()> {
    let reply = replies.stream(dialect, marks.chunks);
    let mut at = Instant::now();
    for (number, part) in reply.writes(marks.gather).enumerate() {
        if number > 0 && marks.hold {
            // Nothing more until the client leaves, which ends a read.
            let mut nothing = [0; 1];
            let read = stream.read(&mut nothing).await?;
            debug_assert_eq!(read, 0);
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The end of the body follows the last line at once.
        if number > 0 && !marks.pace.is_zero() && number <= marks.chunks {
            at += marks.pace;
            sleep_until(at).await;
        }
        stream.write_all(part).await?;
    }
    Ok(())
}

/// The first request in the buffer, once all of it is there.
fn parse(buffer: &[u8]) -> io::Result<Option<Request>> {
    let Some(end) = memmem::find(buffer, b"\r\n\r\n") else {
        return if buffer.len() > REQUEST_MAX {
            Err(io::ErrorKind::InvalidData.into())
        } else {
            Ok(None)
        };
    };
    let head = &buffer[..end];
    let length = end + 4 + content_length(head).ok_or(io::ErrorKind::InvalidData)?;
    if length > REQUEST_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Some(body) = buffer.get(end + 4..length) else { return Ok(None) };
    let marks = Marks::read(body);
    Ok(Some(Request { route: route(head), marks, length }))
}

fn route(head: &[u8]) -> Route {
    let mut words = head.split(|byte| *byte == b' ' || *byte == b'\r');
    match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        (b"POST", b"/api/chat") => Route::Chat(Dialect::Native),
        (b"POST", b"/v1/chat/completions") => Route::Chat(Dialect::OpenAi),
        (b"GET", b"/api/tags") => Route::Tags,
        (b"GET", b"/api/ps") => Route::Ps,
        (b"GET", b"/api/version") => Route::Version,
        (b"POST", b"/api/show") => Route::Show,
        (b"GET", b"/v1/models") => Route::Models,
        (b"GET" | b"HEAD", b"/") => Route::Root,
        _ => Route::Unknown,
    }
}

/// How long the body is; `None` where that cannot be read.
fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    for line in head.split(|byte| *byte == b'\n') {
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            return std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok();
        }
    }
    Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_when_all_of_it_is_there() {
        let text = b"POST /api/chat HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: 16\r\n\r\n{\"stream\":false}GET";
        for end in 0..text.len() - 3 {
            assert!(parse(&text[..end]).unwrap().is_none(), "{end}");
        }
        let request = parse(text).unwrap().unwrap();
        assert_eq!(request.route, Route::Chat(Dialect::Native));
        assert_eq!((request.marks.stream, request.length), (Some(false), text.len() - 3));
    }

    #[test]
    fn a_length_that_is_no_number_ends_the_connection() {
        assert!(parse(b"POST /api/chat HTTP/1.1\r\nContent-Length: x\r\n\r\n").is_err());
    }
}
