//! The prompt log: what clients asked, of those keys that ask for it to be kept.
//!
//! It is off unless a key has it switched on, never part of the ordinary log, and forgotten when its
//! time is over (the sweeper does that). With a key configured it is encrypted at rest: each body under a
//! nonce of its own, bound to its request, so that nobody can pass one off for another.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actors::ports::Clock;
use bytes::Bytes;
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use protocol::id::{KeyId, RequestId};
use storage::{
    Storage,
    prompts::{Prompt, Prompts as Port},
};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::{config, telemetry};

/// Prompts that wait to be stored; beyond, they are counted and not kept.
const WAITING_MAX: usize = 256;
/// Prompts stored together.
const BATCH_MAX: usize = 32;
/// Length of a nonce of XChaCha20-Poly1305, in bytes.
const NONCE_LENGTH: usize = 24;

/// The way to the prompt log.
pub(crate) struct Prompts {
    sender: Mutex<Option<mpsc::Sender<Waiting>>>,
    bytes_max: usize,
}

/// A body that waits to be stored.
struct Waiting {
    request: RequestId,
    key: KeyId,
    body: Bytes,
}

/// Encrypts and decrypts what is kept.
pub(crate) struct Cipher(XChaCha20Poly1305);

/// What is kept cannot be read with this key.
#[derive(Debug, thiserror::Error)]
#[error("it was encrypted with another key, or is damaged")]
pub(crate) struct Unreadable;

struct Writer {
    port: Arc<dyn Port>,
    clock: Arc<dyn Clock>,
    retention: Duration,
    cipher: Option<Cipher>,
}

// === impl Prompts ===

impl Prompts {
    /// A log whose writer runs as one of `tasks`.
    pub(crate) fn new(
        settings: &config::Prompts,
        storage: &Storage,
        clock: Arc<dyn Clock>,
        tasks: &TaskTracker,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let writer = Writer {
            port: Arc::clone(&storage.prompts),
            clock,
            retention: settings.retention,
            cipher: settings.encryption_key.as_ref().map(Cipher::new),
        };
        tasks.spawn(writer.run(receiver));
        Self { sender: Mutex::new(Some(sender)), bytes_max: settings.body_bytes_max }
    }

    /// Keeps a body. Where it cannot be kept it is counted: nobody waits for this.
    pub(crate) fn keep(&self, request: RequestId, key: KeyId, body: &Bytes) {
        let body = body.slice(..body.len().min(self.bytes_max));
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = Waiting { request, key, body };
        let kept = sender.as_ref().is_some_and(|sender| sender.try_send(waiting).is_ok());
        if !kept {
            telemetry::prompts_lost(1);
        }
    }

    /// Nothing more will be kept; what waits is stored.
    pub(crate) fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

// === impl Writer ===

impl Writer {
    async fn run(self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let count = batch.len();
            let prompts: Vec<_> = batch.drain(..).filter_map(|one| self.prompt(one)).collect();
            let lost = match self.port.add(&prompts).await {
                Ok(()) => count - prompts.len(),
                Err(error) => {
                    tracing::warn!(%error, "prompts could not be kept");
                    count
                }
            };
            telemetry::prompts_lost(lost);
        }
    }

    /// None where it was to be encrypted and could not be: then it is not kept at all.
    fn prompt(&self, Waiting { request, key, body }: Waiting) -> Option<Prompt> {
        let at = self.clock.now();
        let body = match &self.cipher {
            None => body.to_vec(),
            Some(cipher) => cipher.encrypt(request, &body)?,
        };
        let expires_at = at.checked_add(self.retention).ok()?;
        Some(Prompt { request, key, at, expires_at, encrypted: self.cipher.is_some(), body })
    }
}

// === impl Cipher ===

impl Cipher {
    pub(crate) fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self(XChaCha20Poly1305::new(&(**key).into()))
    }

    /// The nonce and what was encrypted under it, bound to its request.
    fn encrypt(&self, request: RequestId, body: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LENGTH];
        getrandom::fill(&mut nonce).ok()?;
        let payload = Payload { msg: body, aad: request.0.as_bytes() };
        let encrypted = self.0.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some([nonce.as_slice(), &encrypted].concat())
    }

    /// What was encrypted.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn decrypt(&self, request: RequestId, kept: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let (nonce, encrypted) = kept.split_first_chunk::<NONCE_LENGTH>().ok_or(Unreadable)?;
        let payload = Payload { msg: encrypted, aad: request.0.as_bytes() };
        self.0.decrypt(&XNonce::from(*nonce), payload).map_err(|_| Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_encrypted_is_read_with_its_key_and_for_its_request_only() {
        let cipher = Cipher::new(&Zeroizing::new([7; 32]));
        let request = |number| RequestId(Uuid::from_u128(number));
        let kept = cipher.encrypt(request(1), b"a secret thing").unwrap();
        assert!(!kept.windows(6).any(|part| part == b"secret"));
        assert_ne!(kept, cipher.encrypt(request(1), b"a secret thing").unwrap());
        assert_eq!(cipher.decrypt(request(1), &kept).unwrap(), b"a secret thing");
        assert!(cipher.decrypt(request(2), &kept).is_err());
        assert!(cipher.decrypt(request(1), &kept[..20]).is_err());
        let other = Cipher::new(&Zeroizing::new([8; 32]));
        assert!(other.decrypt(request(1), &kept).is_err());
    }
}
