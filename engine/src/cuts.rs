//! The requests in flight of each key, so that a revocation can cut them.
//!
//! A request is in here from the moment at which its key is known, before that key is proven for the last
//! time: what is revoked before is refused, and what is revoked after is cut.

use parking_lot::Mutex;
use std::sync::Arc;

use foldhash::HashMap;
use protocol::id::KeyId;
use tokio_util::sync::CancellationToken;

/// One token per key that has requests in flight.
pub struct Cuts {
    /// Cancelled when the gateway gives up on everything.
    all: CancellationToken,
    keys: Mutex<HashMap<KeyId, Streams>>,
}

/// A request that can be cut; no longer when this is dropped.
pub struct Cut {
    key: KeyId,
    token: CancellationToken,
    cuts: Arc<Cuts>,
}

struct Streams {
    token: CancellationToken,
    count: usize,
}

// === impl Cuts ===

impl Cuts {
    /// No requests yet. `all` cuts every one of them.
    #[must_use]
    pub fn new(all: CancellationToken) -> Arc<Self> {
        Arc::new(Self { all, keys: Mutex::default() })
    }

    /// A request of this key has begun.
    #[must_use]
    pub fn enter(self: &Arc<Self>, key: KeyId) -> Cut {
        let mut keys = self.keys.lock();
        let streams =
            keys.entry(key).or_insert_with(|| Streams { token: self.all.child_token(), count: 0 });
        streams.count += 1;
        Cut { key, token: streams.token.clone(), cuts: Arc::clone(self) }
    }

    /// Whether any are in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.lock().is_empty()
    }

    /// Cuts the requests in flight of this key.
    pub fn cut(&self, key: KeyId) {
        let streams = self.keys.lock().remove(&key);
        if let Some(streams) = streams {
            streams.token.cancel();
        }
    }
}

// === impl Cut ===

impl Cut {
    /// Cancelled when the request is to end.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let mut keys = self.cuts.keys.lock();
        // Once cut, the entry is gone, or is that of streams that began later.
        if self.token.is_cancelled() {
            return;
        }
        if let Some(streams) = keys.get_mut(&self.key) {
            streams.count -= 1;
            if streams.count == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u128) -> KeyId {
        KeyId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn a_key_is_cut_and_no_other() {
        let cuts = Cuts::new(CancellationToken::new());
        let (one, two) = (cuts.enter(key(1)), cuts.enter(key(2)));
        cuts.cut(key(1));
        assert!(one.token().is_cancelled());
        assert!(!two.token().is_cancelled());
        assert!(!cuts.enter(key(1)).token().is_cancelled());
    }

    #[test]
    fn nothing_is_kept_of_streams_that_have_ended() {
        let cuts = Cuts::new(CancellationToken::new());
        let (one, two) = (cuts.enter(key(1)), cuts.enter(key(1)));
        drop(one);
        cuts.cut(key(1));
        drop(two);
        drop(cuts.enter(key(1)));
        assert!(cuts.keys.lock().is_empty());
    }
}
