//! The third stage: it is known what is asked, and this principal may ask it.

use std::sync::Arc;

use bytes::Bytes;
use identity::principal::Principal;
use protocol::{name::ModelName, route::Route};
use tokio::sync::OwnedSemaphorePermit;

use super::{admitted::Admitted, settled::Record};
use crate::{gateway::Gateway, http::refusal::Refusal};

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
    /// Something of one model.
    Inference(Box<Inference>),
}

/// A request to one model.
pub struct Inference {
    /// The route it came on.
    pub route: Route,
    /// The model, with the upstreams that serve it.
    pub model: Arc<actors::catalog::Model>,
    /// In which dialect it was asked, and is to be answered.
    pub form: Form,
    /// Whether the reply is a stream.
    pub stream: bool,
    /// The body for the upstream.
    pub body: Bytes,
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
    pub async fn admit(self, gateway: &Gateway, record: &mut Record) -> Result<Admitted, Refusal> {
        record.admit(gateway.handles.audit.reserve()?);
        if let Ask::Inference(inference) = &self.ask {
            let ask = actors::tenant::Ask {
                tenant: self.principal.tenant,
                key: self.principal.key,
                tenant_limits: self.principal.tenant_limits,
                key_limits: self.principal.key_limits,
                tokens: inference.tokens(gateway.completion_tokens_default),
            };
            record.permit(gateway.handles.admission.admit(ask).await?);
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

    /// The tokens that it is expected to use at the most. Without a word of the client's the reply is
    /// expected to have `completion_default`.
    fn tokens(&self, completion_default: u64) -> u64 {
        let completion =
            if self.generates() { self.tokens_max.unwrap_or(completion_default) } else { 0 };
        self.prompt_estimate().saturating_add(completion)
    }
}
