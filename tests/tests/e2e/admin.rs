//! What operators see and change.

use std::collections::{BTreeMap, BTreeSet};

use identity::policy::Policy;
use jiff::Timestamp;
use protocol::telemetry::{METRICS, Metric};
use serde_json::{Value, json};
use storage::limits::Limits;
use tests::{Open, Reply, TestGateway, get, patience::eventually, post};

use crate::{chat, settings, whole_chat, with};

const TOKEN: &str = "an-operators-token-of-forty-characters-00";
const PATH: &str = "/v1/chat/completions";
const KINDS: [&str; 6] = ["audit", "catalog", "root", "sweeper", "tenant", "upstream"];

async fn guarded() -> TestGateway {
    TestGateway::with(settings([
        ("NEURONETZ_ADMIN_TOKEN", TOKEN),
        ("NEURONETZ_UPSTREAM_SLOTS", "2"),
    ]))
    .await
}

async fn put(gateway: &TestGateway, path: &str, key: Option<&str>, body: &Value) -> Reply {
    let body = body.to_string().into();
    let mut request = tests::client::request(http::Method::PUT, path, key, body);
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert(http::header::CONTENT_TYPE, json);
    tests::send(gateway.admin, request).await
}

#[tokio::test]
async fn the_actors_are_seen_live() {
    let gateway = guarded().await;
    let limits = Limits { rpm: Some(10), concurrency: Some(5), ..Limits::default() };
    gateway.limit_tenant(limits).await;
    let (key, text) = gateway.limited(Limits { tpm: Some(10_000), ..Limits::default() }).await;
    let hanging = with(chat("[[hang 1]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, PATH, &text, &hanging).await;
    open.until("This").await;
    assert_eq!(get(gateway.admin, "/admin/v1/actors", None).await.status, 401);
    assert_eq!(get(gateway.admin, "/admin/v1/actors", Some("wrong")).await.status, 401);
    let list = get(gateway.admin, "/admin/v1/actors", Some(TOKEN)).await.json();
    let kinds: BTreeSet<_> =
        list.as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(KINDS));
    for one in list.as_array().unwrap() {
        let measured = &one["of_its_kind"];
        assert_eq!((&measured["running"], &measured["restarts"]), (&json!(1), &json!(0)), "{one}");
        assert!(measured["handled"].as_u64() > Some(0), "{one}");
        assert!(measured["handling_mean_us"].as_f64() > Some(0.0), "{one}");
        assert!(measured["waiting"].is_u64(), "{one}");
    }
    for kind in ["root", "sweeper"] {
        let path = format!("/admin/v1/actors/{kind}/{kind}");
        let one = get(gateway.admin, &path, Some(TOKEN)).await.json();
        assert!(one["handled"].as_u64() > Some(0), "{one}");
    }
    for id in ["acme", &gateway.tenant.id.to_string()] {
        let path = format!("/admin/v1/actors/tenant/{id}");
        let tenant = get(gateway.admin, &path, Some(TOKEN)).await.json();
        assert_eq!(tenant["requests"]["limit"], 10);
        assert_eq!(tenant["requests"]["remaining"], 9);
        assert_eq!((&tenant["under_way"], &tenant["concurrency"]), (&json!(1), &json!(5)));
        assert_eq!(tenant["keys"][0]["id"], key.id.to_string());
        assert_eq!(tenant["keys"][0]["tokens"]["limit"], 10_000);
    }
    let upstream = get(gateway.admin, "/admin/v1/actors/upstream/ollama", Some(TOKEN)).await.json();
    assert_eq!((&upstream["taken"], &upstream["slots"]), (&json!(1), &json!(2)));
    assert_eq!(upstream["breaker"], "closed");
    for path in ["upstream/none", "tenant/none", "planet/mars"] {
        let path = format!("/admin/v1/actors/{path}");
        assert_eq!(get(gateway.admin, &path, Some(TOKEN)).await.status, 404, "{path}");
    }
    // Once a second, as events.
    let head = format!(
        "GET /admin/v1/actors/stream?tenant=acme HTTP/1.1\r\nHost: a\r\n\
         Authorization: Bearer {TOKEN}\r\n\r\n"
    );
    let mut watched = Open::send(gateway.admin, head.as_bytes()).await;
    let said = watched.until_times("\n\n", 2).await;
    assert!(said.contains("text/event-stream"), "{said}");
    let at = |said: &str| -> Timestamp {
        let (_, rest) = said.split_once("\"at\":\"").unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    let events: Vec<_> = said.split("data: ").skip(1).take(2).collect();
    let apart = at(events[1]).duration_since(at(events[0])).as_secs_f64();
    // A second, but for what it takes to gather it all.
    assert!((0.5..5.0).contains(&apart), "{apart} s");
    for event in events {
        for part in ["\"under_way\":1", "\"name\":\"acme\"", "\"kinds\":{\"audit\":"] {
            assert!(event.contains(part), "{part}: {event}");
        }
    }
    drop(open);
}

#[tokio::test]
async fn limits_and_budgets_are_changed_by_operators_only() {
    let gateway = guarded().await;
    let path = "/admin/v1/tenants/acme/limits";
    let body = json!({ "rpm": 7, "observed": ["rpm"] });
    assert_eq!(put(&gateway, path, None, &body).await.status, 401);
    let set = put(&gateway, path, Some(TOKEN), &body).await;
    assert_eq!((set.status.as_u16(), &set.json()["rpm"]), (200, &json!(7)));
    assert_eq!(get(gateway.admin, path, Some(TOKEN)).await.json()["observed"], json!(["rpm"]));
    eventually("the limit", || async {
        let reply = post(gateway.address, PATH, Some(&gateway.key), &whole_chat("hi")).await;
        (reply.header("x-ratelimit-limit-requests") == "7").then_some(())
    })
    .await;
    for wrong in [json!({ "rpm": -1 }), json!({ "speed": 1 }), json!({ "observed": ["speed"] })] {
        assert_eq!(put(&gateway, path, Some(TOKEN), &wrong).await.status, 422, "{wrong}");
    }
    let budget = "/admin/v1/tenants/acme/budget";
    let correct = async |action: &str| {
        let path = format!("{budget}/{action}");
        post(gateway.admin, &path, Some(TOKEN), &json!({})).await
    };
    assert_eq!(correct("reset").await.status, 422);
    let body = json!({ "tokens": 500, "period": "day" });
    assert_eq!(put(&gateway, budget, Some(TOKEN), &body).await.json()["tokens"], 500);
    eventually("what was used", || async {
        let used = get(gateway.admin, budget, Some(TOKEN)).await.json()["used"].as_u64()?;
        (used > 0).then_some(())
    })
    .await;
    let reset = correct("reset").await.json();
    assert_eq!((&reset["used"], &reset["remaining"]), (&json!(0), &json!(500)));
    assert_eq!(correct("reconcile").await.json()["forgiven"], reset["forgiven"]);
    assert_eq!(correct("forget").await.status, 404);
    assert_eq!(get(gateway.admin, "/admin/v1/tenants/none/limits", Some(TOKEN)).await.status, 404);
    assert_eq!(get(gateway.admin, "/admin/v1/planets/mars/limits", Some(TOKEN)).await.status, 404);
    let api = get(gateway.admin, "/admin/v1/openapi.json", Some(TOKEN)).await.json();
    for path in ["/admin/v1/actors", "/admin/v1/actors/stream", "/admin/v1/{scope}/{id}/budget"] {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    // On the data listener there is none of this.
    assert_eq!(get(gateway.address, "/admin/v1/actors", Some(&gateway.key)).await.status, 404);
}

#[tokio::test]
async fn without_a_token_nothing_can_be_changed() {
    let gateway = TestGateway::start().await;
    assert_eq!(get(gateway.admin, "/admin/v1/actors", None).await.status, 200);
    let refused = put(&gateway, "/admin/v1/tenants/acme/limits", None, &json!({ "rpm": 1 })).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("admin.token"), "{}", refused.text());
}

#[tokio::test]
async fn top_prints_how_it_is() {
    let gateway = guarded().await;
    post(gateway.address, PATH, Some(&gateway.key), &whole_chat("hi")).await;
    let admin = gateway.admin.to_string();
    let run = async |token: &'static str| {
        let admin = admin.clone();
        tokio::task::spawn_blocking(move || {
            std::process::Command::new(tests::binary("neuronetz"))
                .args(["top", "--json", "--admin", &admin])
                .env_clear()
                .env("HOME", "/nonexistent")
                .env("NEURONETZ_ADMIN_TOKEN", token)
                .output()
                .unwrap()
        })
        .await
        .unwrap()
    };
    let output = run(TOKEN).await;
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["tenants"][0]["name"], &said["upstreams"][0]["name"]),
        (&json!("acme"), &json!("ollama"))
    );
    let refused = run("another-token-of-forty-characters-0000000").await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("admin.token"));
}

/// What promtool would check of the text format (version 0.0.4), and what Prometheus asks of names.
#[tokio::test]
async fn metrics_are_valid_and_bounded() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_METRICS_MODELS_MAX", "1"),
        ("NEURONETZ_METRICS_TENANTS_MAX", "1"),
    ]))
    .await;
    for model in ["llama3.2", "qwen3:8b", "llama3.2"] {
        let body = with(whole_chat("hi"), "model", json!(model));
        let reply = post(gateway.address, "/api/chat", Some(&gateway.key), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let tenant = gateway.another_tenant("another", Limits::default(), Policy::default()).await;
    let other = gateway.key_of(tenant.id).await;
    assert_eq!(post(gateway.address, PATH, Some(&other), &whole_chat("hi")).await.status, 200);
    let text = eventually("all of it", || async {
        let text = get(gateway.admin, "/metrics", None).await.text();
        text.contains("tenant=\"other\"").then_some(text)
    })
    .await;
    gateway.audited(3).await;
    let families = families(&text);
    for name in [
        "gateway_requests_total",
        "gateway_tokens_total",
        "gateway_request_duration_seconds",
        "gateway_first_byte_seconds",
        "gateway_overhead_seconds",
        "gateway_streams_open",
        "gateway_actor_mailbox_depth",
        "gateway_actor_handling_seconds",
        "gateway_actor_restarts_total",
        "gateway_actors_running",
        "gateway_breaker_state",
        "gateway_queue_depth",
        "gateway_upstream_slots_taken",
    ] {
        assert!(families.contains_key(name), "{name} is missing:\n{text}");
    }
    let labelled = |name: &str, label: &str| -> BTreeSet<_> {
        families[name].iter().map(|labels| labels[label].clone()).collect()
    };
    // One of each has a series of its own: the first.
    let own = |name: &str| BTreeSet::from([name.to_owned(), "other".to_owned()]);
    for name in ["gateway_requests_total", "gateway_tokens_total"] {
        assert_eq!(labelled(name, "model"), own("llama3.2:latest"), "{name}");
        assert_eq!(labelled(name, "tenant"), own("acme"), "{name}");
    }
    for name in [
        "gateway_actor_mailbox_depth",
        "gateway_actor_restarts_total",
        "gateway_actors_running",
        "gateway_actor_handling_seconds",
    ] {
        assert_eq!(labelled(name, "actor"), KINDS.map(str::to_owned).into(), "{name}");
    }
    // A breaker that is closed is said to be.
    assert_eq!(gateway.metric("gateway_breaker_state{upstream=\"ollama\"} ").await, 0.0);
    assert!(text.contains("gateway_breaker_state{upstream=\"ollama\"} 0"), "{text}");
}

type Labels = BTreeMap<String, String>;

/// The histograms.
#[derive(Default)]
struct Histograms(BTreeMap<String, Histogram>);

/// What one series says: at each of its bounds, in order, and in all.
#[derive(Debug, Default)]
struct Histogram {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
}

impl Histograms {
    fn of(&mut self, family: &str, labels: &Labels) -> &mut Histogram {
        let others = labels.iter().filter(|(name, _)| *name != "le");
        self.0.entry(format!("{family} {:?}", others.collect::<Vec<_>>())).or_default()
    }

    fn check(&self) {
        assert!(!self.0.is_empty());
        for (series, Histogram { buckets, count }) in &self.0 {
            let (last, all) = buckets.last().unwrap();
            assert!(last.is_infinite() && Some(*all) == *count, "{series}: {buckets:?} {count:?}");
            for pair in buckets.windows(2) {
                assert!(pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1, "{series}: {pair:?}");
            }
        }
    }
}

/// The samples of each family, after checking the text by promtool's rules.
fn families(text: &str) -> BTreeMap<String, Vec<Labels>> {
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut samples: BTreeMap<String, Vec<Labels>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut histograms = Histograms::default();
    assert!(text.ends_with('\n'));
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(said) = line.strip_prefix("# TYPE ") {
            let (name, kind) = said.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram", "summary"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            assert!(!samples.contains_key(name), "the type comes after samples: {line}");
            // promtool: counters end in _total, and only they do; units are base units.
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            for wrong in ["_ms", "_milliseconds", "_minutes", "_kib", "_mb"] {
                assert!(!name.ends_with(wrong), "{line}");
            }
            continue;
        }
        if let Some(said) = line.strip_prefix("# HELP ") {
            let (name, help) = said.split_once(' ').unwrap();
            assert!(helps.insert(name.to_owned(), help.to_owned()).is_none(), "twice: {line}");
            assert!(!samples.contains_key(name), "the help comes after samples: {line}");
            continue;
        }
        assert!(!line.starts_with('#'), "{line}");
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(series.to_owned()), "twice: {series}");
        let (name, labels) = match series.split_once('{') {
            None => (series, Labels::new()),
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap())),
        };
        assert!(is_name(name), "{line}");
        let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let family =
            match suffix.filter(|family| types.get(*family).is_some_and(|t| t == "histogram")) {
                Some(family) => family,
                None => name,
            };
        assert!(types.contains_key(family), "no type: {line}");
        let is_bucket = family != name && name.ends_with("_bucket");
        assert_eq!(is_bucket, labels.contains_key("le"), "{line}");
        if is_bucket {
            let bound = labels["le"].parse().unwrap();
            histograms.of(family, &labels).buckets.push((bound, value.parse().unwrap()));
        } else if family != name && name.ends_with("_count") {
            histograms.of(family, &labels).count = Some(value.parse().unwrap());
        }
        samples.entry(family.to_owned()).or_default().push(labels);
    }
    histograms.check();
    for family in samples.keys() {
        let known = METRICS.iter().find(|metric| metric.name == family);
        let Metric { kind, help, .. } = known.unwrap_or_else(|| panic!("{family} is not listed"));
        assert_eq!(types[family], kind.as_str(), "{family}");
        assert_eq!(helps.get(family).map(String::as_str), Some(*help), "{family}");
    }
    for (family, series) in &samples {
        assert!(series.len() < 500, "{family} has {} series", series.len());
    }
    samples
}

fn labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(name) && !name.contains(':'), "{text}");
        let mut end = None;
        let mut escaped = false;
        for (at, letter) in after.char_indices() {
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let end = end.unwrap();
        assert!(labels.insert(name.to_owned(), after[..end].to_owned()).is_none(), "{text}");
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels
}

fn is_name(name: &str) -> bool {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(begins) && name.chars().all(|c| begins(c) || c.is_ascii_digit())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_who_change_limits_and_budget_at_once_lose_nothing() {
    let gateway = guarded().await;
    let (limits, budget) = ("/admin/v1/tenants/acme/limits", "/admin/v1/tenants/acme/budget");
    for number in 1..=12_u64 {
        let one = json!({ "rpm": number });
        let two = json!({ "tokens": number });
        let (one, two, three) = futures_util::future::join3(
            put(&gateway, limits, Some(TOKEN), &one),
            put(&gateway, budget, Some(TOKEN), &two),
            put(&gateway, limits, Some(TOKEN), &one),
        )
        .await;
        for reply in [one, two, three] {
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        let now = get(gateway.admin, limits, Some(TOKEN)).await.json();
        assert_eq!((&now["rpm"], &now["budget_tokens"]), (&json!(number), &json!(number)), "{now}");
    }
}
