//! A new connection to an upstream: TCP or TLS, `TCP_NODELAY`.

use std::{io, net::SocketAddr, sync::Arc};

use protocol::route::UpstreamKind;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

/// Where an upstream listens, read from its URL once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `https`.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What stands before every path: nothing for Ollama, `/v1` for OpenAI's dialect or as the URL says.
    pub base: String,
    /// What goes into the `Host` header: the upstream's own name.
    pub authority: String,
}

/// A URL that names no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an upstream's URL must be http://host[:port] or https://host[:port], with a path only where it \
         speaks OpenAI's dialect"
)]
pub struct NotAnOrigin;

/// Why there is no connection. The cause stays in the log.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP said no.
    #[error("cannot connect: {0}")]
    Tcp(#[from] io::Error),
    /// TLS said no.
    #[error("no TLS with that host: {0}")]
    Tls(#[source] io::Error),
    /// The name cannot stand in a certificate.
    #[error("the host name cannot be verified")]
    Name,
}

/// ENFILE, EMFILE and ENOBUFS, for which the standard library has no words.
const OWN_CODES: [i32; 3] = [23, 24, if cfg!(target_os = "linux") { 105 } else { 55 }];

/// The bare connection.
pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Opens connections.
pub(super) struct Connector {
    tls: TlsConnector,
}

// === impl Origin ===

impl Origin {
    /// Reads `http://host[:port]` or `https://host[:port]`. Only where OpenAI's dialect is spoken may a path
    /// follow; it is `/v1` where none does.
    ///
    /// # Errors
    /// [`NotAnOrigin`] for anything else.
    pub fn parse(url: &str, kind: UpstreamKind) -> Result<Self, NotAnOrigin> {
        let uri: http::Uri = url.parse().map_err(|_| NotAnOrigin)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(NotAnOrigin),
        };
        let authority = uri.authority().ok_or(NotAnOrigin)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(NotAnOrigin);
        }
        let base = match (kind, uri.path().trim_end_matches('/')) {
            (UpstreamKind::Ollama, "") => "",
            (UpstreamKind::Ollama, _) => return Err(NotAnOrigin),
            (UpstreamKind::OpenAi, "") => "/v1",
            (UpstreamKind::OpenAi, path) => path,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(NotAnOrigin);
        }
        let default = if tls { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default);
        let mut name = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if port != default {
            name = format!("{name}:{port}");
        }
        Ok(Self { tls, host, port, base: base.to_owned(), authority: name })
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// Whether this process lacks what it needs, and the upstream has no part in it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Tcp(error) | Self::Tls(error) => is_ours(error),
            Self::Name => false,
        }
    }
}

/// Whether this process lacks descriptors, local ports or memory (see connect(2) and socket(2)).
pub(super) fn is_ours(error: &io::Error) -> bool {
    let is_own_kind = matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory
    );
    is_own_kind || error.raw_os_error().is_some_and(|code| OWN_CODES.contains(&code))
}

// === impl Connector ===

impl Connector {
    /// Certificates are checked against Mozilla's roots.
    ///
    /// # Errors
    /// Where the TLS library refuses its own versions.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Connects; takes as long as it takes, the caller keeps the time.
    ///
    /// # Errors
    /// [`ConnectError`], before anything was sent.
    pub(super) async fn connect(&self, origin: &Origin) -> Result<Stream, ConnectError> {
        let stream = TcpStream::connect((origin.host.as_str(), origin.port)).await?;
        self.speak(origin, stream).await
    }

    /// The same, by addresses that its name was resolved to before: it is not resolved again.
    ///
    /// # Errors
    /// [`ConnectError`], before anything was sent.
    pub(super) async fn connect_to(
        &self,
        origin: &Origin,
        addresses: &[SocketAddr],
    ) -> Result<Stream, ConnectError> {
        let stream = TcpStream::connect(addresses).await?;
        self.speak(origin, stream).await
    }

    async fn speak(&self, origin: &Origin, stream: TcpStream) -> Result<Stream, ConnectError> {
        // Nagle and delayed acknowledgements together would hold small writes back for 40 ms.
        stream.set_nodelay(true)?;
        if !origin.tls {
            return Ok(Either::Left(stream));
        }
        let name = ServerName::try_from(origin.host.clone()).map_err(|_| ConnectError::Name)?;
        let stream = self.tls.connect(name, stream).await.map_err(ConnectError::Tls)?;
        Ok(Either::Right(Box::new(stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_from_a_url() {
        let origin =
            |tls, host: &str, port, base: &str| Ok((tls, host.to_owned(), port, base.to_owned()));
        let read =
            |url, kind| Origin::parse(url, kind).map(|at| (at.tls, at.host, at.port, at.base));
        let ollama = |url| read(url, UpstreamKind::Ollama);
        assert_eq!(ollama("http://127.0.0.1:11434"), origin(false, "127.0.0.1", 11434, ""));
        assert_eq!(ollama("http://[::1]:11434/"), origin(false, "::1", 11434, ""));
        assert_eq!(ollama("https://models.example"), origin(true, "models.example", 443, ""));
        for url in ["", "ollama", "ftp://a", "http://", "http://a/b", "http://a?b", "http://u:p@a"]
        {
            assert_eq!(ollama(url), Err(NotAnOrigin), "{url}");
        }
        let openai = |url| read(url, UpstreamKind::OpenAi);
        assert_eq!(openai("http://a:8000"), origin(false, "a", 8000, "/v1"));
        assert_eq!(openai("https://a/openai/v1/"), origin(true, "a", 443, "/openai/v1"));
        assert_eq!(openai("https://a/v1?b"), Err(NotAnOrigin));
    }

    #[tokio::test]
    async fn what_this_process_lacks_is_not_the_upstreams_fault() {
        // EAGAIN, ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL, ENOBUFS on Linux.
        for code in [11, 12, 23, 24, 99, 105] {
            let error = ConnectError::Tcp(io::Error::from_raw_os_error(code));
            assert!(error.is_ours(), "{error}");
        }
        let closed = Origin::parse("http://127.0.0.1:1", UpstreamKind::Ollama).unwrap();
        let Err(refused) = Connector::new().unwrap().connect(&closed).await else { panic!("open") };
        assert!(!refused.is_ours(), "{refused}");
        assert!(!ConnectError::Name.is_ours());
    }

    #[test]
    fn the_host_header_is_the_upstreams_own() -> Result<(), NotAnOrigin> {
        let host = |url| Origin::parse(url, UpstreamKind::Ollama).map(|at| at.authority);
        assert_eq!(host("http://[::1]:11434")?, "[::1]:11434");
        assert_eq!(host("http://a:80")?, "a");
        assert_eq!(host("https://a:8443")?, "a:8443");
        Ok(())
    }
}
