//! Revocations beside thousands of changes.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use storage::{keys::Key, revocations::Revocation, scratch::run_on_sqlite};
use tests::{Open, Setup, TestGateway, get};

use crate::{chat, on_both, with};

/// A revoked key is refused, and its streams are cut, within this time on every replica.
const WITHIN: Duration = Duration::from_secs(1);

on_both! {
    an_import_of_ten_thousand_keys_does_not_delay_a_revocation_after_it,
    a_revocation_in_the_middle_of_imports_is_heard_in_time,
}

/// Runs a statement, as another program would.
async fn run(gateway: &TestGateway, postgres: &str, sqlite: &str) {
    let url = gateway.env().iter().find(|(name, _)| *name == "DATABASE_URL").unwrap();
    if url.1.starts_with("sqlite:") {
        run_on_sqlite(&url.1, sqlite).await.unwrap();
    } else {
        gateway.scratch().run(postgres).await.unwrap();
    }
}

/// Makes so many keys of the tenant, and changes each of them.
async fn import(gateway: &TestGateway, batch: u32, count: u32) {
    let tenant = gateway.tenant.id;
    let postgres = format!(
        "WITH made AS (INSERT INTO gateway.keys (id, tenant_id, name, prefix, hash)
             SELECT gen_random_uuid(), '{tenant}', 'bulk', 'nz_bulk' || {batch} || '_' || i, 'none'
             FROM generate_series(1, {count}) i RETURNING id)
         INSERT INTO gateway.key_limits (key_id) SELECT id FROM made"
    );
    let hex = tenant.to_string().rsplit('_').next().unwrap().replace('-', "");
    let sqlite = format!(
        "BEGIN IMMEDIATE;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         INSERT INTO keys (id, tenant_id, name, prefix, hash, created_at)
         SELECT randomblob(16), X'{hex}', 'bulk', 'nz_bulk' || {batch} || '_' || i, 'none', 0 FROM n;
         INSERT INTO key_limits (key_id) SELECT id FROM keys WHERE prefix LIKE 'nz_bulk{batch}_%';
         COMMIT;"
    );
    run(gateway, &postgres, &sqlite).await;
}

/// A key with a stream under way.
async fn streaming(gateway: &TestGateway) -> (Key, String, Open) {
    let (key, text) = gateway.key(None).await;
    let hanging = with(chat("[[hang 2]]"), "stream", json!(true));
    let mut open = Open::post(gateway.address, "/v1/chat/completions", &text, &hanging).await;
    open.until(" is").await;
    (key, text, open)
}

/// Revokes the key, and waits for both of its effects.
async fn revoked_in_time(gateway: &TestGateway, (key, text, open): (Key, String, Open)) {
    let revocation =
        Revocation { key: key.id, at: Timestamp::now(), reason: "leaked".to_owned(), cut: true };
    gateway.storage.revocations.revoke(revocation).await.unwrap();
    let revoked = Instant::now();
    let told = open.end().await;
    let took = revoked.elapsed();
    assert!(told.contains("\"code\":\"key_revoked\"") && !told.contains("[DONE]"), "{told}");
    assert!(took < WITHIN, "cut after {took:?}");
    let refused = get(gateway.address, "/v1/models", Some(&text)).await;
    assert_eq!(refused.code(), "key_revoked");
    assert!(revoked.elapsed() < WITHIN, "refused after {:?}", revoked.elapsed());
}

async fn an_import_of_ten_thousand_keys_does_not_delay_a_revocation_after_it(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let streaming = streaming(&gateway).await;
    import(&gateway, 1, 10_000).await;
    revoked_in_time(&gateway, streaming).await;
}

async fn a_revocation_in_the_middle_of_imports_is_heard_in_time(setup: Setup) {
    let gateway = TestGateway::with(setup).await;
    let streaming = streaming(&gateway).await;
    let (half, rest) = (0..10, 10..20);
    for batch in half {
        import(&gateway, batch, 500).await;
    }
    let goes_on = async {
        for batch in rest {
            import(&gateway, batch, 500).await;
        }
    };
    tokio::join!(goes_on, revoked_in_time(&gateway, streaming));
}
