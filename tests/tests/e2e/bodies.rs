//! Bodies that are large or slow: what they cost is bounded for each tenant, and counts.

use futures_util::future::select_all;
use serde_json::json;
use storage::limits::Limits;
use tests::{Open, TestGateway, get, patience::eventually, post};

use crate::{chat, settings, whole_chat, with};

const PATH: &str = "/v1/chat/completions";

/// The head of a request whose body is to have so many bytes.
fn head(key: &str, length: usize) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_large_body_counts_as_a_request_before_it_is_read() {
    let gateway = TestGateway::start().await;
    let (_, key) = gateway.limited(Limits { rpm: Some(2), ..Limits::default() }).await;
    let nonsense = json!({ "model": 1, "messages": "x".repeat(300 * 1024) });
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(post(gateway.address, PATH, Some(&key), &nonsense).await.status.as_u16());
    }
    assert_eq!(told, [400, 400, 429, 429]);
}

#[tokio::test]
async fn a_large_body_that_is_let_in_counts_once() {
    let gateway = TestGateway::start().await;
    let limits =
        Limits { rpm: Some(5), tpm: Some(1_000_000), concurrency: Some(1), ..Limits::default() };
    let (_, key) = gateway.limited(limits).await;
    let large = whole_chat(&"x".repeat(400 * 1024));
    for left in ["4", "3"] {
        let reply = post(gateway.address, PATH, Some(&key), &large).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("x-ratelimit-remaining-requests")),
            (200, left.to_owned())
        );
    }
    let reply = post(gateway.address, PATH, Some(&key), &whole_chat("hi")).await;
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), "2");
}

#[tokio::test]
async fn a_body_that_is_under_way_takes_a_slot_and_gives_it_back() {
    const TOKEN: &str = "an-operators-token-of-forty-characters-00";
    let gateway = TestGateway::with(settings([("NEURONETZ_ADMIN_TOKEN", TOKEN)])).await;
    let (_, key) = gateway.limited(Limits { concurrency: Some(1), ..Limits::default() }).await;
    for length in [100, 100 * 1024] {
        let mut slow = Open::send(gateway.address, head(&key, length).as_bytes()).await;
        slow.more(b"{").await;
        eventually("the slot to be taken", || async {
            let path = format!("/admin/v1/actors/tenant/{}", gateway.tenant.id);
            let tenant = get(gateway.admin, &path, Some(TOKEN)).await;
            tenant.text().contains("\"under_way\":1").then_some(())
        })
        .await;
        let reply = post(gateway.address, PATH, Some(&key), &whole_chat("hi")).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (429, "concurrency"));
        drop(slow);
        eventually("the slot", || async {
            let reply = post(gateway.address, PATH, Some(&key), &whole_chat("hi")).await;
            (reply.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn one_tenant_takes_its_share_of_the_room_and_no_more() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_SERVER_BODIES_BYTES_PER_TENANT_MAX", "1MiB"),
        ("NEURONETZ_SERVER_BODY_BYTES_MAX", "1MiB"),
    ]))
    .await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut one = Open::send(gateway.address, head(&gateway.key, 512 * 1024).as_bytes()).await;
        // The one for which there is no room may be refused before all of it is sent.
        let _ = one.try_more(&vec![b' '; 300 * 1024]).await;
        slow.push(one);
    }
    // Three of them fit, whichever they are, and the fourth does not.
    let refused = slow.iter_mut().map(|one| Box::pin(one.until("overloaded")));
    let (_, which, rest) = select_all(refused).await;
    drop(rest);
    drop(slow.remove(which));
    let large = with(chat(&"x".repeat(400 * 1024)), "stream", json!(false));
    // What the three have sent may still be on its way to the gateway.
    eventually("the refusal", || async {
        let reply = post(gateway.address, PATH, Some(&gateway.key), &large).await;
        let is_refused = (reply.status.as_u16(), reply.code().as_str()) == (503, "overloaded");
        is_refused.then_some(())
    })
    .await;
    let other = gateway.another_tenant("other", Limits::default(), Default::default()).await;
    let key = gateway.key_of(other.id).await;
    assert_eq!(post(gateway.address, PATH, Some(&key), &large).await.status, 200);
    // A small request of the same tenant needs no share.
    assert_eq!(
        post(gateway.address, PATH, Some(&gateway.key), &whole_chat("hi")).await.status,
        200
    );
}

#[tokio::test]
async fn a_body_that_trickles_is_refused() {
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_SERVER_BODY_GAP_TIMEOUT", "400ms"),
        ("NEURONETZ_SERVER_BODY_RATE_MIN", "64KiB"),
    ]))
    .await;
    let mut slow = Open::send(gateway.address, head(&gateway.key, 64 * 1024).as_bytes()).await;
    let mut sent = 0;
    // Each part comes well within the longest gap.
    while sent < 60 && slow.try_more(b" ").await.is_ok() {
        sent += 1;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let said = slow.end().await;
    assert!(said.contains("request_timeout"), "{said}");
    let took = gateway.audited_one().await.total;
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_large_body_holds_up_nobody_on_its_thread() {
    let gateway = TestGateway::with(settings([("NEURONETZ_SERVER_THREADS", "1")])).await;
    let large = whole_chat(&"\\\"x".repeat(1_000_000)).to_string();
    let mut asked = Vec::new();
    for _ in 0..4 {
        let text = head(&gateway.key, large.len()) + &large;
        asked.push(Open::send(gateway.address, text.as_bytes()).await);
    }
    assert_eq!(get(gateway.address, "/healthz", None).await.status, 200);
    for one in &mut asked {
        one.until("HTTP/1.1 200").await;
    }
}
