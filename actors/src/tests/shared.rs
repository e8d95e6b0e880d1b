//! Replicas that share their limits: two systems of actors on one book of books.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

use storage::{
    admission::{Admit, Answer, Member, Need, Operation, Unavailable, contract},
    admission_contract,
};

use super::{
    admission::{ask, at_once, daily, of, rpm},
    *,
};
use crate::rules::{account::Now, book::Book, moment::Moment};

/// What replicas share, in process: a book for each tenant.
pub(super) struct Common {
    pub(super) fault: Mutex<Option<Fault>>,
    books: Mutex<HashMap<TenantId, Book>>,
    began: Instant,
    ahead: Mutex<Duration>,
    /// It does nothing.
    is_away: AtomicBool,
    /// It does what it is told and its answers are lost.
    is_mute: AtomicBool,
    batches: Mutex<Vec<Vec<Operation>>>,
}

impl Common {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            fault: Mutex::default(),
            books: Mutex::default(),
            began: Instant::now(),
            ahead: Mutex::default(),
            is_away: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            batches: Mutex::default(),
        })
    }

    fn now(&self) -> Now {
        let since = self.began.elapsed() + *self.ahead.lock();
        Now { moment: Moment::default().after(since), wall: noon().checked_add(since).unwrap() }
    }

    fn asked(&self, of: impl Fn(&Operation) -> bool) -> usize {
        self.batches.lock().iter().flatten().filter(|operation| of(operation)).count()
    }
}

#[async_trait]
impl Admission for Common {
    async fn exchange(
        &self,
        tenant: TenantId,
        batch: &[Operation],
    ) -> Result<Vec<Answer>, Unavailable> {
        // What takes its time elsewhere does here, too.
        sleep(Duration::from_millis(1)).await;
        let fault = *self.fault.lock();
        if let Some(fault) = fault {
            fault.strike().await;
        }
        self.batches.lock().push(batch.to_vec());
        if self.is_away.load(Ordering::Relaxed) {
            return Err(Unavailable("away".to_owned()));
        }
        let now = self.now();
        let mut books = self.books.lock();
        let book = books.entry(tenant).or_default();
        let answers = batch.iter().map(|operation| book.run(operation, now)).collect();
        if self.is_mute.load(Ordering::Relaxed) {
            return Err(Unavailable("lost".to_owned()));
        }
        Ok(answers)
    }
}

/// The rule in process owes what Redis owes.
struct InProcess(Arc<Common>);

impl contract::Stage for InProcess {
    fn admission(&self) -> &dyn Admission {
        &*self.0
    }

    fn advance(&self, by: Duration) {
        *self.0.ahead.lock() += by;
    }

    fn go_back(&self, by: Duration) {
        *self.0.ahead.lock() -= by;
    }

    fn now(&self) -> Timestamp {
        self.0.now().wall
    }
}

admission_contract!(InProcess(Common::new()));

async fn replicas(common: &Arc<Common>) -> [Stage; 2] {
    let admission = || Some(Arc::clone(common) as Arc<dyn Admission>);
    [
        Stage::sharing(Settings::default(), &[], admission()).await,
        Stage::sharing(Settings::default(), &[], admission()).await,
    ]
}

#[tokio::test(start_paused = true)]
async fn two_replicas_let_in_as_many_as_one() {
    let common = Common::new();
    let stages = replicas(&common).await;
    let asks = (0..2_000_usize).map(|number| {
        let admission = &stages[number % 2].system.handles.admission;
        admission.admit(ask(1, number as u128 % 7, rpm(300), Limits::default()))
    });
    let all = join_all(asks).await;
    assert_eq!(all.iter().filter(|one| one.is_ok()).count(), 300);
    // What arrives while an exchange is under way goes along with the next one.
    let batches = common.batches.lock().len();
    assert!(batches <= 12, "{batches} exchanges");
}

#[tokio::test(start_paused = true)]
async fn what_takes_the_place_of_what_was_taken_goes_along_in_one_exchange() {
    let common = Common::new();
    let stages = replicas(&common).await;
    let [one, two] = [0, 1].map(|at| &stages[at].system.handles.admission);
    let asked = || ask(1, 1, at_once(1), Limits::default());
    let first = Arc::new(one.admit(asked()).await.unwrap());
    let taken = first.member;
    let whole = Ask { replaces: Some(first), ..asked() };
    let second = one.admit(whole).await.unwrap();
    assert!(two.admit(asked()).await.is_err(), "the slot is taken all the time");
    let replaced = |operation: &Operation| matches!(operation, Operation::Cancel { member } if *member == taken);
    let is_pair = |batch: &Vec<Operation>| {
        batch.windows(2).any(|two| replaced(&two[0]) && matches!(two[1], Operation::Admit(_)))
    };
    assert!(common.batches.lock().iter().any(is_pair));
    assert_eq!(common.asked(replaced), 1);
    drop(second);
    one.flush().await;
    assert!(two.admit(asked()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn slots_and_budgets_are_shared_and_read_once() {
    let common = Common::new();
    let stages = replicas(&common).await;
    let [one, two] = [0, 1].map(|at| &stages[at].system.handles.admission);
    stages[0].database.with(|stored| stored.used = 400);
    stages[1].database.with(|stored| stored.used = 400);
    let ask = || of(100, ask(1, 1, daily(700), at_once(3)));
    let mut first = one.admit(ask()).await.unwrap();
    let second = two.admit(ask()).await.unwrap();
    let third = two.admit(ask()).await.unwrap();
    let Err(Denied::Limit(refused)) = one.admit(ask()).await else { panic!("let in") };
    assert_eq!((refused.scope, refused.by.what), (Scope::Key, Limit::Concurrency));
    first.settle(30);
    drop(first);
    drop(second);
    drop(third);
    sleep(Duration::from_millis(10)).await;
    let fourth = two.admit(ask()).await.unwrap();
    assert_eq!(fourth.gauges.budget.unwrap().remaining, 700 - 400 - 30 - 100);
    let asked = stages.iter().map(|stage| stage.database.with(|stored| stored.asked.len()));
    assert_eq!(asked.sum::<usize>(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_the_answer_is_no_and_nothing_is_lost() {
    let common = Common::new();
    let stages = replicas(&common).await;
    let admission = &stages[0].system.handles.admission;
    let ask = || ask(1, 1, at_once(2), Limits::default());
    let mut held = admission.admit(ask()).await.unwrap();
    common.is_away.store(true, Ordering::Relaxed);
    for _ in 0..50 {
        assert_eq!(admission.admit(ask()).await.map(drop), Err(Denied::Unavailable));
    }
    // A breaker keeps most of them from asking at all.
    let asked = common.asked(|operation| matches!(operation, Operation::Admit(_)));
    assert!(asked < 10, "{asked}");
    held.settle(5);
    drop(held);
    sleep(Duration::from_secs(5)).await;
    common.is_away.store(false, Ordering::Relaxed);
    // Without a restart, and soon.
    let back = Instant::now();
    while admission.admit(ask()).await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    sleep(Duration::from_secs(1)).await;
    // The slot came back, although nobody could be told when it did.
    let both = [admission.admit(ask()).await, admission.admit(ask()).await];
    assert!(both.iter().all(Result::is_ok), "{both:?}");
}

#[tokio::test(start_paused = true)]
async fn whose_answer_is_lost_never_was() {
    let common = Common::new();
    let stages = replicas(&common).await;
    let admission = &stages[0].system.handles.admission;
    let ask = || ask(1, 1, rpm(2), at_once(1));
    common.is_mute.store(true, Ordering::Relaxed);
    assert_eq!(admission.admit(ask()).await.map(drop), Err(Denied::Unavailable));
    common.is_mute.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(5)).await;
    for _ in 0..2 {
        let _ = admission.admit(ask()).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    assert!(admission.admit(ask()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_is_under_way_is_said_to_be_and_an_idle_actor_ends() {
    let common = Common::new();
    let mut settings = Settings::default();
    settings.admission.idle_after = Duration::from_secs(1);
    let admission = Some(Arc::clone(&common) as Arc<dyn Admission>);
    let stage = Stage::sharing(settings, &[], admission).await;
    let admission = &stage.system.handles.admission;
    let held = admission.admit(ask(1, 1, at_once(1), Limits::default())).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let beats = |common: &Common| common.asked(|one| matches!(one, Operation::Beat { .. }));
    let told = beats(&common);
    assert!((8..=12).contains(&told), "{told}");
    drop(held);
    eventually("the end", || admission.running() == 0).await;
    let told = beats(&common);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(beats(&common), told);
}

#[tokio::test]
async fn who_is_there_is_not_counted_twice() {
    let common = Common::new();
    let (tenant, member) = (TenantId(Uuid::from_u128(1)), Member { replica: 1, number: 1 });
    let none = Limits::default();
    let admit =
        Admit { member, key: key(1), tenant_limits: none, key_limits: none, need: Need::default() };
    let look = Operation::Look { tenant_limits: none, keys: vec![] };
    let register = Operation::Register { member, held: String::new() };
    let answers = common.exchange(tenant, &[Operation::Admit(admit), register, look]).await;
    let Some(Answer::Looked(standings)) = answers.unwrap().pop() else { panic!("no look") };
    assert_eq!(standings[0].under_way, 1);
}

/// Lets five in on one replica and stops it when they are over; says how many another one lets in then.
async fn after_a_stop(common: &Arc<Common>, deadline: Duration) -> usize {
    let [one, two] = replicas(common).await;
    let ask = || ask(1, 1, at_once(5), Limits::default());
    let admission = &one.system.handles.admission;
    let held = join_all((0..5).map(|_| admission.admit(ask()))).await;
    assert!(
        held.iter().all(Result::is_ok) && two.system.handles.admission.admit(ask()).await.is_err()
    );
    drop(held);
    one.system.stop(deadline).await;
    common.is_away.store(false, Ordering::Relaxed);
    let admission = &two.system.handles.admission;
    let all = join_all((0..5).map(|_| admission.admit(ask()))).await;
    all.iter().filter(|one| one.is_ok()).count()
}

#[tokio::test(start_paused = true)]
async fn a_stop_tells_the_others_what_is_over() {
    let common = Common::new();
    assert_eq!(after_a_stop(&common, Duration::from_secs(3)).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_nobody_longer_than_it_may() {
    let common = Common::new();
    let [one, two] = replicas(&common).await;
    let ask = || ask(1, 1, at_once(1), Limits::default());
    let held = one.system.handles.admission.admit(ask()).await.unwrap();
    common.is_away.store(true, Ordering::Relaxed);
    drop(held);
    let began = Instant::now();
    one.system.stop(Duration::from_secs(3)).await;
    let took = began.elapsed();
    assert!((3_000..3_500).contains(&took.as_millis()), "{took:?}");
    // Nobody was told; it is noticed by others when nothing is heard of it.
    common.is_away.store(false, Ordering::Relaxed);
    assert!(two.system.handles.admission.admit(ask()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_before_it_hears_takes_nothing_with_it() {
    let common = Common::new();
    let [one, _] = replicas(&common).await;
    let admission = &one.system.handles.admission;
    let ask = || admission.admit(ask(1, 1, at_once(1), Limits::default()));
    for _ in 0..50 {
        let mut left = Box::pin(ask());
        assert!(futures_util::poll!(&mut left).is_pending());
        drop(left);
        sleep(Duration::from_millis(10)).await;
        drop(ask().await.unwrap());
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_shared_outlives_the_actor() {
    let common = Common::new();
    let stages = replicas(&common).await;
    let [one, two] = [0, 1].map(|at| &stages[at].system.handles.admission);
    let ask = || ask(1, 1, at_once(3), Limits::default());
    let (held, over) = (one.admit(ask()).await.unwrap(), one.admit(ask()).await.unwrap());
    let tenant = ask().tenant;
    // One is asked for while the answer of another exchange is on its way, and one is over.
    let asked = one.admit(ask());
    let fails = async {
        sleep(Duration::from_micros(500)).await;
        one.poison(tenant);
        drop(over);
    };
    let (asked, ()) = futures_util::future::join(asked, fails).await;
    let asked = asked.unwrap();
    sleep(Duration::from_secs(30)).await;
    let beats =
        common.asked(|one| matches!(one, Operation::Beat { members } if members.len() == 2));
    assert!(beats >= 4, "{beats}");
    let (third, fourth) = (two.admit(ask()).await, two.admit(ask()).await);
    assert!(third.is_ok() && fourth.is_err(), "{third:?} {fourth:?}");
    drop((held, asked, third));
    sleep(Duration::from_millis(10)).await;
    let all = join_all((0..3).map(|_| two.admit(ask()))).await;
    assert!(all.iter().all(Result::is_ok));
}
