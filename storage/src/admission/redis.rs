//! The port on Redis or Valkey: one script decides over a tenant and its keys, whole.
//!
//! Time is Redis's own. What is not heard of for a while (a replica was killed) gives back what it held.
//! An error says nothing of what was done: whoever gets one must not go on as if it were a yes.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use fred::{
    clients::Client,
    interfaces::{ClientLike, LuaInterface},
    types::{
        Builder, RespVersion, Value,
        config::{Config, ReconnectPolicy, UnresponsiveConfig},
        scripts::Script,
    },
};
use identity::limits::{LimitPeriod, Limits};
use jiff::Timestamp;
use protocol::{
    id::{KeyId, TenantId},
    secret::Secret,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    Admission, Admitted, Answer, Counted, Gauge, Gauges, Limit, Member, Operation, Refusal,
    Refused, Scope, Standing, Unavailable, Unknown, Usage, Wait,
};

const SCRIPT: &str = include_str!("exchange.lua");
/// From one attempt to connect to the next, in milliseconds.
const RECONNECT_MS: u32 = 100;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing comes back for so long is taken for dead.
const UNRESPONSIVE: Duration = Duration::from_secs(2);
/// Numbers in Lua are doubles: what is larger is taken for this.
const NUMBER_MAX: u64 = (1 << 53) - 1;
/// What a URL begins with.
const SCHEMES: [&str; 8] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
    "valkey",
    "valkeys",
];
/// The party that is the tenant.
const TENANT: &str = "t";

/// Where Redis is, and how long it may take.
pub struct Settings {
    /// `redis://`, `rediss://`, with `-cluster` or `-sentinel` behind the scheme; may hold a password.
    pub url: Secret,
    /// How long one answer may take.
    pub deadline: Duration,
    /// How long a request counts as under way without being heard of.
    pub lives_for: Duration,
}

/// Windows, slots and budgets in Redis.
pub struct Redis {
    client: Client,
    script: Script,
    deadline: Duration,
    lives_for: Duration,
    /// Milliseconds to be added to the clock of Redis; 0 but in tests.
    ahead_ms: AtomicI64,
}

/// The URL cannot be read. Does not say it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL of Redis must be redis://…, rediss://…, redis-cluster://… or redis-sentinel://…")]
pub struct UrlError;

// === impl Redis ===

impl Redis {
    /// A client that connects, and connects again, in the background.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn open(settings: &Settings) -> Result<Self, UrlError> {
        let url = settings.url.expose();
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        // The client takes any other word for `redis`.
        if !SCHEMES.contains(&scheme) {
            return Err(UrlError);
        }
        let mut config = Config::from_url(url).map_err(|_| UrlError)?;
        config.version = RespVersion::RESP3;
        config.fail_fast = false;
        let client = Builder::from_config(config)
            .with_connection_config(|connection| {
                connection.connection_timeout = CONNECT_TIMEOUT;
                connection.internal_command_timeout = CONNECT_TIMEOUT;
                // What was sent may have been done: it is not done again behind our back.
                connection.max_command_attempts = 1;
                connection.reconnect_on_auth_error = true;
                connection.unresponsive = UnresponsiveConfig {
                    max_timeout: Some(UNRESPONSIVE),
                    interval: UNRESPONSIVE / 4,
                };
            })
            .with_performance_config(|performance| {
                performance.default_command_timeout = settings.deadline;
            })
            .set_policy(ReconnectPolicy::new_constant(0, RECONNECT_MS))
            .build()
            .map_err(|_| UrlError)?;
        drop(client.connect());
        Ok(Self {
            client,
            script: Script::from_lua(SCRIPT),
            deadline: settings.deadline,
            lives_for: settings.lives_for,
            ahead_ms: AtomicI64::new(0),
        })
    }

    /// Moves the clock, for tests.
    #[cfg(any(test, feature = "scratch"))]
    pub fn set_ahead(&self, span: Duration) {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.ahead_ms.store(millis, Ordering::Relaxed);
    }

    /// Closes the connection.
    pub async fn close(&self) {
        let _ = self.client.quit().await;
    }

    async fn run(
        &self,
        tenant: TenantId,
        batch: &[Operation],
    ) -> fred::prelude::FredResult<String> {
        let tag = tenant.0.as_simple();
        let keys: Vec<String> =
            ["alive", "held", "counts"].iter().map(|what| format!("nz:{{{tag}}}:{what}")).collect();
        let batch = Json::Array(batch.iter().map(operation).collect()).to_string();
        let lives_for = i64::try_from(self.lives_for.as_millis()).unwrap_or(i64::MAX);
        let arguments: Vec<Value> =
            vec![batch.into(), lives_for.into(), self.ahead_ms.load(Ordering::Relaxed).into()];
        let hash = self.script.sha1().to_owned();
        match self.client.evalsha(hash, keys.clone(), arguments.clone()).await {
            // Loaded by being run: also on the one node of a cluster that is asked.
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                self.client.eval(SCRIPT, keys, arguments).await
            }
            answered => answered,
        }
    }
}

#[async_trait]
impl Admission for Redis {
    async fn exchange(
        &self,
        tenant: TenantId,
        batch: &[Operation],
    ) -> Result<Vec<Answer>, Unavailable> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let answered = tokio::time::timeout(self.deadline, self.run(tenant, batch)).await;
        let text = answered
            .map_err(|_| Unavailable("Redis does not answer in time".to_owned()))?
            .map_err(|error| Unavailable(format!("Redis: {error}")))?;
        let unreadable = |why: &str| Unavailable(format!("Redis answers with {why}"));
        let answers: Vec<Told> =
            serde_json::from_str(&text).map_err(|_| unreadable("what is no answer"))?;
        if answers.len() != batch.len() {
            return Err(unreadable("too few answers"));
        }
        let answers =
            answers.into_iter().zip(batch).map(|(told, operation)| told.answer(operation));
        answers.collect::<Option<_>>().ok_or_else(|| unreadable("what is no answer"))
    }
}

// === What is asked ===

fn operation(operation: &Operation) -> Json {
    match operation {
        Operation::Admit(admit) => json!({
            "op": "admit",
            "member": member(admit.member),
            "key": key(admit.key),
            "tenant_limits": limits(&admit.tenant_limits),
            "key_limits": limits(&admit.key_limits),
            "tokens": number(admit.need.tokens),
            "tokens_max": number(admit.need.tokens_max),
        }),
        Operation::TopUp { member: whose, more, tenant_limits, key_limits } => json!({
            "op": "top_up",
            "member": member(*whose),
            "more": number(*more),
            "limits": [limits(tenant_limits), limits(key_limits)],
        }),
        Operation::Settle { member: whose, used } => {
            json!({ "op": "settle", "member": member(*whose), "used": number(*used) })
        }
        Operation::Cancel { member: whose } => json!({ "op": "cancel", "member": member(*whose) }),
        Operation::Beat { members } => {
            let members: Vec<_> = members.iter().copied().map(member).collect();
            json!({ "op": "beat", "members": members })
        }
        Operation::Register { member: whose, held } => {
            json!({ "op": "register", "member": member(*whose), "held": held })
        }
        Operation::SetUsage(usage) => set_usage(usage),
        Operation::Look { tenant_limits, keys } => {
            let keys: Vec<_> = keys.iter().map(|(id, of)| json!([key(*id), limits(of)])).collect();
            json!({ "op": "look", "tenant_limits": limits(tenant_limits), "keys": keys })
        }
    }
}

fn set_usage(usage: &Usage) -> Json {
    json!({
        "op": "set_usage",
        "party": usage.key.map_or_else(|| TENANT.to_owned(), key),
        "kind": usage.period.as_str(),
        "start": usage.start.map_or(0, Timestamp::as_millisecond),
        "used": number(usage.used),
        "counted": number(usage.counted),
        "read_at": usage.read_at.map_or(0, Timestamp::as_millisecond),
    })
}

fn limits(limits: &Limits) -> Json {
    let mut told = json!({ "observed": limits.observed });
    for (name, limit) in
        [("rpm", limits.rpm), ("tpm", limits.tpm), ("concurrency", limits.concurrency)]
    {
        if let Some(limit) = limit {
            told[name] = number(limit).into();
        }
    }
    if let Some(budget) = limits.budget {
        told["budget"] = json!({
            "tokens": number(budget.tokens),
            "kind": budget.period.as_str(),
            "read_at": budget.correction.read_at.map_or(0, Timestamp::as_millisecond),
        });
    }
    told
}

fn number(number: u64) -> u64 {
    number.min(NUMBER_MAX)
}

fn key(key: KeyId) -> String {
    key.0.as_simple().to_string()
}

fn member(member: Member) -> String {
    format!("{:x}:{:x}", member.replica, member.number)
}

// === What is answered ===

/// One answer; which fields it has says what kind it is.
#[derive(Debug, Deserialize)]
struct Told {
    held: Option<String>,
    observed: Option<Vec<(String, String)>>,
    /// Scope, limit, milliseconds to wait.
    refused: Option<(String, String, String)>,
    key: Option<ToldGauges>,
    tenant: Option<ToldGauges>,
    unknown: Option<Vec<ToldUnknown>>,
    topped: Option<bool>,
    missing: Option<Vec<String>>,
    looked: Option<Vec<ToldStanding>>,
}

/// What is left and, in milliseconds, when everything is there again.
#[derive(Debug, Default, Deserialize)]
struct ToldGauges {
    rpm: Option<Vec<String>>,
    tpm: Option<Vec<String>>,
    budget: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct ToldUnknown {
    party: String,
    kind: String,
    start: String,
    counted: Option<(String, String, String)>,
}

#[derive(Debug, Deserialize)]
struct ToldStanding {
    gauges: ToldGauges,
    under_way: u64,
}

// === impl Told ===

impl Told {
    fn answer(self, asked: &Operation) -> Option<Answer> {
        Some(match asked {
            Operation::Admit(admit) => {
                if let Some(unknown) = self.unknown {
                    let of = |one: ToldUnknown| one.of(&admit.tenant_limits, &admit.key_limits);
                    return Some(Answer::Unknown(
                        unknown.into_iter().map(of).collect::<Option<_>>()?,
                    ));
                }
                let gauges = (self.key?.of(&admit.key_limits))
                    .tighter(self.tenant?.of(&admit.tenant_limits));
                if let Some((scope, word, wait)) = self.refused {
                    let scope = scope_of(&scope)?;
                    let limits = match scope {
                        Scope::Tenant => &admit.tenant_limits,
                        Scope::Key => &admit.key_limits,
                    };
                    let (what, limit) = limit_of(&word, limits)?;
                    let by = Refusal { what, limit, wait: wait_of(&wait)? };
                    return Some(Answer::Refused(Box::new(Refused { scope, by, gauges })));
                }
                let observed =
                    self.observed.unwrap_or_default().into_iter().map(|(scope, word)| {
                        let scope = scope_of(&scope)?;
                        let limits = match scope {
                            Scope::Tenant => &admit.tenant_limits,
                            Scope::Key => &admit.key_limits,
                        };
                        Some((scope, limit_of(&word, limits)?.0))
                    });
                let observed = observed.collect::<Option<_>>()?;
                Answer::Admitted(Box::new(Admitted { held: self.held?, gauges, observed }))
            }
            Operation::TopUp { .. } => Answer::ToppedUp(self.topped?),
            Operation::Beat { .. } => {
                let missing = self.missing.unwrap_or_default();
                let members =
                    missing.iter().map(|text| member_of(text)).collect::<Option<Vec<_>>>();
                Answer::Missing(members?)
            }
            Operation::Look { tenant_limits, keys } => {
                let all = std::iter::once(tenant_limits).chain(keys.iter().map(|(_, of)| of));
                let looked = self.looked?.into_iter().zip(all).map(|(told, limits)| Standing {
                    gauges: told.gauges.of(limits),
                    under_way: told.under_way,
                });
                Answer::Looked(looked.collect())
            }
            Operation::Settle { .. }
            | Operation::Cancel { .. }
            | Operation::Register { .. }
            | Operation::SetUsage(_) => Answer::Done,
        })
    }
}

impl ToldGauges {
    fn of(self, limits: &Limits) -> Gauges {
        let gauge = |told: Option<Vec<String>>, limit: Option<u64>| {
            let (told, limit) = (told?, limit?);
            let remaining = told.first()?.parse().ok()?;
            let reset = told.get(1).and_then(|text| text.parse().ok()).map(Duration::from_millis);
            Some(Gauge { limit, remaining, reset })
        };
        Gauges {
            requests: gauge(self.rpm, limits.rpm),
            tokens: gauge(self.tpm, limits.tpm),
            budget: gauge(self.budget, limits.budget.map(|budget| budget.tokens)),
        }
    }
}

impl ToldUnknown {
    fn of(self, tenant_limits: &Limits, key_limits: &Limits) -> Option<Unknown> {
        let (key, limits) = match self.party.as_str() {
            TENANT => (None, tenant_limits),
            party => (Some(KeyId(Uuid::parse_str(party).ok()?)), key_limits),
        };
        let counted = match self.counted {
            None => None,
            Some((kind, start, used)) => {
                let period = LimitPeriod::parse(&kind)?;
                Some(Counted { period, start: start_of(period, &start)?, used: used.parse().ok()? })
            }
        };
        let period = LimitPeriod::parse(&self.kind)?;
        let read_at = limits.budget.and_then(|budget| budget.correction.read_at);
        Some(Unknown { key, period, start: start_of(period, &self.start)?, read_at, counted })
    }
}

/// None for all time.
fn start_of(period: LimitPeriod, millis: &str) -> Option<Option<Timestamp>> {
    if period == LimitPeriod::Total {
        return Some(None);
    }
    Some(Some(Timestamp::from_millisecond(millis.parse().ok()?).ok()?))
}

fn scope_of(word: &str) -> Option<Scope> {
    [Scope::Tenant, Scope::Key].into_iter().find(|scope| scope.as_str() == word)
}

fn limit_of(word: &str, limits: &Limits) -> Option<(Limit, u64)> {
    match word {
        "rpm" => Some((Limit::Requests, limits.rpm?)),
        "tpm" => Some((Limit::Tokens, limits.tpm?)),
        "concurrency" => Some((Limit::Concurrency, limits.concurrency?)),
        "budget" => limits.budget.map(|budget| (Limit::Budget(budget.period), budget.tokens)),
        _ => None,
    }
}

fn wait_of(text: &str) -> Option<Wait> {
    Some(match text.parse::<i64>().ok()? {
        -1 => Wait::Forever,
        -2 => Wait::Unknown,
        millis => Wait::For(Duration::from_millis(millis.try_into().ok()?)),
    })
}

fn member_of(text: &str) -> Option<Member> {
    let (replica, number) = text.split_once(':')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(Member { replica: hex(replica)?, number: hex(number)? })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use identity::limits::Budget;
    use protocol::id::TenantId;

    use super::*;
    use crate::{
        admission::{Admit, Need, contract},
        scratch::ScratchRedis,
    };

    const LIVES_FOR: Duration = Duration::from_secs(20);

    struct OnRedis {
        redis: Redis,
        ahead: Mutex<Duration>,
    }

    impl contract::Stage for OnRedis {
        fn admission(&self) -> &dyn Admission {
            &self.redis
        }

        fn advance(&self, by: Duration) {
            let mut ahead = self.ahead.lock().unwrap();
            *ahead += by;
            self.redis.set_ahead(*ahead);
        }

        fn now(&self) -> Timestamp {
            Timestamp::now().checked_add(*self.ahead.lock().unwrap()).unwrap()
        }
    }

    fn open(url: &str, deadline: Duration) -> Redis {
        let url = Secret::new(url.to_owned());
        Redis::open(&Settings { url, deadline, lives_for: LIVES_FOR }).unwrap()
    }

    fn shared() -> OnRedis {
        #[expect(
            clippy::disallowed_methods,
            reason = "where the test server is can be said only here"
        )]
        let url = std::env::var("TEST_REDIS_URL")
            .expect("TEST_REDIS_URL is not set: run `make test`, or see tests/services");
        // A slow machine is no reason to fail.
        OnRedis { redis: open(&url, Duration::from_secs(10)), ahead: Mutex::default() }
    }

    crate::admission_contract!(shared());

    fn tenant() -> TenantId {
        TenantId(Uuid::now_v7())
    }

    fn member(number: u64) -> Member {
        Member { replica: 7, number }
    }

    fn admit(number: u64, limits: Limits) -> Operation {
        let key = KeyId(Uuid::from_u128(1));
        let need = Need { tokens: 10, tokens_max: 10 };
        let (member, key_limits) = (member(number), Limits::default());
        Operation::Admit(Admit { member, key, tenant_limits: limits, key_limits, need })
    }

    fn let_in(answers: &[Answer]) -> Vec<bool> {
        answers.iter().map(|answer| matches!(answer, Answer::Admitted(_))).collect()
    }

    #[tokio::test]
    async fn who_is_not_heard_of_gives_back_what_it_held() {
        let stage = shared();
        let (tenant, total) = (tenant(), LimitPeriod::Total);
        let limits = Limits {
            concurrency: Some(2),
            budget: Some(Budget::new(20, total)),
            ..Limits::default()
        };
        let run = async |batch: &[Operation]| stage.redis.exchange(tenant, batch).await.unwrap();
        let usage =
            Usage { key: None, period: total, start: None, used: 0, counted: 0, read_at: None };
        run(&[Operation::SetUsage(usage)]).await;
        assert_eq!(let_in(&run(&[admit(1, limits), admit(2, limits)]).await), [true, true]);
        for _ in 0..5 {
            contract::Stage::advance(&stage, LIVES_FOR / 2);
            // One of the two has died.
            let beaten = run(&[Operation::Beat { members: vec![member(1)] }]).await;
            assert_eq!(beaten, [Answer::Missing(vec![])]);
        }
        assert_eq!(let_in(&run(&[admit(3, limits), admit(4, limits)]).await), [true, false]);
        // It is not dead after all, and hears that it is taken for it.
        let beaten = run(&[Operation::Beat { members: vec![member(2), member(3)] }]).await;
        assert_eq!(beaten, [Answer::Missing(vec![member(2)])]);
    }

    #[tokio::test]
    async fn what_redis_has_forgotten_is_said_again() {
        let server = ScratchRedis::start().await;
        let redis = open(&server.url, Duration::from_secs(5));
        let tenant = tenant();
        let limits = Limits {
            concurrency: Some(2),
            budget: Some(Budget::new(20, LimitPeriod::Day)),
            ..Limits::default()
        };
        let run = async |batch: &[Operation]| redis.exchange(tenant, batch).await.unwrap();
        let learn = async || match run(&[admit(99, limits)]).await.remove(0) {
            Answer::Unknown(unknown) => {
                let Unknown { key, period, start, read_at, .. } = unknown[0];
                let usage = Usage { key, period, start, used: 0, counted: 0, read_at };
                run(&[Operation::SetUsage(usage)]).await;
            }
            other => panic!("{other:?}"),
        };
        learn().await;
        let Answer::Admitted(admitted) = run(&[admit(1, limits)]).await.remove(0) else {
            panic!("refused")
        };
        // The scripts go as well: they are loaded again.
        server.run("FLUSHALL").await;
        server.run("SCRIPT FLUSH").await;
        let beaten = run(&[Operation::Beat { members: vec![member(1)] }]).await;
        assert_eq!(beaten, [Answer::Missing(vec![member(1)])]);
        let held = admitted.held;
        run(&[Operation::Register { member: member(1), held: held.clone() }]).await;
        run(&[Operation::Register { member: member(1), held }]).await;
        learn().await;
        // What it holds is set aside again: of slots and of the budget.
        assert_eq!(let_in(&run(&[admit(2, limits), admit(3, limits)]).await), [true, false]);
        run(&[Operation::Settle { member: member(1), used: 3 }]).await;
        let looked = run(&[Operation::Look { tenant_limits: limits, keys: vec![] }]).await;
        let [Answer::Looked(standings)] = looked.as_slice() else { panic!("{looked:?}") };
        assert_eq!(standings[0].under_way, 1);
        assert_eq!(standings[0].gauges.budget.unwrap().remaining, 7);
    }

    #[tokio::test]
    async fn a_redis_that_cannot_say_is_no_yes_and_comes_back() {
        let mut server = ScratchRedis::start().await;
        let redis = open(&server.url, Duration::from_millis(250));
        let tenant = tenant();
        let limits = Limits { rpm: Some(1_000), ..Limits::default() };
        let run = async || redis.exchange(tenant, &[admit(1, limits)]).await;
        let comes_back = async || {
            let back = tokio::time::timeout(Duration::from_secs(20), async {
                while run().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            assert!(back.await.is_ok(), "it does not come back");
        };
        comes_back().await;
        for (fault, mended) in [
            ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
            ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
            ("CLIENT PAUSE 1500 ALL", "PING"),
        ] {
            server.run(fault).await;
            for _ in 0..3 {
                assert!(run().await.is_err(), "{fault}");
            }
            server.run(mended).await;
            comes_back().await;
        }
        server.stop();
        for _ in 0..3 {
            assert!(run().await.is_err());
        }
        server.start_again().await;
        comes_back().await;
    }

    #[tokio::test]
    async fn what_is_no_answer_is_none() {
        let operation = admit(1, Limits::default());
        for text in [
            "{}",
            r#"{"held":"x"}"#,
            r#"{"refused":["key","rpm","5"],"key":{},"tenant":{}}"#,
            r#"{"refused":["nobody","rpm","5"],"key":{},"tenant":{}}"#,
            r#"{"unknown":[{"party":"zz","kind":"day","start":"0"}]}"#,
            r#"{"unknown":[{"party":"t","kind":"week","start":"0"}]}"#,
            r#"{"held":"x","key":{},"tenant":{},"observed":[["key","speed"]]}"#,
        ] {
            let told: Told = serde_json::from_str(text).unwrap();
            assert_eq!(told.answer(&operation), None, "{text}");
        }
        let beat = Operation::Beat { members: vec![] };
        for (text, fits) in [(r#"{"missing":["7:ff"]}"#, true), (r#"{"missing":["7"]}"#, false)] {
            let told: Told = serde_json::from_str(text).unwrap();
            assert_eq!(told.answer(&beat).is_some(), fits, "{text}");
        }
        assert_eq!(
            (wait_of("-2"), wait_of("-7"), wait_of("soon")),
            (Some(Wait::Unknown), None, None)
        );
        let url = Secret::new("http://user:password@host".to_owned());
        let settings = Settings { url, deadline: LIVES_FOR, lives_for: LIVES_FOR };
        let Err(error) = Redis::open(&settings) else { panic!("opened") };
        assert!(!error.to_string().contains("password"));
    }
}
