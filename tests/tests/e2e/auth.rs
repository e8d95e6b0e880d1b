//! Who is calling.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use identity::{api_key::mint, hashing::Hashing, models::ModelRule};
use jiff::{SignedDuration, Timestamp};
use protocol::error::Code;
use protocol::name::ModelName;
use storage::{
    keys::{KeyChange, NewKey},
    limits::Limits,
    revocations::Revocation,
    tenants::TenantChange,
};
use tests::{Open, Setup, TestGateway, client::ask, get, patience::eventually, post};

use crate::{on_both, settings, whole_chat};

on_both! {
    a_right_key_is_let_in_and_counted_once,
    a_revoked_key_is_refused_within_a_second,
    a_suspended_tenant_is_refused_and_resumed,
    an_expired_key_is_refused,
    a_rotated_key_goes_on_for_its_grace,
    a_hash_of_another_cost_is_replaced_on_use,
    what_changes_while_a_body_arrives_counts,
}

/// A random secret behind the same public prefix, with a right checksum.
pub(crate) fn with_prefix_of(key: &str) -> String {
    const ALPHABET: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digit = |c| u8::try_from(ALPHABET.find(c).unwrap()).unwrap();
    let prefix: Vec<u8> = key[3..15].chars().map(digit).collect();
    let mut draws = 0;
    let minted = mint(|buffer| {
        draws += 1;
        getrandom::fill(buffer).unwrap();
        if draws == 1 {
            buffer[..prefix.len()].copy_from_slice(&prefix);
        }
    });
    assert_eq!(minted.prefix, key[..15]);
    minted.key.expose().to_owned()
}

fn random_key() -> String {
    mint(|buffer| getrandom::fill(buffer).unwrap()).key.expose().to_owned()
}

async fn a_right_key_is_let_in_and_counted_once(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    for _ in 0..5 {
        let reply = get(gateway.address, "/api/tags", Some(&gateway.key)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let verified = gateway.metric("gateway_key_verifications_total{result=\"right\"}").await;
    assert!((verified - 1.0).abs() < 0.1, "hashed {verified} times");
}

#[tokio::test]
async fn without_a_key_the_answer_is_401_in_the_dialect_of_the_path() {
    let gateway = TestGateway::start().await;
    let ours = get(gateway.address, "/v1/models", None).await;
    assert_eq!((ours.status.as_u16(), ours.code().as_str()), (401, "missing_api_key"));
    assert_eq!(ours.header("www-authenticate"), "Bearer");
    assert!(ours.header("x-request-id").starts_with("req_"));
    let ollamas = post(gateway.address, "/api/chat", None, &whole_chat("hi")).await;
    assert_eq!(ollamas.status, 401);
    assert!(ollamas.json()["error"].is_string(), "{}", ollamas.text());
}

#[tokio::test]
async fn what_is_no_key_costs_no_hash() {
    let gateway = TestGateway::start().await;
    let mut mistyped = gateway.key.clone();
    let last = mistyped.pop().unwrap();
    mistyped.push(if last == 'a' { 'b' } else { 'a' });
    for key in ["sk-abcdef", "nz_", "", "nz_short_key", &mistyped, &"x".repeat(5_000)] {
        let reply = get(gateway.address, "/v1/models", Some(key)).await;
        assert_eq!(reply.status, 401, "{key}");
        assert!(!reply.text().contains(key) || key.is_empty(), "the key is repeated");
    }
    let basic = http::Request::get("/v1/models").header("authorization", "Basic eDp5");
    let reply = tests::send(gateway.address, basic.body(Default::default()).unwrap()).await;
    assert_eq!(reply.status, 401);
    for result in ["right", "wrong"] {
        let line = format!("gateway_key_verifications_total{{result=\"{result}\"}}");
        assert!(gateway.metric(&line).await < 0.1, "{result}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused_whether_or_not_its_prefix_exists() {
    let gateway = TestGateway::start().await;
    for key in [random_key(), with_prefix_of(&gateway.key)] {
        let reply = get(gateway.address, "/v1/models", Some(&key)).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (401, "invalid_api_key"));
        assert!(!reply.text().contains(&key[20..]));
    }
}

async fn a_revoked_key_is_refused_within_a_second(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let (key, text) = gateway.key(None).await;
    let tags = async || get(gateway.address, "/v1/models", Some(&text)).await;
    assert_eq!(tags().await.status, 200);
    let revocation =
        Revocation { key: key.id, at: Timestamp::now(), reason: String::new(), cut: false };
    gateway.storage.revocations.revoke(revocation).await.unwrap();
    let refused = eventually("the refusal", || async {
        let reply = tags().await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (401, "key_revoked"));
    // Going on with it costs no hash.
    let before = gateway.metric("gateway_key_verifications_total{result=\"right\"}").await;
    assert_eq!(tags().await.status, 401);
    let after = gateway.metric("gateway_key_verifications_total{result=\"right\"}").await;
    assert!((before - after).abs() < 0.1);
    // Somebody with its prefix alone does not learn how it is.
    let reply = get(gateway.address, "/v1/models", Some(&with_prefix_of(&text))).await;
    assert_eq!(reply.code(), "invalid_api_key");
}

async fn a_suspended_tenant_is_refused_and_resumed(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    for (suspended, status) in [(true, 403), (false, 200)] {
        let change = TenantChange { suspended: Some(suspended), ..TenantChange::default() };
        gateway.storage.tenants.change(gateway.tenant.id, change).await.unwrap();
        eventually("the change", || async {
            let reply = get(gateway.address, "/v1/models", Some(&gateway.key)).await;
            (reply.status == status).then_some(())
        })
        .await;
    }
}

async fn an_expired_key_is_refused(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let past = Timestamp::now() - SignedDuration::from_secs(1);
    let (_, text) = gateway.key_until(Some(ModelRule::All), Some(past)).await;
    let reply = get(gateway.address, "/v1/models", Some(&text)).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (401, "key_expired"));
    // One that ends while it is cached ends then.
    let soon = Timestamp::now() + SignedDuration::from_millis(1_500);
    let (_, text) = gateway.key_until(Some(ModelRule::All), Some(soon)).await;
    let tags = async || get(gateway.address, "/v1/models", Some(&text)).await;
    assert_eq!(tags().await.status, 200);
    let refused = eventually("the end of the key", || async {
        let reply = tags().await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!(refused.code(), "key_expired");
    assert!(Timestamp::now() >= soon);
}

async fn a_rotated_key_goes_on_for_its_grace(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let (old, old_text) = gateway.key(None).await;
    let minted = mint(|buffer| getrandom::fill(buffer).unwrap());
    let hash = Hashing { memory_kib: 64, iterations: 1, lanes: 1 }.hash(&minted.key, &[3; 16]);
    let new = NewKey {
        tenant: gateway.tenant.id,
        name: "new".to_owned(),
        prefix: minted.prefix,
        hash: hash.unwrap(),
        models: None,
        limits: Limits::default(),
        log_prompts: false,
        expires_at: None,
        at: Timestamp::now(),
    };
    let end = Timestamp::now() + SignedDuration::from_secs(2);
    gateway.storage.keys.rotate(old.id, new, end, None).await.unwrap();
    for key in [&old_text, minted.key.expose()] {
        assert_eq!(get(gateway.address, "/v1/models", Some(key)).await.status, 200);
    }
    eventually("the end of the grace", || async {
        let reply = get(gateway.address, "/v1/models", Some(&old_text)).await;
        (reply.status == 401).then_some(())
    })
    .await;
    assert!(Timestamp::now() >= end);
    assert_eq!(get(gateway.address, "/v1/models", Some(minted.key.expose())).await.status, 200);
}

async fn a_hash_of_another_cost_is_replaced_on_use(setup: Setup) {
    let env = vec![("NEURONETZ_KEYS_ARGON2_MEMORY_KIB", "128".to_owned())];
    let gateway = TestGateway::with(Setup { env, ..setup }).await;
    let prefix = &gateway.key[..15];
    let stored = async || {
        let credential = gateway.storage.keys.credential(prefix).await.unwrap().unwrap();
        credential.hash.expose().to_owned()
    };
    assert!(stored().await.contains("m=64,"));
    assert_eq!(get(gateway.address, "/v1/models", Some(&gateway.key)).await.status, 200);
    eventually("the new hash", || async { stored().await.contains("m=128,").then_some(()) }).await;
    assert_eq!(get(gateway.address, "/v1/models", Some(&gateway.key)).await.status, 200);
}

/// A chat that has begun and whose caller is proven, with the half of its body that has not come.
async fn half_a_chat(gateway: &TestGateway, key: &str) -> (Open, String) {
    let right = "gateway_key_verifications_total{result=\"right\"}";
    let proven = gateway.metric(right).await;
    let body = whole_chat("hi").to_string();
    let (first, rest) = body.split_at(body.len() / 2);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{first}",
        body.len()
    );
    let open = Open::send(gateway.address, head.as_bytes()).await;
    eventually("the proof", || async { (gateway.metric(right).await > proven).then_some(()) })
        .await;
    (open, rest.to_owned())
}

async fn what_changes_while_a_body_arrives_counts(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let refused = async |(mut open, rest): (Open, String), key: &str, code: &str| {
        // It has been heard of here.
        eventually(code, || async {
            (get(gateway.address, "/v1/models/llama3.2", Some(key)).await.code() == code)
                .then_some(())
        })
        .await;
        open.more(rest.as_bytes()).await;
        let said = open.end().await;
        assert!(said.contains(&format!("\"code\":\"{code}\"")), "{said}");
        said
    };
    for cut in [false, true] {
        let (key, text) = gateway.key(None).await;
        let half = half_a_chat(&gateway, &text).await;
        let revocation =
            Revocation { key: key.id, at: Timestamp::now(), reason: String::new(), cut };
        gateway.storage.revocations.revoke(revocation).await.unwrap();
        let said = refused(half, &text, "key_revoked").await;
        assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    }
    let now = Timestamp::now();
    let none = ModelRule::Only([ModelName::parse("qwen3:8b").unwrap()].into());
    for (change, status, code) in [
        (KeyChange { expires_at: Some(Some(now)), ..KeyChange::default() }, 401, "key_expired"),
        (KeyChange { models: Some(Some(none)), ..KeyChange::default() }, 403, "model_not_allowed"),
    ] {
        let (key, text) = gateway.key(None).await;
        let half = half_a_chat(&gateway, &text).await;
        gateway.storage.keys.change(key.id, change).await.unwrap();
        let said = refused(half, &text, code).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
    }
    let (_, text) = gateway.key(None).await;
    let half = half_a_chat(&gateway, &text).await;
    let change = TenantChange { suspended: Some(true), ..TenantChange::default() };
    gateway.storage.tenants.change(gateway.tenant.id, change).await.unwrap();
    let said = refused(half, &text, "tenant_suspended").await;
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    assert!(gateway.ollama.requests().iter().all(|seen| seen.path != "/api/chat"));
}

#[tokio::test]
async fn a_flood_of_wrong_keys_holds_up_no_right_one() {
    let gateway = TestGateway::start().await;
    // With a slow hash, so that the flood would hold up whoever stands in line behind it.
    let (_, fresh) = gateway.key(None).await;
    let existing = with_prefix_of(&gateway.key);
    let flood = (0..400).map(|number| {
        let key = if number % 2 == 0 { random_key() } else { existing.clone() };
        let address = gateway.address;
        async move { get(address, "/v1/models", Some(&key)).await.status.as_u16() }
    });
    let right = async {
        tokio::task::yield_now().await;
        get(gateway.address, "/v1/models", Some(&fresh)).await
    };
    let (flood, right) = tokio::join!(join_all(flood), right);
    assert_eq!(right.status, 200, "{}", right.text());
    assert!(flood.iter().all(|status| [401, 429, 503].contains(status)), "{flood:?}");
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        get(gateway.address, "/v1/models", Some(&gateway.key)).await.status
    });
    assert_eq!(waited.await.unwrap(), 200);
}

#[tokio::test]
async fn when_the_database_is_away_a_cached_key_goes_on_and_an_unknown_one_is_refused() {
    let setup = settings([("NEURONETZ_DATABASE_ACQUIRE_TIMEOUT", "200ms")]);
    let gateway = TestGateway::with(Setup { postgres: true, ..setup }).await;
    let (_, unknown) = gateway.key(None).await;
    assert_eq!(get(gateway.address, "/v1/models", Some(&gateway.key)).await.status, 200);
    gateway.lose_database().await;
    let reply = get(gateway.address, "/v1/models", Some(&unknown)).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (503, "identity_unavailable".to_owned()));
    assert!(!reply.header("retry-after").is_empty());
    assert_eq!(Code::parse(&reply.code()), Some(Code::IdentityUnavailable));
    // Nobody hears of revocations now, so the cached one lives no longer than a second (and one look at
    // the database, which takes its time to fail).
    let lost = Instant::now();
    eventually("the end of the cached identity", || async {
        let reply = get(gateway.address, "/v1/models", Some(&gateway.key)).await;
        (reply.status == 503).then_some(())
    })
    .await;
    assert!(lost.elapsed() < Duration::from_millis(1_500), "{:?}", lost.elapsed());
    let closed = "gateway_fail_closed_total{reason=\"identity_unavailable\"}";
    assert!(gateway.metric(closed).await > 0.9);
}

#[tokio::test]
async fn of_two_credentials_the_one_that_is_ours_counts_and_two_keys_are_refused() {
    let gateway = TestGateway::start().await;
    let (_, other) = gateway.key(None).await;
    let (ours, other) = (gateway.key.as_str(), other.as_str());
    let bearer = format!("Bearer {ours}");
    let ask = async |path: &str, fields: &[(&str, &str)]| {
        let mut request = http::Request::get(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        tests::send(gateway.address, request.body(Default::default()).unwrap()).await
    };
    for path in ["/v1/models", "/api/tags"] {
        for (authorization, api_key) in [
            (bearer.as_str(), "sk-ant-api03-cached"),
            (&bearer, ""),
            (&bearer, ours),
            ("Bearer sk-of-another-provider", ours),
            ("Bearer ", ours),
            ("", ours),
            ("Basic eDp5", ours),
        ] {
            let fields = [("authorization", authorization), ("x-api-key", api_key)];
            let reply = ask(path, &fields).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        }
        for api_key in [other, &ours[..20], "nz_"] {
            let reply = ask(path, &[("authorization", &bearer), ("x-api-key", api_key)]).await;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
            assert!(reply.text().contains("Two different API keys"), "{}", reply.text());
            assert!(!reply.text().contains(&ours[3..12]) && !reply.text().contains(&other[3..12]));
            if path == "/v1/models" {
                assert_eq!(reply.code(), "ambiguous_credentials");
            }
        }
        // The same field twice may be read in two ways, whatever it says.
        for name in ["authorization", "x-api-key"] {
            let reply = ask(path, &[(name, &bearer), (name, &bearer)]).await;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        }
        let foreign = [("authorization", "Bearer sk-a"), ("x-api-key", "sk-ant-b")];
        assert_eq!(ask(path, &foreign).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_key_may_stand_in_any_case_of_the_scheme_and_nowhere_else() {
    let gateway = TestGateway::start().await;
    let request = http::Request::get("/v1/models")
        .header("authorization", format!("bearer {}", gateway.key))
        .body(Default::default())
        .unwrap();
    assert_eq!(tests::send(gateway.address, request).await.status, 200);
    let path = format!("/v1/models?key={}", gateway.key);
    let query = ask(gateway.address, http::Method::GET, &path, None, bytes::Bytes::new()).await;
    assert_eq!(query.status, 401);
}
