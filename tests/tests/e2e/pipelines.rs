//! HTTP/1.1 requests one behind another on one connection, wherever they are cut: each is read in one way only.

use tests::{Open, TestGateway, post, raw};

use crate::whole_chat;

/// A request as bytes, and whether it can be read in one way only.
type Sent = (String, bool);

/// Requests that are right.
fn right(key: &str) -> Vec<Sent> {
    let body = whole_chat("hi").to_string();
    let (length, half) = (body.len(), body.len() / 2);
    let (first, second) = body.split_at(half);
    let head = format!("POST /api/chat HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n");
    let second_length = length - half;
    vec![
        ("GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n".to_owned(), true),
        (format!("{head}Content-Length: {length}\r\n\r\n{body}"), true),
        (
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
            true,
        ),
        (
            format!(
                "\r\n{head}Transfer-Encoding: chunked\r\n\r\n{half:x};a=b\r\n{first}\r\n\
                 {second_length:X}\r\n{second}\r\n0\r\nx-trailer: a\r\n\r\n"
            ),
            true,
        ),
    ]
}

/// Requests that another reader may take for something else.
fn wrong(key: &str) -> Vec<Sent> {
    let body = whole_chat("hi").to_string();
    let length = body.len();
    let chunks = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let begin = format!("POST /api/chat HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    [
        format!("{begin}Content-Length: {length}\r\n{chunked}\r\n{chunks}"),
        format!("{begin}{chunked}content-length: {length}\r\n\r\n{chunks}"),
        format!("\r\n{begin}{chunked}Content-Length: {length}\r\n\r\n{chunks}"),
        format!("{begin}Transfer-Encoding: chunked, chunked\r\n\r\n{chunks}"),
        format!("{begin}{chunked}{chunked}\r\n{chunks}"),
        format!("{begin}Transfer-Encoding: gzip, chunked\r\n\r\n{chunks}"),
        format!("{begin}Content-Length: {length}\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{begin}X-A: b\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{begin}Content-Length: {length}\r\nHost: other\r\n\r\n{body}"),
        format!("{begin}Content-Length: {length}\r\nAuthorization: Bearer nz_a\r\n\r\n{body}"),
        begin.replace("HTTP/1.1", "HTTP/1.0") + &format!("{chunked}\r\n{chunks}"),
    ]
    .map(|request| (request, false))
    .to_vec()
}

/// Numbers that look like chance, the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap()
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_refused_behind_any_request() {
    let gateway = TestGateway::start().await;
    let after = &right(&gateway.key)[0].0;
    for (wrong, _) in wrong(&gateway.key) {
        for (before, _) in right(&gateway.key) {
            let reply = raw(gateway.address, format!("{before}{wrong}{after}").as_bytes()).await;
            let told =
                (reply.matches("HTTP/1.1 200").count(), reply.matches("HTTP/1.1 400").count());
            assert_eq!(told, (1, 1), "{before}{wrong}\n---\n{reply}");
            assert!(reply.contains("not well-formed HTTP"), "{reply}");
        }
    }
    let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &whole_chat("hi")).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn pipelines_are_read_alike_however_they_are_cut() {
    let gateway = TestGateway::start().await;
    let (right, wrong) = (right(&gateway.key), wrong(&gateway.key));
    let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
    for _ in 0..60 {
        let mut sent: Vec<&Sent> = (0..chance.below(6)).map(|_| &right[chance.below(4)]).collect();
        let at = chance.below(sent.len() + 1);
        sent.insert(at, &wrong[chance.below(wrong.len())]);
        let bytes: String = sent.iter().map(|(request, _)| request.as_str()).collect();
        let bytes = bytes.as_bytes();
        let mut cuts: Vec<_> = (0..chance.below(8)).map(|_| chance.below(bytes.len())).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut begin = cuts[0];
        let mut open = Open::send(gateway.address, &bytes[..begin]).await;
        for cut in &cuts[1..] {
            // The gateway reads in between, or it does not: either way is right. It may have refused already.
            tokio::task::yield_now().await;
            if open.try_more(&bytes[begin..*cut]).await.is_err() {
                break;
            }
            begin = *cut;
        }
        let reply = open.end().await;
        let told = (reply.matches("HTTP/1.1 200").count(), reply.matches("HTTP/1.1 400").count());
        assert_eq!(told, (at, 1), "{}\n---\n{reply}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn a_pipeline_that_is_right_is_answered_whole() {
    let gateway = TestGateway::start().await;
    let mut bytes = String::new();
    for _ in 0..5 {
        bytes.extend(right(&gateway.key).into_iter().map(|(request, _)| request));
    }
    bytes.push_str("GET /healthz HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n");
    let reply = raw(gateway.address, bytes.as_bytes()).await;
    assert_eq!(reply.matches("HTTP/1.1 200").count(), 21, "{reply}");
}
