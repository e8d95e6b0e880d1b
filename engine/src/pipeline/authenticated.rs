//! The second stage: it is proven who is calling. Now the body may be read.

use std::sync::Arc;

use http::HeaderMap;
use hyper::body::Incoming;
use identity::{authorize, principal::Principal};
use protocol::{
    error::Code,
    name::ModelName,
    ollama::request::{self, BodyError},
    route::Route,
    translate::chat_request,
};

use tokio::time::Instant;

use super::{
    authorized::{Ask, Authorized, Form, Inference},
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
            | Route::OpenAiChat => {
                let principal = Arc::clone(&self.principal);
                let began = Instant::now();
                let arrived = self.read(gateway).await;
                record.spent().arrive = began.elapsed();
                let arrived = arrived?;
                let inference = inference(route, arrived, &principal, gateway, record)?;
                return Ok(Authorized::new(principal, Ask::Inference(Box::new(inference))));
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
fn inference(
    route: Route,
    arrived: Arrived,
    principal: &Principal,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<Inference, Refusal> {
    let Arrived { bytes, room } = arrived;
    let received = principal.log_prompts.then(|| bytes.clone());
    let (asked, form, stream, body, text_bytes, tokens_max) = if route == Route::OpenAiChat {
        let request = chat_request::chat_request(&bytes).map_err(Refusal::Body)?;
        let form =
            Form::OpenAi { model: request.model.clone(), include_usage: request.include_usage };
        let (text_bytes, tokens_max) = (request.text_bytes, request.tokens_max);
        (request.model, form, request.stream, request.native.into(), text_bytes, tokens_max)
    } else {
        let inspected = request::inspect(&bytes, route).map_err(Refusal::Body)?;
        let streams = matches!(route, Route::OllamaChat | Route::OllamaGenerate);
        let stream = streams && inspected.stream.unwrap_or(true);
        let (text_bytes, tokens_max) = (inspected.text_bytes, inspected.tokens_max);
        let asked = inspected.model.into_owned();
        (asked, Form::Native, stream, bytes, text_bytes, tokens_max)
    };
    let name = ModelName::parse(&asked).map_err(|_| Refusal::Body(invalid_name()))?;
    let (targets, is_alias) = gateway.resolve(principal, &name)?;
    if let Some(model) = targets.first() {
        record.model(&model.name);
    }
    let tokens_max = tokens_max.and_then(|most| u64::try_from(most).ok());
    Ok(Inference {
        route,
        targets,
        is_alias,
        form,
        stream,
        body,
        received,
        text_bytes,
        tokens_max,
        room,
    })
}

fn invalid_name() -> BodyError {
    BodyError {
        code: Code::InvalidModelName,
        field: Some("model".to_owned()),
        message: Code::InvalidModelName.message().into(),
    }
}
