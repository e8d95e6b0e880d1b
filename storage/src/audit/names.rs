//! The dictionary of the words that the audit repeats: models, upstreams, routes, codes.
//!
//! A word is written once and never changed or deleted, so that an id in memory stays true. Ids are
//! made before the transaction that uses them and not in it: a word that nothing uses does no
//! harm, and two replicas that meet a new word at once do not wait for each other's batch.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt};
use quick_cache::sync::Cache;

use super::{AuditEvent, row};

/// Words kept in memory. There are some dozens of routes and codes, and as many models as are
/// served; what does not fit is looked up again.
const WORDS_MAX: usize = 4_096;

/// The ids that are known already.
pub(crate) struct Names(Cache<Box<str>, i32>);

/// The ids of all words of a batch.
pub(super) struct Ids(HashMap<Box<str>, i32>);

// === impl Names ===

impl Names {
    pub(crate) fn new() -> Self {
        Self(Cache::new(WORDS_MAX))
    }

    /// The words of those events: the ids of those that are known, and the others.
    pub(super) fn split<'a>(&self, events: &'a [AuditEvent]) -> (Ids, Vec<&'a str>) {
        let words: BTreeSet<_> = events.iter().flat_map(row::words).collect();
        let mut known = HashMap::with_capacity(words.len());
        let mut unknown = Vec::new();
        for word in words {
            match self.0.get(word) {
                Some(id) => {
                    known.insert(word.into(), id);
                }
                None => unknown.push(word),
            }
        }
        (Ids(known), unknown)
    }

    /// Takes in what the database said.
    pub(super) fn learn(&self, ids: &mut Ids, learned: Vec<(String, i32)>) {
        for (word, id) in learned {
            let word: Box<str> = word.into();
            self.0.insert(word.clone(), id);
            ids.0.insert(word, id);
        }
    }
}

// === impl Ids ===

impl Ids {
    /// The id of a word of the batch.
    pub(super) fn of(&self, word: &str) -> sqlx::Result<i32> {
        // Every word was just written or read; that one is missing means a row was deleted.
        self.0.get(word).copied().ok_or(sqlx::Error::RowNotFound)
    }

    /// The same, where there may be no word.
    pub(super) fn of_some(&self, word: Option<&str>) -> sqlx::Result<Option<i32>> {
        word.map(|word| self.of(word)).transpose()
    }
}
