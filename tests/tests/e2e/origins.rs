//! What a browser can be made to ask for by the page of a stranger.

use http::Request;
use http_body_util::Full;
use tests::{TestGateway, get, raw, send};

use crate::settings;

#[tokio::test]
async fn a_type_is_not_to_be_guessed_on_either_listener() {
    let gateway = TestGateway::start().await;
    for (address, path) in [
        (gateway.address, "/healthz"),
        (gateway.address, "/v1/models"),
        (gateway.address, "/none"),
        (gateway.admin, "/healthz"),
        (gateway.admin, "/metrics"),
        (gateway.admin, "/none"),
    ] {
        let reply = get(address, path, None).await;
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
    }
    let reply = raw(gateway.address, b"nonsense\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("nosniff"), "{reply}");
}

#[tokio::test]
async fn the_admin_listener_answers_to_no_name_that_a_stranger_gave_it() {
    let token = "an-operators-token-of-forty-characters-00";
    let gateway = TestGateway::with(settings([
        ("NEURONETZ_ADMIN_TOKEN", token),
        ("NEURONETZ_ADMIN_HOSTS", "gateway.example.com"),
    ]))
    .await;
    let asked = async |method: &str, host: &str, origin: Option<&str>, path: &str| {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"));
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        send(gateway.admin, request.body(Full::from("{\"rpm\":5}")).unwrap()).await
    };
    let bound = gateway.admin.to_string();
    for host in [bound.as_str(), "localhost", "neuronetz:9090", "gateway.example.com", "[::1]:1"] {
        assert_eq!(asked("GET", host, None, "/metrics").await.status, 200, "{host}");
    }
    for path in ["/metrics", "/healthz", "/readyz", "/none"] {
        let reply = asked("GET", "rebound.example:9090", None, path).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["code"].as_str()),
            (421, Some("host_not_allowed"))
        );
        assert!(reply.text().contains("rebound.example"), "{}", reply.text());
    }
    let limits = format!("/admin/v1/tenants/{}/limits", gateway.tenant.id);
    let reply = asked("PUT", &bound, Some("http://evil.example"), &limits).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["code"].as_str()),
        (403, Some("origin_not_allowed"))
    );
    for origin in [None, Some(format!("http://{bound}"))] {
        let reply = asked("PUT", &bound, origin.as_deref(), &limits).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}
