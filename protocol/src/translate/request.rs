//! A request in the dialect of its client, on its way into the dialect of an upstream.
//!
//! It is read once, for what policy must know; which upstream will get it is known only afterwards, and
//! so is what its body must be. Where both speak one dialect the body passes, but for what has to be
//! another: the model's name, the most tokens, the wish for the usage at the end of a stream.

use std::{borrow::Cow, collections::HashMap};

use super::{
    Reply, chat_request, completion_request, embedding_request, history, message_request,
    native_request, passed, response_request,
};
pub use crate::surrogate::mended_body;
use crate::{
    anthropic,
    body::{BodyError, Fields},
    json::write_string,
    levers::{Levers, LoadOptions},
    ollama::{
        chat::{Body, Choice},
        order::Order,
        request::{Inspected, inspect},
    },
    openai::write,
    prompt::Prompt,
    route::{Route, UpstreamKind},
    strangers,
};

/// A request, read.
pub struct Request<'a> {
    /// The model, as the client spelled it; never blank.
    pub model: Cow<'a, str>,
    /// Whether the reply is to be streamed.
    pub stream: bool,
    /// The most tokens that the reply may have, where the client says so: at least 1.
    pub tokens_max: Option<u64>,
    /// How many replies are made, each of which may have that many tokens: one for each prompt.
    pub replies: u64,
    /// How many bytes of text the prompt has, to estimate its tokens where the upstream never says.
    pub text_bytes: u64,
    /// How many images and sounds it has.
    pub images: u32,
    /// How many tokens it has besides: token ids, which are counted, and the seconds of sounds and videos.
    pub tokens: u64,
    /// How the client wants the reply.
    pub reply: Reply,
    body: &'a [u8],
    route: Route,
    prompt: Prompt<'a>,
    what: What<'a>,
}

/// Its fields, in the dialect of its client.
enum What<'a> {
    Native(Inspected<'a>),
    Chat(chat_request::Given<'a>),
    Completion(completion_request::Given<'a>),
    Embedding(embedding_request::Given<'a>),
    Response(response_request::Given<'a>),
    Message(message_request::Given<'a>),
}

/// Where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    /// The dialect of the upstream.
    pub kind: UpstreamKind,
    /// The model, as the upstream is to hear it; none: as the client spelled it, where both speak
    /// Ollama's dialect.
    pub model: Option<&'t str>,
    /// The most tokens that the reply may have, whatever the client says; none: as the client says.
    pub tokens_max: Option<u64>,
    /// What may be asked of it at the cost of others.
    pub levers: &'t Levers,
}

/// What an upstream is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The path, which of OpenAI's dialect stands behind the base (`/v1`) that the upstream's URL names.
    pub path: &'static str,
    /// The body; none: as the client sent it.
    pub body: Option<Vec<u8>>,
}

// === impl Request ===

impl<'a> Request<'a> {
    /// Reads what policy must know, without copying or decoding the large fields.
    ///
    /// # Errors
    /// [`BodyError`] with [`Code::InvalidJson`](crate::error::Code::InvalidJson) where the body is not one JSON object,
    /// `AmbiguousField` where a field that matters stands there twice or in another case,
    /// `ModelRequired` where no model is named, and `InvalidRequest` where a field that
    /// is read here has a wrong type.
    pub fn read(route: Route, body: &'a [u8]) -> Result<Self, BodyError> {
        match route {
            Route::OpenAiChat => Self::chat(body),
            Route::OpenAiCompletions => Self::completion(body),
            Route::OpenAiEmbeddings => Self::embedding(body),
            Route::OpenAiResponses => Self::response(body),
            Route::AnthropicMessages | Route::AnthropicCount => Self::message(route, body),
            _ => Self::native(route, body),
        }
    }

    fn new(
        (route, body): (Route, &'a [u8]),
        model: Option<Cow<'a, str>>,
        prompt: Prompt<'a>,
        what: What<'a>,
    ) -> Result<Self, BodyError> {
        let model = model.filter(|model| !model.trim().is_empty());
        Ok(Self {
            model: model.ok_or_else(BodyError::model_required)?,
            stream: false,
            tokens_max: None,
            replies: 1,
            text_bytes: prompt.text_bytes,
            images: prompt.images,
            tokens: prompt.tokens,
            reply: Reply::Native(route),
            body,
            route,
            prompt,
            what,
        })
    }

    fn native(route: Route, body: &'a [u8]) -> Result<Self, BodyError> {
        let inspected = inspect(body, route)?;
        let streams = matches!(route, Route::OllamaChat | Route::OllamaGenerate);
        let prompt = inspected.prompt(route);
        Ok(Self {
            model: inspected.model.clone(),
            stream: streams && inspected.stream.unwrap_or(true),
            tokens_max: inspected.tokens_max,
            replies: 1,
            text_bytes: prompt.text_bytes,
            images: prompt.images,
            tokens: prompt.tokens,
            reply: Reply::Native(route),
            body,
            route,
            prompt,
            what: What::Native(inspected),
        })
    }

    fn chat(body: &'a [u8]) -> Result<Self, BodyError> {
        let given =
            chat_request::Given::of_body(body, &chat_request::FIELDS, Some(strangers::CHAT))?;
        chat_request::one_choice(&given)?;
        let mut prompt = prompt_of(&given, &["tools", "response_format"]);
        if given.has_from(chat_request::SELDOM) {
            let seldom = ["functions", "prediction", "documents"];
            seldom.into_iter().for_each(|name| prompt.text(given.get(name)));
        }
        prompt.text_bytes += given.unknown_bytes();
        prompt.messages("messages", given.get("messages"));
        let model = given.string("model")?;
        Ok(Self {
            stream: given.flag("stream")?.unwrap_or(false),
            tokens_max: chat_request::tokens_max(&given)?,
            reply: Reply::Chat { include_usage: chat_request::include_usage(&given)? },
            ..Self::new((Route::OpenAiChat, body), model, prompt, What::Chat(given))?
        })
    }

    fn completion(body: &'a [u8]) -> Result<Self, BodyError> {
        let given = completion_request::Given::of_body(
            body,
            &completion_request::FIELDS,
            Some(strangers::COMPLETION),
        )?;
        chat_request::one_choice(&given)?;
        if given.integer("best_of")?.is_some_and(|number| number > 1) {
            let why = "Only one reply is made for a prompt.";
            return Err(BodyError::unsupported("best_of", why));
        }
        let replies = completion_request::prompts(&given)?;
        let echo = if given.flag("echo")?.unwrap_or(false) {
            completion_request::asked(&given).ok()
        } else {
            None
        };
        let echo = echo.map(Cow::into_owned);
        let include_usage = chat_request::include_usage(&given)?;
        let mut prompt = prompt_of(&given, &["suffix"]);
        prompt.ids(given.get("prompt"));
        prompt.text_bytes += given.unknown_bytes();
        let model = given.string("model")?;
        Ok(Self {
            stream: given.flag("stream")?.unwrap_or(false),
            tokens_max: given.most("max_tokens")?.max(strangers::most(&given)?),
            replies,
            reply: Reply::Completion { include_usage, echo },
            ..Self::new((Route::OpenAiCompletions, body), model, prompt, What::Completion(given))?
        })
    }

    fn embedding(body: &'a [u8]) -> Result<Self, BodyError> {
        let given = embedding_request::Given::of_body(
            body,
            &embedding_request::FIELDS,
            Some(strangers::EMBEDDING),
        )?;
        let base64 = match given.string("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return Err(given.must("encoding_format", "`float` or `base64`")),
        };
        embedding_request::check(&given)?;
        let mut prompt =
            prompt_of(&given, &["input", "input_type", "instruction", "task", "prompt_name"]);
        prompt.text_bytes += given.unknown_bytes();
        let model = given.string("model")?;
        Ok(Self {
            reply: Reply::Embedding { base64 },
            ..Self::new((Route::OpenAiEmbeddings, body), model, prompt, What::Embedding(given))?
        })
    }

    fn response(body: &'a [u8]) -> Result<Self, BodyError> {
        let given = response_request::Given::of_body(
            body,
            &response_request::FIELDS,
            Some(strangers::RESPONSE),
        )?;
        let mut prompt = prompt_of(&given, &["instructions", "tools", "text"]);
        prompt.messages("input", given.get("input"));
        let model = given.string("model")?;
        Ok(Self {
            stream: given.flag("stream")?.unwrap_or(false),
            tokens_max: response_request::tokens_max(&given)?,
            reply: Reply::Response(Box::new(response_request::echo(&given))),
            ..Self::new((Route::OpenAiResponses, body), model, prompt, What::Response(given))?
        })
    }

    fn message(route: Route, body: &'a [u8]) -> Result<Self, BodyError> {
        let given =
            message_request::Given::of_body(body, &anthropic::FIELDS, Some(strangers::MESSAGE))?;
        let tokens_max = given.most("max_tokens")?;
        if route == Route::AnthropicMessages && tokens_max.is_none() {
            return Err(given.must("max_tokens", "a whole number of at least 1"));
        }
        let mut prompt = prompt_of(&given, &["system", "tools", "output_config", "output_format"]);
        prompt.messages("messages", given.get("messages"));
        let model = given.string("model")?;
        Ok(Self {
            stream: given.flag("stream")?.unwrap_or(false),
            tokens_max,
            reply: Reply::Message,
            ..Self::new((route, body), model, prompt, What::Message(given))?
        })
    }

    /// The URLs of its images that are not in the body, as the client wrote them: whatever is no `data:`
    /// URI, of any scheme. One may come more than once, and no more than
    /// [`REMOTE_IMAGES_MAX`](crate::prompt::REMOTE_IMAGES_MAX) are told of.
    ///
    /// [`Request::write`] refuses a request that has one, whoever its upstream is: who may fetch them, and
    /// from where, is not decided here.
    pub fn remote_images(&self) -> impl Iterator<Item = &str> {
        self.prompt.remote()
    }

    /// The body with images in the places of their URLs, to be read in the place of the one that came.
    /// `fetched`: for each URL of [`Request::remote_images`] a `data:` URI in base64; one that is missing
    /// stays, and is refused.
    #[must_use]
    pub fn with_images(&self, fetched: &HashMap<String, String>) -> Vec<u8> {
        self.prompt.filled(self.body, fetched)
    }

    /// Whether it keeps to these levers, or can be made to, whoever will get it. `has_budget`: what it uses
    /// must not pass what is reserved for it.
    ///
    /// # Errors
    /// [`BodyError`] with `OptionNotAllowed`, and with `UnsupportedParameter` where it has a field that may not
    /// be used.
    pub fn keeps_to(&self, levers: &Levers, has_budget: bool) -> Result<(), BodyError> {
        // No other dialect passes parts that the gateway does not read.
        let passes = matches!(self.what, What::Chat(_));
        if passes && (levers.options == LoadOptions::Safe || has_budget) {
            self.prompt.is_counted()?;
        }
        match &self.what {
            What::Native(inspected) => {
                strangers::check(inspected.fields(), levers, has_budget)?;
                inspected.held(levers).map(drop)
            }
            What::Chat(given) => strangers::check_passed(given, levers, has_budget),
            What::Completion(given) => strangers::check_passed(given, levers, has_budget),
            What::Embedding(given) => strangers::check(given, levers, has_budget),
            What::Response(given) => {
                strangers::check(given, levers, has_budget)?;
                strangers::check_tools(given, levers)
            }
            What::Message(given) => {
                strangers::check(given, levers, has_budget)?;
                strangers::check_tools(given, levers)
            }
        }
    }

    /// Where nothing is asked but that the model be loaded or unloaded, which is an order to Ollama: what it
    /// is.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        let What::Native(inspected) = &self.what else { return None };
        let is_one = matches!(self.route, Route::OllamaChat | Route::OllamaGenerate);
        (is_one && inspected.is_empty)
            .then(|| if inspected.unloads() { Order::Unload } else { Order::Load })
    }

    /// What an upstream is to be sent.
    ///
    /// # Errors
    /// [`BodyError`] with `UnsupportedParameter` where something is asked for that cannot be had
    /// there, an image behind a URL among it, and `InvalidRequest` for everything that is not as the
    /// client's API has it.
    pub fn write(&self, target: &Target<'_>) -> Result<Outgoing, BodyError> {
        self.prompt.is_here()?;
        match (&self.what, target.kind) {
            (What::Native(inspected), UpstreamKind::Ollama) => Ok(Outgoing {
                path: native_path(self.route),
                body: inspected.replaced(
                    self.body,
                    target.model,
                    target.tokens_max,
                    target.levers,
                )?,
            }),
            (What::Native(inspected), UpstreamKind::OpenAi) => {
                self.native_to_openai(inspected, target)
            }
            (What::Chat(given), UpstreamKind::OpenAi) => {
                let (model, most) = (self.named(target), target.tokens_max);
                let mut changes = passed::chat_limit(given, model, most, self.tokens_max)?;
                changes.extend(passed::response_format(given)?);
                self.passed("/chat/completions", given, target, changes)
            }
            (What::Completion(given), UpstreamKind::OpenAi) => {
                let changes = passed::limit(given, target.tokens_max, self.tokens_max)?;
                self.passed("/completions", given, target, changes)
            }
            (What::Embedding(given), UpstreamKind::OpenAi) => {
                self.passed("/embeddings", given, target, Vec::new())
            }
            (What::Chat(given), _) => self.made(chat_request::body(given)?, target),
            (What::Response(given), _) => self.made(response_request::body(given)?, target),
            (What::Message(given), _) => self.made(message_request::body(given)?, target),
            (What::Completion(given), UpstreamKind::Ollama) => {
                let (model, most) = (self.named(target), target.tokens_max.or(self.tokens_max));
                let body = completion_request::generate(given, model, self.stream, most)?;
                Ok(Outgoing { path: "/api/generate", body: Some(body) })
            }
            (What::Embedding(given), UpstreamKind::Ollama) => {
                let body =
                    embedding_request::embed(given, self.named(target), self.body.len() + 256)?;
                Ok(Outgoing { path: "/api/embed", body: Some(body) })
            }
        }
    }

    fn named<'t>(&'t self, target: &Target<'t>) -> &'t str {
        target.model.unwrap_or(&self.model)
    }

    /// The body that came, for an upstream of its own dialect.
    fn passed<const N: usize>(
        &self,
        path: &'static str,
        given: &Fields<'_, N>,
        target: &Target<'_>,
        mut changes: Vec<passed::Change>,
    ) -> Result<Outgoing, BodyError> {
        if target.model.is_some_and(|model| model != self.model) {
            changes.push(("model", quoted(self.named(target))));
        }
        let passed_over = strangers::passed_over(given, target.levers);
        changes.extend(passed_over.map(|name| (name, "null".to_owned())));
        if self.stream && !self.reply.include_usage() {
            changes.push(passed::with_usage(given)?);
        }
        let body = (!changes.is_empty()).then(|| given.replaced(self.body, &changes));
        Ok(Outgoing { path, body })
    }

    /// A body that is made anew.
    fn made(&self, mut body: Body<'_>, target: &Target<'_>) -> Result<Outgoing, BodyError> {
        let model = self.named(target);
        body.messages = history::told(body.messages, target.kind, self.route)?;
        body.options.num_predict = target.tokens_max.or(body.options.num_predict);
        match &body.choice {
            Choice::Never => body.tools = None,
            Choice::Among { names, is_required } => {
                let is_required = *is_required;
                body.tools = chat_request::among(body.tools.as_deref(), names)?;
                body.choice = if is_required { Choice::Required } else { Choice::Auto };
            }
            Choice::Auto | Choice::Required | Choice::Named(_) => {}
        }
        match target.kind {
            UpstreamKind::OpenAi => {
                let body = write::write(&body, model, self.body.len())?;
                Ok(Outgoing { path: "/chat/completions", body: Some(body) })
            }
            UpstreamKind::Ollama => {
                if matches!(body.choice, Choice::Required | Choice::Named(_)) {
                    return Err(BodyError::unsupported(
                        "tool_choice",
                        "A tool call cannot be forced: `tool_choice` is `auto` or `none`.",
                    ));
                }
                Ok(Outgoing {
                    path: "/api/chat",
                    body: Some(native(model, &body, self.body.len())?),
                })
            }
        }
    }

    fn native_to_openai(
        &self,
        inspected: &Inspected<'a>,
        target: &Target<'_>,
    ) -> Result<Outgoing, BodyError> {
        match self.route {
            Route::OllamaEmbed | Route::OllamaEmbeddings => {
                let body = native_request::embedding(inspected, self.route, self.named(target))?;
                Ok(Outgoing { path: "/embeddings", body: Some(body) })
            }
            Route::OllamaChat | Route::OllamaGenerate => {
                let body = native_request::body(inspected, self.route, self.stream)?;
                self.made(body, target)
            }
            _ => Err(BodyError::unsupported("model", "The server of this model does not tell.")),
        }
    }
}

/// These fields, which are text all through.
fn prompt_of<'a, const N: usize>(given: &Fields<'a, N>, names: &[&str]) -> Prompt<'a> {
    let mut prompt = Prompt::default();
    names.iter().for_each(|name| prompt.text(given.get(name)));
    prompt
}

fn native_path(route: Route) -> &'static str {
    match route {
        Route::OllamaGenerate => "/api/generate",
        Route::OllamaEmbed => "/api/embed",
        Route::OllamaEmbeddings => "/api/embeddings",
        Route::OllamaShow => "/api/show",
        _ => "/api/chat",
    }
}

/// A chat in Ollama's dialect, about as long as the body that it is made of: one with a large image is
/// copied once.
fn native(model: &str, body: &Body<'_>, length: usize) -> Result<Vec<u8>, BodyError> {
    let mut out = Vec::with_capacity(length + model.len() + 256);
    out.extend_from_slice(b"{\"model\":");
    write_string(model, &mut out);
    let rest = out.len();
    serde_json::to_writer(&mut out, body).map_err(|_| BodyError::internal())?;
    // The brace that opens the rest becomes the comma after the model: the body is not copied.
    out[rest] = b',';
    Ok(out)
}

fn quoted(text: &str) -> String {
    let mut quoted = Vec::with_capacity(text.len() + 2);
    write_string(text, &mut quoted);
    String::from_utf8_lossy(&quoted).into_owned()
}
