//! The ways in which a Redis can be addressed: with a user, over TLS, as a cluster, through sentinels.

use std::path::Path;

use identity::policy::Policy;
use storage::{
    limits::Limits,
    scratch::{ScratchRedis, free_port},
};
use tests::{Process, Setup, TestGateway, patience::eventually, post};

use crate::whole_chat;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A gateway on Postgres, and keys of several tenants of which each may ask twice a minute.
async fn stage() -> (TestGateway, Vec<String>) {
    let gateway = TestGateway::with(Setup { postgres: true, ..Setup::default() }).await;
    let twice = Limits { rpm: Some(2), ..Limits::default() };
    let mut keys = vec![gateway.limited(twice).await.1];
    for number in 0..4 {
        let tenant =
            gateway.another_tenant(&format!("tenant-{number}"), twice, Policy::default()).await;
        keys.push(gateway.key_of(tenant.id).await);
    }
    (gateway, keys)
}

/// A gateway that finds its Redis there, and the certificate that it trusts.
async fn found_at(gateway: &TestGateway, url: String, trusted: Option<&Path>) -> Process {
    let mut env = gateway.env().to_vec();
    env.push(("REDIS_URL", url));
    env.extend(trusted.map(|file| ("SSL_CERT_FILE", file.display().to_string())));
    Process::start(env).await
}

/// Each key is let in as often as it may, and then not.
async fn decides(process: &Process, keys: &[String]) {
    for key in keys {
        let body = whole_chat("hi");
        let ask = || post(process.address, "/api/chat", Some(key), &body);
        eventually("the first answer", || async { (ask().await.status == 200).then_some(()) })
            .await;
        assert_eq!(ask().await.status, 200);
        assert_eq!(ask().await.status, 429);
    }
}

/// Nobody is let in: Redis does not let the gateway in.
async fn cannot_say(process: &Process, key: &str) {
    for _ in 0..5 {
        let reply = post(process.address, "/api/chat", Some(key), &whole_chat("hi")).await;
        assert_eq!(reply.status, 503, "{}", reply.text());
    }
    assert!(!process.text().contains("secret-of-redis"), "{}", process.text());
}

#[tokio::test]
async fn a_user_of_redis_needs_no_more_rights_than_the_manual_says() {
    let (gateway, keys) = stage().await;
    let redis = ScratchRedis::start().await;
    let rights = "~nz:* +@hash +@sortedset +evalsha +eval +pexpire +del +time +ping";
    redis.run(&format!("ACL SETUSER gateway on >secret-of-redis {rights}")).await;
    redis.run("ACL SETUSER default off").await;
    let url = |password| format!("redis://gateway:{password}@127.0.0.1:{}", redis.port);
    decides(&found_at(&gateway, url("secret-of-redis"), None).await, &keys).await;
    cannot_say(&found_at(&gateway, url("secret-of-redis-no"), None).await, &keys[0]).await;
}

#[tokio::test]
async fn a_redis_is_reached_over_tls_and_only_where_its_certificate_is_trusted() {
    let (gateway, keys) = stage().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let redis = ScratchRedis::start_with(|port| {
        words(&format!(
            "--port 0 --tls-port {port} --tls-cert-file {cert} --tls-key-file {key} \
             --tls-ca-cert-file {cert} --tls-auth-clients no"
        ))
    })
    .await;
    let url = || format!("rediss://localhost:{}", redis.port);
    let trusted = directory.path().join("cert.pem");
    decides(&found_at(&gateway, url(), Some(&trusted)).await, &keys).await;
    cannot_say(&found_at(&gateway, url(), None).await, &keys[0]).await;
}

#[tokio::test]
async fn in_a_cluster_each_tenant_is_decided_on_by_one_node() {
    let (gateway, keys) = stage().await;
    let directory = tempfile::tempdir().unwrap();
    let node = |name: &str| {
        let file = directory.path().join(name).display().to_string();
        ScratchRedis::start_with(move |port| {
            let bus = free_port();
            words(&format!(
                "--port {port} --cluster-enabled yes --cluster-config-file {file} \
                 --cluster-port {bus} --cluster-announce-ip 127.0.0.1 --cluster-announce-port {port} \
                 --cluster-announce-bus-port {bus}"
            ))
        })
    };
    let nodes = [node("first").await, node("second").await];
    nodes[0].run("CLUSTER ADDSLOTSRANGE 0 8191").await;
    nodes[1].run("CLUSTER ADDSLOTSRANGE 8192 16383").await;
    let told = nodes[1].run("CONFIG GET cluster-announce-bus-port").await;
    let bus = told.lines().rev().find(|line| !line.is_empty()).unwrap().to_owned();
    nodes[0].run(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", nodes[1].port)).await;
    for node in &nodes {
        eventually("the cluster", || async {
            node.run("CLUSTER INFO").await.contains("cluster_state:ok").then_some(())
        })
        .await;
    }
    let url = format!("redis-cluster://127.0.0.1:{}", nodes[0].port);
    decides(&found_at(&gateway, url, None).await, &keys).await;
}

#[tokio::test]
async fn sentinels_say_where_redis_is() {
    let (gateway, keys) = stage().await;
    let redis = ScratchRedis::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sentinel.conf").display().to_string();
    let monitor = format!("sentinel monitor main 127.0.0.1 {} 1\n", redis.port);
    std::fs::write(&file, monitor).unwrap();
    let sentinel =
        ScratchRedis::start_with(|port| words(&format!("{file} --sentinel --port {port}"))).await;
    let url = format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=main", sentinel.port);
    decides(&found_at(&gateway, url, None).await, &keys).await;
}
