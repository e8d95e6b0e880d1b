//! The actor: it decides, or has it decided.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use identity::limits::{Budget, Limits};
use jiff::Timestamp;
use protocol::{id::KeyId, id::TenantId, name::ModelName};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use storage::{
    admission::{Admit, Admitted, Answer, Member, Operation, Standing, Unknown, Usage},
    ledger::Ledger,
};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::{
    Asked, Denied, Look, Meter, Of, Permit,
    line::{Batch, Concern, Line, LookAsked},
    seen::Seen,
    usage::Reader,
};
use crate::{
    audit,
    measure::{self, Handling, Kind, Queued},
    ports::Clock,
    rules::{account::Now, book::Book, moment::Moment},
    shared::{NoAnswer, Shared},
};

/// How often keys that have been idle are forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often it is said who is still under way: several times within [`super::LIVES_FOR`].
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// What could not be told is told again after this.
const TELL_AGAIN: Duration = Duration::from_millis(200);
/// How long it may take to read how much of a budget is used.
const READ_TIMEOUT: Duration = Duration::from_secs(4);
/// Keys that are shown to who looks.
const SHOWN_MAX: usize = 100;

pub(crate) struct Tenant;

#[derive(Debug)]
pub(crate) enum Message {
    Admit(Box<Asked>),
    Settle {
        key: KeyId,
        member: Member,
        used: u64,
        learned: Option<Box<(ModelName, u64)>>,
        queued: Queued,
    },
    /// One that is under way asks for more.
    TopUp {
        member: Member,
        key: KeyId,
        more: u64,
        reply: RpcReplyPort<bool>,
        queued: Queued,
    },
    /// So much of a budget has been used: of the key's, or else of the tenant's.
    Usage {
        key: Option<KeyId>,
        usage: Option<Usage>,
    },
    /// A batch is back.
    Exchanged {
        batch: Batch,
        answered: Result<Vec<Answer>, NoAnswer>,
    },
    /// What could not be told is to be told again.
    TellAgain,
    /// Time to say who is under way.
    Beat,
    /// Somebody looks: at those who asked lately, or at one of them.
    Look {
        of: Option<Box<Of>>,
        reply: RpcReplyPort<Option<Look>>,
    },
    /// Time to forget who has been idle, and to end where that is everybody.
    Tidy,
    #[cfg(test)]
    Poison,
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
    /// What is to be stored before the ledger is read.
    pub(crate) audit: audit::Handle,
    /// What many replicas share; none: this one is alone.
    pub(crate) shared: Option<Shared>,
    /// A number of this process's own.
    pub(crate) replica: u64,
    /// The number of the next request, of all tenants.
    pub(crate) next: Arc<AtomicU64>,
    /// Where work that awaits runs.
    pub(crate) tasks: TaskTracker,
    /// How long it stays with nothing to do.
    pub(crate) idle_after: Duration,
}

/// Who keeps what the limits count.
enum Keeper {
    Own(Box<Book>),
    Shared(Line),
}

pub(crate) struct State {
    arguments: Arguments,
    keeper: Keeper,
    tenant_limits: Limits,
    seen: HashMap<KeyId, Seen>,
    asked_at: Instant,
    /// Whose usage is being read: a key's, or (none) the tenant's.
    reading: HashSet<Option<KeyId>>,
    /// Who waits for that.
    waiting: Vec<Asked>,
    /// Whether a [`Message::Beat`] is on its way.
    beats: bool,
    /// Whether a [`Message::TellAgain`] is.
    tells: bool,
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
        let keeper = match &arguments.shared {
            None => Keeper::Own(Box::default()),
            Some(shared) => Keeper::Shared(Line::new(shared.clone())),
        };
        Ok(State {
            arguments,
            keeper,
            tenant_limits: Limits::default(),
            seen: HashMap::new(),
            asked_at: Instant::now(),
            reading: HashSet::new(),
            waiting: Vec::new(),
            beats: false,
            tells: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin(Kind::Tenant);
        match message {
            Message::Admit(mut asked) => {
                drop(asked.queued.take());
                state.admit(asked, &myself);
            }
            Message::Settle { key, member, used, learned, queued } => {
                drop(queued);
                if let Some(learned) = learned {
                    state.learn(key, *learned);
                }
                state.submit(Operation::Settle { member, used }, Concern::Nobody, &myself);
            }
            Message::TopUp { member, key, more, reply, queued } => {
                drop(queued);
                let tenant_limits = state.tenant_limits;
                let key_limits = state.seen.get(&key).map(|seen| seen.limits).unwrap_or_default();
                let top_up = Operation::TopUp { member, more, tenant_limits, key_limits };
                state.submit(top_up, Concern::More(reply), &myself);
            }
            Message::Usage { key, usage } => state.hear_usage(key, usage, &myself),
            Message::Exchanged { batch, answered } => state.exchanged(batch, answered, &myself),
            Message::TellAgain => {
                state.tells = false;
                state.send(&myself);
            }
            Message::Beat => state.beat(&myself),
            Message::Look { of, reply } => state.look(of, reply, &myself),
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
    fn admit(&mut self, asked: Box<Asked>, myself: &ActorRef<Message>) {
        let ask = &asked.ask;
        self.asked_at = Instant::now();
        self.tenant_limits = ask.tenant_limits;
        let (limits, asked_at) = (ask.key_limits, self.asked_at);
        let seen = self.seen.entry(ask.key).or_insert_with(|| Seen::new(limits, asked_at));
        (seen.limits, seen.asked_at) = (limits, asked_at);
        let completion = seen.expect(&asked.ask);
        let number = self.arguments.next.fetch_add(1, Ordering::Relaxed);
        let admit = Operation::Admit(Admit {
            member: Member { replica: self.arguments.replica, number },
            key: ask.key,
            tenant_limits: ask.tenant_limits,
            key_limits: ask.key_limits,
            need: ask.need(completion),
        });
        self.submit(admit, Concern::Asked(asked), myself);
    }

    /// Does an operation, or has it done.
    fn submit(&mut self, operation: Operation, concern: Concern, myself: &ActorRef<Message>) {
        let now = self.now();
        match &mut self.keeper {
            Keeper::Own(book) => {
                let answer = book.run(&operation, now);
                self.answered(&operation, concern, answer, myself);
            }
            Keeper::Shared(line) => {
                line.push(operation, concern);
                self.send(myself);
            }
        }
    }

    /// Sends what waits, unless an exchange is under way.
    fn send(&mut self, myself: &ActorRef<Message>) {
        let Keeper::Shared(line) = &mut self.keeper else { return };
        let Some(batch) = line.next() else { return };
        let (shared, tenant) = (line.shared.clone(), self.arguments.tenant);
        let myself = myself.clone();
        self.arguments.tasks.spawn(async move {
            let (operations, concerns): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let answered = shared.exchange(tenant, &operations).await;
            let batch = operations.into_iter().zip(concerns).collect();
            let _ = myself.cast(Message::Exchanged { batch, answered });
        });
    }

    fn exchanged(
        &mut self,
        batch: Batch,
        answered: Result<Vec<Answer>, NoAnswer>,
        myself: &ActorRef<Message>,
    ) {
        let Keeper::Shared(line) = &mut self.keeper else { return };
        match answered {
            Ok(answers) => {
                for (operation, concern, answer) in line.answered(batch, answers) {
                    self.answered(&operation, concern, answer, myself);
                }
                self.watch_beats(myself);
                self.send(myself);
            }
            Err(why) => {
                if let NoAnswer::Lost(error) = &why {
                    tracing::warn!(%error, "limits cannot be checked");
                }
                if line.lost(batch, &why) && !self.tells {
                    self.tells = true;
                    myself.send_after(TELL_AGAIN, || Message::TellAgain);
                }
            }
        }
    }

    fn answered(
        &mut self,
        operation: &Operation,
        concern: Concern,
        answer: Answer,
        myself: &ActorRef<Message>,
    ) {
        match (operation, concern, answer) {
            (Operation::Admit(admit), Concern::Asked(asked), answer) => {
                self.decided(admit, asked, answer, myself);
            }
            (_, Concern::More(reply), answer) => {
                let _ = reply.send(answer == Answer::ToppedUp(true));
            }
            (_, Concern::Look(asked), Answer::Looked(standings)) => {
                let LookAsked { mut look, reply } = *asked;
                let mut standings = standings.into_iter();
                look.standing = standings.next().unwrap_or_default();
                look.keys.iter_mut().zip(standings).for_each(|(key, standing)| key.2 = standing);
                let _ = reply.send(Some(look));
            }
            _ => {}
        }
    }

    fn decided(
        &mut self,
        admit: &Admit,
        asked: Box<Asked>,
        answer: Answer,
        myself: &ActorRef<Message>,
    ) {
        let decided = match answer {
            Answer::Admitted(admitted) => {
                let Admitted { gauges, observed, .. } = *admitted;
                for (scope, limit) in observed {
                    measure::refusal(scope, limit, "observe");
                }
                let set_aside = admit.need.tokens_max.saturating_sub(asked.ask.prompt_max);
                let (member, key) = (admit.member, admit.key);
                let is_metered = asked.ask.is_metered();
                Ok(Permit {
                    actor: myself.clone(),
                    member,
                    key,
                    used: 0,
                    learns: asked.ask.learns.clone().filter(|_| is_metered),
                    learned: None,
                    gauges,
                    meter: is_metered.then(|| Meter {
                        set_aside,
                        exhausted: asked.ask.policy.exhausted,
                        actor: myself.clone(),
                        member,
                        key,
                    }),
                })
            }
            Answer::Refused(refused) => {
                measure::refusal(refused.scope, refused.by.what, "enforce");
                Err(Denied::Limit(refused))
            }
            Answer::Unknown(unknown) => {
                unknown.into_iter().for_each(|one| self.read_usage(one, &asked, myself));
                self.waiting.push(*asked);
                return;
            }
            // No answer of what keeps the limits, and nobody goes on without one.
            _ => Err(Denied::Unavailable),
        };
        // A caller that has left gets nothing; its permit comes back by being dropped.
        let _ = asked.reply.send(decided);
    }

    /// Has it read how much of a budget is used, unless that is under way.
    fn read_usage(&mut self, unknown: Unknown, asked: &Asked, myself: &ActorRef<Message>) {
        let key = unknown.key;
        let limits = if key.is_some() { asked.ask.key_limits } else { asked.ask.tenant_limits };
        let budget = limits.budget.unwrap_or_else(|| Budget::new(0, unknown.period));
        if !self.reading.insert(key) {
            return;
        }
        let Arguments { tenant, ledger, audit, .. } = self.arguments.clone();
        let (reader, myself) = (Reader { tenant, ledger, audit }, myself.clone());
        self.arguments.tasks.spawn(async move {
            let usage = match timeout(READ_TIMEOUT, reader.read(unknown, budget)).await {
                Ok(Ok(usage)) => Some(usage),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "it cannot be read how much of a budget is used");
                    None
                }
                Err(_) => {
                    tracing::warn!("it cannot be read in time how much of a budget is used");
                    None
                }
            };
            let _ = myself.cast(Message::Usage { key, usage });
        });
    }

    fn hear_usage(&mut self, key: Option<KeyId>, usage: Option<Usage>, myself: &ActorRef<Message>) {
        self.reading.remove(&key);
        let waiting = std::mem::take(&mut self.waiting);
        if let Some(usage) = usage {
            self.submit(Operation::SetUsage(usage), Concern::Nobody, myself);
            // In their order; who still lacks something waits on.
            waiting.into_iter().for_each(|asked| self.admit(Box::new(asked), myself));
            return;
        }
        for asked in waiting {
            if key.is_none_or(|key| key == asked.ask.key) {
                let _ = asked.reply.send(Err(Denied::Unavailable));
            } else {
                self.waiting.push(asked);
            }
        }
    }

    fn learn(&mut self, key: KeyId, (model, tokens): (ModelName, u64)) {
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.learn(model, tokens);
        }
    }

    fn beat(&mut self, myself: &ActorRef<Message>) {
        self.beats = false;
        if let Keeper::Shared(line) = &mut self.keeper {
            line.beat();
            self.watch_beats(myself);
            self.send(myself);
        }
    }

    fn watch_beats(&mut self, myself: &ActorRef<Message>) {
        let Keeper::Shared(line) = &self.keeper else { return };
        if line.holds() && !self.beats {
            self.beats = true;
            myself.send_after(BEAT_EVERY, || Message::Beat);
        }
    }

    fn look(
        &mut self,
        of: Option<Box<Of>>,
        reply: RpcReplyPort<Option<Look>>,
        myself: &ActorRef<Message>,
    ) {
        let (tenant_limits, keys) = match of {
            Some(of) => (of.tenant_limits, vec![(of.key, of.key_limits)]),
            None => (self.tenant_limits, self.lately()),
        };
        let in_line = match &self.keeper {
            Keeper::Own(_) => 0,
            Keeper::Shared(line) => line.waiting(),
        };
        let unknown = Standing::default();
        let look = Look {
            limits: tenant_limits,
            standing: unknown,
            keys: keys.iter().map(|(key, of)| (*key, *of, unknown)).collect(),
            waiting: self.waiting.len() + in_line,
        };
        let asked = Concern::Look(Box::new(LookAsked { look, reply }));
        self.submit(Operation::Look { tenant_limits, keys }, asked, myself);
    }

    /// The keys that asked last.
    fn lately(&self) -> Vec<(KeyId, Limits)> {
        let mut keys: Vec<_> = self.seen.iter().map(|(key, seen)| (seen.asked_at, *key)).collect();
        keys.sort_unstable_by_key(|(asked_at, _)| std::cmp::Reverse(*asked_at));
        keys.truncate(SHOWN_MAX);
        keys.iter().map(|(_, key)| (*key, self.seen[key].limits)).collect()
    }

    /// Whether nobody would miss this actor.
    fn tidy(&mut self) -> bool {
        let now = self.now();
        let idle_after = self.arguments.idle_after;
        self.seen.retain(|_, seen| seen.asked_at.elapsed() < idle_after);
        self.seen.shrink_to(self.seen.len() * 2);
        let reading = &self.reading;
        let is_idle = match &mut self.keeper {
            Keeper::Own(book) => book.tidy(now, |key| reading.contains(&Some(key))),
            Keeper::Shared(line) => line.is_idle(),
        };
        let rests = self.asked_at.elapsed() >= idle_after;
        is_idle && rests && self.reading.is_empty() && self.waiting.is_empty()
    }

    fn now(&self) -> Now {
        let moment = Moment::default().after(self.arguments.epoch.elapsed());
        let wall: Timestamp = self.arguments.clock.now();
        Now { moment, wall }
    }
}
