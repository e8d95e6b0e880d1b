//! What callers hold of an upstream: a place in its queue, and then the right to send one request.

use std::{sync::Arc, time::Duration};

use protocol::id::TenantId;
use ractor::{ActorRef, concurrency};
use tokio::time::Instant;

use super::{Answer, LOOK_TIMEOUT, Load, Message};
use crate::{
    measure::{Kind, Queued},
    rules::{
        breaker::{Ended, Pass},
        lane::NotNow,
    },
};

/// The right to send one request; over when it is dropped.
#[derive(Debug)]
#[must_use = "a turn that is dropped is over"]
pub struct Turn {
    actor: ActorRef<Message>,
    load: Arc<Load>,
    pass: Option<Pass<TenantId>>,
    is_trial: bool,
    ended: Ended,
    began: Instant,
    /// Its place in the queue when it asked, the first one's being 1; none where it did not wait.
    pub place: Option<usize>,
}

/// A place in the queue of an upstream, or the answer that is on its way; left when it is dropped.
#[derive(Debug)]
pub struct Waiting {
    actor: ActorRef<Message>,
    ticket: u64,
    answer: Coming,
}

/// The answer to who asks for a turn.
#[derive(Debug)]
enum Coming {
    /// It was there at once.
    Here(Turn),
    /// It is on its way.
    Later(concurrency::OneshotReceiver<Answer>),
    /// It has been told.
    Told,
}

/// Where somebody stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How many will be called before.
    pub ahead: usize,
    /// How long that will take, going by those who were served lately.
    pub expected: Option<Duration>,
}

// === impl Turn ===

impl Turn {
    pub(super) fn new(
        actor: ActorRef<Message>,
        load: Arc<Load>,
        pass: Pass<TenantId>,
        is_trial: bool,
        place: Option<usize>,
    ) -> Self {
        let (ended, began) = (Ended::Unknown, Instant::now());
        Self { actor, load, pass: Some(pass), is_trial, ended, began, place }
    }

    /// The reply has begun.
    pub fn begun(&mut self) {
        self.ended = Ended::Well;
        if self.is_trial
            && let Some(pass) = &self.pass
        {
            let _ = self
                .actor
                .cast(Message::Begun { pass: pass.again(), queued: Queued::new(Kind::Upstream) });
        }
    }

    /// How the call ended, as the upstream's fault or not. Without a word nobody knows.
    pub fn ended(&mut self, ended: Ended) {
        self.ended = ended;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            let (ended, took) = (self.ended, self.began.elapsed());
            let queued = || Queued::new(Kind::Upstream);
            let message = match self.load.ended(&pass, ended, took) {
                Some(false) => return,
                Some(true) => Message::Doubt(queued()),
                None => Message::Ended { pass, ended, took, queued: queued() },
            };
            let _ = self.actor.cast(message);
        }
    }
}

// === impl Waiting ===

impl Waiting {
    /// Asks for a turn.
    pub(crate) fn ask(
        actor: ActorRef<Message>,
        load: &Arc<Load>,
        ticket: u64,
        (tenant, weight): (TenantId, u32),
    ) -> Self {
        if let Some(pass) = load.take(tenant) {
            let turn = Turn::new(actor.clone(), Arc::clone(load), pass, false, None);
            return Self { actor, ticket, answer: Coming::Here(turn) };
        }
        let (reply, answer) = concurrency::oneshot();
        let (reply, queued) = (reply.into(), Queued::new(Kind::Upstream));
        let _ = actor.cast(Message::Ask { tenant, weight, ticket, reply, queued });
        Self { actor, ticket, answer: Coming::Later(answer) }
    }

    /// Waits for it. Safe to drop: the place is kept.
    ///
    /// # Errors
    /// [`NotNow`].
    pub async fn turn(&mut self) -> Result<Turn, NotNow> {
        let answered = match &mut self.answer {
            Coming::Later(answer) => answer.await,
            // An actor that is gone comes back; another upstream may be there meanwhile.
            Coming::Here(_) | Coming::Told => Ok(Err(NotNow::Open(None))),
        };
        match std::mem::replace(&mut self.answer, Coming::Told) {
            Coming::Here(turn) => Ok(turn),
            Coming::Later(_) | Coming::Told => answered.unwrap_or(Err(NotNow::Open(None))),
        }
    }

    /// Where it stands; `None` where it does not wait, or nobody says.
    pub async fn standing(&self) -> Option<Standing> {
        let ticket = self.ticket;
        let asked = self.actor.call(|reply| Message::Stand { ticket, reply }, Some(LOOK_TIMEOUT));
        match asked.await {
            Ok(concurrency_result) => concurrency_result.success_or(()).ok().flatten(),
            Err(_) => None,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if matches!(self.answer, Coming::Later(_)) {
            let (ticket, queued) = (self.ticket, Queued::new(Kind::Upstream));
            let _ = self.actor.cast(Message::Leave { ticket, queued });
        }
    }
}
