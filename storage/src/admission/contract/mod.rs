//! What everything that stands behind [`Admission`] owes it.
//!
//! The rule in process and Redis pass the same tests: `admission_contract!` makes them, on a stage.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use identity::limits::{Budget, Correction, LimitPeriod, Limits, Observed};
use jiff::Timestamp;
use protocol::id::{KeyId, TenantId};
use uuid::Uuid;

mod clock;

pub use clock::*;

use super::{
    Admission, Admit, Admitted, Answer, Limit, Member, Need, Operation, Refused, Scope, Unknown,
    Usage, Wait,
};

/// What is put to the test, with a clock that can be moved.
pub trait Stage: Sync {
    /// What is put to the test.
    fn admission(&self) -> &dyn Admission;
    /// Moves the clock forward.
    fn advance(&self, by: Duration);
    /// The clock was ahead by so much: it has been advanced before.
    fn go_back(&self, by: Duration);
    /// What its clock says, give or take a second.
    fn now(&self) -> Timestamp;
}

/// Makes a test of each function of this module, on a stage that the expression makes.
#[macro_export]
macro_rules! admission_contract {
    ($stage:expr) => {
        $crate::admission_contract! { $stage;
            as_many_as_the_limits_say_are_let_in,
            what_one_refuses_the_other_does_not_lose,
            a_refusal_says_when_and_keeps_its_word,
            tokens_are_corrected_by_what_was_used,
            a_slot_comes_back_once,
            what_never_was_uses_up_nothing,
            a_budget_is_not_guessed,
            a_budget_is_not_passed,
            a_period_ends_in_utc,
            a_new_period_is_read_anew,
            a_clock_that_was_ahead_freezes_no_window,
            a_clock_that_was_ahead_keeps_no_slot,
            a_clock_that_was_ahead_opens_no_budget_again,
            a_period_that_comes_back_and_is_not_known_is_read,
            a_correction_is_read_anew_and_loses_nothing,
            more_is_given_to_both_or_neither,
            what_is_observed_refuses_nothing,
            a_look_changes_nothing,
            a_batch_is_done_in_its_order,
            another_limit_counts_at_once,
        }
    };
    ($stage:expr; $($test:ident,)+) => {
        $(#[tokio::test]
        async fn $test() {
            $crate::admission::contract::$test(&$stage).await;
        })+
    };
}

/// One tenant in a test.
struct Play<'a> {
    stage: &'a dyn Stage,
    tenant: TenantId,
    next: AtomicU64,
    tenant_limits: Limits,
    key_limits: Limits,
}

impl<'a> Play<'a> {
    fn new(stage: &'a dyn Stage, tenant_limits: Limits, key_limits: Limits) -> Self {
        let tenant = TenantId(Uuid::now_v7());
        Self { stage, tenant, next: AtomicU64::new(1), tenant_limits, key_limits }
    }

    async fn run(&self, batch: &[Operation]) -> Vec<Answer> {
        self.stage.admission().exchange(self.tenant, batch).await.unwrap()
    }

    async fn one(&self, operation: Operation) -> Answer {
        self.run(&[operation]).await.remove(0)
    }

    fn ask(&self, key: u128, tokens: u64) -> (Member, Operation) {
        let member = Member { replica: 1, number: self.next.fetch_add(1, Ordering::Relaxed) };
        let (tenant_limits, key_limits) = (self.tenant_limits, self.key_limits);
        let need = Need { tokens, tokens_max: tokens };
        let admit = Admit { member, key: id(key), tenant_limits, key_limits, need };
        (member, Operation::Admit(admit))
    }

    async fn try_admit(&self, key: u128, tokens: u64) -> Result<Member, Refused> {
        let (member, operation) = self.ask(key, tokens);
        match self.one(operation).await {
            Answer::Admitted(_) => Ok(member),
            Answer::Refused(refused) => Err(*refused),
            other => panic!("{other:?}"),
        }
    }

    async fn admit(&self, key: u128, tokens: u64) -> Member {
        self.try_admit(key, tokens).await.unwrap()
    }

    async fn settle(&self, member: Member, used: u64) {
        assert_eq!(self.one(Operation::Settle { member, used }).await, Answer::Done);
    }

    async fn top_up(&self, member: Member, more: u64) -> bool {
        let (tenant_limits, key_limits) = (self.tenant_limits, self.key_limits);
        match self.one(Operation::TopUp { member, more, tenant_limits, key_limits }).await {
            Answer::ToppedUp(given) => given,
            other => panic!("{other:?}"),
        }
    }

    /// What is not known of the budgets of a tenant and a key.
    async fn unknown(&self, key: u128) -> Vec<Unknown> {
        match self.one(self.ask(key, 0).1).await {
            Answer::Unknown(unknown) => unknown,
            other => panic!("{other:?}"),
        }
    }

    /// Says that so much has been used, wherever that is asked.
    async fn learn(&self, key: u128, used: u64) {
        for unknown in self.unknown(key).await {
            self.one(Operation::SetUsage(usage(&unknown, used))).await;
        }
    }

    /// How many tokens are left of the budgets.
    async fn left(&self, key: u128) -> (Option<u64>, Option<u64>) {
        let standings = self.look(key).await;
        let left = |at: usize| {
            let standing: super::Standing = standings[at];
            standing.gauges.budget.map(|gauge| gauge.remaining)
        };
        (left(0), left(1))
    }

    async fn look(&self, key: u128) -> Vec<super::Standing> {
        let keys = vec![(id(key), self.key_limits)];
        let tenant_limits = self.tenant_limits;
        match self.one(Operation::Look { tenant_limits, keys }).await {
            Answer::Looked(standings) => standings,
            other => panic!("{other:?}"),
        }
    }
}

fn id(key: u128) -> KeyId {
    KeyId(Uuid::from_u128(key))
}

fn usage(unknown: &Unknown, used: u64) -> Usage {
    let Unknown { key, period, start, read_at, counted, settled, memory } = *unknown;
    let counted = counted.map_or(settled, |counted| counted.used);
    Usage { key, period, start, used, counted, read_at, memory }
}

fn rpm(limit: u64) -> Limits {
    Limits { rpm: Some(limit), ..Limits::default() }
}

fn tpm(limit: u64) -> Limits {
    Limits { tpm: Some(limit), ..Limits::default() }
}

fn at_once(limit: u64) -> Limits {
    Limits { concurrency: Some(limit), ..Limits::default() }
}

fn budget(tokens: u64, period: LimitPeriod) -> Limits {
    Limits { budget: Some(Budget::new(tokens, period)), ..Limits::default() }
}

const NONE: Limits = Limits {
    rpm: None,
    tpm: None,
    concurrency: None,
    budget: None,
    observed: Observed { rpm: false, tpm: false, concurrency: false, budget: false },
};

/// Of a thousand at once as many are let in as both limits say.
pub async fn as_many_as_the_limits_say_are_let_in(stage: &impl Stage) {
    let play = Play::new(stage, rpm(100), rpm(20));
    let batch: Vec<_> = (0..1_000_u128).map(|number| play.ask(number % 7, 0).1).collect();
    let answers = play.run(&batch).await;
    let let_in = answers.iter().filter(|answer| matches!(answer, Answer::Admitted(_))).count();
    assert_eq!(let_in, 100);
    // Another tenant has nothing to do with it.
    Play::new(stage, rpm(1), rpm(1)).admit(1, 0).await;
}

/// A refusal by the key leaves the tenant's limit alone, and the other way round.
pub async fn what_one_refuses_the_other_does_not_lose(stage: &impl Stage) {
    let play = Play::new(stage, rpm(3), rpm(1));
    play.admit(1, 0).await;
    for _ in 0..50 {
        let refused = play.try_admit(1, 0).await.unwrap_err();
        assert_eq!(
            (refused.scope, refused.by.what, refused.by.limit),
            (Scope::Key, Limit::Requests, 1)
        );
        assert_eq!(refused.gauges.requests.unwrap().remaining, 0);
    }
    play.admit(2, 0).await;
    play.admit(3, 0).await;
    let refused = play.try_admit(4, 0).await.unwrap_err();
    assert_eq!((refused.scope, refused.by.limit), (Scope::Tenant, 3));
    let Wait::For(wait) = refused.by.wait else { panic!("{refused:?}") };
    stage.advance(wait + Duration::from_millis(600));
    // The key that was refused by its tenant has lost nothing.
    play.admit(4, 0).await;
}

/// What a refusal names is the moment at which the same is let in, and not much before.
pub async fn a_refusal_says_when_and_keeps_its_word(stage: &impl Stage) {
    let play = Play::new(stage, rpm(2), NONE);
    play.admit(1, 0).await;
    stage.advance(Duration::from_secs(20));
    play.admit(1, 0).await;
    let refused = play.try_admit(1, 0).await.unwrap_err();
    let Wait::For(wait) = refused.by.wait else { panic!("{refused:?}") };
    assert!((38..=41).contains(&wait.as_secs()), "{wait:?}");
    let reset = refused.gauges.requests.unwrap().reset.unwrap();
    assert!((59..=61).contains(&reset.as_secs()), "{reset:?}");
    stage.advance(wait - Duration::from_secs(5));
    assert!(play.try_admit(1, 0).await.is_err());
    stage.advance(Duration::from_secs(5));
    play.admit(1, 0).await;
    assert!(play.try_admit(1, 0).await.is_err());
    let shut = Play::new(stage, rpm(0), NONE);
    assert_eq!(shut.try_admit(1, 0).await.unwrap_err().by.wait, Wait::Forever);
    // After a long silence nothing of it is left.
    stage.advance(Duration::from_secs(600));
    play.admit(1, 0).await;
    play.admit(1, 0).await;
}

/// What was too much is free at once; what was too little counts.
pub async fn tokens_are_corrected_by_what_was_used(stage: &impl Stage) {
    let play = Play::new(stage, tpm(100), NONE);
    let first = play.admit(1, 90).await;
    let refused = play.try_admit(1, 20).await.unwrap_err();
    assert_eq!((refused.by.what, refused.by.limit), (Limit::Tokens, 100));
    play.settle(first, 30).await;
    let second = play.admit(1, 70).await;
    assert_eq!(play.look(1).await[0].gauges.tokens.unwrap().remaining, 0);
    play.settle(second, 170).await;
    assert!(play.try_admit(1, 1).await.is_err());
    assert_eq!(play.try_admit(1, 101).await.unwrap_err().by.wait, Wait::Forever);
    stage.advance(Duration::from_secs(62));
    play.admit(1, 100).await;
}

/// However often it is said that a request is over.
pub async fn a_slot_comes_back_once(stage: &impl Stage) {
    let play = Play::new(stage, at_once(3), at_once(2));
    let (one, two) = (play.admit(1, 0).await, play.admit(1, 0).await);
    let refused = play.try_admit(1, 0).await.unwrap_err();
    assert_eq!((refused.scope, refused.by.what), (Scope::Key, Limit::Concurrency));
    assert_eq!(refused.by.wait, Wait::Unknown);
    let other = play.admit(2, 0).await;
    assert_eq!(play.try_admit(2, 0).await.unwrap_err().scope, Scope::Tenant);
    for _ in 0..3 {
        play.settle(one, 0).await;
    }
    let again = play.admit(1, 0).await;
    assert_eq!(play.try_admit(1, 0).await.unwrap_err().scope, Scope::Key);
    for member in [two, other, again] {
        play.settle(member, 0).await;
    }
    assert_eq!(play.look(1).await.iter().map(|one| one.under_way).collect::<Vec<_>>(), [0, 0]);
}

/// A request whose answer nobody heard gives back also what a settlement would keep.
pub async fn what_never_was_uses_up_nothing(stage: &impl Stage) {
    let all = Limits {
        rpm: Some(1),
        tpm: Some(10),
        concurrency: Some(1),
        ..budget(10, LimitPeriod::Day)
    };
    let play = Play::new(stage, all, all);
    play.learn(1, 0).await;
    let member = play.admit(1, 10).await;
    assert!(play.try_admit(1, 0).await.is_err());
    assert_eq!(play.one(Operation::Cancel { member }).await, Answer::Done);
    assert_eq!(play.one(Operation::Cancel { member }).await, Answer::Done);
    play.admit(1, 10).await;
    assert!(play.try_admit(1, 0).await.is_err());
}

/// Before somebody says how much is used, nobody is let in.
pub async fn a_budget_is_not_guessed(stage: &impl Stage) {
    let play = Play::new(stage, budget(100, LimitPeriod::Day), budget(50, LimitPeriod::Total));
    let unknown = play.unknown(1).await;
    let told: Vec<_> = unknown.iter().map(|one| (one.key, one.period, one.counted)).collect();
    assert_eq!(told, [(None, LimitPeriod::Day, None), (Some(id(1)), LimitPeriod::Total, None)]);
    assert_eq!(unknown[1].start, None);
    play.one(Operation::SetUsage(usage(&unknown[0], 40))).await;
    let unknown = play.unknown(1).await;
    assert_eq!(unknown.len(), 1);
    play.one(Operation::SetUsage(usage(&unknown[0], 45))).await;
    // Who was slower says nothing new.
    play.one(Operation::SetUsage(usage(&unknown[0], 0))).await;
    assert_eq!(play.left(1).await, (Some(60), Some(5)));
    assert_eq!(play.try_admit(1, 6).await.unwrap_err().scope, Scope::Key);
    play.admit(1, 5).await;
}

/// What is set aside and what was used together are never more than there is.
pub async fn a_budget_is_not_passed(stage: &impl Stage) {
    let play = Play::new(stage, budget(10_500, LimitPeriod::Month), NONE);
    play.learn(1, 500).await;
    let asks: Vec<_> = (0..500_u128).map(|number| play.ask(number % 5, 100)).collect();
    let batch: Vec<_> = asks.iter().map(|(_, operation)| operation.clone()).collect();
    let answers = play.run(&batch).await;
    let let_in = |answers: &[Answer]| {
        answers.iter().filter(|answer| matches!(answer, Answer::Admitted(_))).count()
    };
    assert_eq!(let_in(&answers), 100);
    let Some(Answer::Refused(refused)) = answers.last() else { panic!("{answers:?}") };
    assert_eq!(refused.by.what, Limit::Budget(LimitPeriod::Month));
    assert_eq!(refused.gauges.budget.unwrap().remaining, 0);
    // Half of what each had set aside comes back, and lets half as many more in.
    let over: Vec<_> = (asks.iter().zip(&answers))
        .filter(|(_, answer)| matches!(answer, Answer::Admitted(_)))
        .map(|((member, _), _)| Operation::Settle { member: *member, used: 50 })
        .collect();
    play.run(&over).await;
    let again: Vec<_> = (0..500_u128).map(|number| play.ask(number % 5, 100).1).collect();
    assert_eq!(let_in(&play.run(&again).await), 50);
    assert_eq!(play.try_admit(1, 10_501).await.unwrap_err().by.wait, Wait::Forever);
}

/// What is settled while the ledger is read counts besides, what is under way stays set aside.
pub async fn a_correction_is_read_anew_and_loses_nothing(stage: &impl Stage) {
    let mut play = Play::new(stage, budget(100, LimitPeriod::Day), NONE);
    play.learn(1, 10).await;
    let (one, two, three) =
        (play.admit(1, 20).await, play.admit(1, 20).await, play.admit(1, 20).await);
    play.settle(one, 20).await;
    let mut corrected = Budget::new(100, LimitPeriod::Day);
    let read_at = Some(stage.now());
    corrected.correction = Correction { read_at, ..Correction::default() };
    play.tenant_limits.budget = Some(corrected);
    let unknown = play.unknown(1).await.remove(0);
    assert_eq!((unknown.counted.unwrap().used, unknown.read_at), (30, read_at));
    play.settle(two, 15).await;
    play.one(Operation::SetUsage(usage(&unknown, 25))).await;
    assert_eq!(play.left(1).await, (Some(40), None));
    play.settle(three, 5).await;
    assert_eq!(play.left(1).await, (Some(55), None));
}

/// A request that needs more gets it of tenant and key, or of none.
pub async fn more_is_given_to_both_or_neither(stage: &impl Stage) {
    let mut play = Play::new(stage, budget(100, LimitPeriod::Day), budget(60, LimitPeriod::Day));
    play.learn(1, 0).await;
    let member = play.admit(1, 50).await;
    assert!(!play.top_up(member, 11).await && play.top_up(member, 10).await);
    assert_eq!(play.left(1).await, (Some(40), Some(0)));
    assert!(!play.top_up(member, 1).await);
    let was = std::mem::replace(&mut play.key_limits, budget(10, LimitPeriod::Day));
    assert!(play.top_up(member, 0).await, "nothing is given of a limit below what is held, too");
    play.settle(member, 55).await;
    play.key_limits = was;
    assert_eq!(play.left(1).await, (Some(45), Some(5)));
    assert!(!play.top_up(member, 1).await, "it is over");
    let free = Play::new(stage, NONE, rpm(5));
    let member = free.admit(1, 50).await;
    assert!(free.top_up(member, u64::MAX >> 12).await, "it has no budget");
}

/// A limit that is tried first: it says what it would have done.
pub async fn what_is_observed_refuses_nothing(stage: &impl Stage) {
    let observed = Observed { rpm: true, concurrency: true, budget: true, tpm: true };
    let limits = Limits {
        rpm: Some(1),
        tpm: Some(5),
        concurrency: Some(1),
        observed,
        ..budget(5, LimitPeriod::Day)
    };
    let play = Play::new(stage, limits, rpm(2));
    play.learn(1, 0).await;
    let would = async |tokens| {
        let (member, operation) = play.ask(1, tokens);
        match play.one(operation).await {
            Answer::Admitted(admitted) => {
                let Admitted { mut observed, .. } = *admitted;
                observed.sort_by_key(|(_, limit)| limit.as_str());
                (member, observed)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(would(5).await.1, []);
    let (member, said) = would(5).await;
    let all = [Limit::Budget(LimitPeriod::Day), Limit::Concurrency, Limit::Requests, Limit::Tokens];
    assert_eq!(said, all.map(|limit| (Scope::Tenant, limit)));
    assert!(play.top_up(member, 1_000).await);
    // What is not observed refuses as ever.
    let refused = play.try_admit(1, 5).await.unwrap_err();
    assert_eq!((refused.scope, refused.by.what), (Scope::Key, Limit::Requests));
}

/// To look takes nothing.
pub async fn a_look_changes_nothing(stage: &impl Stage) {
    let play = Play::new(stage, rpm(5), tpm(100));
    play.admit(1, 30).await;
    for _ in 0..3 {
        let standings = play.look(1).await;
        assert_eq!(standings.iter().map(|one| one.under_way).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(standings[0].gauges.requests.unwrap().remaining, 4);
        assert_eq!(standings[1].gauges.tokens.unwrap().remaining, 70);
        let stranger = play.look(2).await[1];
        assert_eq!((stranger.under_way, stranger.gauges.tokens.unwrap().remaining), (0, 100));
    }
}

/// What a request gives back the next one of the same batch may have.
pub async fn a_batch_is_done_in_its_order(stage: &impl Stage) {
    let play = Play::new(stage, at_once(1), NONE);
    let (one, first) = play.ask(1, 0);
    let (_, second) = play.ask(1, 0);
    let (_, third) = play.ask(1, 0);
    let batch = [first, second, Operation::Settle { member: one, used: 0 }, third];
    let answers = play.run(&batch).await;
    let let_in: Vec<_> = answers.iter().map(|a| matches!(a, Answer::Admitted(_))).collect();
    assert_eq!(let_in, [true, false, false, true]);
    assert_eq!(play.run(&[]).await, []);
}

/// Raised, it lets in more at once; lowered, less.
pub async fn another_limit_counts_at_once(stage: &impl Stage) {
    let mut play = Play::new(stage, rpm(1), budget(10, LimitPeriod::Day));
    play.learn(1, 0).await;
    play.admit(1, 5).await;
    assert!(play.try_admit(1, 1).await.is_err());
    play.tenant_limits = rpm(3);
    play.admit(1, 5).await;
    assert!(play.try_admit(1, 1).await.is_err());
    play.key_limits = budget(20, LimitPeriod::Day);
    play.admit(1, 10).await;
    play.tenant_limits = rpm(2);
    assert_eq!(play.try_admit(1, 0).await.unwrap_err().scope, Scope::Tenant);
    play.tenant_limits = NONE;
    play.admit(1, 0).await;
}
