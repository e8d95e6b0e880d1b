//! The actor: it decides, or has it decided.

use std::{collections::HashSet, sync::Arc, time::Duration};

use identity::limits::Budget;
use protocol::{id::KeyId, id::TenantId};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use storage::{
    admission::{Admit, Answer, Member, Operation, Standing, Unknown, Usage},
    ledger::Ledger,
};
use tokio_util::task::TaskTracker;

use super::{
    Asked, Common, Denied, Look, Of,
    desk::{Desk, Keeper},
    line::{Concern, LookAsked},
    usage::Reader,
};
use crate::{
    audit,
    measure::{Handling, Kind, Queued},
    outside,
    shared::NoAnswer,
};

/// How often keys that have been idle are forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often it is said who is still under way: several times within [`super::LIVES_FOR`].
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// What could not be told is told again after this.
const TELL_AGAIN: Duration = Duration::from_millis(200);
/// How long it may take to read how much of a budget is used.
const READ_TIMEOUT: Duration = Duration::from_secs(4);
/// How long one exchange with what is shared may take: beyond the longest `redis.deadline`, so that this
/// is only the last net.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(61);
/// Keys that are shown to who looks.
const SHOWN_MAX: usize = 100;

pub(crate) struct Tenant;

#[derive(Debug)]
pub(crate) enum Message {
    Admit(Box<Asked>),
    /// This is a new instance: what lies on the desk is gone on with.
    GoOn,
    /// Requests are over, which lie on the desk.
    Ended(Queued),
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
    /// A batch is back, which lies on the desk.
    Exchanged,
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
    /// It is to be said when all has been told that is to be told.
    Flush(RpcReplyPort<()>),
    #[cfg(test)]
    Poison,
    /// A rule fails in the middle of its work.
    #[cfg(test)]
    Break,
}

/// What the actor needs to start.
#[derive(Clone)]
pub(crate) struct Arguments {
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// What the last instance has left.
    pub(crate) desk: Arc<Desk>,
    /// What all tenants have in common.
    pub(crate) common: Arc<Common>,
    /// Where it is written how much has been used.
    pub(crate) ledger: Arc<dyn Ledger>,
    /// What is to be stored before the ledger is read.
    pub(crate) audit: audit::Handle,
    /// Where work that awaits runs.
    pub(crate) tasks: TaskTracker,
    /// How long it stays with nothing to do.
    pub(crate) idle_after: Duration,
}

pub(crate) struct State {
    arguments: Arguments,
    /// Whose usage is being read: a key's, or (none) the tenant's.
    reading: HashSet<Option<KeyId>>,
    /// Who waits for that.
    waiting: Vec<Asked>,
    /// Whether a [`Message::Beat`] is on its way.
    beats: bool,
    /// Whether a [`Message::TellAgain`] is.
    tells: bool,
    /// Who wants to know when all has been told.
    flushing: Vec<RpcReplyPort<()>>,
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
            reading: HashSet::new(),
            waiting: Vec::new(),
            beats: false,
            tells: false,
            flushing: Vec::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = Handling::begin(Kind::Tenant);
        if state.arguments.desk.is_broken() {
            return Err("a rule failed".into());
        }
        match message {
            Message::Admit(mut asked) => {
                drop(asked.queued.take());
                state.admit(asked, &myself);
            }
            Message::GoOn => {
                state.exchanged(&myself);
                state.hear_ended(&myself);
                state.watch_beats(&myself);
                state.send();
            }
            Message::Ended(queued) => {
                drop(queued);
                state.hear_ended(&myself);
            }
            Message::TopUp { member, key, more, reply, queued } => {
                drop(queued);
                state.top_up((member, key), more, reply, &myself);
            }
            Message::Usage { key, usage } => state.hear_usage(key, usage, &myself),
            Message::Exchanged => state.exchanged(&myself),
            Message::TellAgain => {
                state.tells = false;
                state.send();
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
            Message::Flush(reply) => {
                state.flushing.push(reply);
                state.tell_flushed();
            }
            #[cfg(test)]
            Message::Poison => return Err("poisoned".into()),
            #[cfg(test)]
            Message::Break => {
                let _kept = state.arguments.desk.kept();
                panic!("a rule fails");
            }
        }
        Ok(())
    }
}

// === impl State ===

impl State {
    fn admit(&mut self, asked: Box<Asked>, myself: &ActorRef<Message>) {
        let desk = Arc::clone(&self.arguments.desk);
        let mut kept = desk.kept();
        let (replaced, admit) = desk.asked(&mut kept, &asked.ask);
        if let (Some(replaced), Keeper::Shared(line)) = (&replaced, &mut kept.keeper) {
            // Nothing is sent in between: both go along with one exchange.
            line.push(replaced.clone(), Concern::Nobody);
        }
        let is_own = matches!(kept.keeper, Keeper::Own(_));
        drop(kept);
        if let Some(replaced) = replaced.filter(|_| is_own) {
            self.submit(replaced, Concern::Nobody, myself);
        }
        self.submit(Operation::Admit(admit), Concern::Asked(asked), myself);
    }

    /// Who is under way gets more by the limits as they are now.
    fn top_up(
        &mut self,
        (member, key): (Member, KeyId),
        more: u64,
        reply: RpcReplyPort<bool>,
        myself: &ActorRef<Message>,
    ) {
        let limits = self.arguments.desk.kept().limits_of(key);
        let Some((tenant_limits, key_limits)) = limits else {
            // Nothing is known of it: where nobody can say, the answer is no.
            let _ = reply.send(false);
            return;
        };
        let top_up = Operation::TopUp { member, more, tenant_limits, key_limits };
        self.submit(top_up, Concern::More(reply), myself);
    }

    fn hear_ended(&mut self, myself: &ActorRef<Message>) {
        let desk = Arc::clone(&self.arguments.desk);
        while let Some(ended) = desk.next_ended() {
            let operation = desk.kept().over(ended);
            self.submit(operation, Concern::Nobody, myself);
        }
    }

    /// Does an operation, or has it done.
    fn submit(&mut self, operation: Operation, concern: Concern, myself: &ActorRef<Message>) {
        let now = self.arguments.common.now();
        let mut kept = self.arguments.desk.kept();
        match &mut kept.keeper {
            Keeper::Own(book) => {
                let answer = book.run(&operation, now);
                drop(kept);
                self.answered(&operation, concern, answer, myself);
            }
            Keeper::Shared(line) => {
                line.push(operation, concern);
                drop(kept);
                self.send();
            }
        }
    }

    /// Sends what waits, unless an exchange is under way.
    fn send(&mut self) {
        let mut kept = self.arguments.desk.kept();
        let Keeper::Shared(line) = &mut kept.keeper else { return };
        let Some(batch) = line.next() else { return };
        let shared = line.shared.clone();
        drop(kept);
        let (desk, tenant) = (Arc::clone(&self.arguments.desk), self.arguments.tenant);
        let (operations, concerns): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        // The batch stays here: it is told again also where the task that sends it fails.
        let operations = Arc::new(operations);
        let sent = Arc::clone(&operations);
        let exchange = async move { shared.exchange(tenant, &sent).await };
        outside::send(&self.arguments.tasks, EXCHANGE_TIMEOUT, exchange, move |answered| {
            let operations = Arc::unwrap_or_clone(operations);
            let batch = operations.into_iter().zip(concerns).collect();
            desk.came_back(batch, answered.map_err(NoAnswer::from));
        });
    }

    fn exchanged(&mut self, myself: &ActorRef<Message>) {
        let desk = Arc::clone(&self.arguments.desk);
        let mut kept = desk.kept();
        let Keeper::Shared(line) = &mut kept.keeper else { return };
        let Some((batch, answered)) = line.take_back() else { return };
        match answered {
            Ok(answers) => {
                let answered = line.answered(batch, answers);
                drop(kept);
                for (operation, concern, answer) in answered {
                    self.answered(&operation, concern, answer, myself);
                }
                self.watch_beats(myself);
                self.send();
            }
            Err(why) => {
                if let NoAnswer::Lost(error) = &why {
                    crate::quiet!(warn, "limits cannot be checked", ""; %error);
                }
                if line.lost(batch, &why) && !self.tells {
                    self.tells = true;
                    myself.send_after(TELL_AGAIN, || Message::TellAgain);
                }
                drop(kept);
            }
        }
        self.tell_flushed();
    }

    /// Whoever wants to know is told that all has been told, where that is so.
    fn tell_flushed(&mut self) {
        if self.arguments.desk.kept().keeper.is_told() {
            self.flushing.drain(..).for_each(|reply| drop(reply.send(())));
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
        let desk = &self.arguments.desk;
        let decided = desk.answered(&mut desk.kept(), (admit, &asked.ask), answer);
        let decided = match decided {
            Ok(decided) => decided,
            Err(unknown) => {
                unknown.into_iter().for_each(|one| self.read_usage(one, &asked, myself));
                self.waiting.push(*asked);
                return;
            }
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
        let read = async move { reader.read(unknown, budget).await };
        outside::send(&self.arguments.tasks, READ_TIMEOUT, read, move |usage| {
            if let Err(error) = &usage {
                crate::quiet!(warn, "it cannot be read how much of a budget is used", ""; %error);
            }
            let _ = myself.cast(Message::Usage { key, usage: usage.ok() });
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

    fn beat(&mut self, myself: &ActorRef<Message>) {
        self.beats = false;
        if let Keeper::Shared(line) = &mut self.arguments.desk.kept().keeper {
            line.beat();
        }
        self.watch_beats(myself);
        self.send();
    }

    fn watch_beats(&mut self, myself: &ActorRef<Message>) {
        let has_to = self.arguments.desk.kept().keeper.has_to_beat();
        if has_to && !self.beats {
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
        let kept = self.arguments.desk.kept();
        let (tenant_limits, keys) = match of {
            Some(of) => (of.tenant_limits, vec![(of.key, of.key_limits)]),
            None => (kept.tenant_limits, kept.lately(SHOWN_MAX)),
        };
        let in_line = kept.keeper.waiting();
        drop(kept);
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

    /// Whether nobody would miss this actor. Its desk is closed then, under the lock under which it is seen that
    /// nothing is counted there: whoever decides on the desk at this moment comes before, or goes elsewhere.
    fn tidy(&mut self) -> bool {
        let now = self.arguments.common.now();
        let idle_after = self.arguments.idle_after;
        let reading = &self.reading;
        let mut kept = self.arguments.desk.kept();
        let rests = kept.asked_at.elapsed() >= idle_after;
        let is_idle = kept.tidy(
            now,
            |seen| seen.asked_at.elapsed() >= idle_after,
            |key| reading.contains(&Some(key)),
        );
        kept.is_closed = is_idle && rests && reading.is_empty() && self.waiting.is_empty();
        kept.is_closed
    }
}
