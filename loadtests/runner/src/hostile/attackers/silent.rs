//! Who opens connections and does not do what they are for: streams that nobody reads, connections that ask
//! for nothing.

use std::{io, net::Ipv4Addr, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::Attack;
use crate::hostile::{
    h2::{self, Frames},
    tally::Tally,
    wire,
};

/// The preface of HTTP/2, and nothing more.
pub(super) const PREFACE_ONLY: &[u8] = h2::PREFACE;
/// The preface, and five of the nine bytes that a frame begins with.
pub(super) const HALF_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00";
/// Streams of a connection with a window of 0.
pub(crate) const STREAMS: u32 = 4;
/// How often a connection that asks for nothing pings.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Frames of a burst of pings or settings, and requests of one that are reset at once.
const BURST: u32 = 50;
const RESETS: u32 = 5;
/// What fits into the socket of who does not read: the system doubles it.
const RECEIVES: u32 = 2048;
const PATH: &str = "/v1/chat/completions";

fn stream_body(model: &str, chunks: u32, pace_ms: u32) -> String {
    format!(
        "{{\"model\":\"{model}\",\"stream\":true,\"max_tokens\":{chunks},\"messages\":[{{\"role\":\"user\",\
         \"content\":\"[[chunks {chunks}]] [[pace {pace_ms}]] go on\"}}]}}"
    )
}

/// Opens a connection with streams of that model that have a window of 0.
pub(crate) async fn never_reading(
    (from, to): (Ipv4Addr, SocketAddr),
    (model, key): (&str, &str),
    pace_ms: u32,
) -> io::Result<TcpStream> {
    let mut stream = wire::connect(from, to, None).await?;
    let mut frames = Frames::opening(Some(0));
    for number in 0..STREAMS {
        frames.post(2 * number + 1, PATH, key, &stream_body(model, 650, pace_ms));
    }
    stream.write_all(&frames.bytes()).await?;
    Ok(stream)
}

/// Opens a connection that has no request.
pub(crate) async fn pinging((from, to): (Ipv4Addr, SocketAddr)) -> io::Result<TcpStream> {
    let mut stream = wire::connect(from, to, None).await?;
    stream.write_all(&Frames::opening(None).bytes()).await?;
    Ok(stream)
}

/// Holds streams with a window of 0 until the gateway closes the connection.
pub(super) async fn never_reads_h2(attack: &Attack) -> io::Result<()> {
    let kind = attack.of.kind.name();
    let opened = never_reading((attack.from, attack.to), (kind, &attack.key), 2);
    let mut stream = opened.await?;
    count_opened(&attack.tally, u64::from(STREAMS));
    h2::stay(&mut stream, None, || attack.tally.answered("head")).await?;
    attack.tally.count(|counts| counts.closed += 1);
    Ok(())
}

/// Holds a stream of 4 MB over a full socket, until it is over: that the gateway has closed the connection
/// cannot be seen without reading.
pub(super) async fn never_reads_h1(attack: &Attack) -> io::Result<()> {
    let mut stream = wire::connect(attack.from, attack.to, Some(RECEIVES)).await?;
    let body = stream_body(attack.of.kind.name(), 20_000, 0);
    stream.write_all(&wire::post(PATH, &attack.key, &body)).await?;
    count_opened(&attack.tally, 1);
    std::future::pending().await
}

/// Sends these bytes and waits until the gateway closes the connection.
pub(super) async fn idle(attack: &Attack, bytes: &[u8]) -> io::Result<()> {
    let mut stream = wire::connect(attack.from, attack.to, None).await?;
    count_opened(&attack.tally, 0);
    stream.write_all(bytes).await?;
    let mut buffer = [0; 256];
    while stream.read(&mut buffer).await? > 0 {}
    attack.tally.count(|counts| counts.closed += 1);
    Ok(())
}

/// Pings on a connection without a request, until the gateway closes it.
pub(super) async fn pings(attack: &Attack) -> io::Result<()> {
    let mut stream = pinging((attack.from, attack.to)).await?;
    count_opened(&attack.tally, 0);
    h2::stay(&mut stream, Some(PING_EVERY), || {}).await?;
    attack.tally.count(|counts| counts.closed += 1);
    Ok(())
}

/// Bursts of pings, of settings, or of requests that are reset at once, on a connection each time: one that is
/// refused for it is not used again.
pub(super) async fn floods(attack: &Attack, number: usize) -> io::Result<()> {
    let mut stream = wire::connect(attack.from, attack.to, None).await?;
    let mut frames = Frames::opening(None);
    let mut sent = 0;
    match number % 3 {
        0 => (0..BURST).for_each(|_| frames.ping()),
        1 => (0..BURST).for_each(|_| frames.settings()),
        _ => {
            let body = stream_body(attack.of.kind.name(), 20, 50);
            for number in 0..RESETS {
                frames.post(2 * number + 1, PATH, &attack.key, &body);
                frames.reset(2 * number + 1);
                sent += 1;
            }
        }
    }
    count_opened(&attack.tally, sent);
    stream.write_all(&frames.bytes()).await?;
    let stays = h2::stay(&mut stream, None, || attack.tally.answered("head"));
    match timeout(Duration::from_millis(500), stays).await {
        Ok(closed) => {
            attack.tally.count(|counts| counts.closed += 1);
            closed
        }
        Err(_) => Ok(()),
    }
}

fn count_opened(tally: &Tally, sent: u64) {
    tally.count(|counts| {
        counts.connections += 1;
        counts.sent += sent;
    });
}
