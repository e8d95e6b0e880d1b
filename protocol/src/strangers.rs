//! Fields of a request that the gateway does not read, and what they may do.
//!
//! A model server may know fields that the gateway does not: llama.cpp prefers `n_predict` to `max_tokens`,
//! `n_cmpl` makes several replies, a `template` renders as long a prompt as it likes. One that passes unread
//! undoes what was reserved of a budget. So there is a list of the fields that may pass: those that are read
//! (the `FIELDS` of each dialect), and those below, which change how a reply is drawn or what is told of it, but
//! not how long it or its prompt can be. (Other dialects' words for a prompt are among them: some clients send one
//! body everywhere, and no server reads them on a route that is not theirs.) Every other field is refused by its name, whatever kind of server would
//! get it; an operator may allow a tenant all of them (`tenant set --options all`). Even then
//!
//! - every other spelling of the most tokens is read, and says upstream what was reserved;
//! - there is one reply for each prompt;
//! - no field names another model than the one that was permitted;
//! - where a budget holds, the prompt is no longer than what is counted of it.

use std::borrow::Cow;

use crate::{
    body::{BodyError, Fields, Stranger},
    error::Code,
    levers::{Levers, LoadOptions},
};

use members::{MEMBERS, OBJECTS_ELSEWHERE, unlisted};

pub(crate) use members::check_tools;

/// The longest name of a field that is repeated to the client.
const NAME_LENGTH_MAX: usize = 64;

/// How a reply is drawn, in the words of vLLM, llama.cpp, SGLang and others.
macro_rules! sampling {
    ($($more:literal),* $(,)?) => {
        &[
            "top_a", "tfs_z", "top_n_sigma", "length_penalty", "mirostat", "mirostat_tau",
            "mirostat_eta", "dry_multiplier", "dry_base", "dry_allowed_length",
            "dry_penalty_last_n", "dry_sequence_breakers", "xtc_probability", "xtc_threshold",
            "dynatemp_range", "dynatemp_exponent", "samplers", "random_seed", "stop_token_ids",
            "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens",
            "return_tokens_as_token_ids", "add_special_tokens", "truncate_prompt_tokens",
            "cache_prompt", "n_keep", "t_max_predict_ms", "return_tokens", "return_progress",
            "timings_per_token", "user", "metadata", "store", "service_tier", "safety_identifier",
            "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "usage",
            $($more),*
        ]
    };
}

/// Of `/v1/chat/completions`.
pub(crate) const CHAT: &[&str] = sampling![
    "include_reasoning",
    "separate_reasoning",
    "stream_reasoning",
    "reasoning_format",
    "parse_tool_calls",
    "tool_stream",
    "add_generation_prompt",
    "continue_final_message",
    "safe_prompt",
    "transforms",
    "prompt",
    "input",
];

/// Of `/v1/completions`.
pub(crate) const COMPLETION: &[&str] = sampling!["messages", "input"];

/// Of `/v1/embeddings`.
pub(crate) const EMBEDDING: &[&str] = &[
    "user",
    "metadata",
    "truncate_prompt_tokens",
    "add_special_tokens",
    "safety_identifier",
    "prompt",
    "max_tokens",
];

/// Of `/v1/responses`; none of them goes to a model server.
pub(crate) const RESPONSE: &[&str] = &[
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "stream_options",
    "max_tool_calls",
    "client_metadata",
    "context_management",
    "access_programs",
    "background_options",
    "image",
    "messages",
];

/// Of `/v1/messages`; none of them goes to a model server.
pub(crate) const MESSAGE: &[&str] = &[
    "metadata",
    "service_tier",
    "context_management",
    "cache_control",
    "diagnostics",
    "fallback_credit_token",
    "billing_policy",
    "betas",
    "anthropic_version",
    "anthropic_beta",
    "speed",
    "inference_geo",
    "prompt",
    "input",
];

/// Of Ollama's own routes; Ollama itself ignores them.
pub(crate) const NATIVE: &[&str] = &[
    "user",
    "metadata",
    "tool_choice",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "max_tokens",
];

/// Of their `options`: what older versions of Ollama know.
pub(crate) const OPTIONS: &[&str] =
    &["tfs_z", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline"];

/// Other spellings of the most tokens of a reply: llama.cpp's, Ollama's, SGLang's and TGI's, TabbyAPI's,
/// Meta's.
pub(crate) const LIMITS: [&str; 7] = [
    "n_predict",
    "num_predict",
    "max_new_tokens",
    "max_length",
    "max_output_tokens",
    "max_gen_len",
    "max_tokens_to_sample",
];

/// Fields of other dialects that any tenant may use: the newer name of the most tokens, which is read, and those
/// of Ollama's API, which [`passed_over`] keeps from servers of OpenAI's dialect.
const ELSEWHERE: [&str; 3] = ["max_output_tokens", "options", "keep_alive"];
const PASSED_OVER: [&str; 2] = ["options", "keep_alive"];

/// Other spellings of how many replies are made.
const REPLIES: [&str; 5] = ["n_cmpl", "best_of", "num_return_sequences", "candidate_count", "n"];

/// Fields that name other models, or servers, than the one that was permitted.
const MODELS: [&str; 6] =
    ["models", "fallbacks", "model_list", "api_base", "base_url", "custom_llm_provider"];

/// Fields that make a prompt of more than their bytes: templates render as long a text as they like, tensors are
/// packed, and how many tokens a picture has can be said.
const EXPANDING: [&str; 11] = [
    "template",
    "chat_template",
    "chat_template_kwargs",
    "prompt_embeds",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "multi_modal_data",
    "multi_modal_uuids",
    "kv_transfer_params",
    "session_params",
    "web_search_options",
];

/// Asks Ollama to tell the rendered prompt in place of a reply.
const RENDERED: &str = "_debug_render_only";

/// Fields that are read, and may be used under `--options all` only.
const GUARDED: [&str; 6] = ["template", RENDERED, "width", "height", "steps", "web_search_options"];

/// Whether a request keeps to what its tenant may use. `has_budget`: what it uses must not pass what was
/// reserved.
///
/// # Errors
/// [`Code::UnsupportedParameter`] with the name of the field that may not be used, and [`Code::AmbiguousField`]
/// where one that says how much is made stands there twice.
pub(crate) fn check<const N: usize>(
    given: &Fields<'_, N>,
    levers: &Levers,
    has_budget: bool,
) -> Result<(), BodyError> {
    if levers.options == LoadOptions::Safe {
        return check_safe(given, &[]);
    }
    check_all(given, levers, has_budget)
}

/// The same, where the body passes to a server of OpenAI's dialect.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_passed<const N: usize>(
    given: &Fields<'_, N>,
    levers: &Levers,
    has_budget: bool,
) -> Result<(), BodyError> {
    if levers.options == LoadOptions::Safe {
        return check_safe(given, &OBJECTS_ELSEWHERE);
    }
    check_all(given, levers, has_budget)
}

/// What holds where every field may be used.
fn check_all<const N: usize>(
    given: &Fields<'_, N>,
    levers: &Levers,
    has_budget: bool,
) -> Result<(), BodyError> {
    for (at, Stranger { name, value }) in given.strangers().iter().enumerate() {
        let is = |names: &[&str]| names.contains(&&**name);
        let is_null = value.get() == "null";
        if is(&MODELS) && !is_null {
            return Err(BodyError::unsupported(&**name, "A request is for one model, by `model`."));
        }
        if is(&REPLIES) && !is_null && value.get() != "1" {
            return Err(BodyError::unsupported(&**name, "Only one reply is made for a prompt."));
        }
        let is_one = is(&LIMITS) || is(&REPLIES) || is(&MODELS) || is(&EXPANDING);
        if is_one && is_twice(given, at) {
            return Err(twice(name));
        }
    }
    // It tells the prompt as the model server renders it, with what the modelfile says before it.
    if !levers.trusted_show && asks(given, RENDERED) {
        return Err(not_listed(RENDERED));
    }
    if !has_budget {
        return Ok(());
    }
    let expands = EXPANDING.into_iter().find(|name| asks(given, name) && !is_listed(given, name));
    expands.map_or(Ok(()), |name| {
        let why = "It can make a prompt longer than what is reserved for it, and a budget holds.";
        Err(BodyError::unsupported(name, why))
    })
}

/// The most tokens in another spelling than the dialect's own: the largest, where there are several.
pub(crate) fn most<const N: usize>(given: &Fields<'_, N>) -> Result<Option<u64>, BodyError> {
    let mut most = None;
    for name in limits(given) {
        most = most.max(given.most(name)?);
    }
    Ok(most)
}

/// The other spellings of the most tokens that stand in a request.
pub(crate) fn limits<'f, 'a, const N: usize>(
    given: &'f Fields<'a, N>,
) -> impl Iterator<Item = &'static str> + use<'f, 'a, N> {
    let is_there = |name: &&str| given.strangers().iter().any(|one| one.name == *name);
    let names: &[_] = if given.strangers().is_empty() { &[] } else { &LIMITS };
    names.iter().copied().filter(move |name| is_there(name))
}

/// The fields that are not sent to a server of OpenAI's dialect, unless the tenant may use all: they are Ollama's,
/// and what stands between the two may read them.
pub(crate) fn passed_over<const N: usize>(
    given: &Fields<'_, N>,
    levers: &Levers,
) -> impl Iterator<Item = &'static str> {
    let is_safe = levers.options == LoadOptions::Safe && !given.strangers().is_empty();
    let names: &[_] = if is_safe { &PASSED_OVER } else { &[] };
    names.iter().copied().filter(move |name| given.get(name).is_some())
}

/// The refusal of a field that only `--options all` allows.
pub(crate) fn not_listed(name: &str) -> BodyError {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
    let is_plain = name.len() <= NAME_LENGTH_MAX && name.chars().all(is_plain);
    let said = if is_plain { Cow::Owned(format!("`{name}`")) } else { "One of the fields".into() };
    let message = format!(
        "{said} is not among the fields that this key may use. The operator may allow all \
         (`tenant set --options all`)."
    );
    BodyError {
        code: Code::UnsupportedParameter,
        field: is_plain.then(|| name.to_owned()),
        message: message.into(),
    }
}

/// `objects`: those of [`MEMBERS`] that may stand there though the dialect has them not.
fn check_safe<const N: usize>(given: &Fields<'_, N>, objects: &[&str]) -> Result<(), BodyError> {
    for (at, Stranger { name, value }) in given.strangers().iter().enumerate() {
        // Of two, only the first is read here, and most servers take the last.
        if is_twice(given, at) {
            return Err(twice(name));
        }
        let is_known = objects.contains(&&**name) || ELSEWHERE.contains(&&**name);
        if value.get() != "null" && !is_known {
            return Err(not_listed(name));
        }
    }
    if let Some(name) = GUARDED.into_iter().find(|name| asks(given, name)) {
        return Err(not_listed(name));
    }
    for (name, members) in MEMBERS {
        // `None` where the dialect has no such field.
        if let Some(raw) = given.get(name)
            && let Some(member) = unlisted(raw.get(), members)
        {
            return Err(not_listed(&format!("{name}.{member}")));
        }
    }
    Ok(())
}

/// Whether a field stands before that one under the same name.
fn is_twice<const N: usize>(given: &Fields<'_, N>, at: usize) -> bool {
    let name = &given.strangers()[at].name;
    given.strangers()[..at].iter().any(|other| other.name == *name)
}

fn twice(name: &str) -> BodyError {
    let BodyError { field, .. } = not_listed(name);
    let message = "A field that the gateway does not know stands in the body more than once.";
    BodyError { code: Code::AmbiguousField, field, message: message.into() }
}

/// Whether a field is there and says something.
fn asks<const N: usize>(given: &Fields<'_, N>, name: &str) -> bool {
    given.get(name).is_some_and(|raw| !matches!(raw.get(), "false" | "\"\"" | "[]" | "{}"))
}

/// Whether an object has members only that are known, where there is a list of them.
fn is_listed<const N: usize>(given: &Fields<'_, N>, name: &str) -> bool {
    let members = MEMBERS.iter().find(|(object, _)| *object == name);
    let Some((_, members)) = members else { return false };
    given.get(name).is_none_or(|raw| unlisted(raw.get(), members).is_none())
}

mod members;
#[cfg(test)]
mod tests;
