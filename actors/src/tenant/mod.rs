//! One tenant's say: its windows, slots and budget, and those of its keys.
//!
//! Both are decided on together: a request is let in by tenant and key, or by neither. What is let in holds a [`Permit`]; dropped, it gives back what was taken and corrects it
//! by what was used. Permits travel in the reply itself, so that a caller who has left strands none.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | what is asked and answered |
//! | `actor.rs` | the actor: it decides, or has it decided |
//! | `desk.rs` | what outlives it: what was let in, and what is to be told of it |
//! | `line.rs` | where replicas share what is decided: what waits to be told to all, in its order |
//! | `seen.rs` | what is remembered of a key: how long its replies are |
//! | `usage.rs` | how much of a budget is used, from the ledger |
//!
//! Alone, a [`Book`](crate::rules::book::Book) lies on the tenant's desk, and whoever asks has it decide at
//! once, without a message. With others the actor
//! gathers what arrives while an exchange is under way and sends it along with the next one. How much of
//! a budget is used stands in the ledger. Whoever asks before that is known waits until it has been
//! read, and where it cannot be read nobody can say: the answer is no. Callers are bounded by their
//! places in the audit, which each takes before it asks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use identity::{
    limits::Limits,
    policy::{Exhausted, Policy},
    principal::Principal,
};
use protocol::{
    id::{KeyId, TenantId},
    name::ModelName,
};
use ractor::{RpcReplyPort, concurrency};
use storage::admission::{Admit, Gauges, Member, Need, Refused, Standing};

use crate::measure::{Kind, Queued};

mod actor;
mod desk;
mod line;
mod seen;
mod usage;

use desk::Ended;

pub(crate) use actor::{Arguments, Message, Tenant};
pub(crate) use desk::{Common, Desk};

/// How long a request counts as under way on other replicas without being heard of.
pub const LIVES_FOR: Duration = Duration::from_secs(20);

/// A request that wants to begin.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who pays.
    pub tenant: TenantId,
    /// With which key.
    pub key: KeyId,
    /// The limits of the tenant, as they are now.
    pub tenant_limits: Limits,
    /// The limits of the key, as they are now.
    pub key_limits: Limits,
    /// How the tenant is served.
    pub policy: Policy,
    /// The tokens of its prompt, as they are expected.
    pub prompt: u64,
    /// The most tokens that its prompt can have.
    pub prompt_max: u64,
    /// The most tokens that its reply can have.
    pub completion_max: u64,
    /// The model, where the reply is a stream that can be ended before its end: of those it is learned
    /// how long they are.
    pub learns: Option<ModelName>,
    /// What the same request has taken before, when it was not known what it asks for. The new permit takes its
    /// place in one step, so that nobody else gets the slot in between.
    pub replaces: Option<Arc<Permit>>,
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A limit says no.
    #[error("a limit is reached")]
    Limit(Box<Refused>),
    /// Nobody can say.
    #[error("the limits cannot be checked")]
    Unavailable,
}

/// A request that was let in. Dropped, it is over; without [`Permit::settle`], nothing was used.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    desk: Arc<Desk>,
    pub(crate) member: Member,
    key: KeyId,
    /// None: it never was.
    used: Option<u64>,
    learns: Option<ModelName>,
    learned: Option<u64>,
    /// Another permit has taken its place: nothing is left to give back.
    is_replaced: AtomicBool,
    /// How the limits stood after it was let in.
    pub gauges: Gauges,
    /// What it must not pass without asking for more; none where all that it can use is set aside.
    pub meter: Option<Meter>,
}

/// A part of what a request can use is set aside: before it uses more, it asks.
#[derive(Debug)]
pub struct Meter {
    /// The tokens of the reply that are set aside.
    pub set_aside: u64,
    /// What becomes of it where there is no more.
    pub exhausted: Exhausted,
    desk: Arc<Desk>,
    pub(crate) member: Member,
    key: KeyId,
}

/// Whether a request gets more.
#[derive(Debug)]
pub struct Asking(concurrency::OneshotReceiver<bool>);

/// How a tenant and its keys stand, to be looked at.
#[derive(Clone, Debug)]
pub struct Look {
    /// The limits of the tenant.
    pub limits: Limits,
    /// How they stand.
    pub standing: Standing,
    /// Those of its keys that have asked lately.
    pub keys: Vec<(KeyId, Limits, Standing)>,
    /// Requests that wait for word from outside: of the ledger, or of what is shared.
    pub waiting: usize,
}

/// One key and its tenant, with their limits, to be looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of {
    pub(crate) tenant_limits: Limits,
    pub(crate) key: KeyId,
    pub(crate) key_limits: Limits,
}

#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    pub(crate) reply: RpcReplyPort<Result<Permit, Denied>>,
    pub(crate) queued: Option<Queued>,
}

// === impl Ask ===

impl Ask {
    /// What a request of that principal asks for before it is known what it will use: a request, and a slot.
    #[must_use]
    pub fn entrance(principal: &Principal) -> Self {
        Self {
            tenant: principal.tenant,
            key: principal.key,
            tenant_limits: principal.tenant_limits,
            key_limits: principal.key_limits,
            policy: principal.policy,
            prompt: 0,
            prompt_max: 0,
            completion_max: 0,
            learns: None,
            replaces: None,
        }
    }

    /// What it needs, where its reply is expected to have `completion` tokens.
    fn need(&self, completion: u64) -> Need {
        Need {
            tokens: self.prompt.saturating_add(self.completion_max),
            tokens_max: self.prompt_max.saturating_add(completion),
        }
    }
}

// === impl Permit ===

impl Permit {
    fn new(desk: Arc<Desk>, admit: &Admit, ask: &Ask, gauges: Gauges) -> Self {
        let (member, key) = (admit.member, admit.key);
        let is_metered = ask.is_metered();
        Self {
            desk: Arc::clone(&desk),
            member,
            key,
            used: Some(0),
            learns: ask.learns.clone().filter(|_| is_metered),
            learned: None,
            is_replaced: AtomicBool::new(false),
            gauges,
            meter: is_metered.then(|| Meter {
                set_aside: admit.need.tokens_max.saturating_sub(ask.prompt_max),
                exhausted: ask.policy.exhausted,
                desk,
                member,
                key,
            }),
        }
    }

    /// What a permit that takes the place of this one has to give back; `None` where that was done.
    fn replace(&self) -> Option<Ended> {
        let was_replaced = self.is_replaced.swap(true, Ordering::Relaxed);
        let Self { member, key, .. } = *self;
        (!was_replaced).then_some(Ended { member, key, used: None, learned: None })
    }

    /// Says what was really used; it takes the place of what was expected when the permit is dropped.
    pub fn settle(&mut self, tokens: u64) {
        self.used = Some(tokens);
    }

    /// Says that it never was: when the permit is dropped, all that it took is given back, also of the
    /// windows.
    pub fn cancel(&mut self) {
        self.used = None;
    }

    /// Says how long a reply was that came to its own end.
    pub fn learn(&mut self, completion: u64) {
        self.learned = Some(completion);
    }
}

// === impl Meter ===

impl Meter {
    /// Asks for so many tokens more.
    #[must_use]
    pub fn ask(&self, more: u64) -> Asking {
        let (reply, answer) = concurrency::oneshot();
        let Self { member, key, .. } = *self;
        let queued = Queued::new(Kind::Tenant);
        self.desk.cast(Message::TopUp { member, key, more, reply: reply.into(), queued });
        Asking(answer)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if *self.is_replaced.get_mut() {
            return;
        }
        let Self { key, member, used, .. } = *self;
        let learned = self.learns.take().zip(self.learned).map(Box::new);
        self.desk.end(Ended { member, key, used, learned });
    }
}

// === impl Asking ===

impl Future for Asking {
    /// Where nobody answers, there is no more.
    type Output = bool;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<bool> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(false))
    }
}
