//! One tenant's say: its windows and slots, and those of its keys.
//!
//! One actor owns both, so that one message decides on both: a request is let in by tenant and key, or
//! by neither. What is let in holds a [`Permit`]; dropped, it gives the slots back and corrects the
//! tokens. Permits travel in the reply itself, so that a caller who has left strands none.
//!
//! Callers are bounded by their places in the audit, which each takes before it asks.

use std::{collections::HashMap, time::Duration};

use identity::limits::Limits;
use protocol::id::{KeyId, TenantId};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::Instant;

use crate::{
    measure::Handling,
    rules::{
        account::{self, Account, Gauges, Held},
        moment::Moment,
    },
};

/// How often keys that have been idle are forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// A request that wants to begin.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Who pays.
    pub tenant: TenantId,
    /// With which key.
    pub key: KeyId,
    /// The limits of the tenant, as they are now.
    pub tenant_limits: Limits,
    /// The limits of the key, as they are now.
    pub key_limits: Limits,
    /// The most tokens that it is expected to use.
    pub tokens: u64,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The tenant's.
    Tenant,
    /// The key's.
    Key,
}

/// A limit said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whose.
    pub scope: Scope,
    /// Which, and for how long.
    pub by: account::Refused,
    /// How the windows stand.
    pub gauges: Gauges,
}

/// A request that was let in. Dropped, it is over; without [`Permit::settle`], nothing was used.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    actor: ActorRef<Message>,
    key: KeyId,
    number: u64,
    used: u64,
    /// How the windows stood after it was let in.
    pub gauges: Gauges,
}

pub(crate) struct Tenant;

#[derive(Debug)]
pub(crate) enum Message {
    Admit {
        ask: Box<Ask>,
        reply: RpcReplyPort<Result<Permit, Refused>>,
    },
    Settle {
        key: KeyId,
        number: u64,
        used: u64,
    },
    /// Time to forget who has been idle, and to end where that is everybody.
    Tidy,
    #[cfg(test)]
    Poison,
}

/// What the actor needs to start.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    /// The beginning of the time of all tenants.
    pub(crate) epoch: Instant,
    /// How long it stays with nothing to do.
    pub(crate) idle_after: Duration,
}

pub(crate) struct State {
    arguments: Arguments,
    account: Account,
    keys: HashMap<KeyId, Account>,
    under_way: HashMap<u64, (Held, Held)>,
    next: u64,
    asked_at: Instant,
}

// === impl Permit ===

impl Permit {
    /// Says what was really used; it takes the place of what was expected when the permit is dropped.
    pub fn settle(&mut self, tokens: u64) {
        self.used = tokens;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // An actor that is gone has forgotten all of it already.
        let Self { key, number, used, .. } = *self;
        let _ = self.actor.cast(Message::Settle { key, number, used });
    }
}

// === impl Tenant ===

impl Actor for Tenant {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        myself.send_after(TIDY_EVERY, || Message::Tidy);
        Ok(State {
            arguments,
            account: Account::new(Limits::default()),
            keys: HashMap::new(),
            under_way: HashMap::new(),
            next: 0,
            asked_at: Instant::now(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin("tenant");
        match message {
            Message::Admit { ask, reply } => {
                let decided = state.admit(&ask, &myself);
                // A caller that has left gets nothing; its permit comes back by being dropped.
                let _ = reply.send(decided);
            }
            Message::Settle { key, number, used } => state.settle(key, number, used),
            Message::Tidy => {
                if state.tidy() {
                    myself.stop(None);
                } else {
                    myself.send_after(TIDY_EVERY, || Message::Tidy);
                }
            }
            #[cfg(test)]
            Message::Poison => return Err("poisoned".into()),
        }
        Ok(())
    }
}

// === impl State ===

impl State {
    /// By both or by neither.
    fn admit(&mut self, ask: &Ask, myself: &ActorRef<Message>) -> Result<Permit, Refused> {
        let now = self.now();
        self.asked_at = Instant::now();
        self.account.set_limits(ask.tenant_limits);
        let key = self.keys.entry(ask.key).or_insert_with(|| Account::new(ask.key_limits));
        key.set_limits(ask.key_limits);
        let checked = key
            .check(ask.tokens, now)
            .map_err(|by| (Scope::Key, by))
            .and_then(|()| self.account.check(ask.tokens, now).map_err(|by| (Scope::Tenant, by)));
        if let Err((scope, by)) = checked {
            let gauges = key.gauges(now).tighter(self.account.gauges(now));
            return Err(Refused { scope, by, gauges });
        }
        let held = (self.account.take(ask.tokens, now), key.take(ask.tokens, now));
        let gauges = key.gauges(now).tighter(self.account.gauges(now));
        let number = self.next;
        self.next += 1;
        self.under_way.insert(number, held);
        Ok(Permit { actor: myself.clone(), key: ask.key, number, used: 0, gauges })
    }

    fn settle(&mut self, key: KeyId, number: u64, used: u64) {
        let now = self.now();
        let Some((of_tenant, of_key)) = self.under_way.remove(&number) else { return };
        self.account.settle(&of_tenant, used, now);
        if let Some(account) = self.keys.get_mut(&key) {
            account.settle(&of_key, used, now);
        }
    }

    /// Whether nobody would miss this actor.
    fn tidy(&mut self) -> bool {
        let now = self.now();
        self.keys.retain(|_, account| !account.is_idle(now));
        let idle = self.asked_at.elapsed() >= self.arguments.idle_after;
        idle && self.keys.is_empty() && self.account.is_idle(now)
    }

    fn now(&self) -> Moment {
        Moment::default().after(self.arguments.epoch.elapsed())
    }
}
