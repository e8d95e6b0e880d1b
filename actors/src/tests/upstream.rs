//! Upstreams: who gets a turn, and when.

use storage::upstreams::Upstream;

use super::*;
use crate::{
    directory::NoneOpen,
    rules::{breaker::Ended, lane::NotNow},
    upstream::{Turn, Waiting},
};

/// Upstreams of two slots each.
async fn stage(upstreams: &[&str]) -> (Stage, Vec<Arc<Upstream>>) {
    let mut settings = Settings::default();
    settings.poll.lane.slots = Some(2);
    settings.poll.lane.wait_max = Duration::from_secs(5);
    let stage = Stage::new(settings, upstreams).await;
    eventually("all to answer", || stage.system.handles.upstreams.up().len() == upstreams.len())
        .await;
    let all = stage.system.handles.upstreams.up();
    (stage, all)
}

impl Stage {
    fn ask(&self, among: &[Arc<Upstream>], tenant: u128) -> Result<(String, Waiting), NoneOpen> {
        let tenant = TenantId(Uuid::from_u128(tenant));
        let asked = self.system.handles.upstreams.ask(among, &[], tenant, 1)?;
        Ok((asked.0.name.clone(), asked.1))
    }

    async fn turn(&self, among: &[Arc<Upstream>]) -> (String, Turn) {
        let (name, mut waiting) = self.ask(among, 1).unwrap();
        (name, waiting.turn().await.unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn the_less_busy_one_is_asked_and_who_waits_is_told_where() {
    let (stage, all) = stage(&["one", "two"]).await;
    let mut turns = Vec::new();
    let mut names = Vec::new();
    for _ in 0..4 {
        let (name, turn) = stage.turn(&all).await;
        names.push(name);
        turns.push(turn);
    }
    names.sort();
    assert_eq!(names, ["one", "one", "two", "two"]);
    let (_, mut waiting) = stage.ask(&all[..1], 1).unwrap();
    let (_, behind) = stage.ask(&all[..1], 1).unwrap();
    assert_eq!(behind.standing().await.unwrap().ahead, 1);
    let look = stage.system.handles.upstreams.look("one").await.unwrap();
    assert_eq!((look.taken, look.slots), (2, Some(2)));
    assert_eq!(look.waiting, [(TenantId(Uuid::from_u128(1)), 2)]);
    drop(behind);
    drop(turns);
    assert!(waiting.turn().await.is_ok());
    let look = stage.system.handles.upstreams.look("one").await.unwrap();
    assert_eq!((look.taken, look.waiting.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_so() {
    let (stage, all) = stage(&["one"]).await;
    let _turns = [stage.turn(&all).await, stage.turn(&all).await];
    let began = Instant::now();
    let (_, mut waiting) = stage.ask(&all, 1).unwrap();
    assert_eq!(waiting.turn().await.unwrap_err(), NotNow::TimedOut);
    assert!(began.elapsed() >= Duration::from_secs(5));
    assert!(began.elapsed() < Duration::from_millis(5_100));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_reached_is_left_alone_for_a_while() {
    let (stage, all) = stage(&["one", "two"]).await;
    for _ in 0..3 {
        let (_, mut turn) = stage.turn(&all[..1]).await;
        turn.ended(Ended::Unconnected);
        drop(turn);
        sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..2 {
        let (name, mut turn) = stage.turn(&all).await;
        assert_eq!(name, "two");
        turn.begun();
    }
    let Err(NoneOpen { after: Some(after) }) = stage.ask(&all[..1], 1) else { panic!("asked") };
    assert!(after <= Duration::from_millis(1_250), "{after:?}");
    sleep(after).await;
    for _ in 0..3 {
        let (_, mut turn) = stage.turn(&all[..1]).await;
        turn.begun();
        drop(turn);
    }
    assert!(stage.ask(&all[..1], 1).is_ok());
}

/// A call of a tenant that ends so.
async fn call(stage: &Stage, all: &[Arc<Upstream>], tenant: u128, ended: Ended) {
    let mut turn = stage.ask(all, tenant).unwrap().1.turn().await.unwrap();
    turn.ended(ended);
    drop(turn);
    sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn what_one_tenant_provokes_leaves_others_alone_while_the_upstream_answers() {
    let (stage, all) = stage(&["one"]).await;
    for _ in 0..200 {
        call(&stage, &all, 1, Ended::Suspected).await;
        assert!(stage.ask(&all, 2).is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_nothing_is_left_alone_even_if_one_tenant_alone_asks() {
    let (stage, all) = stage(&["one"]).await;
    stage.servers.set("one", None);
    for _ in 0..3 {
        call(&stage, &all, 1, Ended::Suspected).await;
    }
    eventually("a probe", || stage.ask(&all, 2).is_err()).await;
}

#[tokio::test(start_paused = true)]
async fn another_number_of_slots_counts_at_once() {
    let (stage, all) = stage(&["one"]).await;
    let _turns = [stage.turn(&all).await, stage.turn(&all).await];
    let (_, mut waiting) = stage.ask(&all, 2).unwrap();
    let more = Upstream { slots: Some(3), ..(*all[0]).clone() };
    stage.system.handles.upstreams.set(vec![more]).await;
    assert_eq!(waiting.turn().await.unwrap().place, Some(1));
}

#[tokio::test(start_paused = true)]
async fn what_the_actor_of_an_upstream_knew_is_gone_with_it() {
    let (stage, all) = stage(&["one"]).await;
    let under_way = [stage.turn(&all).await, stage.turn(&all).await];
    let (_, mut waiting) = stage.ask(&all, 2).unwrap();
    stage.system.handles.upstreams.poison("one");
    assert_eq!(waiting.turn().await.unwrap_err(), NotNow::Open(None));
    // The next one knows nothing of those that are under way.
    let again = [stage.turn(&all).await, stage.turn(&all).await];
    drop(under_way);
    sleep(Duration::from_millis(1)).await;
    let look = stage.system.handles.upstreams.look("one").await.unwrap();
    assert_eq!((look.taken, look.waiting.len()), (2, 0));
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn of_three_two_are_drawn_and_the_less_busy_one_is_taken() {
    fastrand::seed(16);
    let mut settings = Settings::default();
    settings.poll.lane.slots = Some(100);
    let stage = Stage::new(settings, &["busy", "half", "idle"]).await;
    let upstreams = &stage.system.handles.upstreams;
    eventually("all to answer", || upstreams.up().len() == 3).await;
    let all = upstreams.up();
    let mut held = Vec::new();
    for (which, count) in [(0, 6), (1, 3)] {
        for _ in 0..count {
            held.push(stage.turn(&all[which..=which]).await);
        }
    }
    let mut taken = BTreeMap::new();
    for _ in 0..600 {
        let (name, turn) = stage.turn(&all).await;
        *taken.entry(name).or_insert(0) += 1;
        drop(turn);
    }
    // Of three pairs two have the idle one in them, and the third leaves the half busy one. Were one
    // drawn alone, each would get 200; were the best taken, the idle one would get all.
    assert!(!taken.contains_key("busy"), "{taken:?}");
    assert!((350..=450).contains(&taken["idle"]), "{taken:?}");
    assert!((150..=250).contains(&taken["half"]), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn polls_that_come_back_do_not_stand_in_the_way_of_who_asks() {
    let mut settings = Settings::default();
    settings.poll.interval = Duration::from_millis(1);
    let stage = Arc::new(Stage::new(settings, &["one"]).await);
    let upstreams = &stage.system.handles.upstreams;
    eventually("it to answer", || upstreams.up().len() == 1).await;
    let all: Arc<[_]> = upstreams.up().into();
    let tasks = TaskTracker::new();
    let asks = (0..3).map(|_| {
        let (stage, all) = (Arc::clone(&stage), Arc::clone(&all));
        tasks.spawn(async move {
            for _ in 0..20_000 {
                drop(stage.turn(&all).await);
            }
        })
    });
    // Where they do, all threads stand still, and nextest says so.
    assert!(join_all(asks).await.iter().all(Result::is_ok));
}
