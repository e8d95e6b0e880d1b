//! What outlives the actor of a tenant, so that the next instance goes on with it.
//!
//! An actor that fails takes its own state with it. What the limits count must not go: windows would
//! begin anew, and requests under way would no longer count. It lies here, under a lock that is held for as
//! long as a rule takes. What is given back is left here, too, whether or not anybody is there to hear of
//! it: a message to an actor that fails would be lost.
//!
//! Where this process keeps what the limits count by itself, that lock is the one voice: whoever asks, or is
//! over, runs the rule at the desk and sends no message. The actor is asked where there is somebody to
//! wait for (other replicas, or the ledger), and where a rule has failed.

#![expect(
    clippy::disallowed_types,
    reason = "a rule that panicked while it held the tenant's accounts has left them in the middle of a change: they are not decided on any more"
)]

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use foldhash::{HashMap, HashMapExt};
use identity::limits::Limits;
use protocol::{id::KeyId, name::ModelName};
use ractor::{ActorId, ActorRef};
use storage::admission::{Admit, Admitted, Answer, Member, Operation, Unknown};
use tokio::time::Instant;

use super::{
    Ask, Denied, Message, Permit,
    line::{Batch, Line},
    seen::Seen,
};
use crate::{
    measure::{self, Kind, Queued},
    ports::Clock,
    rules::{account::Now, book::Book, moment::Moment},
    shared::{NoAnswer, Shared},
};

/// What all tenants of this process have in common.
pub(crate) struct Common {
    /// The beginning of their time.
    pub(crate) epoch: Instant,
    /// The clock on the wall.
    pub(crate) clock: Arc<dyn Clock>,
    /// A number of this process's own.
    pub(crate) replica: u64,
    /// The number of the next request.
    pub(crate) next: AtomicU64,
    /// What many replicas share; none: this one is alone.
    pub(crate) shared: Option<Shared>,
}

/// What outlives the actor of one tenant.
pub(crate) struct Desk {
    common: Arc<Common>,
    actor: Mutex<Option<ActorRef<Message>>>,
    kept: Mutex<Kept>,
    ended: Mutex<VecDeque<Ended>>,
}

/// What the limits count, and what is known of who asks.
pub(super) struct Kept {
    pub(super) keeper: Keeper,
    pub(super) tenant_limits: Limits,
    /// When somebody asked last.
    pub(super) asked_at: Instant,
    pub(super) seen: HashMap<KeyId, Seen>,
    /// Nothing is counted here any more, and nothing is decided: another desk takes its place.
    pub(super) is_closed: bool,
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

// === impl Common ===

impl Common {
    pub(super) fn now(&self) -> Now {
        let moment = Moment::default().after(self.epoch.elapsed());
        Now { moment, wall: self.clock.now() }
    }
}

// === impl Desk ===

impl Desk {
    /// Nothing was let in yet.
    pub(crate) fn new(common: &Arc<Common>) -> Self {
        let keeper = match &common.shared {
            None => Keeper::Own(Box::default()),
            Some(shared) => Keeper::Shared(Line::new(shared.clone())),
        };
        let (tenant_limits, asked_at, seen) = (Limits::default(), Instant::now(), HashMap::new());
        let kept = Kept { keeper, tenant_limits, asked_at, seen, is_closed: false };
        let kept = Mutex::new(kept);
        let common = Arc::clone(common);
        Self { common, actor: Mutex::default(), kept, ended: Mutex::default() }
    }

    /// Decides at once. `None` where its actor has to (it has somebody to wait for, or a rule has failed),
    /// and where the desk is closed.
    pub(crate) fn decide(self: &Arc<Self>, ask: &Ask) -> Option<Result<Permit, Denied>> {
        let mut kept = self.kept.lock().ok()?;
        if kept.is_closed || !matches!(kept.keeper, Keeper::Own(_)) {
            return None;
        }
        let (replaced, admit) = self.asked(&mut kept, ask);
        let Keeper::Own(book) = &mut kept.keeper else { return None };
        let now = self.common.now();
        if let Some(replaced) = replaced {
            book.run(&replaced, now);
        }
        let answer = book.run(&Operation::Admit(admit), now);
        self.answered(&mut kept, (&admit, ask), answer).ok()
    }

    /// What an ask is to the limits: what it replaces is given back first.
    pub(super) fn asked(&self, kept: &mut Kept, ask: &Ask) -> (Option<Operation>, Admit) {
        kept.asked_at = Instant::now();
        let replaced = ask.replaces.as_ref().and_then(|permit| permit.replace());
        let replaced = replaced.map(|ended| kept.over(ended));
        let completion = kept.ask(ask).expect(ask);
        let Common { replica, next, .. } = &*self.common;
        let number = next.fetch_add(1, Ordering::Relaxed);
        let admit = Admit {
            member: Member { replica: *replica, number },
            key: ask.key,
            tenant_limits: ask.tenant_limits,
            key_limits: ask.key_limits,
            need: ask.need(completion),
        };
        (replaced, admit)
    }

    /// What an answer of the limits is to who asked.
    ///
    /// # Errors
    /// Of which budgets it is not known how much is used: nothing is decided.
    pub(super) fn answered(
        self: &Arc<Self>,
        kept: &mut Kept,
        (admit, ask): (&Admit, &Ask),
        answer: Answer,
    ) -> Result<Result<Permit, Denied>, Vec<Unknown>> {
        Ok(match answer {
            Answer::Admitted(admitted) => {
                let Admitted { gauges, observed, .. } = *admitted;
                // First of all: it gives back what was taken, whatever happens now.
                kept.let_in(admit.key);
                let permit = Permit::new(Arc::clone(self), admit, ask, gauges);
                for (scope, limit) in observed {
                    measure::refusal(scope, limit, "observe");
                }
                Ok(permit)
            }
            Answer::Refused(refused) => {
                measure::refusal(refused.scope, refused.by.what, "enforce");
                Err(Denied::Limit(refused))
            }
            Answer::Unknown(unknown) => return Err(unknown),
            // No answer of what keeps the limits, and nobody goes on without one.
            _ => Err(Denied::Unavailable),
        })
    }

    /// Whether an instance lives, as far as is known.
    pub(crate) fn has_actor(&self) -> bool {
        lock(&self.actor).is_some()
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

    /// Whether another desk is to take its place.
    pub(crate) fn is_closed(&self) -> bool {
        self.kept().is_closed
    }

    /// Whether a rule failed in the middle of its work: what is kept may be wrong.
    pub(crate) fn is_broken(&self) -> bool {
        self.kept.is_poisoned()
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    #[cfg(test)]
    pub(crate) fn poison(self: &Arc<Self>) {
        let desk = Arc::clone(self);
        let failed = thread::spawn(move || {
            let _kept = desk.kept();
            panic!("a rule fails");
        });
        assert!(failed.join().is_err());
    }

    pub(super) fn cast(&self, message: Message) {
        // Nobody is there: what matters lies here, and is found by the next one.
        if let Some(actor) = self.actor() {
            let _ = actor.cast(message);
        }
    }

    /// A request is over.
    pub(super) fn end(&self, ended: Ended) {
        let Some(ended) = self.settle(ended) else { return };
        let mut all = lock(&self.ended);
        all.push_back(ended);
        // Whoever hears of the first one finds the others.
        let is_first = all.len() == 1;
        drop(all);
        if is_first {
            self.cast(Message::Ended(Queued::new(Kind::Tenant)));
        }
    }

    /// Settles at once what was let in at once. What comes back is the actor's to settle.
    fn settle(&self, ended: Ended) -> Option<Ended> {
        // A rule that failed now would end the process.
        if thread::panicking() {
            return Some(ended);
        }
        let Ok(mut kept) = self.kept.lock() else { return Some(ended) };
        if !matches!(kept.keeper, Keeper::Own(_)) {
            return Some(ended);
        }
        let operation = kept.over(ended);
        if let Keeper::Own(book) = &mut kept.keeper {
            book.run(&operation, self.common.now());
        }
        None
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
    fn ask(&mut self, ask: &Ask) -> &Seen {
        self.tenant_limits = ask.tenant_limits;
        let (limits, at) = (ask.key_limits, self.asked_at);
        let seen = self.seen.entry(ask.key).or_insert_with(|| Seen::new(limits, at));
        (seen.limits, seen.asked_at) = (limits, at);
        seen
    }

    /// The limits of the tenant and of a key that has a request under way, as they were last said.
    pub(super) fn limits_of(&self, key: KeyId) -> Option<(Limits, Limits)> {
        Some((self.tenant_limits, self.seen.get(&key)?.limits))
    }

    /// A request of a key was let in.
    fn let_in(&mut self, key: KeyId) {
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.under_way += 1;
        }
    }

    /// A request of a key is over, and it may be known how long its reply was; what that is to the limits.
    pub(super) fn over(&mut self, ended: Ended) -> Operation {
        let Ended { member, key, used, learned } = ended;
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.under_way = seen.under_way.saturating_sub(1);
            if let Some((model, tokens)) = learned.map(|learned| *learned) {
                seen.learn(model, tokens);
            }
        }
        match used {
            Some(used) => Operation::Settle { member, used },
            None => Operation::Cancel { member },
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
