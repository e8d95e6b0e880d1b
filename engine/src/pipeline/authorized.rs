//! The third stage: it is known what is asked, and this principal may ask it.

use std::sync::Arc;

use actors::{
    catalog::Model,
    tenant::{self, Permit},
};
use bytes::Bytes;
use identity::{policy::Reserve, principal::Principal};
use protocol::{
    id::TenantId,
    levers::Levers,
    name::ModelName,
    route::{Route, UpstreamKind},
    translate::{
        Reply,
        request::{Request, Target},
    },
};
use storage::upstreams::Upstream;
use tokio::time::Instant;

use super::{
    admitted::Admitted,
    heavy,
    settled::{Expected, Record},
};
use crate::{
    cuts::Cut,
    gateway::Gateway,
    http::{refusal::Refusal, room::Held},
};

/// How many bytes of a prompt are taken for one token where the upstream never said.
pub(super) const BYTES_PER_TOKEN: u64 = 4;

/// What is asked.
pub enum Ask {
    /// The models that the principal may use, as Ollama lists them.
    Tags,
    /// The same, as OpenAI lists them.
    OpenAiModels,
    /// One of them, as OpenAI tells of it.
    OpenAiModel(ModelName),
    /// Which of them are loaded.
    Ps,
    /// The version of the model server.
    Version,
    /// How many tokens a prompt has, as it is guessed.
    Count(u64),
    /// What the gateway can answer itself, and this is the answer.
    Answered(String),
    /// Something of one model.
    Inference(Box<Inference>),
}

/// A request to one model.
pub struct Inference {
    /// The route it came on.
    pub route: Route,
    /// The model, with the upstreams that serve it, and after it those that stand in for it.
    pub targets: Vec<Arc<Model>>,
    /// Whether the name that was asked for is another one than theirs.
    pub is_alias: bool,
    /// The model as the client spelled it, so that it reads its own spelling in the reply.
    pub asked: String,
    /// How it is to be answered.
    pub reply: Reply,
    /// Whether the reply is a stream.
    pub stream: bool,
    /// The body as it came.
    pub body: Bytes,
    /// Whether the body is to be kept for a while.
    pub is_logged: bool,
    /// What the first upstream of each dialect would be sent; most others are sent the same. Nothing while
    /// images are missing.
    pub written: Vec<Written>,
    /// The addresses of images that are to be fetched before it is sent anywhere.
    pub remote: Vec<String>,
    /// How long the prompt is, to estimate its tokens where the upstream never says.
    pub prompt: Prompt,
    /// The most tokens that the reply may have, where the client says so.
    pub tokens_max: Option<u64>,
    /// How many replies there will be, each of which may have that many.
    pub replies: u64,
    /// The most tokens that the upstream is held to, where the client does not say: what is set aside of
    /// a budget.
    pub held_to: Option<u64>,
    /// What may be asked of an upstream at the cost of others.
    pub levers: Levers,
    /// The room that the body takes; given back with it.
    pub(crate) _room: Held,
    /// The room that fetched images take.
    pub(crate) image_rooms: Vec<Held>,
}

/// How long a prompt is, before anybody has counted its tokens.
#[derive(Clone, Copy)]
pub struct Prompt {
    /// The bytes of its text.
    text_bytes: u64,
    /// The tokens that its images and sounds are taken for, and its token ids.
    tokens: u64,
}

/// What upstreams of one dialect, that spell the model alike, are sent.
#[derive(Clone)]
pub struct Written {
    kind: UpstreamKind,
    model: Option<String>,
    /// The path there.
    pub path: &'static str,
    /// The body.
    pub body: Bytes,
}

/// A request that may be made.
pub struct Authorized {
    principal: Arc<Principal>,
    ask: Ask,
    cut: Cut,
}

// === impl Authorized ===

impl Authorized {
    pub(super) fn new(principal: Arc<Principal>, ask: Ask, cut: Cut) -> Self {
        Self { principal, ask, cut }
    }

    /// Asks for admission: a place in the audit, since what cannot be recorded is not done, and, for
    /// what an upstream is asked, the word of the tenant's limits and of the key's.
    ///
    /// # Errors
    /// Where the audit is full, a limit is reached, or the limits cannot be checked.
    pub async fn admit(self, gateway: &Gateway, record: &mut Record) -> Result<Admitted, Refusal> {
        record.reserve_place(self.principal.tenant)?;
        let principal = &self.principal;
        let asked = match &self.ask {
            Ask::Inference(inference) => {
                let default = gateway.completion_tokens_default;
                let ask = inference.ask(principal, default, record.entered());
                record.expect(inference.expected(&ask));
                Some(ask)
            }
            Ask::Ps | Ask::Version => Some(tenant::Ask::entrance(principal)),
            Ask::Tags
            | Ask::OpenAiModels
            | Ask::OpenAiModel(_)
            | Ask::Count(_)
            | Ask::Answered(_) => None,
        };
        if let Some(asked) = asked {
            let began = Instant::now();
            let admitted = gateway.handles.admission.admit(asked).await;
            record.spent().admit += began.elapsed();
            record.permit(admitted?);
        }
        if let Ask::Inference(inference) = &self.ask
            && inference.is_logged
        {
            gateway.prompts.keep(record.id(), principal, &inference.body);
        }
        Ok(Admitted::new(self.principal, self.ask, self.cut))
    }
}

// === impl Inference ===

impl Inference {
    /// The tokens of the prompt, guessed from its bytes.
    #[must_use]
    pub fn prompt_estimate(&self) -> u64 {
        self.prompt.estimate()
    }

    /// Whether the reply is a stream of server-sent events.
    #[must_use]
    pub fn is_sse(&self) -> bool {
        self.stream && self.reply.is_sse()
    }

    /// What an upstream is sent.
    ///
    /// # Errors
    /// Where something is asked for that cannot be had there.
    pub(super) async fn for_upstream(
        &self,
        model: &Model,
        upstream: &Upstream,
        (tenant, gateway): (TenantId, &Arc<Gateway>),
    ) -> Result<Written, Refusal> {
        let spelled = spelled(model, upstream, self.is_alias);
        let is_same = |one: &&Written| one.kind == upstream.kind && one.model.as_deref() == spelled;
        if let Some(written) = self.written.iter().find(is_same) {
            return Ok(written.clone());
        }
        let (route, body, levers) = (self.route, self.body.clone(), self.levers);
        let (kind, model, tokens_max) = (upstream.kind, spelled.map(str::to_owned), self.held_to);
        let write = move || {
            let request = Request::read(route, &body).map_err(Refusal::Body)?;
            let target = Target { kind, model: model.as_deref(), tokens_max, levers: &levers };
            Written::new(&request, &body, &target)
        };
        heavy::work(gateway, (tenant, &self.body), write).await?
    }

    /// What it asks of the limits. Without a word of the client's the reply is expected to have
    /// `completion_default` tokens.
    fn ask(
        &self,
        principal: &Principal,
        completion_default: u64,
        replaces: Option<Arc<Permit>>,
    ) -> tenant::Ask {
        let each = self.tokens_max.unwrap_or(completion_default);
        let completion_max =
            if generates(self.route) { each.saturating_mul(self.replies) } else { 0 };
        let learns = self.stream && principal.policy.reserve == Reserve::Learned;
        tenant::Ask {
            prompt: self.prompt.estimate(),
            prompt_max: self.prompt.most(),
            completion_max,
            learns: self.targets.first().filter(|_| learns).map(|model| model.name.clone()),
            replaces,
            ..tenant::Ask::entrance(principal)
        }
    }

    /// What the request is taken for where it ends before the upstream has said what it used.
    fn expected(&self, ask: &tenant::Ask) -> Expected {
        Expected { prompt: ask.prompt, completion_max: ask.completion_max, is_whole: !self.stream }
    }

    /// The most tokens that the reply may have, where the client or a budget bounds them.
    pub(super) fn enforced_max(&self) -> Option<u64> {
        let each = self.tokens_max.or(self.held_to).filter(|_| generates(self.route))?;
        Some(each.saturating_mul(self.replies))
    }
}

// === impl Prompt ===

impl Prompt {
    /// The prompt of a request, whose images are taken for so many tokens each.
    pub(super) fn of(request: &Request<'_>, image_tokens: u64) -> Self {
        let image_tokens = u64::from(request.images).saturating_mul(image_tokens);
        let tokens = image_tokens.saturating_add(request.tokens);
        Self { text_bytes: request.text_bytes, tokens }
    }

    /// The tokens that it probably has.
    pub(super) fn estimate(self) -> u64 {
        self.text_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(self.tokens)
    }

    /// The most that it can have, for a budget that must not be passed: a token for each byte, since a
    /// tokenizer that knows no longer one falls back to bytes. What a template adds is less than what
    /// JSON does, whose quotes and keys are counted.
    fn most(self) -> u64 {
        self.text_bytes.saturating_add(self.tokens)
    }
}

/// The model as an upstream is to hear it; none: as the client spelled it, which is all the same to Ollama.
pub(super) fn spelled<'m>(
    model: &'m Model,
    upstream: &Upstream,
    is_alias: bool,
) -> Option<&'m str> {
    match upstream.kind {
        UpstreamKind::Ollama => is_alias.then(|| model.reported(upstream)),
        UpstreamKind::OpenAi => Some(model.reported(upstream)),
    }
}

/// Whether replies on that route are made of tokens.
pub(super) fn generates(route: Route) -> bool {
    match route {
        Route::OllamaChat
        | Route::OllamaGenerate
        | Route::OpenAiChat
        | Route::OpenAiCompletions
        | Route::OpenAiResponses
        | Route::AnthropicMessages => true,
        Route::OllamaEmbed
        | Route::OllamaEmbeddings
        | Route::OllamaTags
        | Route::OllamaShow
        | Route::OllamaPs
        | Route::OllamaVersion
        | Route::OpenAiEmbeddings
        | Route::OpenAiModels
        | Route::OpenAiModel
        | Route::AnthropicCount
        | Route::Blocked
        | Route::Unknown => false,
    }
}

// === impl Written ===

impl Written {
    /// Writes a request whose body is `body`.
    ///
    /// # Errors
    /// Where something is asked for that cannot be had there.
    pub(super) fn new(
        request: &Request<'_>,
        body: &Bytes,
        target: &Target<'_>,
    ) -> Result<Self, Refusal> {
        let outgoing = request.write(target).map_err(Refusal::Body)?;
        let body = outgoing.body.map_or_else(|| body.clone(), Bytes::from);
        let model = target.model.map(str::to_owned);
        Ok(Self { kind: target.kind, model, path: outgoing.path, body })
    }

    /// The dialect that it is in.
    pub(super) fn kind(&self) -> UpstreamKind {
        self.kind
    }
}
