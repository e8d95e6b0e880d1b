//! The installed models: lists of them, and the requests that would change them.

use std::fmt::Write;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::go;
use crate::name;
use crate::object::Object;
use crate::reply::{self, Reply};
use crate::script::Model;
use crate::state::State;

/// How long a model stays in memory.
const KEEP: Duration = Duration::from_secs(300);

/// The installed model that a name means, with its canonical name.
pub(crate) fn find<'a>(state: &'a State, asked: &str) -> Option<(&'a Model, String)> {
    if let Some(found) = installed(state).find(|(model, _)| !asked.is_empty() && model.id == asked)
    {
        return Some(found);
    }
    let canonical = name::canonical(asked)?;
    let model = installed(state).find(|(_, known)| *known == canonical)?.0;
    Some((model, canonical))
}

/// `GET /api/tags`
pub(crate) fn tags(state: &State) -> Reply {
    let models: Vec<Value> =
        newest_first(state).into_iter().map(|(model, name)| entry(model, &name)).collect();
    reply::json(go::to_bytes(&json!({ "models": models })))
}

/// `GET /api/ps`
pub(crate) fn ps(state: &State) -> Reply {
    let until = state.clock.after(KEEP).to_string();
    let loaded = newest_first(state).into_iter().filter(|(_, name)| state.is_loaded(name));
    let models: Vec<Value> = loaded
        .map(|(model, name)| {
            let mut entry = entry(model, &name);
            entry["expires_at"] = json!(until);
            entry["size_vram"] = json!(model.size);
            entry["context_length"] = json!(model.context_length);
            entry
        })
        .collect();
    reply::json(go::to_bytes(&json!({ "models": models })))
}

/// `POST /api/show`
pub(crate) fn show(state: &State, body: &str) -> Result<Reply, Failure> {
    let request = Object::from_body("ShowRequest", body)?;
    let named = request.string("model")?;
    let asked = if named.is_empty() { request.string("name")? } else { named };
    let Some((model, _)) = find(state, &asked) else {
        return Err(Failure::model_not_found(&format!("model '{asked}' not found")));
    };
    // The system prompt and the template are what a gateway should think twice about.
    Ok(reply::json(go::to_bytes(&json!({
        "license": "Apache-2.0",
        "modelfile": "FROM scripted\nSYSTEM UPSTREAM-WORDS",
        "parameters": "stop \"<|end|>\"",
        "template": "{{ .System }} UPSTREAM-WORDS {{ .Prompt }}",
        "system": "UPSTREAM-WORDS",
        "details": details(model),
        "model_info": {
            "general.architecture": model.family,
            format!("{}.context_length", model.family): model.context_length,
            format!("{}.embedding_length", model.family): model.embedding_length,
        },
        "capabilities": model.capabilities,
        "modified_at": model.modified_at.to_string(),
    }))))
}

/// `GET /v1/models`
pub(crate) fn openai_list(state: &State) -> Reply {
    let models: Vec<Value> = newest_first(state)
        .into_iter()
        .map(|(model, name)| openai(model, id(model, &name)))
        .collect();
    // Ollama's own: a list of none is null.
    let data = if models.is_empty() { Value::Null } else { Value::Array(models) };
    reply::json(go::to_bytes(&json!({ "object": "list", "data": data })))
}

/// `GET /v1/models/{id}`
pub(crate) fn openai_one(state: &State, id: &str) -> Result<Reply, Failure> {
    match find(state, id) {
        Some((model, _)) => Ok(reply::json(go::to_bytes(&openai(model, id)))),
        None => Err(Failure::model_not_found(&format!("model '{id}' not found"))),
    }
}

/// The requests that change what is installed. They do as little as can be seen from outside, and
/// are counted: through a gateway none of them comes.
pub(crate) fn mutate(state: &State, path: &str, body: &str) -> Result<Reply, Failure> {
    state.count(|produced| produced.mutations += 1);
    let name = |field: &str| -> Result<Option<String>, Failure> {
        let request = Object::from_body("MutateRequest", body)?;
        Ok(name::canonical(&request.string(field)?))
    };
    match path {
        "/api/delete" => {
            let Some(model) = name("model")? else {
                return Err(Failure::bad_request("invalid model name"));
            };
            state.delete(&model);
            Ok(reply::text(StatusCode::OK, ""))
        }
        "/api/pull" | "/api/create" => {
            let Some(model) = name("model")? else {
                return Err(Failure::bad_request("invalid model name"));
            };
            state.install(&model);
            Ok(reply::json("{\"status\":\"success\"}"))
        }
        _ => Ok(reply::json("{\"status\":\"success\"}")),
    }
}

fn newest_first(state: &State) -> Vec<(&Model, String)> {
    let mut models: Vec<_> = installed(state).collect();
    models.sort_by_key(|(model, _)| std::cmp::Reverse(model.modified_at));
    models
}

fn installed(state: &State) -> impl Iterator<Item = (&Model, String)> {
    let models = state.script.models.iter();
    models
        .filter_map(|model| Some((model, name::canonical(&model.name)?)))
        .filter(|(_, name)| !state.is_deleted(name))
}

fn entry(model: &Model, name: &str) -> Value {
    let spelled = spelled(model, name);
    let mut entry = json!({
        "name": spelled,
        "model": spelled,
        "modified_at": model.modified_at.to_string(),
        "size": model.size,
        "digest": digest(model, name),
        "details": details(model),
    });
    if !model.remote_host.is_empty() {
        entry["remote_host"] = json!(model.remote_host);
        entry["remote_model"] = json!(name);
    }
    entry
}

/// The name as the model was installed: Ollama keeps the case of its letters.
fn spelled(model: &Model, name: &str) -> String {
    let given = model.name.trim();
    let spellings = [given.to_owned(), format!("{given}:latest")];
    let found = spellings.into_iter().find(|spelling| spelling.eq_ignore_ascii_case(name));
    found.unwrap_or_else(|| name.to_owned())
}

fn details(model: &Model) -> Value {
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization_level,
    })
}

/// What a model is called in OpenAI's dialect.
fn id<'a>(model: &'a Model, name: &'a str) -> &'a str {
    if model.id.is_empty() { name } else { &model.id }
}

fn openai(model: &Model, id: &str) -> Value {
    let owner = name::canonical(id).map_or_else(String::new, |id| name::namespace(&id).to_owned());
    json!({
        "id": id,
        "object": "model",
        "created": model.modified_at.as_second(),
        "owned_by": owner,
    })
}

/// Sixty-four hex digits that differ from name to name.
fn digest(model: &Model, name: &str) -> String {
    if !model.digest.is_empty() {
        return model.digest.clone();
    }
    // FNV-1a, four times over: the digits stand for nothing.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut digits = String::with_capacity(64);
    for _ in 0..4 {
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        let written = write!(digits, "{hash:016x}");
        debug_assert!(written.is_ok());
    }
    digits
}
