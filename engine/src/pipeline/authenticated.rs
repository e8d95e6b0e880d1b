//! The second stage: it is proven who is calling. Now the body may be read.

use std::sync::Arc;

use http::HeaderMap;
use hyper::body::Incoming;
use identity::{authorize, principal::Principal};
use protocol::{
    error::Code, name::ModelName, ollama::request::BodyError, route::Route,
    translate::request::Request,
};

use tokio::time::Instant;

use super::{
    authorized::{Ask, Authorized, Inference, Prompt, Written, generates, spelled},
    images,
    settled::Record,
};
use crate::{
    gateway::Gateway,
    http::{Seen, arrival::Arrived, refusal::Refusal, router::Endpoint},
};

/// A request of a principal.
pub struct Authenticated {
    principal: Arc<Principal>,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Incoming,
    seen: Option<Arc<Seen>>,
}

// === impl Authenticated ===

impl Authenticated {
    pub(super) fn new(
        principal: Arc<Principal>,
        endpoint: Endpoint,
        headers: HeaderMap,
        body: Incoming,
        seen: Option<Arc<Seen>>,
    ) -> Self {
        Self { principal, endpoint, headers, body, seen }
    }

    /// Finds out what exactly is asked, and decides whether this principal may.
    ///
    /// # Errors
    /// A blocked endpoint, a body that does not arrive or cannot be done, a model that may not be
    /// used.
    pub async fn authorize(
        self,
        gateway: &Gateway,
        record: &mut Record,
    ) -> Result<Authorized, Refusal> {
        let route = match &self.endpoint {
            Endpoint::Blocked | Endpoint::Live | Endpoint::Ready => return Err(Refusal::Blocked),
            Endpoint::Model(id) => {
                let name = ModelName::parse(id).map_err(|_| authorize::Denied::NotFound)?;
                gateway.resolve(&self.principal, &name)?;
                return Ok(Authorized::new(self.principal, Ask::OpenAiModel(name)));
            }
            Endpoint::Keyed(route) => *route,
        };
        let ask = match route {
            Route::OllamaTags => Ask::Tags,
            Route::OpenAiModels => Ask::OpenAiModels,
            Route::OllamaPs => Ask::Ps,
            Route::OllamaVersion => Ask::Version,
            Route::OllamaChat
            | Route::OllamaGenerate
            | Route::OllamaEmbed
            | Route::OllamaEmbeddings
            | Route::OllamaShow
            | Route::OpenAiChat
            | Route::OpenAiCompletions
            | Route::OpenAiEmbeddings
            | Route::OpenAiResponses
            | Route::AnthropicMessages
            | Route::AnthropicCount => {
                let principal = Arc::clone(&self.principal);
                let began = Instant::now();
                let arrived = self.read(gateway).await;
                record.spent().arrive = began.elapsed();
                let ask = ask(route, arrived?, &principal, gateway, record)?;
                return Ok(Authorized::new(principal, ask));
            }
            Route::OpenAiModel | Route::Blocked | Route::Unknown => return Err(Refusal::Blocked),
        };
        Ok(Authorized::new(self.principal, ask))
    }

    async fn read(self, gateway: &Gateway) -> Result<Arrived, Refusal> {
        let arrived = gateway.bodies.read(&self.headers, self.body).await?;
        if let Some(seen) = &self.seen {
            seen.head_follows();
        }
        Ok(arrived)
    }
}

/// What the body asks for, with its model found and permitted.
fn ask(
    route: Route,
    arrived: Arrived,
    principal: &Principal,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<Ask, Refusal> {
    let Arrived { bytes: body, room } = arrived;
    let request = Request::read(route, &body).map_err(Refusal::Body)?;
    let name = ModelName::parse(&request.model).map_err(|_| Refusal::Body(invalid_name()))?;
    let (targets, is_alias) = gateway.resolve(principal, &name)?;
    let first = targets.first().and_then(|model| Some((model, model.upstreams.first()?)));
    let Some((model, upstream)) = first else {
        return Err(Refusal::Denied(authorize::Denied::NotFound));
    };
    record.model(&model.name);
    let prompt = Prompt::of(&request, gateway.image_tokens_default);
    if route == Route::AnthropicCount {
        return Ok(Ask::Count(prompt.estimate()));
    }
    let tokens_max = request.tokens_max;
    let has_budget =
        principal.tenant_limits.budget.is_some() || principal.key_limits.budget.is_some();
    let is_open = generates(route) && tokens_max.is_none();
    let held_to = (has_budget && is_open).then_some(gateway.completion_tokens_default);
    let spelled = spelled(model, upstream, is_alias);
    let remote = images::remote(&request, (route, upstream.kind), gateway)?;
    let written = remote
        .is_empty()
        .then(|| Written::new(&request, &body, upstream.kind, spelled, held_to))
        .transpose()?;
    let Request { model: asked, stream, reply, .. } = request;
    Ok(Ask::Inference(Box::new(Inference {
        route,
        is_alias,
        asked: asked.into_owned(),
        reply,
        stream,
        is_logged: principal.log_prompts,
        written,
        remote,
        prompt,
        tokens_max,
        held_to,
        room,
        targets,
        body,
    })))
}

fn invalid_name() -> BodyError {
    BodyError {
        code: Code::InvalidModelName,
        field: Some("model".to_owned()),
        message: Code::InvalidModelName.message().into(),
    }
}
