//! What attackers did and what they were told.

use parking_lot::Mutex;
use std::collections::BTreeMap;

use serde::Serialize;

/// Counts of one kind of attackers, shared by all of its connections.
#[derive(Default)]
pub(crate) struct Tally(Mutex<Counts>);

/// The counts.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// Requests that were begun.
    pub(crate) sent: u64,
    /// Those that the audit is expected to know: all that were answered but those for `/readyz`.
    pub(crate) answered: u64,
    /// What they were told: a status with its code, or `head` where only the head of an answer was seen.
    pub(crate) told: BTreeMap<String, u64>,
    /// Connections that were opened.
    pub(crate) connections: u64,
    /// Connections that the gateway closed.
    pub(crate) closed: u64,
    /// What went wrong, as the system says it.
    pub(crate) faults: BTreeMap<String, u64>,
}

// === impl Tally ===

impl Tally {
    /// Changes the counts.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock());
    }

    /// An answer that the audit is expected to know.
    pub(crate) fn answered(&self, told: &str) {
        self.count(|counts| {
            counts.answered += 1;
            counts.tell(told);
        });
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().clone()
    }
}

// === impl Counts ===

impl Counts {
    /// Adds an answer to what they were told.
    pub(crate) fn tell(&mut self, told: &str) {
        match self.told.get_mut(told) {
            Some(count) => *count += 1,
            None => {
                self.told.insert(told.to_owned(), 1);
            }
        }
    }

    /// Answers that begin with one of these.
    pub(crate) fn told_with<const N: usize>(&self, beginnings: [&str; N]) -> u64 {
        let of =
            self.told.iter().filter(|(told, _)| beginnings.iter().any(|it| told.starts_with(it)));
        of.map(|(_, count)| count).sum()
    }

    /// What they were told, the most frequent first, as text.
    pub(crate) fn shown(&self) -> String {
        let mut told: Vec<_> = self.told.iter().collect();
        told.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let told = told.iter().map(|(told, count)| format!("{count} × {told}"));
        let mut shown: Vec<String> = told.collect();
        if self.closed > 0 {
            shown.push(format!("{} connections closed", self.closed));
        }
        shown.extend(self.faults.iter().map(|(fault, count)| format!("{count} × {fault}")));
        if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") }
    }
}
