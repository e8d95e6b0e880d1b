//! Whether a browser asks for a page that is not ours.
//!
//! A page of a stranger can make an operator's browser ask a listener on loopback: by a name of the stranger's
//! that suddenly means 127.0.0.1 (DNS rebinding), the answer counts as the page's own and may be read by it. The
//! browser tells that name as `Host`. So the name is compared with those that a stranger cannot make point
//! here: addresses, `localhost`, names of one label, and those in `admin.hosts`. No public name server answers
//! for a name of one label, as other containers use it (`neuronetz:9090`).
//!
//! A change must not be asked for by a page of another origin either, whatever it may read of the answer.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Admin, fault::Fault};

/// The longest name that is told back; what DNS allows.
const NAME_LENGTH_MAX: usize = 253;

/// Lets through what no stranger's page can have asked for, and says of every answer that its type is what it
/// says it is.
pub(super) async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let mut response = match check(&request, &admin.hosts) {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    };
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn check(request: &Request, hosts: &[String]) -> Result<(), Fault> {
    let asked = asked(request.uri(), request.headers())?;
    // Browsers always name a host.
    let Some(asked) = asked else { return Ok(()) };
    let name = name(asked);
    if !(is_safe(name) || is_listed(name, hosts)) {
        return Err(Fault::Host(told(name)));
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let Some(origin) = request.headers().get(header::ORIGIN).filter(|_| changes) else {
        return Ok(());
    };
    let page = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
    let is_ours = page
        .is_some_and(|page| page.eq_ignore_ascii_case(asked) || is_listed(self::name(page), hosts));
    if is_ours { Ok(()) } else { Err(Fault::Origin) }
}

/// The host that is asked for, with its port; none where none is named.
fn asked<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, Fault> {
    let mut named = headers.get_all(header::HOST).iter();
    let first = named.next();
    if named.next().is_some() {
        return Err(Fault::Host(String::new()));
    }
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    let read = |host: &'a HeaderValue| host.to_str().map_err(|_| Fault::Host(String::new()));
    first.map(read).transpose()
}

/// A host without its port and without the dot of the root.
fn name(host: &str) -> &str {
    let end = if host.starts_with('[') { host.find(']').map(|at| at + 1) } else { host.find(':') };
    let name = &host[..end.unwrap_or(host.len())];
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether no stranger's name server can make this name point here.
fn is_safe(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_label = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let below = name.rsplit_once('.').map(|(_, last)| last);
    bare.parse::<IpAddr>().is_ok()
        || is_label
        || below.is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

/// Whether it is one of `hosts`, of which `*.name` means all below that one. They are in lower case.
fn is_listed(name: &str, hosts: &[String]) -> bool {
    let name = name.to_ascii_lowercase();
    hosts.iter().any(|host| match host.strip_prefix("*.") {
        Some(above) => name.strip_suffix(above).is_some_and(|below| below.ends_with('.')),
        None => name == *host,
    })
}

/// A name that may be told back; empty where it is none.
fn told(name: &str) -> String {
    let is_name = name.len() <= NAME_LENGTH_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b));
    if is_name { name.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<String> {
        vec!["gateway.example.com".to_owned(), "*.svc.cluster.local".to_owned()]
    }

    fn asked_by(method: Method, host: &str, origin: Option<&str>) -> Result<(), String> {
        let mut request = Request::builder().method(method).uri("/metrics").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        check(&request, &hosts()).map_err(|fault| fault.code().as_str().to_owned())
    }

    #[test]
    fn a_name_that_a_stranger_can_point_here_is_refused() {
        for host in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "10.1.2.3",
            "localhost",
            "LOCALHOST:9090",
            "localhost.",
            "neuronetz:9090",
            "app.localhost:1",
            "gateway.example.com",
            "Gateway.Example.com.:9090",
            "n.monitoring.svc.cluster.local:9090",
        ] {
            assert_eq!(asked_by(Method::GET, host, None), Ok(()), "{host}");
        }
        for host in [
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.example.",
            "xgateway.example.com",
            "a.gateway.example.com",
            "svc.cluster.local",
            "xsvc.cluster.local",
            "",
            ":9090",
            "[::1",
            "a b",
            "127.1",
            "evil.example#localhost",
            "user@localhost",
        ] {
            assert_eq!(
                asked_by(Method::GET, host, None),
                Err("host_not_allowed".to_owned()),
                "{host}"
            );
        }
    }

    #[test]
    fn a_change_is_not_asked_for_by_another_page() {
        let asked = |host, origin| asked_by(Method::PUT, host, origin);
        assert_eq!(asked("127.0.0.1:9090", None), Ok(()));
        for (host, origin) in [
            ("127.0.0.1:9090", "http://127.0.0.1:9090"),
            ("localhost:9090", "http://LOCALHOST:9090"),
            ("neuronetz:9090", "https://gateway.example.com"),
        ] {
            assert_eq!(asked(host, Some(origin)), Ok(()), "{origin}");
        }
        for origin in
            ["http://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:9091"]
        {
            let refused = Err("origin_not_allowed".to_owned());
            assert_eq!(asked("127.0.0.1:9090", Some(origin)), refused, "{origin}");
            assert_eq!(asked_by(Method::GET, "127.0.0.1:9090", Some(origin)), Ok(()));
        }
    }

    #[test]
    fn what_is_told_back_is_a_name() {
        assert_eq!(told("evil.example"), "evil.example");
        for name in ["<script>", "a\"b", &"a".repeat(300)] {
            assert_eq!(told(name), "");
        }
    }
}
