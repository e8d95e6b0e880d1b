//! What outlives the actor of a tenant, so that the next instance goes on with it.
//!
//! An actor that fails takes its own state with it. What the limits count must not go: windows would
//! begin anew, and requests under way would no longer count. It lies here, and nobody but the actor and
//! its tasks lock it, for as long as a rule takes. What is given back is left here, too, whether or not anybody is there to
//! hear of it: a message to an actor that fails would be lost.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use identity::limits::Limits;
use protocol::{id::KeyId, name::ModelName};
use ractor::{ActorId, ActorRef};
use storage::admission::{Answer, Member};
use tokio::time::Instant;

use super::{
    Message,
    line::{Batch, Line},
    seen::Seen,
};
use crate::{
    measure::{Kind, Queued},
    rules::{account::Now, book::Book},
    shared::{NoAnswer, Shared},
};

/// What outlives the actor of one tenant.
pub(crate) struct Desk {
    actor: Mutex<Option<ActorRef<Message>>>,
    kept: Mutex<Kept>,
    ended: Mutex<VecDeque<Ended>>,
}

/// What the limits count, and what is known of who asks.
pub(super) struct Kept {
    pub(super) keeper: Keeper,
    pub(super) tenant_limits: Limits,
    pub(super) seen: HashMap<KeyId, Seen>,
}

/// Who keeps what the limits count.
pub(super) enum Keeper {
    Own(Box<Book>),
    Shared(Line),
}

/// A request that was let in is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) member: Member,
    pub(super) key: KeyId,
    /// The tokens that it used; none: it never was.
    pub(super) used: Option<u64>,
    /// A reply of a model came to its own end after so many tokens.
    pub(super) learned: Option<Box<(ModelName, u64)>>,
}

// === impl Desk ===

impl Desk {
    /// Nothing was let in yet; `shared`: what many replicas share, none where this one is alone.
    pub(crate) fn new(shared: Option<Shared>) -> Self {
        let keeper = match shared {
            None => Keeper::Own(Box::default()),
            Some(shared) => Keeper::Shared(Line::new(shared)),
        };
        let kept = Kept { keeper, tenant_limits: Limits::default(), seen: HashMap::new() };
        Self { actor: Mutex::default(), kept: Mutex::new(kept), ended: Mutex::default() }
    }

    /// The living instance, as far as is known.
    pub(crate) fn actor(&self) -> Option<ActorRef<Message>> {
        lock(&self.actor).clone()
    }

    /// An instance lives, and goes on where the last one stood.
    pub(crate) fn publish(&self, actor: ActorRef<Message>) {
        let went_on = actor.clone();
        *lock(&self.actor) = Some(actor);
        let _ = went_on.cast(Message::GoOn);
    }

    /// An instance is no more, unless another one has taken its place.
    pub(crate) fn left(&self, who: ActorId) {
        lock(&self.actor).take_if(|actor| actor.get_id() == who);
    }

    /// Whether a rule failed in the middle of its work: what is kept may be wrong.
    pub(crate) fn is_broken(&self) -> bool {
        self.kept.is_poisoned()
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    pub(super) fn cast(&self, message: Message) {
        // Nobody is there: what matters lies here, and is found by the next one.
        if let Some(actor) = self.actor() {
            let _ = actor.cast(message);
        }
    }

    /// A request is over.
    pub(super) fn end(&self, ended: Ended) {
        let mut all = lock(&self.ended);
        all.push_back(ended);
        // Whoever hears of the first one finds the others.
        let is_first = all.len() == 1;
        drop(all);
        if is_first {
            self.cast(Message::Ended(Queued::new(Kind::Tenant)));
        }
    }

    pub(super) fn next_ended(&self) -> Option<Ended> {
        lock(&self.ended).pop_front()
    }

    /// A batch is back.
    pub(super) fn came_back(&self, batch: Batch, answered: Result<Vec<Answer>, NoAnswer>) {
        if let Keeper::Shared(line) = &mut self.kept().keeper {
            line.came_back(batch, answered);
        }
        self.cast(Message::Exchanged);
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Keeper ===

impl Keeper {
    /// Whether it is to be said again and again who is under way.
    pub(super) fn has_to_beat(&self) -> bool {
        matches!(self, Self::Shared(line) if line.holds())
    }

    /// Whether all has been told that is to be told.
    pub(super) fn is_told(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Shared(line) => line.is_told(),
        }
    }

    /// How many operations wait.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Own(_) => 0,
            Self::Shared(line) => line.waiting(),
        }
    }
}

// === impl Kept ===

impl Kept {
    /// A key asks; what is remembered of it from now on.
    pub(super) fn ask(&mut self, key: KeyId, tenant: Limits, own: Limits, at: Instant) -> &Seen {
        self.tenant_limits = tenant;
        let seen = self.seen.entry(key).or_insert_with(|| Seen::new(own, at));
        (seen.limits, seen.asked_at) = (own, at);
        seen
    }

    /// The limits of the tenant and of a key that has a request under way, as they were last said.
    pub(super) fn limits_of(&self, key: KeyId) -> Option<(Limits, Limits)> {
        Some((self.tenant_limits, self.seen.get(&key)?.limits))
    }

    /// A request of a key was let in.
    pub(super) fn let_in(&mut self, key: KeyId) {
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.under_way += 1;
        }
    }

    /// A request of a key is over, and it may be known how long its reply was.
    pub(super) fn over(&mut self, key: KeyId, learned: Option<Box<(ModelName, u64)>>) {
        let Some(seen) = self.seen.get_mut(&key) else { return };
        seen.under_way = seen.under_way.saturating_sub(1);
        if let Some((model, tokens)) = learned.map(|learned| *learned) {
            seen.learn(model, tokens);
        }
    }

    /// The keys that asked last, and so many at most.
    pub(super) fn lately(&self, most: usize) -> Vec<(KeyId, Limits)> {
        let mut keys: Vec<_> = self.seen.iter().collect();
        keys.sort_unstable_by_key(|(_, seen)| std::cmp::Reverse(seen.asked_at));
        keys.truncate(most);
        keys.into_iter().map(|(key, seen)| (*key, seen.limits)).collect()
    }

    /// Forgets the keys that nobody would miss, but those that `is_read` says; says whether nobody
    /// would miss any of it.
    pub(super) fn tidy(
        &mut self,
        now: Now,
        is_idle: impl Fn(&Seen) -> bool,
        is_read: impl Fn(KeyId) -> bool,
    ) -> bool {
        self.seen.retain(|_, seen| seen.under_way > 0 || !is_idle(seen));
        self.seen.shrink_to(self.seen.len() * 2);
        match &mut self.keeper {
            Keeper::Own(book) => book.tidy(now, is_read),
            Keeper::Shared(line) => line.is_idle(),
        }
    }
}
