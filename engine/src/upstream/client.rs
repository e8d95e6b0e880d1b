//! One call to an upstream, with its time limits.
//!
//! Dropping a call or its reply cuts the connection: the upstream sees its peer gone and stops.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use protocol::{id::RequestId, secret::Secret};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::{
    connect::{ConnectError, Connector, Origin},
    pool::{Loan, Pool, Unsent},
};
use crate::{
    config::{Credentials, Upstream as Settings},
    http::gather::Gathered,
};

/// What is asked of an upstream.
pub struct Call<'a> {
    /// Method.
    pub method: Method,
    /// Path, as the upstream spells it, behind its base.
    pub path: &'static str,
    /// The JSON body; empty for none.
    pub body: Bytes,
    /// The request it is for; it goes along as `x-request-id`.
    pub request: RequestId,
    /// How long the head of the reply may take.
    pub first_byte: Duration,
    /// Where.
    pub origin: &'a Origin,
    /// What proves us to it.
    pub credential: Option<&'a Secret>,
}

/// Why a call failed. Displays our own words and the cause for the log, never an upstream's text.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection; nothing was sent, another upstream may be tried.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No connection in time; nothing was sent.
    #[error("no connection in time")]
    ConnectTimeout,
    /// No first byte in time.
    #[error("no first byte in time")]
    FirstByteTimeout,
    /// The connection broke before the head of a reply.
    #[error("the connection broke: {0}")]
    Broken(#[source] hyper::Error),
}

/// The head of a reply, and its body to be read.
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// The body.
    pub body: ReplyStream,
}

/// The body of a reply. Read to its end, it gives its connection back; dropped before, it cuts it.
pub struct ReplyStream {
    incoming: Incoming,
    loan: Option<Loan>,
}

/// Why a whole reply could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It broke off.
    #[error("the reply broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// It is larger than allowed.
    #[error("the reply is too large")]
    TooLarge,
    /// Its next part did not come in time.
    #[error("the reply stalled")]
    Stalled,
}

/// Calls upstreams.
pub struct Client {
    credentials: Credentials,
    connector: Connector,
    pool: Arc<Pool>,
    connect_timeout: Duration,
    warm: Warm,
}

/// Which models answered lately, so that their next first byte is expected soon.
struct Warm {
    seen: Mutex<HashMap<(String, String), Instant>>,
    lasts: Duration,
}

// === impl Client ===

impl Client {
    /// A client with its own pool; connections run as tasks of `tasks`.
    ///
    /// # Errors
    /// Where the TLS library refuses its own versions.
    pub fn new(settings: &Settings, tasks: TaskTracker) -> Result<Self, rustls::Error> {
        Ok(Self {
            credentials: settings.keys.clone(),
            connector: Connector::new(tasks)?,
            pool: Pool::new(settings.idle_connections_max, settings.idle_timeout),
            connect_timeout: settings.connect_timeout,
            warm: Warm { seen: Mutex::default(), lasts: settings.warm_for },
        })
    }

    /// Sends a call and waits for the head of the reply.
    ///
    /// A kept connection may have been closed by the upstream in the meantime: what was not sent
    /// through it is sent through another one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, call: &Call<'_>) -> Result<Reply, CallError> {
        let deadline = Instant::now() + call.first_byte;
        let mut request = call.request();
        loop {
            let kept = self.pool.take(call.origin);
            let is_fresh = kept.is_none();
            let mut loan = match kept {
                Some(loan) => loan,
                None => Box::pin(self.open(call.origin)).await?,
            };
            match timeout_at(deadline, loan.send(request)).await {
                Err(_) => return Err(CallError::FirstByteTimeout),
                Ok(Ok(response)) => return Ok(Reply::new(response, loan)),
                Ok(Err(Unsent { request: Some(unsent), .. })) if !is_fresh => request = unsent,
                Ok(Err(Unsent { error, .. })) => return Err(CallError::Broken(error)),
            }
        }
    }

    /// What proves us to the upstream of that name, where anything does.
    #[must_use]
    pub fn credential(&self, upstream: &str) -> Option<&Secret> {
        self.credentials.of(upstream)
    }

    /// Closes the idle connections that have grown old.
    pub fn prune(&self) {
        self.pool.prune();
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        self.pool.clear();
    }

    /// Whether this model answered on this upstream lately, so that it is still loaded there.
    #[must_use]
    pub fn is_warm(&self, upstream: &str, model: &str) -> bool {
        let seen = self.warm.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(upstream.to_owned(), model.to_owned()))
            .is_some_and(|at| at.elapsed() < self.warm.lasts)
    }

    /// This model has just answered on this upstream. Only ever said of models in the catalog, so
    /// that what is kept is bounded by it.
    pub fn warmed(&self, upstream: &str, model: &str) {
        let mut seen = self.warm.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((upstream.to_owned(), model.to_owned()), Instant::now());
        let lasts = self.warm.lasts;
        if seen.len() > 1_024 {
            seen.retain(|_, at| at.elapsed() < lasts);
        }
    }

    async fn open(&self, origin: &Origin) -> Result<Loan, CallError> {
        let connection = timeout(self.connect_timeout, self.connector.connect(origin))
            .await
            .map_err(|_| CallError::ConnectTimeout)??;
        Ok(self.pool.lend(connection, origin.clone()))
    }
}

// === impl Call ===

impl Call<'_> {
    /// Built from nothing that a client sent but the body: no `Authorization`, `Cookie` or `Origin` of
    /// theirs can slip through.
    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = if self.origin.base.is_empty() {
            http::Uri::from_static(self.path)
        } else {
            format!("{}{}", self.origin.base, self.path).parse().unwrap_or_default()
        };
        let headers = request.headers_mut();
        let mut put = |name, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        };
        put(header::HOST, self.origin.host_header());
        put(header::HeaderName::from_static("x-request-id"), self.request.to_string());
        if let Some(credential) = self.credential
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", credential.expose()))
        {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("neuronetz"));
        if !self.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request
    }
}

// === impl Reply ===

impl Reply {
    fn new(response: http::Response<Incoming>, loan: Loan) -> Self {
        let (parts, incoming) = response.into_parts();
        let body = ReplyStream { incoming, loan: Some(loan) };
        Self { status: parts.status, body }
    }

    /// Reads the whole body, of at most `bytes_max`, each part within `gap`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(mut self, bytes_max: usize, gap: Duration) -> Result<Bytes, ReadError> {
        let announced =
            usize::try_from(self.body.incoming.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > bytes_max {
            return Err(ReadError::TooLarge);
        }
        let mut gathered = Gathered::new(announced);
        loop {
            let next = std::future::poll_fn(|cx| self.body.poll_data(cx));
            match timeout(gap, next).await.map_err(|_| ReadError::Stalled)? {
                None => return Ok(gathered.finish()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(data)) if gathered.len() + data.len() > bytes_max => {
                    return Err(ReadError::TooLarge);
                }
                Some(Ok(data)) => gathered.push(data),
            }
        }
    }
}

// === impl ReplyStream ===

impl ReplyStream {
    /// The next bytes as they come; `None` at the end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    if let Some(loan) = self.loan.take() {
                        loan.give_back();
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }
}
