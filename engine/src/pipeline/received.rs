//! The first stage: a head that has arrived, is within its limits and asks for something there is.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, Method, Request, header, request::Parts};
use hyper::body::{Body, Incoming};
use identity::{presented::presented, principal::Principal};

use tokio::time::Instant;

use super::{authenticated::Authenticated, settled::Record};
use crate::{
    gateway::Gateway,
    http::{
        Seen,
        refusal::{HeadFault, Refusal},
        router::{self, Endpoint},
    },
    keyring::Proof,
    phase::Phase,
};

/// What header fields cost besides their bytes, as in RFC 9113, 6.5.2.
const FIELD_OVERHEAD: usize = 32;
/// Where Anthropic's SDKs put the key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Fields of which another reader may take another one than we do, where there are several.
const ONCE: [HeaderName; 6] = [
    header::AUTHORIZATION,
    X_API_KEY,
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
];

/// A request whose head is acceptable. Nobody is proven yet.
pub struct Received {
    parts: Parts,
    body: Incoming,
    endpoint: Endpoint,
    allowed: &'static str,
    seen: Option<Arc<Seen>>,
    peer: IpAddr,
}

// === impl Received ===

impl Received {
    /// Checks the head.
    ///
    /// # Errors
    /// [`HeadFault`].
    pub(crate) fn new(
        request: Request<Incoming>,
        seen: Option<Arc<Seen>>,
        peer: IpAddr,
        gateway: &Gateway,
    ) -> Result<Self, HeadFault> {
        let (parts, body) = request.into_parts();
        let agrees = seen.as_ref().is_none_or(|seen| seen.agrees());
        if let Some(seen) = &seen {
            if body.is_end_stream() {
                seen.head_follows();
            } else {
                // Until it has been read: whatever refuses the request before leaves it unread.
                seen.leave_body();
            }
        }
        let limits = &gateway.server;
        if parts.uri.path_and_query().is_some_and(|uri| uri.as_str().len() > limits.uri_bytes_max) {
            return Err(HeadFault::UriTooLong);
        }
        if size(&parts.headers) > limits.header_bytes_max {
            return Err(HeadFault::HeadersTooLarge);
        }
        if !agrees || has_one_twice(&parts.headers) {
            return Err(HeadFault::Ambiguous);
        }
        let found = router::find(parts.uri.path()).ok_or(HeadFault::NotFound)?;
        let allowed =
            if found.method == Method::GET { "GET, HEAD, OPTIONS" } else { "POST, OPTIONS" };
        let fits = parts.method == found.method
            || parts.method == Method::OPTIONS
            || (parts.method == Method::HEAD && found.method == Method::GET)
            || found.endpoint == Endpoint::Blocked;
        if !fits {
            return Err(HeadFault::Method(allowed));
        }
        Ok(Self { parts, body, endpoint: found.endpoint, allowed, seen, peer })
    }

    /// What is asked for.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether only the methods are asked for; they are what comes back.
    #[must_use]
    pub fn asks_for_options(&self) -> Option<&'static str> {
        (self.parts.method == Method::OPTIONS).then_some(self.allowed)
    }

    /// Proves who is calling.
    ///
    /// # Errors
    /// No key, a key that proves nobody, or one that cannot be checked.
    pub async fn authenticate(
        self,
        gateway: &Gateway,
        record: &mut Record,
    ) -> Result<Authenticated, Refusal> {
        if gateway.life.phase() > Phase::Serving {
            return Err(Refusal::Stopping);
        }
        let (principal, proof) = prove(&self.parts.headers, self.peer, gateway, record).await?;
        let cut = gateway.cuts.enter(principal.key);
        let Self { parts, body, endpoint, seen, .. } = self;
        Ok(Authenticated::new((principal, proof), cut, endpoint, parts.headers, body, seen))
    }
}

/// Proves by its header fields who is calling.
///
/// # Errors
/// No key, a key that proves nobody, or one that cannot be checked.
async fn prove(
    headers: &HeaderMap,
    peer: IpAddr,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<(Arc<Principal>, Proof), Refusal> {
    let said = |name| headers.get(name).map(http::HeaderValue::as_bytes);
    let presented = presented(said(header::AUTHORIZATION), said(X_API_KEY))?;
    let began = Instant::now();
    let proven = gateway.keyring.authenticate(presented, peer).await;
    record.spent().authenticate += began.elapsed();
    let (principal, proof) = proven?;
    record.prove(Arc::clone(&principal));
    Ok((principal, proof))
}

/// Proves anew who is calling. Where nothing has changed, that is a look into the cache.
///
/// # Errors
/// A key that no longer proves anybody, or one that cannot be checked.
pub(super) async fn prove_again(
    proof: &Proof,
    headers: &HeaderMap,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<Arc<Principal>, Refusal> {
    match gateway.keyring.again(proof)? {
        Some(principal) => {
            record.prove(Arc::clone(&principal));
            Ok(principal)
        }
        None => Ok(prove(headers, proof.peer(), gateway, record).await?.0),
    }
}

/// Whether one of [`ONCE`] is there twice. In most heads no field is, which costs no look-up to see.
fn has_one_twice(headers: &HeaderMap) -> bool {
    let is_twice = |name| headers.get_all(name).iter().nth(1).is_some();
    headers.len() > headers.keys_len() && ONCE.iter().any(is_twice)
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD).sum()
}
