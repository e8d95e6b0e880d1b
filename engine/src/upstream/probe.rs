//! The question which models an upstream has.

use std::{sync::Arc, time::Duration};

use actors::ports::{DiscoveredModel, ProbeError, Prober};
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use protocol::{name::ModelName, ollama::tags, openai::model, route::UpstreamKind};
use storage::upstreams::Upstream;

use super::{
    client::{Call, CallError, Client, ReadError},
    connect::Origin,
};
use crate::clock::request_id;

/// How long an upstream may take to name its models. It does so from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest list that is read, in bytes: some 20,000 models.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Asks through the same client that carries the requests.
///
/// A model that its upstream only passes on to another server is a cloud model, whatever it is called.
/// Where those are not allowed, it is not there.
pub struct Probe {
    client: Arc<Client>,
    allow_cloud: bool,
}

// === impl Probe ===

impl Probe {
    /// A probe that asks through `client`.
    #[must_use]
    pub fn new(client: Arc<Client>, allow_cloud: bool) -> Self {
        Self { client, allow_cloud }
    }
}

#[async_trait]
impl Prober for Probe {
    async fn models(&self, upstream: &Upstream) -> Result<Vec<DiscoveredModel>, ProbeError> {
        let origin =
            Origin::parse(&upstream.url, upstream.kind).map_err(|_| ProbeError::Unreachable)?;
        let call = Call {
            method: Method::GET,
            path: match upstream.kind {
                UpstreamKind::Ollama => "/api/tags",
                UpstreamKind::OpenAi => "/models",
            },
            credential: self.client.credential(&upstream.name),
            body: Bytes::new(),
            request: request_id(),
            first_byte: ANSWER_TIMEOUT,
            origin: &origin,
        };
        let reply = self.client.call(&call).await.map_err(|error| {
            tracing::debug!(upstream = %upstream.name, %error, "probe failed");
            match error {
                CallError::Connect(_) | CallError::Broken(_) => ProbeError::Unreachable,
                CallError::ConnectTimeout | CallError::FirstByteTimeout => ProbeError::TimedOut,
            }
        })?;
        if !reply.status.is_success() {
            return Err(ProbeError::Status(reply.status.as_u16()));
        }
        let body =
            reply.read(LIST_BYTES_MAX, ANSWER_TIMEOUT).await.map_err(|error| match error {
                ReadError::Stalled => ProbeError::TimedOut,
                ReadError::Broken(_) | ReadError::TooLarge => ProbeError::Unreadable,
            })?;
        if upstream.kind == UpstreamKind::OpenAi {
            let listed = model::parse(&body).map_err(|_| ProbeError::Unreadable)?;
            return Ok(listed.into_iter().filter_map(listed_model).collect());
        }
        let entries = tags::parse(&body).map_err(|_| ProbeError::Unreadable)?;
        let hidden = |entry: &tags::TagEntry| {
            // Cloud names are refused by name, which says more than that there is no such model.
            entry.is_remote && !self.allow_cloud && !entry.name.is_cloud()
        };
        Ok(entries.into_iter().filter(|entry| !hidden(entry)).map(discovered).collect())
    }
}

/// A model of a server that speaks OpenAI's dialect. In Ollama's list it has no size and no digest.
fn listed_model(listed: model::Listed) -> Option<DiscoveredModel> {
    let name = ModelName::parse(&listed.id).ok()?;
    let modified_at = listed.created.and_then(|created| Timestamp::from_second(created).ok());
    let entry = tags::entry_of(&name, modified_at.unwrap_or_default());
    Some(DiscoveredModel { name, reported: listed.id, entry: entry.into(), modified_at })
}

fn discovered(entry: tags::TagEntry) -> DiscoveredModel {
    let modified_at: Option<Timestamp> = entry.modified_at.and_then(|at| at.parse().ok());
    DiscoveredModel {
        name: entry.name,
        reported: entry.reported,
        entry: entry.raw.get().into(),
        modified_at,
    }
}
