//! The second stage: it is proven who is calling. Now the body may be read.

use std::sync::Arc;

use actors::catalog::Model;
use http::HeaderMap;
use hyper::body::Incoming;
use identity::{authorize, principal::Principal};
use protocol::{
    error::Code,
    name::ModelName,
    ollama::{request::BodyError, show},
    route::Route,
    translate::request::Request,
};

use tokio::time::Instant;

use super::{
    authorized::{Ask, Authorized, Inference, Prompt, generates},
    fitting::{Fitting, Terms, are_foreign},
    images,
    received::prove_again,
    settled::Record,
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::{Seen, arrival::Arrived, refusal::Refusal, router::Endpoint},
    keyring::Proof,
};

/// A request of a principal.
pub struct Authenticated {
    principal: Arc<Principal>,
    proof: Proof,
    cut: Cut,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Incoming,
    seen: Option<Arc<Seen>>,
}

// === impl Authenticated ===

impl Authenticated {
    pub(super) fn new(
        (principal, proof): (Arc<Principal>, Proof),
        cut: Cut,
        endpoint: Endpoint,
        headers: HeaderMap,
        body: Incoming,
        seen: Option<Arc<Seen>>,
    ) -> Self {
        Self { principal, proof, cut, endpoint, headers, body, seen }
    }

    /// Finds out what exactly is asked, and decides whether this principal may.
    ///
    /// A body may take minutes, and the principal is not what it was: it is proven anew when the body is
    /// there, which costs nothing more than a look into the cache unless something has changed. Streams
    /// that are to be cut are known from before, so that a revocation is either seen here or cuts.
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
                let name = ModelName::read(id).map_err(|_| authorize::Denied::NotFound)?;
                gateway.resolve(&self.principal, &name)?;
                return Ok(Authorized::new(self.principal, Ask::OpenAiModel(name), self.cut));
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
                let Self { proof, headers, body, seen, cut, .. } = self;
                let began = Instant::now();
                let arrived = gateway.bodies.read(&headers, body).await;
                record.spent().arrive = began.elapsed();
                let arrived = arrived?;
                if let Some(seen) = &seen {
                    seen.head_follows();
                }
                let principal = prove_again(&proof, &headers, gateway, record).await?;
                let ask = ask(route, arrived, &principal, gateway, record)?;
                return Ok(Authorized::new(principal, ask, cut));
            }
            Route::OpenAiModel | Route::Blocked | Route::Unknown => return Err(Refusal::Blocked),
        };
        Ok(Authorized::new(self.principal, ask, self.cut))
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
    let name = ModelName::read(&request.model).map_err(|_| Refusal::Body(invalid_name()))?;
    let (targets, is_alias) = gateway.resolve(principal, &name)?;
    let Some(model) = targets.first() else {
        return Err(Refusal::Denied(authorize::Denied::NotFound));
    };
    record.model(&model.name);
    let prompt = Prompt::of(&request, gateway.image_tokens_default);
    if route == Route::AnthropicCount {
        return Ok(Ask::Count(prompt.estimate()));
    }
    let levers = principal.policy.levers;
    request.keeps_to(&levers).map_err(Refusal::Body)?;
    if are_foreign(&targets)
        && let Some(reply) = ours(route, &request, model, gateway)
    {
        return Ok(Ask::Answered(reply));
    }
    let tokens_max = request.tokens_max;
    let has_budget =
        principal.tenant_limits.budget.is_some() || principal.key_limits.budget.is_some();
    let is_open = generates(route) && tokens_max.is_none();
    let held_to = (has_budget && is_open).then_some(gateway.completion_tokens_default);
    let terms = Terms { is_alias, held_to, levers: &levers };
    let remote = images::remote(&request, route, gateway)?;
    let Fitting { targets, written } = if remote.is_empty() {
        Fitting::find(&request, &body, targets, terms)?
    } else {
        images::fitting(&request, (route, &remote), targets, terms)?
    };
    let Request { model: asked, stream, reply, replies, .. } = request;
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
        replies,
        held_to,
        levers,
        room,
        targets,
        body,
    })))
}

/// The reply to what a server of OpenAI's dialect has no word for, where the gateway can give it.
fn ours(route: Route, request: &Request<'_>, model: &Model, gateway: &Gateway) -> Option<String> {
    if route == Route::OllamaShow {
        return Some(show::unknown(model.modified_at.unwrap_or_default()));
    }
    Some(request.order()?.done(route, &request.model, gateway.clock.now()))
}

fn invalid_name() -> BodyError {
    BodyError {
        code: Code::InvalidModelName,
        field: Some("model".to_owned()),
        message: Code::InvalidModelName.message().into(),
    }
}
