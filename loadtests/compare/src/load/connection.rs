//! One connection of the load.

use std::{cell::RefCell, io, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Found, Requests};
use crate::framing::Reply;

/// What is read at once; of a held stream, which has little to say, and has thousands beside it.
const READ: usize = 16 * 1024;
const READ_HELD: usize = 4 * 1024;
/// Failures in a row after which a connection gives up.
const FAILURES_MAX: u32 = 3;

/// One connection, opened with its first request and kept.
pub(super) struct Connection {
    stream: Option<TcpStream>,
    reply: Reply,
    request: Vec<u8>,
    buffer: Vec<u8>,
    hold: bool,
}

/// The times of one request, in nanoseconds.
struct Times {
    first: u64,
    total: u64,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(hold: bool) -> Self {
        let size = if hold { READ_HELD } else { READ };
        Self { stream: None, reply: Reply::new(), request: Vec::new(), buffer: vec![0; size], hold }
    }

    /// Asks for replies until nothing is left to ask for; one that holds asks once.
    pub(super) async fn work(&mut self, requests: &Requests, found: &RefCell<Found>) {
        let mut failed = 0;
        while failed < FAILURES_MAX && requests.take() {
            // The first request of the phase keeps its body to be looked at.
            let mut kept = found.borrow_mut().body.take_if(|body| body.is_empty());
            let is_kept = self.stream.is_some();
            let mut result = self.ask(requests, kept.as_mut()).await;
            // A server may close a connection that was idle, and the request meets that on its way:
            // every client then asks again on a new one.
            if result.is_err() && is_kept && !self.reply.has_begun() {
                self.stream = None;
                result = self.ask(requests, kept.as_mut()).await;
            }
            let mut found = found.borrow_mut();
            if kept.is_some() {
                found.body = kept;
            }
            match result {
                Ok(times) => {
                    failed = 0;
                    found.first.push(times.first);
                    found.total.push(times.total);
                }
                Err(why) => {
                    failed += 1;
                    self.stream = None;
                    found.failed(why);
                }
            }
            if self.hold {
                return;
            }
        }
    }

    /// Whether it is open and nothing came that was not read.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        self.stream.as_ref().is_some_and(|stream| {
            matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        })
    }

    async fn ask(
        &mut self,
        requests: &Requests,
        mut keep: Option<&mut Vec<u8>>,
    ) -> Result<Times, String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(requests.address).await;
                let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                none.insert(stream)
            }
        };
        requests.write(&mut self.request);
        self.reply.reset();
        let start = Instant::now();
        let broken = |error: io::Error| format!("the connection broke: {error}");
        stream.write_all(&self.request).await.map_err(broken)?;
        let mut first = None;
        while !self.reply.is_done() {
            let read = stream.read(&mut self.buffer).await.map_err(broken)?;
            if read == 0 {
                let (status, bytes) = (self.reply.status(), self.reply.body_bytes());
                return Err(format!("closed early: status {status}, {bytes} bytes of body"));
            }
            let fed = self.reply.feed(&self.buffer[..read], keep.as_deref_mut());
            fed.map_err(|fault| format!("the reply cannot be read: {fault:?}"))?;
            if first.is_none() && self.reply.body_bytes() > 0 {
                first = Some(nanos(start));
            }
            // All of the first chunk was read, and nothing follows.
            if self.hold && first.is_some() && read < self.buffer.len() {
                break;
            }
        }
        let total = nanos(start);
        match self.reply.status() {
            200 => Ok(Times { first: first.unwrap_or(total), total }),
            status => {
                let text = String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(900)]);
                let text = text.split('\0').next().unwrap_or_default().to_owned();
                Err(format!("status {status}: {}", text.replace(['\r', '\n'], " ")))
            }
        }
    }
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
