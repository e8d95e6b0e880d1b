//! Images that a request names by their address, fetched where the operator allows it.
//!
//! Whoever sends a request chooses the address, so that nothing is trusted: its name is resolved once and
//! the connection goes to what was looked at, which must be public; no redirect is followed, no proxy asked,
//! nothing of the client's is sent along; the size counts while it comes, and what came must be the image
//! that it says it is.

use std::{io, net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use protocol::{id::TenantId, route::UpstreamKind};
use tokio::{
    net::lookup_host,
    time::{Instant, timeout},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{
    address::is_public,
    connect::{ConnectError, Connector, Origin},
};
use crate::{
    config::Images as Settings,
    http::{
        gather::Gathered,
        room::{Held, NoRoom},
    },
    turns::{Turn, Turns},
};

/// Images that are fetched at once; more wait, within their time.
const FETCHES_MAX: usize = 64;
/// Images that are fetched at once for one tenant, so that its slow hosts leave turns to others.
const FETCHES_PER_TENANT_MAX: usize = 16;
/// Images of one tenant that wait for a turn; more are refused at once.
const WAITING_PER_TENANT_MAX: usize = 256;
/// How long the next part of an image may take, and how long its host may be slower than [`RATE_MIN`].
const GAP_MAX: Duration = Duration::from_secs(3);
/// The slowest host that is waited for, in bytes per second since the image began to come.
const RATE_MIN: f64 = 4_096.0;
/// The longest address.
const URL_LENGTH_MAX: usize = 2_048;

/// Whether bytes begin as an image of a kind does.
type Begins = fn(&[u8]) -> bool;

/// The kinds of image that are taken.
const KINDS: [(&str, Begins); 4] = [
    ("image/png", |bytes| bytes.starts_with(b"\x89PNG\r\n\x1a\n")),
    ("image/jpeg", |bytes| bytes.starts_with(b"\xff\xd8\xff")),
    ("image/webp", |bytes| bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")),
    ("image/gif", |bytes| bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a")),
];

/// Fetches images.
pub struct Images {
    settings: Settings,
    connector: Connector,
    tasks: TaskTracker,
    turns: Turns<TenantId>,
}

/// An image that was fetched.
pub struct Image {
    /// The image as a `data:` URI in base64.
    pub uri: String,
    /// The room that it takes.
    pub(crate) room: Held,
}

/// Why an image was not fetched. What is displayed may be told to the client: whether there is something
/// behind an address of ours never is.
#[derive(Debug, thiserror::Error)]
pub enum ImageFault {
    /// It is no address of an image, or not one that is allowed.
    #[error("The address must be `http://…` or `https://…`, of a host that the operator allows.")]
    Address,
    /// Its host is not public, or cannot be found.
    #[error("The host of the image cannot be reached.")]
    Unreachable,
    /// It was not there.
    #[error("The host of the image does not have it.")]
    Absent,
    /// It took too long, or came too slowly.
    #[error("The image did not arrive in time.")]
    Slow,
    /// The tenant has as many images waiting as may wait.
    #[error("Too many images are being fetched for this tenant.")]
    Crowded,
    /// It is larger than allowed.
    #[error("The image is larger than {0} bytes.")]
    TooLarge(usize),
    /// It is not an image that is taken.
    #[error("What is at that address is no PNG, JPEG, WebP or GIF.")]
    Kind,
    /// All bodies together are at their limit.
    #[error("There is no room for the image.")]
    Room,
}

// === impl Images ===

impl Images {
    /// Connections run as tasks of `tasks`.
    ///
    /// # Errors
    /// Where the TLS library refuses its own versions.
    pub fn new(settings: Settings, tasks: TaskTracker) -> Result<Self, rustls::Error> {
        let connector = Connector::new()?;
        let turns = Turns::new(FETCHES_MAX, FETCHES_PER_TENANT_MAX, WAITING_PER_TENANT_MAX);
        Ok(Self { settings, connector, tasks, turns })
    }

    /// How many images of a request are fetched; none where the operator does not allow it.
    #[must_use]
    pub fn count_max(&self) -> Option<usize> {
        self.settings.fetch.then_some(self.settings.count_max)
    }

    /// Fetches one image for a tenant, in its turn; it takes that room. The wait for the turn counts towards the
    /// time that the image may take.
    ///
    /// # Errors
    /// [`ImageFault`].
    pub(crate) async fn fetch(
        &self,
        url: &str,
        tenant: TenantId,
        room: Held,
    ) -> Result<Image, ImageFault> {
        let (origin, request) = self.request(url)?;
        let fetch = async {
            let turn = self.turns.take(tenant).await.map_err(|_| ImageFault::Crowded)?;
            self.get(&origin, request, turn, room).await
        };
        let fetched = timeout(self.settings.timeout, fetch).await.unwrap_or(Err(ImageFault::Slow));
        if let Err(fault) = &fetched {
            // The address is the client's and may hold a secret of theirs: the host must do.
            tracing::debug!(host = origin.host, ?fault, "an image was not fetched");
        }
        fetched
    }

    fn request(&self, url: &str) -> Result<(Origin, Request<Full<Bytes>>), ImageFault> {
        if url.len() > URL_LENGTH_MAX {
            return Err(ImageFault::Address);
        }
        let uri: http::Uri = url.parse().map_err(|_| ImageFault::Address)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(ImageFault::Address);
        };
        let whole = format!("{scheme}://{authority}");
        let origin =
            Origin::parse(&whole, UpstreamKind::Ollama).map_err(|_| ImageFault::Address)?;
        if !self.allows(&origin.host) {
            return Err(ImageFault::Address);
        }
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let path = path.parse().map_err(|_| ImageFault::Address)?;
        let host = HeaderValue::from_str(&origin.authority).map_err(|_| ImageFault::Address)?;
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = path;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        for (name, value) in [
            (header::ACCEPT, "image/png, image/jpeg, image/webp, image/gif"),
            (header::ACCEPT_ENCODING, "identity"),
            (header::CONNECTION, "close"),
            (header::USER_AGENT, "neuronetz"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Ok((origin, request))
    }

    fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let hosts = &self.settings.allowed_hosts;
        let is_one = |allowed: &String| match allowed.strip_prefix("*.") {
            Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
            None => host == *allowed,
        };
        hosts.is_empty() || hosts.iter().any(is_one)
    }

    async fn get(
        &self,
        origin: &Origin,
        request: Request<Full<Bytes>>,
        turn: Turn<TenantId>,
        room: Held,
    ) -> Result<Image, ImageFault> {
        let name = (origin.host.clone(), origin.port);
        let asked = async { Ok(lookup_host(name).await?.collect()) };
        let (found, _turn) = holding(&self.tasks, turn, asked).await?;
        let addresses = self.usable(found.map_err(|_| ImageFault::Unreachable)?)?;
        let connected = Box::pin(self.connector.connect_to(origin, &addresses)).await;
        let stream = connected.map_err(|_: ConnectError| ImageFault::Unreachable)?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|_| ImageFault::Absent)?;
        // Ends with the request; aborted with the fetch.
        let task = AbortOnDropHandle::new(self.tasks.spawn(connection));
        let response = sender.send_request(request).await.map_err(|_| ImageFault::Absent)?;
        let image = self.read(response, room).await;
        drop(task);
        image
    }

    /// The addresses of a host: all of them are public, or none is used.
    fn usable(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, ImageFault> {
        let is_fine = |address: &SocketAddr| self.settings.allow_private || is_public(address.ip());
        if addresses.is_empty() || !addresses.iter().all(is_fine) {
            return Err(ImageFault::Unreachable);
        }
        Ok(addresses)
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        mut room: Held,
    ) -> Result<Image, ImageFault> {
        // A redirect leads to an address that nobody has looked at.
        if response.status() != http::StatusCode::OK {
            return Err(ImageFault::Absent);
        }
        let headers = response.headers();
        let said = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let said = said.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        let kind = KINDS.iter().find(|(kind, _)| said.eq_ignore_ascii_case(kind));
        let (kind, is_one) = kind.ok_or(ImageFault::Kind)?;
        if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(ImageFault::Kind);
        }
        let bytes_max = self.settings.bytes_max;
        let mut body = response.into_body();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > bytes_max {
            return Err(ImageFault::TooLarge(bytes_max));
        }
        let mut gathered = Gathered::new(announced);
        let began = Instant::now();
        loop {
            let frame = timeout(GAP_MAX, body.frame()).await.map_err(|_| ImageFault::Slow)?;
            let Some(frame) = frame else { break };
            if is_trickle(gathered.len(), began.elapsed()) {
                return Err(ImageFault::Slow);
            }
            let Ok(data) = frame.map_err(|_| ImageFault::Absent)?.into_data() else { continue };
            let length = gathered.len() + data.len();
            if length > bytes_max {
                return Err(ImageFault::TooLarge(bytes_max));
            }
            room.resize(length.div_ceil(3) * 4).map_err(|NoRoom| ImageFault::Room)?;
            gathered.push(data);
        }
        let bytes = gathered.finish();
        if !is_one(&bytes) {
            return Err(ImageFault::Kind);
        }
        let mut uri = format!("data:{kind};base64,");
        STANDARD.encode_string(&bytes, &mut uri);
        Ok(Image { uri, room })
    }
}

/// Looks a name up, holding a turn until the resolver has answered, also where the caller leaves before. The
/// resolver keeps a thread of the blocking pool for as long as it takes: who leaves must not be able to have
/// more of these threads than turns.
async fn holding(
    tasks: &TaskTracker,
    turn: Turn<TenantId>,
    asked: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
) -> Result<(io::Result<Vec<SocketAddr>>, Turn<TenantId>), ImageFault> {
    let asked = tasks.spawn(async move { (asked.await, turn) });
    asked.await.map_err(|_| ImageFault::Unreachable)
}

/// Whether a host is too slow that has sent so many bytes in that time.
fn is_trickle(bytes: usize, took: Duration) -> bool {
    took > GAP_MAX && (bytes as f64) < RATE_MIN * took.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpStream};

    use super::*;
    use crate::http::room::Room;

    fn images(allowed_hosts: &[&str]) -> Images {
        let settings = Settings {
            fetch: true,
            bytes_max: 1_024,
            count_max: 2,
            timeout: Duration::from_secs(5),
            allowed_hosts: allowed_hosts.iter().map(|host| (*host).to_owned()).collect(),
            allow_private: false,
        };
        Images::new(settings, TaskTracker::new()).unwrap()
    }

    fn tenant(number: u128) -> TenantId {
        TenantId(uuid::Uuid::from_u128(number))
    }

    fn bodies() -> Held {
        Room::new(1 << 20, 1 << 20).hold(tenant(0))
    }

    #[tokio::test]
    async fn no_address_of_ours_is_reached_however_it_is_spelled() {
        let images = images(&[]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in [
            "127.0.0.1",
            "localhost",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "0",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "169.254.169.254",
            "10.0.0.1",
        ] {
            let url = format!("http://{host}:{port}/a.png");
            let fault = images.fetch(&url, tenant(1), bodies()).await.err().unwrap();
            assert!(matches!(fault, ImageFault::Unreachable), "{url}: {fault:?}");
        }
        // Nobody came.
        let came = timeout(Duration::ZERO, listener.accept()).await;
        assert!(came.is_err());
    }

    /// A host that sends the head of an image and then what `send` sends.
    async fn host<F: Future<Output = ()> + Send>(
        tasks: &TaskTracker,
        send: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a.png", listener.local_addr().unwrap());
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 999\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            send(stream).await;
        });
        url
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_trickles_or_falls_silent_is_left_long_before_the_time_is_over() {
        let mut images = images(&[]);
        (images.settings.allow_private, images.settings.timeout) = (true, Duration::from_secs(900));
        let trickles = |mut stream: TcpStream| async move {
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(GAP_MAX / 2).await;
            }
        };
        let silent = |stream: TcpStream| async move {
            tokio::time::sleep(Duration::from_secs(900)).await;
            drop(stream);
        };
        let tasks = TaskTracker::new();
        for url in [host(&tasks, trickles).await, host(&tasks, silent).await] {
            let began = Instant::now();
            let fault = images.fetch(&url, tenant(1), bodies()).await.err().unwrap();
            assert!(matches!(fault, ImageFault::Slow), "{fault:?}");
            assert!(began.elapsed() < GAP_MAX * 2, "{:?}", began.elapsed());
        }
    }

    #[tokio::test]
    async fn who_leaves_while_a_name_is_looked_up_keeps_its_turn_until_it_is() {
        let (tasks, turns) = (TaskTracker::new(), Turns::new(2, 1, 1));
        let turn = turns.take(tenant(1)).await.ok().unwrap();
        let (answer, asked) = tokio::sync::oneshot::channel();
        let resolver = async move { asked.await.map_err(io::Error::other) };
        let left = timeout(Duration::ZERO, holding(&tasks, turn, resolver)).await;
        assert!(left.is_err());
        let mut next = Box::pin(turns.take(tenant(1)));
        tokio::task::yield_now().await;
        assert!(timeout(Duration::ZERO, &mut next).await.is_err(), "the resolver still works");
        answer.send(Vec::new()).unwrap();
        assert!(next.await.is_ok());
    }

    #[test]
    fn who_is_fast_enough_is_waited_for() {
        assert!(!is_trickle(0, GAP_MAX));
        assert!(is_trickle(0, GAP_MAX + Duration::from_millis(1)));
        assert!(is_trickle(4_096 * 9, Duration::from_secs(10)));
        assert!(!is_trickle(4_096 * 10, Duration::from_secs(10)));
    }

    #[test]
    fn an_address_is_one_of_http_without_a_password() {
        let images = images(&[]);
        for url in [
            "",
            "a.png",
            "/a.png",
            "ftp://a/b.png",
            "file:///etc/passwd",
            "http://",
            "http:///a",
            "http://u:p@a/b.png",
            "http://a@b/c.png",
            "http://a b/c.png",
            "http://a/\r\nx: y",
            &format!("http://a/{}", "a".repeat(URL_LENGTH_MAX)),
        ] {
            assert!(matches!(images.request(url), Err(ImageFault::Address)), "{url}");
        }
        let (origin, request) =
            images.request("HTTPS://Images.Example:8443/a%20b.png?c=d").unwrap();
        assert_eq!((origin.tls, origin.port), (true, 8443));
        assert_eq!(request.uri(), "/a%20b.png?c=d");
        assert_eq!(request.headers()[header::HOST], "Images.Example:8443");
        let (_, request) = images.request("http://a").unwrap();
        assert_eq!(request.uri(), "/");
    }

    #[test]
    fn hosts_are_allowed_by_name_or_by_what_they_end_with() {
        let images = images(&["images.example", "*.cdn.example"]);
        for host in ["images.example", "IMAGES.example", "images.example.", "a.cdn.example"] {
            assert!(images.allows(host), "{host}");
        }
        for host in ["example", "a.images.example", "cdn.example", "acdn.example", "127.0.0.1"] {
            assert!(!images.allows(host), "{host}");
        }
    }

    #[test]
    fn an_image_is_known_by_how_it_begins() {
        let kind =
            |bytes: &[u8]| KINDS.iter().find(|(_, is_one)| is_one(bytes)).map(|(kind, _)| *kind);
        assert_eq!(kind(b"\x89PNG\r\n\x1a\n\0"), Some("image/png"));
        assert_eq!(kind(b"\xff\xd8\xff\xe0"), Some("image/jpeg"));
        assert_eq!(kind(b"RIFF\0\0\0\0WEBPVP8 "), Some("image/webp"));
        assert_eq!(kind(b"GIF89a"), Some("image/gif"));
        for bytes in [b"".as_slice(), b"<svg>", b"RIFF\0\0\0\0WAVE", b"RIFF", b"<html>"] {
            assert_eq!(kind(bytes), None);
        }
    }
}
