//! One call to an upstream, with its time limits.
//!
//! Dropping a call or its reply cuts the connection: the upstream sees its peer gone and stops.

use parking_lot::Mutex;
use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::HashMap;
use http::{Method, StatusCode};
use protocol::{id::RequestId, name::ModelName, route::UpstreamKind, secret::Secret};
use storage::upstreams::Upstream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    connect::{ConnectError, Connector, NotAnOrigin, Origin, is_ours},
    connection::{Broken, Connection, Failed},
    pool::{Loan, Pool},
    reply::{Framing, Head, Taken},
    retry_after::RetryAfter,
};
use crate::{
    config::{Credentials, Upstream as Settings},
    http::gather::Gathered,
};

/// Origins that are remembered; far more than there are upstreams.
const ORIGINS_MAX: usize = 1_024;

/// Models of one upstream before those are forgotten that did not answer lately.
const MODELS_MAX: usize = 1_024;

/// How soon the end of a kept connection must come after a request for the request to count as unheard. An
/// upstream that closes an idle connection does so within the time of one round trip; one that fails over the
/// request takes longer, and is not asked again.
const STALE_WITHIN: Duration = Duration::from_secs(1);

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
    pub origin: &'a Arc<Origin>,
    /// What proves us to it.
    pub credential: Option<&'a Secret>,
    /// Whether the connection may have served another call, and may serve the next one.
    pub keep_alive: bool,
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
    #[error(transparent)]
    Broken(Broken),
}

/// The head of a reply, and its body to be read.
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// When a refusal says that it may be asked again.
    pub retry_after: Option<RetryAfter>,
    /// The body.
    pub body: ReplyStream,
}

/// The body of a reply. Read to its end, it gives its connection back; dropped before, it cuts it.
pub struct ReplyStream {
    framing: Framing,
    keeps: bool,
    loan: Option<Loan>,
}

/// Why a whole reply could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It broke off.
    #[error("the reply broke off: {0}")]
    Broken(#[from] Broken),
    /// It is larger than allowed.
    #[error("the reply is too large")]
    TooLarge,
    /// Its next part did not come in time.
    #[error("the reply stalled")]
    Stalled,
    /// All replies that are held, or this tenant's, are at their limit.
    #[error("no room for the reply")]
    NoRoom,
}

/// Calls upstreams.
pub struct Client {
    credentials: Credentials,
    connector: Connector,
    pool: Arc<Pool>,
    connect_timeout: Duration,
    warm: Warm,
    /// The origins of upstreams, by their URLs: each is read once.
    origins: Mutex<HashMap<String, (UpstreamKind, Arc<Origin>)>>,
}

/// Which models answered lately, so that their next first byte is expected soon.
struct Warm {
    /// By upstream and model.
    seen: Mutex<HashMap<String, HashMap<ModelName, Instant>>>,
    lasts: Duration,
}

// === impl Client ===

impl Client {
    /// A client with its own pool.
    ///
    /// # Errors
    /// Where the TLS library refuses its own versions.
    pub fn new(settings: &Settings) -> Result<Self, rustls::Error> {
        Ok(Self {
            credentials: settings.keys.clone(),
            connector: Connector::new()?,
            pool: Pool::new(settings.idle_connections_max, settings.idle_timeout),
            connect_timeout: settings.connect_timeout,
            warm: Warm { seen: Mutex::default(), lasts: settings.warm_for },
            origins: Mutex::default(),
        })
    }

    /// Where an upstream listens.
    ///
    /// # Errors
    /// [`NotAnOrigin`].
    pub fn origin(&self, upstream: &Upstream) -> Result<Arc<Origin>, NotAnOrigin> {
        let mut origins = self.origins.lock();
        if let Some((kind, origin)) = origins.get(&upstream.url)
            && *kind == upstream.kind
        {
            return Ok(Arc::clone(origin));
        }
        let origin = Arc::new(Origin::parse(&upstream.url, upstream.kind)?);
        if origins.len() >= ORIGINS_MAX {
            origins.clear();
        }
        origins.insert(upstream.url.clone(), (upstream.kind, Arc::clone(&origin)));
        Ok(origin)
    }

    /// Sends a call and waits for the head of the reply.
    ///
    /// A kept connection may be closed by the upstream in the very moment in which it is used again. What such
    /// a connection took, and answered with nothing but its end, is sent once more, through a new one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, call: &Call<'_>) -> Result<Reply, CallError> {
        let deadline = Instant::now() + call.first_byte;
        let head = call.head();
        let mut may_be_kept = call.keep_alive;
        loop {
            let kept = if may_be_kept { self.pool.take(call.origin) } else { None };
            let is_fresh = kept.is_none();
            let mut loan = match kept {
                Some(loan) => loan,
                None => Box::pin(self.open(call.origin)).await?,
            };
            let began = Instant::now();
            let exchange = loan.exchange(head.clone(), call.body.clone());
            match timeout_at(deadline, exchange).await {
                Err(_) => return Err(CallError::FirstByteTimeout),
                Ok(Ok(mut head)) => {
                    head.keeps &= call.keep_alive;
                    return Ok(Reply::new(head, loan));
                }
                Ok(Err(Failed { why, is_sent })) => {
                    let is_unheard = !is_sent
                        || (why.is_end()
                            && loan.buffer.is_empty()
                            && began.elapsed() < STALE_WITHIN);
                    loan.end(false);
                    if is_fresh || !is_unheard {
                        return Err(CallError::Broken(why));
                    }
                    may_be_kept &= !is_sent;
                }
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
    pub fn is_warm(&self, upstream: &str, model: &ModelName) -> bool {
        let seen = self.warm.seen.lock();
        let at = seen.get(upstream).and_then(|models| models.get(model));
        at.is_some_and(|at| at.elapsed() < self.warm.lasts)
    }

    /// This model has just answered on this upstream. Only ever said of models in the catalog, so
    /// that what is kept is bounded by it.
    pub fn warmed(&self, upstream: &str, model: &ModelName) {
        let now = Instant::now();
        let mut seen = self.warm.seen.lock();
        if let Some(at) = seen.get_mut(upstream).and_then(|models| models.get_mut(model)) {
            *at = now;
            return;
        }
        let lasts = self.warm.lasts;
        let models = seen.entry(upstream.to_owned()).or_default();
        models.insert(model.clone(), now);
        if models.len() > MODELS_MAX {
            models.retain(|_, at| at.elapsed() < lasts);
        }
    }

    async fn open(&self, origin: &Arc<Origin>) -> Result<Loan, CallError> {
        let stream = timeout(self.connect_timeout, self.connector.connect(origin))
            .await
            .map_err(|_| CallError::ConnectTimeout)??;
        let connection = Connection::new(stream);
        Ok(self.pool.lend(connection, Arc::clone(origin)))
    }
}

// === impl CallError ===

impl CallError {
    /// Whether this process lacks what it needs, and the upstream has no part in it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_ours(),
            Self::Broken(Broken::Io(error)) => is_ours(error),
            Self::Broken(_) | Self::ConnectTimeout | Self::FirstByteTimeout => false,
        }
    }
}

// === impl Call ===

impl Call<'_> {
    /// The head of the request. It is built from nothing that a client sent: no `Authorization`, `Cookie` or
    /// `Origin` of theirs can slip through, and nothing in it can hold a line end (the path is ours, an origin
    /// was read as a URL, a credential as a header's value).
    fn head(&self) -> Bytes {
        let Origin { base, authority, .. } = &**self.origin;
        let mut id = [0; RequestId::LENGTH];
        let mut head = BytesMut::with_capacity(256 + base.len());
        let mut put =
            |parts: &[&str]| parts.iter().for_each(|part| head.put_slice(part.as_bytes()));
        put(&[self.method.as_str(), " ", base, self.path, " HTTP/1.1\r\nhost: "]);
        put(&[authority, "\r\nx-request-id: ", self.request.encode(&mut id)]);
        if let Some(credential) = self.credential {
            put(&["\r\nauthorization: Bearer ", credential.expose()]);
        }
        put(&["\r\naccept: application/json\r\nuser-agent: neuronetz\r\n"]);
        if !self.keep_alive {
            put(&["connection: close\r\n"]);
        }
        if !self.body.is_empty() {
            let mut length = itoa::Buffer::new();
            let length = length.format(self.body.len());
            put(&["content-type: application/json\r\ncontent-length: ", length, "\r\n"]);
        }
        put(&["\r\n"]);
        head.freeze()
    }
}

// === impl Reply ===

impl Reply {
    fn new(head: Head, loan: Loan) -> Self {
        let Head { status, framing, keeps, retry_after } = head;
        Self { status, retry_after, body: ReplyStream { framing, keeps, loan: Some(loan) } }
    }

    /// Reads the whole body, of at most `bytes_max`, each part within `gap`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(mut self, bytes_max: usize, gap: Duration) -> Result<Bytes, ReadError> {
        let (bytes, _) = self
            .read_until(bytes_max, gap, |length| {
                if length > bytes_max { Err(ReadError::TooLarge) } else { Ok(false) }
            })
            .await?;
        Ok(bytes)
    }

    /// Reads on until `is_enough` says so of the bytes that have come; says whether that is all of the body.
    ///
    /// # Errors
    /// [`ReadError`], its own or that of `is_enough`.
    pub(crate) async fn read_until(
        &mut self,
        bytes_max: usize,
        gap: Duration,
        mut is_enough: impl FnMut(usize) -> Result<bool, ReadError>,
    ) -> Result<(Bytes, bool), ReadError> {
        let announced = usize::try_from(self.body.framing.announced()).unwrap_or(usize::MAX);
        if announced > bytes_max {
            return Err(ReadError::TooLarge);
        }
        let mut gathered = Gathered::new(announced);
        loop {
            let next = std::future::poll_fn(|cx| self.body.poll_data(cx));
            match timeout(gap, next).await.map_err(|_| ReadError::Stalled)? {
                None => return Ok((gathered.finish(), true)),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(data)) => {
                    let is_enough = is_enough(gathered.len() + data.len())?;
                    gathered.push(data);
                    if is_enough {
                        return Ok((gathered.finish(), false));
                    }
                }
            }
        }
    }
}

// === impl ReplyStream ===

impl ReplyStream {
    /// All bytes that have come since the last ones; `None` at the end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            let Some(loan) = &mut self.loan else { return Poll::Ready(None) };
            let why = match self.framing.take(&mut loan.buffer) {
                Ok(Taken::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Taken::End) => {
                    self.end(self.keeps);
                    return Poll::Ready(None);
                }
                Ok(Taken::More) => match ready!(loan.poll_fill(cx)) {
                    Ok(1..) => continue,
                    Ok(0) if self.framing.may_close() => {
                        self.end(false);
                        return Poll::Ready(None);
                    }
                    Ok(0) => Broken::Closed,
                    Err(error) => error.into(),
                },
                Err(malformed) => malformed.into(),
            };
            self.end(false);
            return Poll::Ready(Some(Err(why)));
        }
    }

    fn end(&mut self, keeps: bool) {
        if let Some(loan) = self.loan.take() {
            loan.end(keeps);
        }
    }
}
