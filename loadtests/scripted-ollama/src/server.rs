//! The listener, and the door to a server that runs.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::script::Script;
use crate::socket;
use crate::state::{OfModel, Produced, Seen, State};

/// A scripted Ollama that runs. Dropped, it stops at once.
pub struct Scripted {
    address: SocketAddr,
    state: Arc<State>,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

// === impl Scripted ===

impl Scripted {
    /// Binds and serves; port 0 takes a free one.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn start(script: Script, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let clock = Clock::new(script.fixed_time, jiff::Timestamp::now());
        let state = State::new(script, clock);
        let (stopped, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(listener, Arc::clone(&state), stopped.clone(), tasks.clone()));
        Ok(Self { address, state, stopped, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that arrived, the oldest first, as many as the script keeps.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.state.log()
    }

    /// What it has done so far.
    #[must_use]
    pub fn produced(&self) -> Produced {
        *self.state.produced().borrow()
    }

    /// What each model has said, by its name as it was asked for. Answers count when they are over.
    #[must_use]
    pub fn models(&self) -> BTreeMap<String, OfModel> {
        self.state.models()
    }

    /// Requests by path.
    #[must_use]
    pub fn paths(&self) -> BTreeMap<String, u64> {
        self.state.paths()
    }

    /// Waits until what it has done is as wanted.
    pub async fn until(&self, mut wanted: impl FnMut(&Produced) -> bool) -> Produced {
        let mut produced = self.state.produced();
        // The sender lives in the state, which lives in `self`.
        match produced.wait_for(|now| wanted(now)).await {
            Ok(now) => *now,
            Err(_) => self.produced(),
        }
    }

    /// Stops at once, cutting every connection, and waits until all is over.
    pub async fn stop(&self) {
        self.stopped.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    stopped: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(accepted) = stopped.run_until_cancelled(listener.accept()).await {
        // A client that gave up before it was accepted is no reason to stop.
        let Ok((stream, _peer)) = accepted else { continue };
        let (state, stopped) = (Arc::clone(&state), stopped.clone());
        tasks.spawn(async move {
            stopped.run_until_cancelled(socket::serve(state, stream)).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn started() -> Scripted {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Scripted::start(Script::default(), loopback).await.unwrap()
    }

    /// What the server sends until it closes, and whether it closed in order.
    async fn post(server: &Scripted, path: &str, body: &str) -> (String, bool) {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\
             \r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        let ended = stream.read_to_end(&mut reply).await;
        (String::from_utf8(reply).unwrap(), ended.is_ok())
    }

    fn chat(words: &str) -> String {
        format!(r#"{{"model":"llama3.2","messages":[{{"role":"user","content":"{words}"}}]}}"#)
    }

    #[tokio::test]
    async fn a_native_stream_is_one_chunk_a_line_and_ends_with_counts() {
        let server = started().await;
        let (reply, _) = post(&server, "/api/chat", &chat("hello there")).await;
        assert!(reply.contains("content-type: application/x-ndjson"), "{reply}");
        assert_eq!(reply.matches("\"done\":false").count(), 7, "{reply}");
        assert!(reply.contains(r#""prompt_eval_count":2,"#) && reply.contains(r#""eval_count":7"#));
        assert!(reply.ends_with("}\n\r\n0\r\n\r\n"), "{reply}");
        let done = server.produced();
        assert_eq!((done.begun, done.completed, done.abandoned), (1, 1, 0));
        assert_eq!((done.pieces, done.prompt_tokens), (7, 2));
    }

    #[tokio::test]
    async fn its_openai_stream_has_one_role_a_finish_and_an_end() {
        let server = started().await;
        let body = chat("hi").replace("}]}", "}],\"stream\":true}");
        let (reply, _) = post(&server, "/v1/chat/completions", &body).await;
        assert_eq!(reply.matches("\"role\"").count(), 1, "{reply}");
        assert!(reply.contains(r#""delta":{},"finish_reason":"stop""#), "{reply}");
        assert!(reply.contains("data: [DONE]\n\n"), "{reply}");
    }

    #[tokio::test]
    async fn faults_are_what_they_say() {
        let server = started().await;
        let lines = |reply: &str| reply.matches("\"done\":false").count();
        let (reply, closed) = post(&server, "/api/chat", &chat("[[eof 3]]")).await;
        assert!(closed && lines(&reply) == 3 && reply.ends_with("0\r\n\r\n"), "{reply}");
        let (reply, _) = post(&server, "/api/chat", &chat("[[error-line 2]]")).await;
        assert!(lines(&reply) == 2 && reply.contains(r#"{"error":"the model stopped:"#), "{reply}");
        let (reply, closed) = post(&server, "/api/chat", &chat("[[cut 2]]")).await;
        assert!(closed && lines(&reply) == 2 && !reply.ends_with("0\r\n\r\n"), "{reply}");
        let (_, closed) = post(&server, "/api/chat", &chat("[[reset 2]]")).await;
        assert!(!closed);
        let (reply, _) = post(&server, "/api/chat", &chat("[[status 503]]")).await;
        assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("UPSTREAM-WORDS"), "{reply}");
        let (reply, _) = post(&server, "/api/chat", &chat("[[half 1]]")).await;
        assert!(reply.ends_with("\r\n0\r\n\r\n") && !reply.contains("}\n\r\n0"), "{reply}");
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed() {
        let server = started().await;
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let body = chat("[[hang 1]]");
        let request = format!(
            "POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        server.until(|done| done.open == 1).await;
        drop(stream);
        let done = server.until(|done| done.open == 0).await;
        assert_eq!((done.abandoned, done.completed), (1, 0));
    }

    #[tokio::test]
    async fn what_a_model_has_made_is_counted_also_where_the_client_left() {
        let server = started().await;
        post(&server, "/api/chat", &chat("hello there")).await;
        for stream in ["true", "false"] {
            let body = chat("[[chunks 100000]] [[pace 1]]")
                .replace("}]}", &format!("}}],\"stream\":{stream}}}"));
            let request =
                format!("POST /api/chat HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let mut client = TcpStream::connect(server.address()).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            let requests = if stream == "true" { 2 } else { 3 };
            server.until(|done| done.requests == requests).await;
            // Time is what a whole answer is made in.
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(client);
        }
        server.until(|done| done.connections == 0).await;
        let made = server.models()["llama3.2"];
        assert_eq!((made.answers, made.prompt_tokens), (3, 2 + 4 + 4));
        assert!(made.left_pieces >= 20, "{made:?}");
        assert_eq!(made.pieces, 7 + made.left_pieces);
        assert_eq!(server.paths()["/api/chat"], 3);
    }

    #[tokio::test]
    async fn what_llama_cpp_calls_the_most_goes_first_where_the_script_says_so() {
        let script = Script { n_predict: true, ..Script::default() };
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let llama = Scripted::start(script, loopback).await.unwrap();
        let body = chat("[[chunks 50]]").replace("}]}", "}],\"max_tokens\":5,\"n_predict\":30}");
        for (server, pieces) in [(started().await, 5), (llama, 30)] {
            post(&server, "/v1/chat/completions", &body).await;
            assert_eq!(server.produced().pieces, pieces);
        }
    }

    #[tokio::test]
    async fn what_changes_the_server_is_counted_and_an_origin_is_refused() {
        let server = started().await;
        post(&server, "/api/delete", r#"{"model":"llama3.2"}"#).await;
        assert_eq!(server.produced().mutations, 1);
        let (reply, _) = post(&server, "/api/chat", &chat("hi")).await;
        assert!(reply.starts_with("HTTP/1.1 404"), "{reply}");
        let (reply, _) =
            post(&server, "/api/tags HTTP/1.1\r\norigin: http://e.example\r\nx: ", "").await;
        assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
    }
}
