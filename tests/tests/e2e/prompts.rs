//! The prompt log, and how long what was done is kept.

use parking_lot::Mutex;
use std::{process::Command, sync::Arc, time::Duration};

use actors::ports::Clock;
use jiff::Timestamp;
use serde_json::{Value, json};
use storage::{keys::KeyChange, tenants::TenantChange};
use tests::{Setup, TestGateway, log, patience::eventually, post};

use crate::{on_both, whole_chat};

const PATH: &str = "/v1/chat/completions";
const WORDS: &str = "the eagle lands at midnight";

on_both! {
    a_long_prompt_is_cut_and_says_so,
    prompts_are_kept_of_keys_that_ask_for_it_and_go_in_time,
    a_tenants_own_retention_is_kept,
}

/// A clock that a test moves.
struct Moved(Mutex<Timestamp>);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

impl Moved {
    fn by(&self, span: Duration) {
        let mut now = self.0.lock();
        *now = now.checked_add(span).unwrap();
    }
}

/// The sweeper alone, on the database of a gateway, with a clock that a test moves.
async fn sweeper(gateway: &TestGateway, clock: &Arc<Moved>) -> actors::System {
    struct Nobody;

    #[async_trait::async_trait]
    impl actors::ports::Prober for Nobody {
        async fn models(
            &self,
            _upstream: &storage::upstreams::Upstream,
        ) -> Result<Vec<actors::ports::DiscoveredModel>, actors::ports::ProbeError> {
            Ok(Vec::new())
        }
    }

    let mut settings = actors::Settings::default();
    settings.sweeper.interval = Duration::from_millis(20);
    settings.sweeper.interval_prompts = Duration::from_millis(20);
    actors::start(actors::Arguments {
        audit: Arc::clone(&gateway.storage.audit),
        ledger: Arc::clone(&gateway.storage.ledger),
        tenants: Arc::clone(&gateway.storage.tenants),
        prompts: Arc::clone(&gateway.storage.prompts),
        admission: None,
        prober: Arc::new(Nobody),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        settings,
        upstreams: Vec::new(),
        tasks: tokio_util::task::TaskTracker::new(),
    })
    .await
    .unwrap()
}

async fn a_long_prompt_is_cut_and_says_so(setup: Setup) {
    let env = vec![("NEURONETZ_PROMPTS_BODY_BYTES_MAX", "64B".to_owned())];
    let gateway = TestGateway::with(Setup { env, ..setup }).await;
    let (key, text) = gateway.key(None).await;
    let change = KeyChange { log_prompts: Some(true), ..KeyChange::default() };
    gateway.storage.keys.change(key.id, change).await.unwrap();
    let body = whole_chat(&WORDS.repeat(100));
    let kept = eventually("the prompt", || async {
        let reply = post(gateway.address, PATH, Some(&text), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        gateway.storage.prompts.list(key.id, 1).await.unwrap().pop()
    })
    .await;
    let whole = body.to_string();
    assert_eq!(kept.body, whole.as_bytes()[..64]);
    assert_eq!(kept.cut_from, Some(whole.len() as u64));
    let mut command = Command::new(tests::binary("neuronetz"));
    command.args(["prompt", "show", &key.id.to_string()]).env_clear();
    let shown = command.envs(gateway.env().to_vec()).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("the beginning of {} bytes", whole.len())), "{shown}");
}

async fn prompts_are_kept_of_keys_that_ask_for_it_and_go_in_time(setup: Setup) {
    let secret = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let env = vec![
        ("NEURONETZ_PROMPTS_ENCRYPTION_KEY", secret.to_owned()),
        ("NEURONETZ_LOG_LEVEL", "trace".to_owned()),
    ];
    let gateway = TestGateway::with(Setup { env, ..setup }).await;
    let (key, text) = gateway.key(None).await;
    let change = KeyChange { log_prompts: Some(true), ..KeyChange::default() };
    gateway.storage.keys.change(key.id, change).await.unwrap();
    // A key that did not ask for it leaves nothing behind.
    post(gateway.address, PATH, Some(&gateway.key), &whole_chat(WORDS)).await;
    let kept = eventually("the prompt", || async {
        let reply = post(gateway.address, PATH, Some(&text), &whole_chat(WORDS)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let kept = gateway.storage.prompts.list(key.id, 10).await.unwrap();
        (!kept.is_empty()).then_some(kept)
    })
    .await;
    assert!(kept[0].encrypted);
    assert!(!String::from_utf8_lossy(&kept[0].body).contains("eagle"));
    assert!(!log::keep().text().contains("eagle"), "a prompt stands in the log");
    let show = |secret: &str| {
        let mut command = Command::new(tests::binary("neuronetz"));
        command.args(["prompt", "show", &key.id.to_string(), "--json"]).env_clear();
        let output = command
            .envs(gateway.env().to_vec())
            .env("NEURONETZ_PROMPTS_ENCRYPTION_KEY", secret)
            .output()
            .unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert!(show(secret)[0]["body"].as_str().unwrap().contains(WORDS));
    assert_eq!(show(&secret.replace('0', "1"))[0]["body"], json!(null));
    // They go when their time is over, and not before.
    let clock = Arc::new(Moved(Mutex::new(Timestamp::now())));
    let system = sweeper(&gateway, &clock).await;
    clock.by(Duration::from_secs(23 * 3_600));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!gateway.storage.prompts.list(key.id, 10).await.unwrap().is_empty());
    clock.by(Duration::from_secs(2 * 3_600));
    eventually("the end of the prompts", || async {
        gateway.storage.prompts.list(key.id, 10).await.unwrap().is_empty().then_some(())
    })
    .await;
    let _ = system.stop(Duration::from_secs(5)).await;
}

async fn a_tenants_own_retention_is_kept(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    for _ in 0..3 {
        post(gateway.address, PATH, Some(&gateway.key), &whole_chat("hi")).await;
    }
    gateway.audited(3).await;
    let retention = Some(Some(Duration::from_secs(7 * 24 * 3_600)));
    let change = TenantChange { audit_retention: retention, ..TenantChange::default() };
    gateway.storage.tenants.change(gateway.tenant.id, change).await.unwrap();
    let clock = Arc::new(Moved(Mutex::new(Timestamp::now())));
    let system = sweeper(&gateway, &clock).await;
    clock.by(Duration::from_secs(6 * 24 * 3_600));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(gateway.audited(3).await.len(), 3);
    clock.by(Duration::from_secs(2 * 24 * 3_600));
    eventually("the end of the events", || async {
        gateway.audited(0).await.is_empty().then_some(())
    })
    .await;
    let _ = system.stop(Duration::from_secs(5)).await;
}
