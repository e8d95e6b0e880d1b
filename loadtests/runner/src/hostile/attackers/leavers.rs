//! Who leaves before there is anything to read: from a model server that is at work, or from its queue.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, time::sleep};

use super::Attack;
use crate::hostile::wire;

const PATH: &str = "/v1/chat/completions";
/// How long they stay. A whole reply has then made some thirty tokens, and told none of them.
const STAYS: Duration = Duration::from_millis(300);

/// A whole reply that takes a second, of a hundred tokens.
pub(super) fn early(key: &str) -> Bytes {
    wire::post(
        PATH,
        key,
        r#"{"model":"leaves-early","max_tokens":100,"messages":[{"role":"user","content":"[[chunks 100]] [[pace 10]] a long story of many words"}]}"#,
    )
}

/// A request that waits for the server with one slot.
pub(super) fn queued(key: &str) -> Bytes {
    wire::post(PATH, key, r#"{"model":"leaves-queue","messages":[{"role":"user","content":"hi"}]}"#)
}

/// A request that holds that slot for five seconds.
pub(super) fn occupying(key: &str) -> Bytes {
    wire::post(
        PATH,
        key,
        r#"{"model":"leaves-queue","stream":true,"messages":[{"role":"user","content":"[[chunks 100]] [[pace 50]] hold it"}]}"#,
    )
}

/// Asks, stays a little, and leaves.
pub(super) async fn leave(attack: &Attack, request: usize) -> io::Result<()> {
    let Some(request) = attack.requests.get(request) else { return Ok(()) };
    let mut stream = wire::connect(attack.from, attack.to, None).await?;
    attack.tally.count(|counts| {
        counts.connections += 1;
        counts.sent += 1;
    });
    stream.write_all(request).await?;
    sleep(STAYS).await;
    Ok(())
}
