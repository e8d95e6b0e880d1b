//! Identities that were proven, by a keyed hash of the key that proved them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use foldhash::fast::RandomState;
use identity::principal::Principal;
use protocol::secret::Secret;
use quick_cache::{
    UnitWeighter,
    sync::{Cache as Kept, DefaultLifecycle},
};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// Stands for a whole key; without the secret it says nothing of it.
pub(super) type Tag = [u8; 32];

/// The identities, bounded in number; the least used go first.
pub(super) struct Cache {
    secret: [u8; 32],
    entries: Kept<Tag, Arc<Entry>, UnitWeighter, RandomState>,
}

/// One identity.
pub(super) struct Entry {
    /// Who was proven.
    pub(super) principal: Arc<Principal>,
    /// When its record was read.
    pub(super) read_at: Instant,
    /// What was stored of the key then, hashed, so that a change of it is noticed.
    stored: [u8; 32],
    stale: AtomicBool,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(secret: [u8; 32], entries_max: usize) -> Self {
        let (each_one, hashing) = (UnitWeighter, RandomState::default());
        let ends = DefaultLifecycle::default();
        let entries = Kept::with(entries_max, entries_max as u64, each_one, hashing, ends);
        Self { secret, entries }
    }

    pub(super) fn tag(&self, key: &Secret) -> Tag {
        *blake3::keyed_hash(&self.secret, key.expose().as_bytes()).as_bytes()
    }

    /// Stands for a public prefix.
    pub(super) fn short_tag(&self, prefix: &str) -> u64 {
        let hash = blake3::keyed_hash(&self.secret, prefix.as_bytes());
        hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    pub(super) fn get(&self, tag: &Tag) -> Option<Arc<Entry>> {
        self.entries.get(tag)
    }

    pub(super) fn put(&self, tag: Tag, principal: Arc<Principal>, stored: &Secret) -> Arc<Entry> {
        let entry = Arc::new(Entry::new(principal, stored));
        self.entries.insert(tag, Arc::clone(&entry));
        entry
    }

    /// Those of whom `which` is true have to be looked up again before they are trusted.
    pub(super) fn stale(&self, which: impl Fn(&Principal) -> bool) {
        for (_, entry) in self.entries.iter() {
            if which(&entry.principal) {
                entry.make_stale();
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

// === impl Entry ===

impl Entry {
    fn new(principal: Arc<Principal>, stored: &Secret) -> Self {
        let stored = *blake3::hash(stored.expose().as_bytes()).as_bytes();
        Self { principal, read_at: Instant::now(), stored, stale: AtomicBool::new(false) }
    }

    /// Whether it was proven against this stored hash.
    pub(super) fn is_of(&self, stored: &Secret) -> bool {
        let now = blake3::hash(stored.expose().as_bytes());
        self.stored.ct_eq(now.as_bytes()).into()
    }

    pub(super) fn make_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }
}
