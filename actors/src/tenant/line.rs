//! What waits to be told to all replicas, in its order.
//!
//! One exchange at a time: what arrives meanwhile goes along with the next one. What could not be told
//! is told again where that does no harm (a request is over, or never was), and refused where somebody
//! waits for a yes.

use std::collections::{HashMap, VecDeque};

use ractor::RpcReplyPort;
use storage::admission::{Answer, Member, Operation};

use super::{Asked, Denied, Look};
use crate::shared::{NoAnswer, Shared};

/// Operations in one exchange.
const BATCH_MAX: usize = 256;
/// Members in one operation.
const BEAT_MAX: usize = 256;

/// Whom the answer to an operation concerns.
#[derive(Debug)]
pub(crate) enum Concern {
    /// Who wants to begin.
    Asked(Box<Asked>),
    /// Who wants more.
    More(RpcReplyPort<bool>),
    /// Who looks.
    Look(Box<LookAsked>),
    /// Nobody waits for it.
    Nobody,
}

/// Somebody looks; what it is told is filled in as far as it is known here.
#[derive(Debug)]
pub(crate) struct LookAsked {
    pub(crate) look: Look,
    pub(crate) reply: RpcReplyPort<Option<Look>>,
}

/// Operations, with whom their answers concern.
pub(crate) type Batch = Vec<(Operation, Concern)>;

/// What waits, and what is under way.
pub(super) struct Line {
    pub(super) shared: Shared,
    waiting: VecDeque<(Operation, Concern)>,
    is_out: bool,
    /// A batch that is back, until somebody looks at it.
    back: Option<(Batch, Result<Vec<Answer>, NoAnswer>)>,
    /// What each request holds that this replica has let in.
    held: HashMap<Member, String>,
    /// The memory of what is shared in which we have registered our in-flight requests again, since it
    /// reported that it does not know how much of a budget is used. `None`: we have not.
    said: Option<u64>,
}

// === impl Concern ===

impl Concern {
    /// Whether somebody still waits for the answer, or nobody ever did.
    fn is_wanted(&self) -> bool {
        match self {
            Self::Asked(asked) => !asked.reply.is_closed(),
            Self::More(reply) => !reply.is_closed(),
            Self::Look(look) => !look.reply.is_closed(),
            Self::Nobody => true,
        }
    }

    /// There is no answer.
    fn refuse(self) {
        match self {
            Self::Asked(asked) => drop(asked.reply.send(Err(Denied::Unavailable))),
            Self::More(reply) => drop(reply.send(false)),
            Self::Look(look) => drop(look.reply.send(None)),
            Self::Nobody => {}
        }
    }
}

// === impl Line ===

impl Line {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared,
            waiting: VecDeque::new(),
            is_out: false,
            back: None,
            held: HashMap::new(),
            said: None,
        }
    }

    pub(super) fn push(&mut self, operation: Operation, concern: Concern) {
        self.waiting.push_back((operation, concern));
    }

    /// The next batch, unless one is under way or nothing waits.
    pub(super) fn next(&mut self) -> Option<Batch> {
        if self.is_out {
            return None;
        }
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX {
            let Some(one) = self.waiting.pop_front() else { break };
            if one.1.is_wanted() {
                batch.push(one);
            }
        }
        self.is_out = !batch.is_empty();
        self.is_out.then_some(batch)
    }

    /// The batch is back.
    pub(super) fn came_back(&mut self, batch: Batch, answered: Result<Vec<Answer>, NoAnswer>) {
        self.back = Some((batch, answered));
    }

    /// The batch that is back, once.
    pub(super) fn take_back(&mut self) -> Option<(Batch, Result<Vec<Answer>, NoAnswer>)> {
        self.back.take()
    }

    /// What the batch that is back answers, in its order.
    pub(super) fn answered(
        &mut self,
        batch: Batch,
        answers: Vec<Answer>,
    ) -> impl Iterator<Item = (Operation, Concern, Answer)> + use<> {
        self.is_out = false;
        let mut missing = Vec::new();
        for ((operation, _), answer) in batch.iter().zip(&answers) {
            match (operation, answer) {
                (Operation::Admit(admit), Answer::Admitted(admitted)) => {
                    self.held.insert(admit.member, admitted.held.clone());
                }
                // What was counted may have been forgotten, and with it who is under way: that is said
                // before anybody is let in on what the ledger says.
                (Operation::Admit(_), Answer::Unknown(unknown)) => {
                    let memory = unknown.first().map(|one| one.memory);
                    if self.said != memory {
                        self.said = memory;
                        self.beat();
                    }
                }
                (Operation::SetUsage(_), _) => self.said = None,
                (Operation::Settle { member, .. } | Operation::Cancel { member }, _) => {
                    self.held.remove(member);
                }
                (Operation::Beat { .. }, Answer::Missing(members)) => missing.extend(members),
                _ => {}
            }
        }
        // What was forgotten is told again, before all that is told of it.
        for member in missing {
            if let Some(held) = self.held.get(member) {
                let register = Operation::Register { member: *member, held: held.clone() };
                self.waiting.push_front((register, Concern::Nobody));
            }
        }
        batch
            .into_iter()
            .zip(answers)
            .map(|((operation, concern), answer)| (operation, concern, answer))
    }

    /// The batch is back without answers. Says whether something is to be told again.
    pub(super) fn lost(&mut self, batch: Batch, why: &NoAnswer) -> bool {
        (self.is_out, self.said) = (false, None);
        let is_beat = |(operation, _): &(Operation, _)| matches!(operation, Operation::Beat { .. });
        let beats = batch.iter().chain(&self.waiting).any(is_beat);
        let mut again = VecDeque::new();
        for (operation, concern) in batch {
            match operation {
                Operation::Settle { .. }
                | Operation::Cancel { .. }
                | Operation::Register { .. } => {
                    again.push_back((operation, concern));
                    continue;
                }
                // It may have been let in: nobody will hear of it.
                Operation::Admit(admit) if *why != NoAnswer::NotAsked => {
                    let cancel = Operation::Cancel { member: admit.member };
                    again.push_back((cancel, Concern::Nobody));
                }
                Operation::Admit(_)
                | Operation::TopUp { .. }
                | Operation::Beat { .. }
                | Operation::SetUsage(_)
                | Operation::Look { .. } => {}
            }
            concern.refuse();
        }
        // Who waits behind them for a yes is not made to wait for longer.
        for (operation, concern) in std::mem::take(&mut self.waiting) {
            match concern {
                // It is asked for again: who is under way may have to be said before.
                Concern::Nobody if matches!(operation, Operation::SetUsage(_)) => {}
                Concern::Nobody => again.push_back((operation, concern)),
                Concern::Asked(_) | Concern::More(_) | Concern::Look(_) => concern.refuse(),
            }
        }
        self.waiting = again;
        if beats {
            self.beat();
        }
        !self.waiting.is_empty()
    }

    /// Says that those who are under way still are, before all else that waits.
    pub(super) fn beat(&mut self) {
        self.waiting.retain(|(operation, _)| !matches!(operation, Operation::Beat { .. }));
        let members: Vec<_> = self.held.keys().copied().collect();
        for members in members.chunks(BEAT_MAX) {
            let members = members.to_vec();
            self.waiting.push_front((Operation::Beat { members }, Concern::Nobody));
        }
    }

    /// Whether nothing is held and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.is_told() && self.held.is_empty()
    }

    /// Whether all has been told.
    pub(super) fn is_told(&self) -> bool {
        !self.is_out && self.waiting.is_empty()
    }

    /// Whether requests are under way.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// How many operations wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
