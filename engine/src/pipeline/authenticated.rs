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
    translate::request::{Request, mended_body},
};

use tokio::time::Instant;

use super::{
    authorized::{Ask, Authorized, Inference, Prompt, generates},
    fitting::{Fitting, Terms, are_foreign},
    heavy, images,
    received::prove_again,
    settled::Record,
    unpacked::unpacked,
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::{
        Seen,
        arrival::{Arrived, Arriving},
        refusal::Refusal,
        router::Endpoint,
    },
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
        gateway: &Arc<Gateway>,
        record: &mut Record,
    ) -> Result<Authorized, Refusal> {
        let route = match &self.endpoint {
            Endpoint::Blocked | Endpoint::Greeting | Endpoint::Live | Endpoint::Ready => {
                return Err(Refusal::Blocked);
            }
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
                let Self { principal, proof, headers, body, seen, cut, .. } = self;
                let arriving = gateway.bodies.begin(&headers, body, principal.tenant)?;
                let arrived = arrive(arriving, &principal, gateway, record).await?;
                if let Some(seen) = &seen {
                    seen.head_follows();
                }
                let principal = prove_again(&proof, &headers, gateway, record).await?;
                let ask = understand(route, arrived, &principal, gateway, record).await?;
                return Ok(Authorized::new(principal, ask, cut));
            }
            Route::OpenAiModel | Route::Blocked | Route::Unknown => return Err(Refusal::Blocked),
        };
        Ok(Authorized::new(self.principal, ask, self.cut))
    }
}

/// Reads the body. One that is not there at once takes a request and a slot of the limits before the rest of it
/// is waited for, or read: so what large and slow bodies cost is bounded like everything else.
async fn arrive(
    mut arriving: Arriving<'_>,
    principal: &Principal,
    gateway: &Arc<Gateway>,
    record: &mut Record,
) -> Result<Arrived, Refusal> {
    let began = Instant::now();
    let at_once = arriving.is_there_at_once().await;
    record.spent().arrive = began.elapsed();
    if !at_once? {
        record.enter(principal, gateway).await?;
    }
    let began = Instant::now();
    let arrived = arriving.rest().await;
    record.spent().arrive += began.elapsed();
    let arrived = arrived?;
    if arrived.coding.is_none() {
        return Ok(arrived);
    }
    Box::pin(unpacked(arrived, principal, gateway, record)).await
}

/// Finds out what the body asks for; a long one is read where it holds up nobody.
async fn understand(
    route: Route,
    arrived: Arrived,
    principal: &Arc<Principal>,
    gateway: &Arc<Gateway>,
    record: &mut Record,
) -> Result<Ask, Refusal> {
    let (owned, of) = (Arc::clone(gateway), Arc::clone(principal));
    let body = arrived.bytes.clone();
    let work = move || {
        let mut model = None;
        let ask = ask(route, arrived, &of, &owned, &mut model);
        (model, ask)
    };
    let (model, ask) = heavy::work(gateway, (principal.tenant, &body), work).await?;
    if let Some(model) = &model {
        record.model(model);
    }
    ask
}

/// What the body asks for, with its model found and permitted; `found` is that model as soon as it is known.
fn ask(
    route: Route,
    arrived: Arrived,
    principal: &Principal,
    gateway: &Gateway,
    found: &mut Option<ModelName>,
) -> Result<Ask, Refusal> {
    let Arrived { bytes, room, .. } = arrived;
    let body = mended_body(bytes);
    let request = Request::read(route, &body).map_err(Refusal::Body)?;
    let name = ModelName::read(&request.model).map_err(|_| Refusal::Body(invalid_name()))?;
    let (targets, is_alias) = gateway.resolve(principal, &name)?;
    let Some(model) = targets.first() else {
        return Err(Refusal::Denied(authorize::Denied::NotFound));
    };
    *found = Some(model.name.clone());
    let prompt = Prompt::of(&request, gateway.image_tokens_default);
    if route == Route::AnthropicCount {
        return Ok(Ask::Count(prompt.estimate()));
    }
    let levers = principal.policy.levers;
    let has_budget =
        principal.tenant_limits.budget.is_some() || principal.key_limits.budget.is_some();
    request.keeps_to(&levers, has_budget).map_err(Refusal::Body)?;
    if are_foreign(&targets)
        && let Some(reply) = ours(route, &request, model, gateway)
    {
        return Ok(Ask::Answered(reply));
    }
    let tokens_max = request.tokens_max;
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
        _room: room,
        image_rooms: Vec::new(),
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
