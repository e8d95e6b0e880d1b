//! `/api/tags`, `/v1/models`, `/v1/models/{id}`: the principal's effective models and no others. OpenAI's
//! list has the names that stand for them, too; Ollama's says what is installed.

use actors::catalog::Model;
use identity::authorize::Denied;
use protocol::{
    name::ModelName,
    ollama::tags,
    openai::model::{ModelList, ModelObject},
};

use crate::gateway::Effective;

/// The list as Ollama gives it: the entries are the upstreams' own, byte for byte.
pub(super) fn tags(effective: &Effective) -> String {
    tags::render(effective.models().map(|model| &*model.entry))
}

/// The list as OpenAI gives it.
pub(super) fn list(effective: &Effective) -> Vec<u8> {
    let named = effective.named();
    let objects = named.into_iter().map(|(name, model)| object(name, model)).collect();
    let list = ModelList::new(objects);
    serde_json::to_vec(&list).unwrap_or_default()
}

/// One model as OpenAI tells of it.
pub(super) fn one(effective: &Effective, name: &ModelName) -> Result<Vec<u8>, Denied> {
    let named = effective.named();
    let (name, model) = named.into_iter().find(|(of, _)| *of == name).ok_or(Denied::NotFound)?;
    Ok(serde_json::to_vec(&object(name, model)).unwrap_or_default())
}

fn object(name: &ModelName, model: &Model) -> ModelObject {
    let created = model.modified_at.map_or(0, jiff::Timestamp::as_second);
    // A name that stands for the model is told as it is.
    let id = if *name == model.name { &*model.listed } else { name.as_str() };
    ModelObject::new(id, created)
}
