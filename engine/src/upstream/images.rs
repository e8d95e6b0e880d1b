//! Images that a request names by their address, fetched where the operator allows it.
//!
//! Whoever sends a request chooses the address, so that nothing is trusted: its name is resolved once and
//! the connection goes to what was looked at, which must be public; no redirect is followed, no proxy asked,
//! nothing of the client's is sent along; the size counts while it comes, and what came must be the image
//! that it says it is.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use protocol::route::UpstreamKind;
use tokio::{
    net::lookup_host,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{
    address::is_public,
    connect::{ConnectError, Connector, Origin},
};
use crate::{
    config::Images as Settings,
    http::{arrival::Limits, gather::Gathered, refusal::ArrivalFault},
};

/// Images that are fetched at once; more wait, within their time.
const FETCHES_MAX: usize = 64;
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
    fetches: Semaphore,
}

/// An image that was fetched.
pub struct Image {
    /// The image as a `data:` URI in base64.
    pub uri: String,
    /// The room that it takes.
    pub room: Option<OwnedSemaphorePermit>,
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
    /// It took too long.
    #[error("The image did not arrive in time.")]
    Slow,
    /// It is larger than allowed.
    #[error("The image is larger than {0} bytes.")]
    TooLarge(usize),
    /// It is not an image that is taken.
    #[error("What is at that address is no PNG, JPEG, WebP or GIF.")]
    Kind,
    /// All bodies together are at their limit.
    #[error(transparent)]
    Room(#[from] ArrivalFault),
}

// === impl Images ===

impl Images {
    /// Connections run as tasks of `tasks`.
    ///
    /// # Errors
    /// Where the TLS library refuses its own versions.
    pub fn new(settings: Settings, tasks: TaskTracker) -> Result<Self, rustls::Error> {
        let connector = Connector::new()?;
        Ok(Self { settings, connector, tasks, fetches: Semaphore::new(FETCHES_MAX) })
    }

    /// How many images of a request are fetched; none where the operator does not allow it.
    #[must_use]
    pub fn count_max(&self) -> Option<usize> {
        self.settings.fetch.then_some(self.settings.count_max)
    }

    /// Fetches one image; the room that it takes is one of `bodies`.
    ///
    /// # Errors
    /// [`ImageFault`].
    pub async fn fetch(&self, url: &str, bodies: &Limits) -> Result<Image, ImageFault> {
        let (origin, request) = self.request(url)?;
        let fetch = async {
            let Ok(_turn) = self.fetches.acquire().await else { return Err(ImageFault::Slow) };
            self.get(&origin, request, bodies).await
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
        bodies: &Limits,
    ) -> Result<Image, ImageFault> {
        let addresses = self.resolve(origin).await?;
        let connected = Box::pin(self.connector.connect_to(origin, &addresses)).await;
        let stream = connected.map_err(|_: ConnectError| ImageFault::Unreachable)?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|_| ImageFault::Absent)?;
        // Ends with the request; aborted with the fetch.
        let task = AbortOnDropHandle::new(self.tasks.spawn(connection));
        let response = sender.send_request(request).await.map_err(|_| ImageFault::Absent)?;
        let image = self.read(response, bodies).await;
        drop(task);
        image
    }

    /// The addresses of a host, looked up once: all of them are public, or none is used.
    async fn resolve(&self, origin: &Origin) -> Result<Vec<SocketAddr>, ImageFault> {
        let found = lookup_host((origin.host.as_str(), origin.port)).await;
        let addresses: Vec<_> = found.map_err(|_| ImageFault::Unreachable)?.collect();
        let is_fine = |address: &SocketAddr| self.settings.allow_private || is_public(address.ip());
        if addresses.is_empty() || !addresses.iter().all(is_fine) {
            return Err(ImageFault::Unreachable);
        }
        Ok(addresses)
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        bodies: &Limits,
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
        let mut room = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ImageFault::Absent)?.into_data() else { continue };
            let length = gathered.len() + data.len();
            if length > bytes_max {
                return Err(ImageFault::TooLarge(bytes_max));
            }
            bodies.make_room(&mut room, length.div_ceil(3) * 4)?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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

    fn bodies() -> Limits {
        Limits::of_room(1 << 20)
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
            let fault = images.fetch(&url, &bodies()).await.err().unwrap();
            assert!(matches!(fault, ImageFault::Unreachable), "{url}: {fault:?}");
        }
        // Nobody came.
        let came = timeout(Duration::ZERO, listener.accept()).await;
        assert!(came.is_err());
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
