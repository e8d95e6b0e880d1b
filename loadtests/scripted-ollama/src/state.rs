//! What the server has seen and done, and waiting for either.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::script::Script;

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method, `POST`.
    pub method: String,
    /// Its path, decoded, without the query.
    pub path: String,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What the server has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Produced {
    /// Requests that arrived.
    pub requests: u64,
    /// Requests to a route that changes what is installed: a gateway lets none through.
    pub mutations: u64,
    /// Streams that have begun.
    pub begun: u64,
    /// Streams that were said to their end.
    pub completed: u64,
    /// Streams whose client left before their end.
    pub abandoned: u64,
    /// Pieces said, in streams and in whole answers.
    pub pieces: u64,
    /// Tokens of prompts, of the answers that said so many.
    pub prompt_tokens: u64,
    /// Streams that are under way now.
    pub open: u64,
    /// Connections that are open now.
    pub connections: u64,
}

/// What one model has said, whoever still listened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct OfModel {
    /// Answers that were begun.
    pub answers: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Pieces of them: of a whole answer whose client left, as many as its pace had made until then.
    pub pieces: u64,
    /// Those of the pieces whose client left before the end of the answer.
    pub left_pieces: u64,
}

/// Paths that are counted apart; more are not.
const PATHS_MAX: usize = 64;

/// The state of one server.
pub(crate) struct State {
    pub(crate) script: Script,
    pub(crate) clock: Clock,
    produced: watch::Sender<Produced>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    log: VecDeque<Seen>,
    /// Canonical names of the models that were asked and so are in memory.
    loaded: HashSet<String>,
    /// Canonical names of the models that are installed no longer.
    deleted: HashSet<String>,
    /// What each model has said, by its name as it was asked for.
    models: BTreeMap<String, OfModel>,
    /// Requests by path.
    paths: BTreeMap<String, u64>,
}

// === impl State ===

impl State {
    pub(crate) fn new(script: Script, clock: Clock) -> Arc<Self> {
        let produced = watch::Sender::new(Produced::default());
        Arc::new(Self { script, clock, produced, inner: Mutex::default() })
    }

    pub(crate) fn produced(&self) -> watch::Receiver<Produced> {
        self.produced.subscribe()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Produced)) {
        self.produced.send_modify(change);
    }

    pub(crate) fn saw(&self, seen: Seen) {
        let limit = self.script.log_requests;
        if limit > 0 {
            let log = &mut self.inner().log;
            if log.len() == limit {
                log.pop_front();
            }
            log.push_back(seen);
        }
    }

    /// Counts a request of that path.
    pub(crate) fn came_by(&self, path: &str) {
        let paths = &mut self.inner().paths;
        if let Some(count) = paths.get_mut(path) {
            *count += 1;
        } else if paths.len() < PATHS_MAX {
            paths.insert(path.to_owned(), 1);
        }
    }

    /// Counts what a model has said.
    pub(crate) fn said(&self, model: &str, said: OfModel) {
        let models = &mut self.inner().models;
        let of = models.entry(model.to_owned()).or_default();
        of.answers += said.answers;
        of.prompt_tokens += said.prompt_tokens;
        of.pieces += said.pieces;
        of.left_pieces += said.left_pieces;
    }

    pub(crate) fn models(&self) -> BTreeMap<String, OfModel> {
        self.inner().models.clone()
    }

    pub(crate) fn paths(&self) -> BTreeMap<String, u64> {
        self.inner().paths.clone()
    }

    pub(crate) fn log(&self) -> Vec<Seen> {
        self.inner().log.iter().cloned().collect()
    }

    /// Takes a model into memory; true where it was not there.
    pub(crate) fn load(&self, canonical: &str) -> bool {
        self.inner().loaded.insert(canonical.to_owned())
    }

    pub(crate) fn unload(&self, canonical: &str) {
        self.inner().loaded.remove(canonical);
    }

    pub(crate) fn is_loaded(&self, canonical: &str) -> bool {
        self.inner().loaded.contains(canonical)
    }

    pub(crate) fn delete(&self, canonical: &str) {
        self.inner().deleted.insert(canonical.to_owned());
    }

    pub(crate) fn install(&self, canonical: &str) {
        self.inner().deleted.remove(canonical);
    }

    pub(crate) fn is_deleted(&self, canonical: &str) -> bool {
        self.inner().deleted.contains(canonical)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}
