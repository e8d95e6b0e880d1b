//! The rule in process and the script in Redis, side by side: whatever is asked of both, both answer
//! alike.
//!
//! Coverage cannot be measured in Lua; this stands in for it. The script says by which time it went (that
//! is kept with its counts), and the rule is told the same.

use std::collections::BTreeMap;

use identity::limits::{Correction, Observed};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use storage::{
    admission::{Admit, Answer, Member, Need, Operation, Unknown, Usage, redis::Redis},
    scratch::ScratchRedis,
};

use super::{redis::client, *};
use crate::rules::{account::Now, book::Book, moment::Moment};

/// How long a request lives without a word, in seconds: so short that some are taken for dead, and so long
/// that some outlive midnight.
const LIVES_FOR: [u64; 2] = [20, 300_000];
/// What a request asks for besides, at most.
const TOKENS: u64 = 60;

/// One party's limits but for their values, which change on the way.
#[derive(Clone, Copy, Debug)]
struct Kinds {
    /// Which limits it has: requests, tokens, at once, budget.
    has: [bool; 4],
    observed: [bool; 4],
    period: LimitPeriod,
}

/// One step of a play. Requests are named by a number that is taken for one of those there were.
#[derive(Clone, Debug)]
enum Step {
    Admit {
        key: u128,
        tokens: u64,
        tokens_max: u64,
    },
    Settle(usize, u64),
    Cancel(usize),
    TopUp(usize, u64),
    Beat,
    /// The values of all limits.
    Limits([u64; 8]),
    /// What was counted is not to be trusted.
    Reconcile,
    /// So much was used, where that was asked for last.
    Tell(u64),
    Look,
    Pass(u64),
    /// The clock was ahead.
    Back(u64),
}

#[derive(Clone, Debug)]
struct Script {
    tenant: Kinds,
    key: Kinds,
    lives_long: bool,
    steps: Vec<Step>,
}

fn kinds() -> impl Strategy<Value = Kinds> {
    let period =
        prop_oneof![Just(LimitPeriod::Day), Just(LimitPeriod::Month), Just(LimitPeriod::Total)];
    let observed = prop::array::uniform4(prop::bool::weighted(0.15));
    (prop::array::uniform4(prop::bool::weighted(0.7)), observed, period)
        .prop_map(|(has, observed, period)| Kinds { has, observed, period })
}

fn script() -> impl Strategy<Value = Script> {
    let values = (0..8_u64, 0..200_u64, 0..6_u64, 0..600_u64);
    let values = (values.clone(), values);
    let step = prop_oneof![
        12 => (0..3_u128, 0..TOKENS, 0..TOKENS)
            .prop_map(|(key, tokens, tokens_max)| Step::Admit { key, tokens, tokens_max }),
        6 => (0..40_usize, 0..2 * TOKENS).prop_map(|(which, used)| Step::Settle(which, used)),
        3 => (0..40_usize).prop_map(Step::Cancel),
        4 => (0..40_usize, 0..TOKENS).prop_map(|(which, more)| Step::TopUp(which, more)),
        2 => Just(Step::Beat),
        2 => values.prop_map(|((a, b, c, d), (e, f, g, h))| Step::Limits([a, b, c, d, e, f, g, h])),
        1 => Just(Step::Reconcile),
        6 => (0..300_u64).prop_map(Step::Tell),
        2 => Just(Step::Look),
        4 => (0..3_000_u64).prop_map(Step::Pass),
        2 => (0..70_000_u64).prop_map(Step::Pass),
        1 => (0..150_000_000_u64).prop_map(Step::Pass),
        1 => (0..20_000_u64).prop_map(Step::Back),
        1 => (0..200_000_000_u64).prop_map(Step::Back),
    ];
    (kinds(), kinds(), any::<bool>(), prop::collection::vec(step, 1..60))
        .prop_map(|(tenant, key, lives_long, steps)| Script { tenant, key, lives_long, steps })
}

/// Both of them, with what is known of what they were asked.
struct Both<'a> {
    server: &'a ScratchRedis,
    redis: &'a Redis,
    lives_for: u64,
    book: Book,
    tenant: TenantId,
    kinds: (Kinds, Kinds),
    values: [u64; 8],
    read_at: Option<Timestamp>,
    ahead: Duration,
    now: u64,
    members: Vec<Member>,
    /// Those who are under way, until when they are taken for alive.
    alive: BTreeMap<Member, u64>,
    unknown: Vec<Unknown>,
    seen: &'a Seen,
}

/// How often each kind of answer was given, over all plays.
type Seen = Mutex<BTreeMap<&'static str, usize>>;

impl Both<'_> {
    fn limits(&self) -> (Limits, Limits) {
        let of = |kinds: Kinds, values: &[u64]| {
            let value = |at: usize| kinds.has[at].then_some(values[at]);
            let [rpm, tpm, concurrency, budget] = kinds.observed;
            let mut limit = Budget::new(values[3], kinds.period);
            limit.correction = Correction { read_at: self.read_at, ..Correction::default() };
            Limits {
                rpm: value(0),
                tpm: value(1),
                concurrency: value(2),
                budget: kinds.has[3].then_some(limit),
                observed: Observed { rpm, tpm, concurrency, budget },
            }
        };
        (of(self.kinds.0, &self.values[..4]), of(self.kinds.1, &self.values[4..]))
    }

    /// One of those there were, or one that never was.
    fn member(&self, which: usize) -> Member {
        let known = self.members.get(which % (self.members.len() + 1)).copied();
        known.unwrap_or(Member { replica: 2, number: 1 })
    }

    fn operations(&mut self, step: &Step) -> Vec<Operation> {
        let (tenant_limits, key_limits) = self.limits();
        match *step {
            Step::Admit { key, tokens, tokens_max } => {
                let member = Member { replica: 1, number: self.members.len() as u64 };
                self.members.push(member);
                let (key, need) = (super::key(key), Need { tokens, tokens_max });
                vec![Operation::Admit(Admit { member, key, tenant_limits, key_limits, need })]
            }
            Step::Settle(which, used) => {
                vec![Operation::Settle { member: self.member(which), used }]
            }
            Step::Cancel(which) => vec![Operation::Cancel { member: self.member(which) }],
            Step::TopUp(which, more) => {
                let member = self.member(which);
                vec![Operation::TopUp { member, more, tenant_limits, key_limits }]
            }
            Step::Beat => vec![Operation::Beat { members: self.members.clone() }],
            Step::Tell(used) => (self.unknown.iter())
                .map(|unknown| {
                    let Unknown { key, period, start, read_at, counted, settled, memory } =
                        *unknown;
                    let counted = counted.filter(|counted| counted.start == start);
                    let counted = counted.map_or(settled, |counted| counted.used);
                    let usage = Usage { key, period, start, used, counted, read_at, memory };
                    Operation::SetUsage(usage)
                })
                .collect(),
            Step::Look => {
                let keys = (0..4).map(|key| (super::key(key), key_limits)).collect();
                vec![Operation::Look { tenant_limits, keys }]
            }
            Step::Limits(values) => {
                self.values = values;
                Vec::new()
            }
            Step::Reconcile => {
                let now = i64::try_from(self.now).unwrap();
                self.read_at = Timestamp::from_millisecond(now).ok().filter(|_| now > 0);
                Vec::new()
            }
            Step::Pass(millis) => {
                self.ahead += Duration::from_millis(millis);
                Vec::new()
            }
            Step::Back(millis) => {
                self.ahead = self.ahead.saturating_sub(Duration::from_millis(millis));
                Vec::new()
            }
        }
    }

    /// Does them on both sides.
    async fn play(&mut self, batch: &[Operation]) -> Result<(), TestCaseError> {
        self.redis.set_ahead(self.ahead);
        let told = self.redis.exchange(self.tenant, batch).await.unwrap();
        let read = format!("HGET nz:{{{}}}:counts now", self.tenant.0.as_simple());
        let read = self.server.run(&read).await;
        let before = self.now;
        self.now = read.lines().nth(1).unwrap().parse().unwrap();
        if self.now < before {
            let until_most = self.now + self.lives_for;
            self.alive.values_mut().for_each(|until| *until = until_most.min(*until));
        }
        let wall = Timestamp::from_millisecond(i64::try_from(self.now).unwrap()).unwrap();
        let now = Now { moment: Moment::from_millis(self.now), wall };
        let (alive, dead) =
            (self.alive.clone().into_iter()).partition(|(_, until)| *until > self.now);
        self.alive = alive;
        let dead: BTreeMap<Member, u64> = dead;
        for member in dead.into_keys() {
            self.book.run(&Operation::Settle { member, used: 0 }, now);
        }
        let mut again = Vec::new();
        // Where it is not said yet who is under way, the script takes no word on usage.
        let mut lacks = false;
        for (operation, of_redis) in batch.iter().zip(told) {
            let of_book = match operation {
                Operation::SetUsage(_) if lacks => Answer::Done,
                operation => self.run(operation, now),
            };
            lacks |= matches!(&of_book, Answer::Missing(members) if !members.is_empty());
            let of_redis = match (operation, of_redis) {
                (Operation::Admit(admit), Answer::Admitted(mut admitted)) => {
                    let (member, held) = (admit.member, std::mem::take(&mut admitted.held));
                    again.push(Operation::Register { member, held });
                    Answer::Admitted(admitted)
                }
                (_, Answer::Unknown(mut unknown)) => {
                    // A book has no memory to lose.
                    self.unknown.clone_from(&unknown);
                    unknown.iter_mut().for_each(|one| one.memory = 0);
                    Answer::Unknown(unknown)
                }
                (_, other) => other,
            };
            prop_assert_eq!(&of_redis, &of_book, "{:?}", operation);
            *self.seen.lock().entry(kind(&of_book)).or_default() += 1;
        }
        // Who is there is there: to say so again changes nothing.
        again.retain(|one| {
            matches!(one, Operation::Register { member, .. } if self.alive.contains_key(member))
        });
        let told = self.redis.exchange(self.tenant, &again).await.unwrap();
        prop_assert!(told.iter().all(|answer| *answer == Answer::Done));
        Ok(())
    }

    /// The rule's answer; who is alive it need not know.
    fn run(&mut self, operation: &Operation, now: Now) -> Answer {
        let until = self.now + self.lives_for;
        if let Operation::Beat { members } = operation {
            let (alive, missing) = members.iter().partition(|one| self.alive.contains_key(one));
            let alive: Vec<Member> = alive;
            self.alive.extend(alive.into_iter().map(|member| (member, until)));
            return Answer::Missing(missing);
        }
        let answer = self.book.run(operation, now);
        match (operation, &answer) {
            (Operation::Admit(admit), Answer::Admitted(_)) => {
                self.alive.insert(admit.member, until);
            }
            (Operation::Settle { member, .. } | Operation::Cancel { member }, _) => {
                self.alive.remove(member);
            }
            _ => {}
        }
        answer
    }
}

fn kind(answer: &Answer) -> &'static str {
    match answer {
        Answer::Admitted(admitted) if admitted.observed.is_empty() => "let in",
        Answer::Admitted(_) => "would have been refused",
        Answer::Refused(refused) => refused.by.what.as_str(),
        Answer::Unknown(unknown) if unknown.iter().any(|one| one.counted.is_some()) => "over",
        Answer::Unknown(_) => "unknown",
        Answer::ToppedUp(true) => "more",
        Answer::ToppedUp(false) => "no more",
        Answer::Missing(members) if members.is_empty() => "alive",
        Answer::Missing(_) => "missing",
        Answer::Looked(_) => "looked",
        Answer::Done => "done",
    }
}

async fn play(
    server: &ScratchRedis,
    clients: &[Arc<Redis>; 2],
    seen: &Seen,
    script: Script,
) -> Result<(), TestCaseError> {
    let at = usize::from(script.lives_long);
    let mut both = Both {
        server,
        redis: &clients[at],
        lives_for: LIVES_FOR[at] * 1_000,
        book: Book::default(),
        tenant: TenantId(Uuid::now_v7()),
        kinds: (script.tenant, script.key),
        values: [5, 150, 4, 400, 4, 100, 3, 300],
        read_at: None,
        ahead: Duration::ZERO,
        now: 0,
        members: Vec::new(),
        alive: BTreeMap::new(),
        unknown: Vec::new(),
        seen,
    };
    // Some go alone and some together.
    for steps in script.steps.chunks(3) {
        let mut batch = Vec::new();
        for step in steps {
            batch.extend(both.operations(step));
        }
        if !batch.is_empty() {
            both.play(&batch).await?;
        }
    }
    Ok(())
}

#[test]
fn the_rule_and_the_script_answer_alike() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, clients) = runtime.block_on(async {
        let server = ScratchRedis::start().await;
        let clients = LIVES_FOR.map(|seconds| client(&server, Duration::from_secs(seconds)));
        (server, clients)
    });
    let seen = Seen::default();
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let played = TestRunner::new(config)
        .run(&script(), |script| runtime.block_on(play(&server, &clients, &seen, script)));
    played.unwrap_or_else(|failed| panic!("{failed}"));
    // Everything that can be answered was.
    let seen = seen.into_inner();
    assert!(seen.len() == 14 && seen.values().all(|times| *times >= 10), "{seen:?}");
}
