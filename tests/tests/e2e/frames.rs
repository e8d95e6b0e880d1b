//! HTTP/2 frames, written by hand.

use tokio::{io::AsyncReadExt, net::TcpStream};

/// How a client's connection begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GO_AWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header field, spelled out (RFC 7541, 6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127, "longer than one byte tells");
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// The head of a `GET`.
pub fn get(path: &str) -> Vec<u8> {
    [&[0x82, 0x86][..], &literal(":path", path), &literal(":authority", "gateway")].concat()
}

/// The head of a `POST`, with a key.
pub fn post(path: &str, key: &str) -> Vec<u8> {
    let authorization = literal("authorization", &format!("Bearer {key}"));
    let (path, authority) = (literal(":path", path), literal(":authority", "gateway"));
    [&[0x83, 0x86][..], &path, &authority, &authorization].concat()
}

/// Reads frames until that stream, or the connection, is ended by a fault; false where it is answered with 200.
pub async fn until_reset(stream: &mut TcpStream, id: u32) -> bool {
    let mut head = [0; 9];
    loop {
        if stream.read_exact(&mut head).await.is_err() {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if stream.read_exact(&mut payload).await.is_err() {
            return true;
        }
        match head[3] {
            RST_STREAM if of == id => return true,
            GO_AWAY => return true,
            // `:status 200` is one byte.
            HEADERS if of == id => return payload.first() != Some(&0x88),
            _ => {}
        }
    }
}

/// The streams that are reset, in the order of their numbers, once there are so many.
pub async fn resets(stream: &mut TcpStream, count: usize) -> Vec<u32> {
    let (mut reset, mut head) = (Vec::new(), [0; 9]);
    while reset.len() < count {
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.unwrap();
        if head[3] == RST_STREAM {
            reset.push(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
    reset.sort_unstable();
    reset
}
