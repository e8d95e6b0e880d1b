//! The third stage: it is known what is asked, and this principal may ask it.

use std::sync::Arc;

use actors::{catalog::Model, tenant};
use bytes::Bytes;
use identity::{policy::Reserve, principal::Principal};
use protocol::{
    name::ModelName,
    ollama::request::{with_model, with_tokens_max},
    route::Route,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{admitted::Admitted, settled::Record};
use crate::{gateway::Gateway, http::refusal::Refusal};

/// How many bytes of a prompt are taken for one token where the upstream never said.
pub(super) const BYTES_PER_TOKEN: u64 = 4;
/// For a budget, which must not be passed, a token is taken for no more bytes than this. Rare writing
/// has tokens of two bytes and less; what a prompt has besides its text (roles, names) makes up for it.
const BYTES_PER_TOKEN_MIN: u64 = 2;

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
    /// In which dialect it was asked, and is to be answered.
    pub form: Form,
    /// Whether the reply is a stream.
    pub stream: bool,
    /// The body for the upstream.
    pub body: Bytes,
    /// The body as it came, where it is to be kept.
    pub received: Option<Bytes>,
    /// How many bytes of text the prompt has, to estimate its tokens where the upstream never says.
    pub text_bytes: u64,
    /// The most tokens that the reply may have, where the client says so.
    pub tokens_max: Option<u64>,
    /// The room that the body takes; given back with it.
    pub room: Option<OwnedSemaphorePermit>,
}

/// In which dialect a client asked.
pub enum Form {
    /// Ollama's own: bytes pass as they are.
    Native,
    /// OpenAI's chat: replies are translated.
    OpenAi {
        /// The model as the client spelled it, so that it reads its own spelling in the reply.
        model: String,
        /// Whether a stream ends with a chunk of usage.
        include_usage: bool,
    },
}

/// A request that may be made.
pub struct Authorized {
    principal: Arc<Principal>,
    ask: Ask,
}

// === impl Authorized ===

impl Authorized {
    pub(super) fn new(principal: Arc<Principal>, ask: Ask) -> Self {
        Self { principal, ask }
    }

    /// Asks for admission: a place in the audit, since what cannot be recorded is not done, and, for
    /// what goes to a model, the word of the tenant's limits and of the key's.
    ///
    /// # Errors
    /// Where the audit is full, a limit is reached, or the limits cannot be checked.
    pub async fn admit(
        mut self,
        gateway: &Gateway,
        record: &mut Record,
    ) -> Result<Admitted, Refusal> {
        record.admit(gateway.handles.audit.reserve()?);
        if let Ask::Inference(inference) = &mut self.ask {
            let principal = &self.principal;
            let default = gateway.completion_tokens_default;
            let began = Instant::now();
            let admitted = gateway.handles.admission.admit(inference.ask(principal, default)).await;
            record.spent().admit = began.elapsed();
            record.permit(admitted?);
            if let Some(received) = inference.received.take() {
                gateway.prompts.keep(record.id(), principal.key, &received);
            }
            if principal.tenant_limits.budget.is_some() || principal.key_limits.budget.is_some() {
                inference.keep_to(default)?;
            }
        }
        Ok(Admitted::new(self.principal, self.ask))
    }
}

// === impl Inference ===

impl Inference {
    /// The tokens of the prompt, guessed from its bytes.
    #[must_use]
    pub fn prompt_estimate(&self) -> u64 {
        self.text_bytes.div_ceil(BYTES_PER_TOKEN)
    }

    /// Whether the reply is made of tokens.
    #[must_use]
    pub fn generates(&self) -> bool {
        matches!(self.route, Route::OllamaChat | Route::OllamaGenerate | Route::OpenAiChat)
    }

    /// Whether the reply is a stream of server-sent events.
    #[must_use]
    pub fn is_sse(&self) -> bool {
        self.stream && matches!(self.form, Form::OpenAi { .. })
    }

    /// The body for one of the models.
    ///
    /// # Errors
    /// Where it is no body that could name one, which was found out before.
    pub fn body_for(&self, model: &Model) -> Result<Bytes, Refusal> {
        if !self.is_alias {
            return Ok(self.body.clone());
        }
        Ok(with_model(&self.body, &model.name).map_err(Refusal::Body)?.into())
    }

    /// What it asks of the limits. Without a word of the client's the reply is expected to have
    /// `completion_default` tokens.
    fn ask(&self, principal: &Principal, completion_default: u64) -> tenant::Ask {
        let completion_max =
            if self.generates() { self.tokens_max.unwrap_or(completion_default) } else { 0 };
        let learns = self.stream && principal.policy.reserve == Reserve::Learned;
        tenant::Ask {
            tenant: principal.tenant,
            key: principal.key,
            tenant_limits: principal.tenant_limits,
            key_limits: principal.key_limits,
            policy: principal.policy,
            prompt: self.prompt_estimate(),
            prompt_max: self.text_bytes.div_ceil(BYTES_PER_TOKEN_MIN),
            completion_max,
            learns: self.targets.first().filter(|_| learns).map(|model| model.name.clone()),
        }
    }

    /// Holds the upstream to what was set aside, where the client named no most of its own.
    fn keep_to(&mut self, completion_default: u64) -> Result<(), Refusal> {
        if self.generates() && self.tokens_max.is_none() {
            let body = with_tokens_max(&self.body, completion_default).map_err(Refusal::Body)?;
            self.body = body.into();
        }
        Ok(())
    }
}
