//! One tenant's say: its windows, slots and budget, and those of its keys.
//!
//! One actor owns both, so that one message decides on both: a request is let in by tenant and key, or
//! by neither. What is let in holds a [`Permit`]; dropped, it gives back what was taken and corrects it
//! by what was used. Permits travel in the reply itself, so that a caller who has left strands none.
//!
//! How much of a budget is used stands in the ledger. Whoever asks before that is known waits until it
//! has been read, and where it cannot be read nobody can say: the answer is no. Callers are bounded by
//! their places in the audit, which each takes before it asks.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use identity::limits::{LimitPeriod, Limits};
use jiff::Timestamp;
use protocol::id::{KeyId, TenantId};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use storage::ledger::{Ledger, LedgerBy, LedgerQuery, LedgerSum};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{
    measure::Handling,
    ports::Clock,
    rules::{
        account::{self, Account, Gauges, Held, Need, Now},
        budget::Budget,
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
    /// What it needs.
    pub need: Need,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The tenant's.
    Tenant,
    /// The key's.
    Key,
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

/// A limit said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whose.
    pub scope: Scope,
    /// Which, and for how long.
    pub by: account::Refused,
    /// How the limits stand.
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
    /// How the limits stood after it was let in.
    pub gauges: Gauges,
}

pub(crate) struct Tenant;

#[derive(Debug)]
pub(crate) enum Message {
    Admit(Box<Asked>),
    Settle {
        key: KeyId,
        number: u64,
        used: u64,
    },
    /// So much of a budget has been used: of the key's, or else of the tenant's.
    Usage {
        key: Option<KeyId>,
        period: LimitPeriod,
        settled: Result<u64, storage::Error>,
    },
    /// Time to forget who has been idle, and to end where that is everybody.
    Tidy,
    #[cfg(test)]
    Poison,
}

#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    pub(crate) reply: RpcReplyPort<Result<Permit, Denied>>,
}

/// What the actor needs to start.
#[derive(Clone)]
pub(crate) struct Arguments {
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// The beginning of the time of all tenants.
    pub(crate) epoch: Instant,
    /// The clock on the wall.
    pub(crate) clock: Arc<dyn Clock>,
    /// Where it is written how much has been used.
    pub(crate) ledger: Arc<dyn Ledger>,
    /// Where work that awaits runs.
    pub(crate) tasks: TaskTracker,
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
    /// Whose usage is being read: a key's, or (none) the tenant's.
    reading: HashSet<Option<KeyId>>,
    /// Who waits for that.
    waiting: Vec<Asked>,
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
            reading: HashSet::new(),
            waiting: Vec::new(),
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
            Message::Admit(asked) => state.admit(*asked, &myself),
            Message::Settle { key, number, used } => state.settle(key, number, used),
            Message::Usage { key, period, settled } => {
                state.hear_usage(key, period, settled, &myself);
            }
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
    fn admit(&mut self, asked: Asked, myself: &ActorRef<Message>) {
        let ask = &asked.ask;
        self.asked_at = Instant::now();
        self.account.set_limits(ask.tenant_limits);
        let key = self.keys.entry(ask.key).or_insert_with(|| Account::new(ask.key_limits));
        key.set_limits(ask.key_limits);
        let unknown =
            [(None, self.account.lacks_usage_of()), (Some(ask.key), key.lacks_usage_of())];
        let mut knows_all = true;
        for (whose, period) in unknown {
            if let Some(period) = period {
                knows_all = false;
                self.read_usage(whose, period, myself);
            }
        }
        if knows_all {
            let decided = self.decide(ask, myself);
            // A caller that has left gets nothing; its permit comes back by being dropped.
            let _ = asked.reply.send(decided);
        } else {
            self.waiting.push(asked);
        }
    }

    /// By both or by neither.
    fn decide(&mut self, ask: &Ask, myself: &ActorRef<Message>) -> Result<Permit, Denied> {
        let now = self.now();
        let key = self.keys.entry(ask.key).or_insert_with(|| Account::new(ask.key_limits));
        let checked = key
            .check(ask.need, now)
            .map_err(|by| (Scope::Key, by))
            .and_then(|()| self.account.check(ask.need, now).map_err(|by| (Scope::Tenant, by)));
        if let Err((scope, by)) = checked {
            let gauges = key.gauges(now).tighter(self.account.gauges(now));
            return Err(Denied::Limit(Box::new(Refused { scope, by, gauges })));
        }
        let held = (self.account.take(ask.need, now), key.take(ask.need, now));
        let gauges = key.gauges(now).tighter(self.account.gauges(now));
        let number = self.next;
        self.next += 1;
        self.under_way.insert(number, held);
        Ok(Permit { actor: myself.clone(), key: ask.key, number, used: 0, gauges })
    }

    fn settle(&mut self, key: KeyId, number: u64, used: u64) {
        let now = self.now();
        let Some((of_tenant, of_key)) = self.under_way.remove(&number) else { return };
        self.account.settle(of_tenant, used, now);
        if let Some(account) = self.keys.get_mut(&key) {
            account.settle(of_key, used, now);
        }
    }

    /// Has it read how much of a budget is used, unless that is under way.
    fn read_usage(&mut self, key: Option<KeyId>, period: LimitPeriod, myself: &ActorRef<Message>) {
        if !self.reading.insert(key) {
            return;
        }
        let since = Budget::start_of(period, self.arguments.clock.now());
        let by = if key.is_some() { LedgerBy::Key } else { LedgerBy::Tenant };
        let query = LedgerQuery { by, tenant: Some(self.arguments.tenant), key, since };
        let (ledger, myself) = (Arc::clone(&self.arguments.ledger), myself.clone());
        self.arguments.tasks.spawn(async move {
            let settled = ledger.sums(query).await.map(|sums| LedgerSum::tokens(&sums));
            let _ = myself.cast(Message::Usage { key, period, settled });
        });
    }

    fn hear_usage(
        &mut self,
        key: Option<KeyId>,
        period: LimitPeriod,
        settled: Result<u64, storage::Error>,
        myself: &ActorRef<Message>,
    ) {
        self.reading.remove(&key);
        let waiting = std::mem::take(&mut self.waiting);
        let now = self.now();
        let account = match key {
            None => Some(&mut self.account),
            Some(key) => self.keys.get_mut(&key),
        };
        match settled {
            Ok(settled) => {
                if let Some(account) = account {
                    account.set_usage(period, settled, now);
                }
                // In their order; who still lacks something waits on.
                waiting.into_iter().for_each(|asked| self.admit(asked, myself));
            }
            Err(error) => {
                tracing::warn!(%error, "it cannot be read how much of a budget is used");
                for asked in waiting {
                    let concerns = key.is_none_or(|key| key == asked.ask.key);
                    if concerns {
                        let _ = asked.reply.send(Err(Denied::Unavailable));
                    } else {
                        self.waiting.push(asked);
                    }
                }
            }
        }
    }

    /// Whether nobody would miss this actor.
    fn tidy(&mut self) -> bool {
        let moment = self.now().moment;
        let reading = &self.reading;
        self.keys.retain(|key, account| reading.contains(&Some(*key)) || !account.is_idle(moment));
        let idle = self.asked_at.elapsed() >= self.arguments.idle_after;
        idle && self.reading.is_empty() && self.keys.is_empty() && self.account.is_idle(moment)
    }

    fn now(&self) -> Now {
        let moment = Moment::default().after(self.arguments.epoch.elapsed());
        let wall: Timestamp = self.arguments.clock.now();
        Now { moment, wall }
    }
}
