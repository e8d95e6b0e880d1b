//! The prompt log: what clients asked, of those keys that ask for it to be kept.
//!
//! It is off unless a key has it switched on, never part of the ordinary log, and forgotten when its
//! time is over (the sweeper does that). With a key configured it is encrypted at rest: each body under a
//! nonce of its own, bound to its request, so that nobody can pass one off for another.
//!
//! What waits to be stored is bounded in number and in bytes, and of both one tenant has a quarter: a slow
//! database costs no memory, and a tenant that logs much leaves room to others.

use std::{collections::HashMap, sync::Arc, time::Duration};

use actors::{ports::Clock, tasks::Watched};
use bytes::Bytes;
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use identity::principal::Principal;
use parking_lot::Mutex;
use protocol::id::{KeyId, RequestId, TenantId};
use storage::{
    Storage,
    prompts::{Prompt, Prompts as Port},
};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::{config, telemetry};

/// Prompts that wait to be stored or are being stored; beyond, they are counted and not kept.
const WAITING_MAX: usize = 1_024;
/// One tenant may have this part of what may wait.
const TENANTS_SHARE: usize = 4;
/// Prompts stored together.
const BATCH_MAX: usize = 32;
/// Length of a nonce of XChaCha20-Poly1305, in bytes.
const NONCE_LENGTH: usize = 24;

/// The way to the prompt log.
pub(crate) struct Prompts {
    sender: Mutex<Option<mpsc::Sender<Waiting>>>,
    bytes_max: usize,
    room: Arc<Room>,
}

/// A body that waits to be stored.
struct Waiting {
    request: RequestId,
    key: KeyId,
    body: Bytes,
    /// The length of the whole body, where this is only its beginning.
    cut_from: Option<u64>,
    place: Place,
}

/// How much may wait.
struct Room {
    taken: Mutex<HashMap<TenantId, Taken>>,
    all_max: Taken,
    tenant_max: Taken,
}

/// Bodies that wait, and their bytes.
#[derive(Clone, Copy, Default)]
struct Taken {
    count: usize,
    bytes: usize,
}

/// A place for one body of so many bytes; given back when it is dropped.
struct Place {
    room: Arc<Room>,
    tenant: TenantId,
    bytes: usize,
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
        tasks: &Watched,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let writer = Writer {
            port: Arc::clone(&storage.prompts),
            clock,
            retention: settings.retention,
            cipher: settings.encryption_key.as_ref().map(Cipher::new),
        };
        tasks.spawn("the prompt writer", writer.run(receiver));
        Self {
            sender: Mutex::new(Some(sender)),
            bytes_max: settings.body_bytes_max,
            room: Room::new(settings),
        }
    }

    /// Keeps a body, or the beginning of a long one. Where it cannot be kept it is counted: nobody waits for this.
    pub(crate) fn keep(&self, request: RequestId, principal: &Principal, body: &Bytes) {
        if !self.try_keep(request, (principal.tenant, principal.key), body) {
            telemetry::prompts_lost(1);
        }
    }

    /// Says whether the body is kept.
    pub(crate) fn try_keep(
        &self,
        request: RequestId,
        (tenant, key): (TenantId, KeyId),
        body: &Bytes,
    ) -> bool {
        let bytes = body.len().min(self.bytes_max);
        let Some(place) = Room::take(&self.room, tenant, bytes) else { return false };
        let (body, cut_from) = match body.get(..bytes).filter(|_| bytes < body.len()) {
            // A slice would hold all of it.
            Some(beginning) => (Bytes::copy_from_slice(beginning), Some(body.len() as u64)),
            None => (body.clone(), None),
        };
        let waiting = Waiting { request, key, body, cut_from, place };
        let sender = self.sender.lock();
        sender.as_ref().is_some_and(|sender| sender.try_send(waiting).is_ok())
    }

    /// Nothing more will be kept; what waits is stored.
    pub(crate) fn close(&self) {
        self.sender.lock().take();
    }
}

// === impl Room ===

impl Room {
    fn new(settings: &config::Prompts) -> Arc<Self> {
        let all_max = Taken { count: WAITING_MAX, bytes: settings.waiting_bytes_max };
        // The longest body fits into each tenant's share.
        let bytes = (all_max.bytes / TENANTS_SHARE).max(settings.body_bytes_max);
        let tenant_max = Taken { count: all_max.count / TENANTS_SHARE, bytes };
        Arc::new(Self { taken: Mutex::default(), all_max, tenant_max })
    }

    /// A place for a body; `None` where the tenant's share is taken, or everything is.
    fn take(room: &Arc<Self>, tenant: TenantId, bytes: usize) -> Option<Place> {
        let mut taken = room.taken.lock();
        let all = taken.values().fold(Taken::default(), |all, one| all.and(one.count, one.bytes));
        let of_tenant = taken.get(&tenant).copied().unwrap_or_default().and(1, bytes);
        if !all.and(1, bytes).is_within(room.all_max) || !of_tenant.is_within(room.tenant_max) {
            return None;
        }
        taken.insert(tenant, of_tenant);
        Some(Place { room: Arc::clone(room), tenant, bytes })
    }
}

// === impl Taken ===

impl Taken {
    fn and(self, count: usize, bytes: usize) -> Self {
        Self { count: self.count + count, bytes: self.bytes + bytes }
    }

    fn is_within(self, most: Self) -> bool {
        self.count <= most.count && self.bytes <= most.bytes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock();
        if let Some(of_tenant) = taken.get_mut(&self.tenant) {
            of_tenant.count -= 1;
            of_tenant.bytes -= self.bytes;
            if of_tenant.count == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

// === impl Writer ===

impl Writer {
    async fn run(self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let count = batch.len();
            // Each place is held until its prompt is stored.
            let (prompts, places): (Vec<_>, Vec<_>) =
                batch.drain(..).filter_map(|one| self.prompt(one)).unzip();
            let lost = match self.port.add(&prompts).await {
                Ok(()) => count - prompts.len(),
                Err(error) => {
                    actors::quiet!(warn, "prompts could not be kept", ""; %error);
                    count
                }
            };
            telemetry::prompts_lost(lost);
            drop(places);
        }
    }

    /// None where it was to be encrypted and could not be: then it is not kept at all.
    fn prompt(&self, waiting: Waiting) -> Option<(Prompt, Place)> {
        let Waiting { request, key, body, cut_from, place } = waiting;
        let at = self.clock.now();
        let body = match &self.cipher {
            None => Vec::from(body),
            Some(cipher) => cipher.encrypt(request, &body)?,
        };
        let expires_at = at.checked_add(self.retention).ok()?;
        let encrypted = self.cipher.is_some();
        Some((Prompt { request, key, at, expires_at, encrypted, body, cut_from }, place))
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

    const KIB: usize = 1_024;

    /// A log that nothing is stored of, and what waits in it.
    fn stalled() -> (Prompts, mpsc::Receiver<Waiting>) {
        let settings = config::Prompts {
            retention: Duration::ZERO,
            encryption_key: None,
            body_bytes_max: 4 * KIB,
            waiting_bytes_max: 64 * KIB,
        };
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let room = Room::new(&settings);
        let bytes_max = settings.body_bytes_max;
        (Prompts { sender: Mutex::new(Some(sender)), bytes_max, room }, receiver)
    }

    fn keep(prompts: &Prompts, tenant: u128, body: &Bytes) -> bool {
        let who = (TenantId(Uuid::from_u128(tenant)), KeyId(Uuid::from_u128(1)));
        prompts.try_keep(RequestId(Uuid::from_u128(1)), who, body)
    }

    #[test]
    fn what_waits_holds_no_more_bytes_than_it_may_and_no_tenant_more_than_a_quarter() {
        let (prompts, mut waiting) = stalled();
        let body = Bytes::from(vec![b'x'; 1_000 * KIB]);
        let kept = |tenant| (0..100).filter(|_| keep(&prompts, tenant, &body)).count();
        // Four bodies that are cut at 4 KiB are a quarter of 64 KiB.
        assert_eq!([1, 2, 3, 4, 5].map(kept), [4, 4, 4, 4, 0]);
        drop(body);
        let one = waiting.try_recv().unwrap();
        assert_eq!((one.body.len(), one.cut_from), (4 * KIB, Some(1_024_000)));
        assert!(one.body.is_unique(), "it holds nothing of the body it was cut from");
        assert!(!keep(&prompts, 5, &Bytes::from_static(b"x")), "it is not stored yet");
        drop(one);
        assert!(keep(&prompts, 5, &Bytes::from_static(b"x")));
        drop(waiting);
        assert!(prompts.room.taken.lock().is_empty());
    }

    #[test]
    fn a_tenant_with_many_short_bodies_leaves_places_to_others() {
        let (prompts, waiting) = stalled();
        let body = Bytes::from_static(b"x");
        let kept = |tenant| (0..WAITING_MAX).filter(|_| keep(&prompts, tenant, &body)).count();
        assert_eq!([1, 2, 3, 4, 5].map(kept), [256, 256, 256, 256, 0]);
        drop(waiting);
        assert!(!keep(&prompts, 1, &body), "nothing is kept any more");
        assert!(prompts.room.taken.lock().is_empty());
    }

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
