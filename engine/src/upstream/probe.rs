//! The question which models an upstream has.

use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use actors::ports::{DiscoveredModel, ProbeError, Prober};
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use protocol::{name::ModelName, ollama::tags, openai::model, route::UpstreamKind};
use storage::upstreams::Upstream;

use super::client::{Call, CallError, Client, ReadError};
use crate::clock::request_id;

/// How long an upstream may take to name its models. It does so from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest list that is read, in bytes: some 20,000 models.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Asks through the same client that carries the requests.
///
/// A model that Ollama only passes on to another server is a cloud model, whatever it is called, and so is
/// one that has the name of one. Where those are not allowed, it is not there. A server of OpenAI's dialect
/// has no cloud, and may call its models as it likes.
pub struct Probe {
    client: Arc<Client>,
    allow_cloud: bool,
    /// How many models of each upstream were passed over, as was last said.
    passed_over: Mutex<HashMap<String, usize>>,
}

// === impl Probe ===

impl Probe {
    /// A probe that asks through `client`.
    #[must_use]
    pub fn new(client: Arc<Client>, allow_cloud: bool) -> Self {
        Self { client, allow_cloud, passed_over: Mutex::default() }
    }

    /// Says once how many models of an upstream cannot be asked for, and again when they are more or fewer.
    /// Their names are its words, and stay out of the log.
    fn tell_passed_over(&self, upstream: &str, models: usize) {
        let mut known = self.passed_over.lock();
        if known.insert(upstream.to_owned(), models).unwrap_or(0) != models {
            let why = "no name that can be asked for, or one of several that differ in case or tag";
            tracing::info!(upstream, models, why, "models are passed over");
        }
    }
}

#[async_trait]
impl Prober for Probe {
    async fn models(&self, upstream: &Upstream) -> Result<Vec<DiscoveredModel>, ProbeError> {
        let origin = self.client.origin(upstream).map_err(|_| ProbeError::Unreachable)?;
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
            keep_alive: upstream.keep_alive,
        };
        let reply = self.client.call(&call).await.map_err(|error| {
            tracing::debug!(upstream = %upstream.name, %error, "probe failed");
            match error {
                error if error.is_ours() => ProbeError::Ours,
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
                ReadError::Broken(_) => ProbeError::Unreachable,
                ReadError::TooLarge | ReadError::NoRoom => ProbeError::Unreadable,
            })?;
        if upstream.kind == UpstreamKind::OpenAi {
            let listed = model::parse(&body).map_err(|_| ProbeError::Unreadable)?;
            let (models, passed_over) = listed_models(listed);
            self.tell_passed_over(&upstream.name, passed_over);
            return Ok(models);
        }
        let entries = tags::parse(&body).map_err(|_| ProbeError::Unreadable)?;
        let is_cloud = |entry: &tags::TagEntry| entry.is_remote || entry.name.is_cloud();
        let shown = |entry: &tags::TagEntry| self.allow_cloud || !is_cloud(entry);
        Ok(entries.into_iter().filter(shown).map(discovered).collect())
    }
}

/// The models of a server that speaks OpenAI's dialect, and how many were passed over. In Ollama's list they
/// have no size and no digest.
///
/// Of several ids that are one name to the gateway none is taken: who may use one of them would get
/// another.
fn listed_models(listed: Vec<model::Listed>) -> (Vec<DiscoveredModel>, usize) {
    let mut spelled: HashMap<ModelName, String> = HashMap::new();
    let mut clashing: HashSet<ModelName> = HashSet::new();
    let mut models = Vec::with_capacity(listed.len());
    let mut passed_over = 0;
    for model::Listed { id, created } in listed {
        let Ok(name) = ModelName::read(&id) else {
            passed_over += 1;
            continue;
        };
        match spelled.get(&name) {
            // The same one, said again.
            Some(other) if *other == id => continue,
            Some(_) => {
                passed_over += 1 + usize::from(clashing.insert(name));
                continue;
            }
            None => spelled.insert(name.clone(), id.clone()),
        };
        let modified_at = created.and_then(|created| Timestamp::from_second(created).ok());
        let entry = tags::entry_of(&id, modified_at.unwrap_or_default()).into();
        models.push(DiscoveredModel { name, reported: id, entry, modified_at });
    }
    models.retain(|model| !clashing.contains(&model.name));
    (models, passed_over)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_to_the_letter_unless_several_are_one_name() {
        let listed = |id: &str| model::Listed { id: id.to_owned(), created: Some(1) };
        let ids = [
            "gpt-4o",
            "gpt-4o",
            "/models/llama.gguf",
            "ft:gpt-4o:org::id",
            "own:cloud",
            "Twin",
            "twin:latest",
            "a b",
            "@a/X",
            "@a/x",
        ];
        let (models, passed_over) = listed_models(ids.map(listed).into());
        let taken: Vec<_> =
            models.iter().map(|model| (model.name.as_str(), model.reported.as_str())).collect();
        let expected = [
            ("gpt-4o:latest", "gpt-4o"),
            ("/models/llama.gguf", "/models/llama.gguf"),
            ("ft:gpt-4o:org::id", "ft:gpt-4o:org::id"),
            ("own:cloud", "own:cloud"),
            ("@a/X", "@a/X"),
            ("@a/x", "@a/x"),
        ];
        assert_eq!((taken.as_slice(), passed_over), (expected.as_slice(), 3));
        assert!(models[0].entry.contains("\"name\":\"gpt-4o\""));
    }
}
