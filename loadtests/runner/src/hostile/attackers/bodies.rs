//! Bodies that cost more than they should: giant ones, slow ones, and fields that have the model server do what
//! was not reserved.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, interval_at},
};

use super::Attack;
use crate::hostile::wire;

/// The length of a giant body, below `server.body_bytes_max`.
const GIANT: usize = 60 * 1024 * 1024;
/// A slow body is said to be as long, and this much of it comes each time.
const SLOW_PIECE: &[u8] = &[b' '; 2048];
const SLOW_EVERY: Duration = Duration::from_millis(500);
/// Words of a template, and numbers of a context.
const TEMPLATE_WORDS: usize = 5_000;
const CONTEXT: usize = 5_000;

/// How many bombs there are, each with a key and a budget of its own.
pub(crate) const BOMBS: usize = 5;

/// 60 MiB of messages of one letter each.
pub(super) fn giant(key: &str) -> Bytes {
    const MESSAGE: &[u8] = br#"{"role":"user","content":"a"},"#;
    const FIRST: &[u8] = br#"{"model":"giant-bodies","messages":["#;
    const LAST: &[u8] = br#"{"role":"user","content":"a"}]}"#;
    let count = (GIANT - FIRST.len() - LAST.len()) / MESSAGE.len();
    let length = FIRST.len() + count * MESSAGE.len() + LAST.len();
    let mut request = BytesMut::with_capacity(length + 512);
    request.extend_from_slice(wire::head("/v1/chat/completions", key, length).as_bytes());
    request.extend_from_slice(FIRST);
    (0..count).for_each(|_| request.extend_from_slice(MESSAGE));
    request.extend_from_slice(LAST);
    request.freeze()
}

/// What would have a model server read or make more than was reserved: a template, a raw prompt, and a context
/// of Ollama's; llama.cpp's own name for the most tokens, on the server that listens to it.
pub(super) fn bombs(keys: &[String]) -> Vec<Bytes> {
    let template = "{{ range .Messages }}{{ end }} bomb ".repeat(TEMPLATE_WORDS / 5);
    let context = vec!["1"; CONTEXT].join(",");
    let ollama = |fields: &str| {
        let body = format!(
            "{{\"model\":\"template-bombs\",\"prompt\":\"hi\",\"options\":{{\"num_predict\":5}},{fields}}}"
        );
        ("/api/generate", body)
    };
    let llama = |fields: &str| {
        let body = format!(
            "{{\"model\":\"bombs-llama\",\"stream\":true,\"max_tokens\":5,\"messages\":[{{\"role\":\"user\",\
             \"content\":\"[[chunks 5000]] hi\"}}],{fields}}}"
        );
        ("/v1/chat/completions", body)
    };
    let bombs: [(&str, String); BOMBS] = [
        ollama(&format!("\"template\":\"{template}\"")),
        ollama(&format!("\"raw\":true,\"template\":\"{template}\"")),
        ollama(&format!("\"context\":[{context}]")),
        llama("\"n_predict\":5000"),
        llama(
            "\"n_predict\":5000,\"ignore_eos\":true,\"min_tokens\":5000,\"n_cmpl\":8,\"best_of\":8",
        ),
    ];
    let with_keys = bombs.iter().zip(keys);
    with_keys.map(|((path, body), key)| wire::post(path, key, body)).collect()
}

/// Says that 60 MiB come, and lets a little of it come now and then, until the gateway has had enough.
pub(super) async fn slow(attack: &Attack) -> io::Result<()> {
    let mut stream = wire::connect(attack.from, attack.to, None).await?;
    attack.tally.count(|counts| {
        counts.connections += 1;
        counts.sent += 1;
    });
    let head = wire::head("/v1/chat/completions", &attack.key, GIANT);
    stream.write_all(head.as_bytes()).await?;
    let mut ticks = interval_at(Instant::now() + SLOW_EVERY, SLOW_EVERY);
    let mut answer = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut answer) => {
                if read? == 0 || answer.len() >= 12 {
                    break;
                }
            }
            _ = ticks.tick() => stream.write_all(SLOW_PIECE).await?,
        }
    }
    attack.tally.count(|counts| counts.closed += 1);
    if let Some(status) = answer.get(9..12) {
        attack.tally.answered(&String::from_utf8_lossy(status));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_has_the_length_that_it_says() {
        let giant = giant("key");
        let head = wire::find(&giant, b"\r\n\r\n").unwrap();
        let length = giant.len() - head - 4;
        let said = format!("content-length: {length}\r\n");
        assert!(wire::find(&giant[..head + 2], said.as_bytes()).is_some());
        assert!(length <= GIANT && length > GIANT - 64);
    }

    #[test]
    fn bombs_are_json() {
        let bombs = bombs(&vec!["key".to_owned(); BOMBS]);
        assert_eq!(bombs.len(), BOMBS);
        for bomb in bombs {
            let body = wire::find(&bomb, b"\r\n\r\n").unwrap() + 4;
            serde_json::from_slice::<serde_json::Value>(&bomb[body..]).unwrap();
        }
    }
}
