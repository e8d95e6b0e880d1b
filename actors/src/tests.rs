//! The actors as the engine sees them, on a database and upstreams that do what a test says.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use identity::limits::{Budget, LimitPeriod, Limits};
use jiff::Timestamp;
use protocol::{
    id::{KeyId, RequestId, TenantId},
    name::ModelName,
    outcome::Outcome,
    route::Route,
    usage::Usage,
};
use storage::{
    Error,
    audit::{Audit, AuditEvent, AuditQuery},
    ledger::{Ledger, LedgerQuery, LedgerSum},
    upstreams::{Upstream, UpstreamKind},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    Arguments, Settings, Stopped, System,
    audit::Saturated,
    catalog::Unavailable,
    ports::{Clock, DiscoveredModel, ProbeError, Prober},
    rules::account::{Need, Wait, What},
    start,
    tenant::{Ask, Denied, Scope},
};

/// A database of audit events that fails on request.
#[derive(Default)]
struct Database(Mutex<Stored>);

#[derive(Default)]
struct Stored {
    batches: Vec<(Instant, Vec<u128>)>,
    is_away: bool,
    forgotten: Vec<Timestamp>,
    prepared: usize,
    used: u64,
    used_by_key: u64,
    asked: Vec<LedgerQuery>,
}

impl Database {
    fn with<T>(&self, change: impl FnOnce(&mut Stored) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn away(&self, is_away: bool) {
        self.with(|stored| stored.is_away = is_away);
    }

    fn batches(&self) -> Vec<Vec<u128>> {
        self.with(|stored| stored.batches.iter().map(|(_, batch)| batch.clone()).collect())
    }

    /// All that is stored, in its order.
    fn events(&self) -> Vec<u128> {
        self.batches().concat()
    }
}

#[async_trait]
impl Audit for Database {
    async fn append(&self, events: &[AuditEvent]) -> storage::Result<()> {
        self.with(|stored| {
            if stored.is_away {
                return Err(Error::Url);
            }
            let numbers = events.iter().map(|event| event.request.0.as_u128()).collect();
            stored.batches.push((Instant::now(), numbers));
            Ok(())
        })
    }

    async fn query(&self, _query: AuditQuery) -> storage::Result<Vec<AuditEvent>> {
        Ok(Vec::new())
    }

    async fn prepare(&self, _from: Timestamp, _until: Timestamp) -> storage::Result<()> {
        self.with(|stored| {
            stored.prepared += 1;
            if stored.is_away { Err(Error::Url) } else { Ok(()) }
        })
    }

    async fn forget_before(&self, at: Timestamp) -> storage::Result<u64> {
        self.with(|stored| stored.forgotten.push(at));
        Ok(0)
    }
}

#[async_trait]
impl Ledger for Database {
    async fn sums(&self, query: LedgerQuery) -> storage::Result<Vec<LedgerSum>> {
        // What takes its time elsewhere does here, too.
        sleep(Duration::from_millis(5)).await;
        self.with(|stored| {
            if stored.is_away {
                return Err(Error::Url);
            }
            stored.asked.push(query);
            let used = if query.key.is_some() { stored.used_by_key } else { stored.used };
            let of = String::new();
            Ok(vec![LedgerSum { of, requests: 1, prompt: used, completion: 0, estimated: 0 }])
        })
    }
}

/// Upstreams by name, with their models; who is not among them does not answer.
#[derive(Default)]
struct Servers(Mutex<BTreeMap<String, Vec<&'static str>>>);

impl Servers {
    fn set(&self, name: &str, models: Option<&[&'static str]>) {
        let mut servers = self.0.lock().unwrap();
        match models {
            Some(models) => drop(servers.insert(name.to_owned(), models.to_vec())),
            None => drop(servers.remove(name)),
        }
    }
}

#[async_trait]
impl Prober for Servers {
    async fn models(&self, upstream: &Upstream) -> Result<Vec<DiscoveredModel>, ProbeError> {
        let servers = self.0.lock().unwrap();
        let models = servers.get(&upstream.name).ok_or(ProbeError::Unreachable)?;
        let discovered = |name: &&str| DiscoveredModel {
            name: ModelName::parse(name).unwrap(),
            reported: (*name).to_owned(),
            entry: "{}".into(),
            modified_at: None,
        };
        Ok(models.iter().map(discovered).collect())
    }
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }
}

struct Stage {
    system: System,
    database: Arc<Database>,
    servers: Arc<Servers>,
    tasks: TaskTracker,
}

impl Stage {
    async fn new(settings: Settings, upstreams: &[&str]) -> Self {
        let (database, servers) = (Arc::new(Database::default()), Arc::new(Servers::default()));
        for name in upstreams {
            servers.set(name, Some(&["llama3"]));
        }
        let tasks = TaskTracker::new();
        let system = start(Arguments {
            audit: database.clone(),
            ledger: database.clone(),
            prober: servers.clone(),
            clock: Arc::new(Noon),
            settings,
            upstreams: upstreams.iter().map(|name| upstream(name)).collect(),
            tasks: tasks.clone(),
        })
        .await
        .unwrap();
        Self { system, database, servers, tasks }
    }

    fn record(&self, number: u128) -> Result<(), Saturated> {
        self.system.handles.audit.reserve().map(|place| place.record(event(number)))
    }

    fn models(&self) -> Result<Vec<String>, Unavailable> {
        let snapshot = self.system.handles.catalog.current()?;
        Ok(snapshot.models().map(|model| model.name.as_str().to_owned()).collect())
    }
}

fn upstream(name: &str) -> Upstream {
    let url = format!("http://{name}");
    Upstream { name: name.to_owned(), url, kind: UpstreamKind::Ollama, created_at: Noon.now() }
}

fn event(number: u128) -> AuditEvent {
    AuditEvent {
        request: RequestId(Uuid::from_u128(number)),
        at: Noon.now(),
        tenant: None,
        key: None,
        model: None,
        upstream: None,
        route: Route::OllamaChat,
        status: 200,
        outcome: Outcome::Completed,
        code: None,
        usage: Usage::default(),
        first_byte: None,
        total: Duration::ZERO,
    }
}

fn places(places_max: usize) -> Settings {
    let mut settings = Settings::default();
    settings.audit.places_max = places_max;
    settings
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let held = timeout(Duration::from_secs(3_600), async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(held.await.is_ok(), "{what}");
}

// === admission ===

fn ask(tenant: u128, key: u128, tenant_limits: Limits, key_limits: Limits) -> Ask {
    let (tenant, key) = (TenantId(Uuid::from_u128(tenant)), KeyId(Uuid::from_u128(key)));
    Ask { tenant, key, tenant_limits, key_limits, need: need(10) }
}

fn need(tokens: u64) -> Need {
    Need { tokens, tokens_max: tokens }
}

fn rpm(limit: u64) -> Limits {
    Limits { rpm: Some(limit), ..Limits::default() }
}

fn at_once(limit: u64) -> Limits {
    Limits { concurrency: Some(limit), ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_at_once_get_what_there_is_and_no_more() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let asks = (0..1_000_u128).map(|number| admission.admit(ask(1, number % 7, rpm(100), rpm(20))));
    let all = join_all(asks).await;
    let granted: Vec<_> = all.iter().filter_map(|one| one.as_ref().ok()).collect();
    assert_eq!(granted.len(), 100);
    let refused = all.iter().filter_map(|one| one.as_ref().err());
    for denied in refused {
        let Denied::Limit(refused) = denied else { panic!("{denied:?}") };
        assert_eq!(refused.by.what, What::Requests);
        assert!(
            matches!(refused.by.wait, Wait::For(wait) if wait <= Duration::from_millis(60_500))
        );
    }
    assert_eq!(admission.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_one_refuses_the_other_does_not_lose() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let first = admission.admit(ask(1, 1, rpm(3), rpm(1))).await.unwrap();
    for _ in 0..50 {
        let Err(Denied::Limit(refused)) = admission.admit(ask(1, 1, rpm(3), rpm(1))).await else {
            panic!("let in")
        };
        assert_eq!((refused.scope, refused.gauges.requests.unwrap().remaining), (Scope::Key, 0));
    }
    for key in [2, 3] {
        let _ = admission.admit(ask(1, key, rpm(3), rpm(1))).await.unwrap();
    }
    let Err(Denied::Limit(refused)) = admission.admit(ask(1, 4, rpm(3), rpm(1))).await else {
        panic!("let in")
    };
    assert_eq!(refused.scope, Scope::Tenant);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_slot_comes_back_however_a_request_ends() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let one = || admission.admit(ask(1, 1, at_once(1), Limits::default()));
    for round in 0..50 {
        let mut permit = one().await.unwrap_or_else(|denied| panic!("{round}: {denied:?}"));
        assert!(one().await.is_err());
        if round % 2 == 0 {
            permit.settle(5);
        }
        drop(permit);
        // A caller that leaves before it hears takes nothing with it.
        let mut left = Box::pin(one());
        assert!(futures_util::poll!(&mut left).is_pending());
        drop(left);
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_are_corrected_by_what_was_used() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let tpm = Limits { tpm: Some(100), ..Limits::default() };
    let admit =
        |tokens| admission.admit(Ask { need: need(tokens), ..ask(1, 1, tpm, Limits::default()) });
    let mut first = admit(90).await.unwrap();
    let Err(Denied::Limit(refused)) = admit(20).await else { panic!("let in") };
    assert_eq!((refused.by.what, refused.by.limit), (What::Tokens, 100));
    first.settle(30);
    drop(first);
    let second = admit(70).await.unwrap();
    assert_eq!(second.gauges.tokens.unwrap().remaining, 0);
    let Err(Denied::Limit(refused)) = admit(101).await else { panic!("let in") };
    assert_eq!(refused.by.wait, Wait::Forever);
}

fn daily(tokens: u64) -> Limits {
    Limits { budget: Some(Budget { tokens, period: LimitPeriod::Day }), ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_at_once_never_pass_a_budget_for_a_hundred() {
    let stage = Stage::new(Settings::default(), &[]).await;
    stage.database.with(|stored| stored.used = 500);
    let admission = &stage.system.handles.admission;
    let asks = (0..500_u128).map(|key| {
        let limits = Limits::default();
        admission.admit(Ask { need: need(100), ..ask(1, key % 5, daily(10_500), limits) })
    });
    let mut granted: Vec<_> = join_all(asks).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(granted.len(), 100);
    // The ledger was read once for all of them.
    let asked = stage.database.with(|stored| stored.asked.clone());
    assert_eq!((asked.len(), asked[0].key), (1, None));
    assert_eq!(asked[0].since, Some("2026-11-23T00:00:00Z".parse().unwrap()));
    // Half of what each had set aside comes back, and lets half as many more in.
    granted.iter_mut().for_each(|permit| permit.settle(50));
    drop(granted);
    let again = (0..500_u128).map(|key| {
        let limits = Limits::default();
        admission.admit(Ask { need: need(100), ..ask(1, key % 5, daily(10_500), limits) })
    });
    let again = join_all(again).await;
    assert_eq!(again.iter().filter(|one| one.is_ok()).count(), 50);
    let Some(Err(Denied::Limit(refused))) = again.last() else { panic!("let in") };
    assert_eq!((refused.by.what, refused.by.limit), (What::Budget(LimitPeriod::Day), 10_500));
    assert_eq!(refused.gauges.budget.unwrap().remaining, 0);
}

#[tokio::test(start_paused = true)]
async fn where_the_ledger_cannot_be_read_nobody_can_say() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    stage.database.away(true);
    let limited = ask(1, 1, Limits::default(), daily(1_000));
    assert_eq!(admission.admit(limited).await.map(drop), Err(Denied::Unavailable));
    // Who has no budget does not need it.
    assert!(admission.admit(ask(1, 2, rpm(5), Limits::default())).await.is_ok());
    stage.database.away(false);
    stage.database.with(|stored| stored.used_by_key = 995);
    let Err(Denied::Limit(refused)) = admission.admit(limited).await else { panic!("let in") };
    assert_eq!((refused.scope, refused.gauges.budget.unwrap().remaining), (Scope::Key, 5));
    let small = Ask { need: need(5), ..limited };
    assert!(admission.admit(small).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_message_concerns_one_tenant() {
    let stage = Stage::new(Settings::default(), &[]).await;
    let admission = &stage.system.handles.admission;
    let (sick, well) = (ask(1, 1, rpm(1), Limits::default()), ask(2, 2, rpm(1_000), rpm(1_000)));
    let mut back = 0;
    for _ in 0..10 {
        back += u32::from(admission.admit(sick).await.is_ok());
        admission.poison(sick.tenant);
        sleep(Duration::from_millis(50)).await;
        let _ = admission.admit(well).await.unwrap();
    }
    // It was started again as often as is allowed; until that is past nobody can say.
    assert_eq!(back, 6);
    assert_eq!(admission.admit(sick).await.map(drop), Err(Denied::Unavailable));
    let failed = timeout(Duration::from_millis(10), stage.system.failed());
    assert!(failed.await.is_err(), "one tenant's actor is no reason to end");
    sleep(Duration::from_secs(61)).await;
    assert!(admission.admit(sick).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_idle_tenant_is_let_go_and_nothing_is_forgotten_that_counts() {
    let mut settings = Settings::default();
    settings.admission.idle_after = Duration::from_secs(1);
    let stage = Stage::new(settings, &[]).await;
    let admission = &stage.system.handles.admission;
    let held = admission.admit(ask(1, 1, at_once(1), Limits::default())).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(admission.running(), 1, "a request is under way");
    drop(held);
    eventually("the end", || admission.running() == 0).await;
    assert!(admission.admit(ask(1, 1, at_once(1), Limits::default())).await.is_ok());
}

// === audit ===

#[tokio::test(start_paused = true)]
async fn a_few_events_wait_for_others_and_a_full_batch_does_not() {
    let stage = Stage::new(places(10_000), &[]).await;
    let begun = Instant::now();
    stage.record(1).unwrap();
    sleep(Duration::from_millis(100)).await;
    stage.record(2).unwrap();
    eventually("the first batch", || !stage.database.batches().is_empty()).await;
    assert_eq!(stage.database.batches(), [[1, 2]]);
    let stored = stage.database.with(|stored| stored.batches[0].0);
    assert!(stored - begun >= Duration::from_millis(200), "{:?}", stored - begun);

    let begun = Instant::now();
    (0..1_200).for_each(|number| stage.record(number).unwrap());
    eventually("the full batches", || stage.database.events().len() >= 1_002).await;
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    eventually("the rest", || stage.database.events().len() == 1_202).await;
    assert_eq!(stage.database.events()[2..], (0..1_200).collect::<Vec<_>>());
    assert!(stage.database.batches().iter().all(|batch| batch.len() <= 500));
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_until_its_event_is_stored() {
    let stage = Stage::new(places(2), &[]).await;
    let audit = &stage.system.handles.audit;
    let (first, second) = (audit.reserve().unwrap(), audit.reserve().unwrap());
    assert_eq!(audit.reserve().err(), Some(Saturated));
    drop(first);
    let third = audit.reserve().unwrap();
    stage.database.away(true);
    second.record(event(1));
    third.record(event(2));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(audit.reserve().err(), Some(Saturated), "a place was given back too early");
    assert!(audit.state().failing_since.is_some());
    stage.database.away(false);
    eventually("room", || audit.reserve().is_ok()).await;
    assert_eq!(stage.database.events(), [1, 2]);
    assert!(audit.state().failing_since.is_none());
    assert_eq!((audit.state().waiting, audit.state().stored), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_database_that_comes_and_goes_changes_neither_order_nor_number() {
    let stage = Stage::new(places(10_000), &[]).await;
    for round in 0..20_u128 {
        stage.database.away(round % 3 == 1);
        (0..100).for_each(|number| stage.record(round * 100 + number).unwrap());
        sleep(Duration::from_millis(150)).await;
    }
    stage.database.away(false);
    stage.system.handles.audit.flush().await;
    assert_eq!(stage.database.events(), (0..2_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_crash_of_the_audit_loses_nothing() {
    let stage = Stage::new(places(10_000), &[]).await;
    for round in 0..4_u128 {
        (0..50).for_each(|number| stage.record(round * 50 + number).unwrap());
        stage.system.handles.audit.poison();
        (1_000..1_010).for_each(|number| stage.record(round * 50 + number).unwrap());
        sleep(Duration::from_secs(1)).await;
    }
    stage.system.handles.audit.flush().await;
    // An append that was under way may be done twice; storage counts each request once.
    let stored: HashSet<_> = stage.database.events().into_iter().collect();
    assert_eq!(stored.len(), 4 * 50 + 40);
    assert!(timeout(Duration::from_secs(1), stage.system.failed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_fails_again_and_again_is_a_reason_to_end() {
    let stage = Stage::new(Settings::default(), &[]).await;
    for _ in 0..6 {
        stage.system.handles.audit.poison();
        sleep(Duration::from_millis(50)).await;
    }
    let reason = timeout(Duration::from_secs(10), stage.system.failed()).await.unwrap();
    assert!(reason.contains("poisoned"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn strangers_get_so_many_lines_a_second_and_half_of_the_room() {
    let mut settings = places(20);
    settings.audit.sampled_per_second = 4;
    let stage = Stage::new(settings, &[]).await;
    let audit = &stage.system.handles.audit;
    let taken = || (0..50).filter_map(|_| audit.reserve_sampled()).collect::<Vec<_>>();
    let first = taken();
    assert_eq!(first.len(), 4);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(taken().len(), 4, "what was not used does not add up");
    drop(first);
    let _held: Vec<_> = (0..11).map(|_| audit.reserve().unwrap()).collect();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(taken().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_stores_what_waits_and_says_what_it_could_not() {
    let stage = Stage::new(places(100), &["one"]).await;
    (0..10).for_each(|number| stage.record(number).unwrap());
    let stopped = stage.system.stop(Duration::from_secs(5)).await;
    assert_eq!((stopped, stage.database.events().len()), (Stopped { unstored: 0 }, 10));

    let stage = Stage::new(places(100), &["one"]).await;
    stage.database.away(true);
    (0..10).for_each(|number| stage.record(number).unwrap());
    let stopped = stage.system.stop(Duration::from_secs(5)).await;
    assert_eq!(stopped, Stopped { unstored: 10 });
    stage.tasks.close();
    assert!(timeout(Duration::from_secs(60), stage.tasks.wait()).await.is_ok(), "a task goes on");
}

// === catalog and upstreams ===

#[tokio::test(start_paused = true)]
async fn a_catalog_that_was_never_filled_says_so() {
    let stage = Stage::new(Settings::default(), &[]).await;
    assert_eq!(stage.models(), Err(Unavailable));
}

#[tokio::test(start_paused = true)]
async fn models_come_and_go_with_the_polls() {
    let stage = Stage::new(Settings::default(), &["one", "two"]).await;
    stage.system.handles.upstreams.first_answers(Duration::from_secs(5)).await;
    eventually("both", || stage.models() == Ok(vec!["llama3:latest".to_owned()])).await;
    let name = ModelName::parse("llama3").unwrap();
    let servers = || {
        let snapshot = stage.system.handles.catalog.current().unwrap();
        snapshot.find(&name).map_or(0, |model| model.upstreams.len())
    };
    assert_eq!(servers(), 2);
    stage.servers.set("one", Some(&["llama3", "qwen3:8b"]));
    stage.servers.set("two", Some(&[]));
    eventually("the next polls", || servers() == 1 && stage.models().unwrap().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_an_upstream_said_counts_for_so_long_and_no_longer() {
    let stage = Stage::new(Settings::default(), &["one", "two"]).await;
    stage.system.handles.upstreams.first_answers(Duration::from_secs(5)).await;
    stage.servers.set("two", Some(&["qwen3:8b"]));
    eventually("both", || stage.models().is_ok_and(|models| models.len() == 2)).await;
    stage.servers.set("one", None);
    let down = || stage.system.handles.upstreams.views().iter().any(|view| !view.up);
    eventually("the failure", down).await;
    assert_eq!(stage.models().unwrap().len(), 2, "one failed poll is no reason to forget");
    eventually("the end of what one said", || stage.models().unwrap().len() == 1).await;
    stage.servers.set("two", None);
    eventually("the end of all", || stage.models() == Err(Unavailable)).await;
    stage.servers.set("two", Some(&["llama3"]));
    eventually("the return", || stage.models().is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn upstreams_are_added_changed_and_removed() {
    let stage = Stage::new(Settings::default(), &["one"]).await;
    let directory = &stage.system.handles.upstreams;
    directory.first_answers(Duration::from_secs(5)).await;
    stage.servers.set("two", Some(&["qwen3:8b"]));
    directory.set(vec![upstream("one"), upstream("two")]).await;
    eventually("two", || directory.up().len() == 2 && stage.models().unwrap().len() == 2).await;
    let moved = Upstream { url: "http://elsewhere".to_owned(), ..upstream("one") };
    directory.set(vec![moved]).await;
    eventually("the removal", || stage.models() == Ok(vec!["llama3:latest".to_owned()])).await;
    eventually("the new place", || directory.up().iter().any(|up| up.url.ends_with("elsewhere")))
        .await;
    assert_eq!(directory.views().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_of_the_catalog_forgets_nothing() {
    let stage = Stage::new(Settings::default(), &["one"]).await;
    stage.system.handles.upstreams.first_answers(Duration::from_secs(5)).await;
    eventually("the models", || stage.models().is_ok()).await;
    stage.system.handles.catalog.poison();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(stage.models().unwrap().len(), 1);
    stage.servers.set("one", Some(&["llama3", "qwen3:8b"]));
    eventually("what comes after", || stage.models().unwrap().len() == 2).await;
}

// === sweeper ===

#[tokio::test(start_paused = true)]
async fn the_sweeper_prepares_and_forgets_in_rounds_and_tries_again() {
    let mut settings = Settings::default();
    settings.sweeper.audit_retention = Some(Duration::from_secs(24 * 3_600));
    let stage = Stage::new(settings, &[]).await;
    let forgotten = || stage.database.with(|stored| stored.forgotten.clone());
    eventually("the first round", || forgotten().len() == 1).await;
    assert_eq!(forgotten()[0], "2026-11-22T12:00:00Z".parse().unwrap());
    sleep(Duration::from_secs(3_700)).await;
    assert_eq!(forgotten().len(), 2);
    stage.database.away(true);
    sleep(Duration::from_secs(3_600)).await;
    let prepared = || stage.database.with(|stored| stored.prepared);
    let before = prepared();
    sleep(Duration::from_secs(180)).await;
    assert!(prepared() >= before + 2, "{} rounds after {before}", prepared());
    stage.database.away(false);
    eventually("the return", || forgotten().len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_ever_is_not_forgotten() {
    let mut settings = Settings::default();
    settings.sweeper.audit_retention = None;
    let stage = Stage::new(settings, &[]).await;
    sleep(Duration::from_secs(8_000)).await;
    let (prepared, forgotten) =
        stage.database.with(|stored| (stored.prepared, stored.forgotten.len()));
    assert!(prepared >= 2 && forgotten == 0);
}
