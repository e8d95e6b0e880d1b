//! Embeddings: numbers that depend on the text alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::ask::words;
use crate::catalog;
use crate::directives::Directives;
use crate::failure::Failure;
use crate::go;
use crate::object::{self, Object, kind};
use crate::reply::{self, Reply};
use crate::state::State;

/// The longest embedding, whatever is asked.
const DIMENSIONS_MAX: usize = 8_192;

/// What was asked to be embedded.
pub(crate) struct Asked {
    pub(crate) model: String,
    pub(crate) texts: Vec<String>,
    dimensions: Option<usize>,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `/api/embed`
    Embed,
    /// `/api/embeddings`
    Legacy,
    /// `/v1/embeddings`, as numbers
    Floats,
    /// `/v1/embeddings`, as base64
    Base64,
}

/// Reads the body of `/api/embed`.
pub(crate) fn embed(body: &str) -> Result<Asked, Failure> {
    let request = Object::from_body("EmbedRequest", body)?;
    Ok(Asked {
        model: request.string("model")?,
        texts: input(&request)?,
        dimensions: dimensions(&request)?,
        form: Form::Embed,
    })
}

/// Reads the body of `/api/embeddings`.
pub(crate) fn legacy(body: &str) -> Result<Asked, Failure> {
    let request = Object::from_body("EmbeddingRequest", body)?;
    let texts = vec![request.string("prompt")?];
    Ok(Asked { model: request.string("model")?, texts, dimensions: None, form: Form::Legacy })
}

/// Reads the body of `/v1/embeddings`.
pub(crate) fn openai(body: &str) -> Result<Asked, Failure> {
    let request = Object::from_body("EmbedRequest", body)?;
    let form = match request.string("encoding_format")?.to_ascii_lowercase().as_str() {
        "" | "float" => Form::Floats,
        "base64" => Form::Base64,
        other => {
            return Err(Failure::bad_request(&format!(
                "Invalid value for 'encoding_format' = {other}. Supported values: ['float', \
                 'base64']."
            )));
        }
    };
    let texts = input(&request)?;
    if texts.is_empty() {
        return Err(Failure::bad_request("invalid input"));
    }
    Ok(Asked { model: request.string("model")?, texts, dimensions: dimensions(&request)?, form })
}

/// The answer.
pub(crate) fn answer(state: &State, asked: &Asked) -> Result<Reply, Failure> {
    let Some((model, canonical)) = catalog::find(state, &asked.model) else {
        return Err(Failure::model_not_found(&format!(
            "model \"{}\" not found, try pulling it first",
            asked.model
        )));
    };
    state.load(&canonical);
    let length = asked.dimensions.unwrap_or(model.embedding_length).min(DIMENSIONS_MAX);
    let tokens: u64 = asked.texts.iter().map(|text| words(text)).sum();
    let vectors = || asked.texts.iter().map(|text| vector(text, length));
    let body = match asked.form {
        Form::Embed => json!({
            "model": asked.model,
            "embeddings": vectors().collect::<Vec<_>>(),
            "total_duration": 1_000_000,
            "load_duration": 100_000,
            "prompt_eval_count": tokens,
        }),
        Form::Legacy => json!({ "embedding": vectors().next().unwrap_or_default() }),
        Form::Floats | Form::Base64 => {
            let item = |(index, vector): (usize, Vec<f32>)| {
                let value = match asked.form {
                    Form::Base64 => Value::String(base64(&vector)),
                    _ => json!(vector),
                };
                json!({ "object": "embedding", "index": index, "embedding": value })
            };
            json!({
                "object": "list",
                "data": vectors().enumerate().map(item).collect::<Vec<_>>(),
                "model": asked.model,
                "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
            })
        }
    };
    state.count(|produced| {
        produced.pieces += asked.texts.len() as u64;
        produced.prompt_tokens += tokens;
    });
    Ok(reply::json(go::to_bytes(&body)))
}

// === impl Asked ===

impl Asked {
    /// The magic words in the first text.
    pub(crate) fn directives(&self, mut script: Directives) -> Directives {
        script.read(self.texts.first().map_or("", String::as_str));
        script
    }
}

fn dimensions(request: &Object<'_>) -> Result<Option<usize>, Failure> {
    let asked = request.integer("dimensions")?;
    Ok(asked.and_then(|asked| usize::try_from(asked).ok()).filter(|&asked| asked > 0))
}

/// A string, or a list of strings; an empty one of either is none.
fn input(request: &Object<'_>) -> Result<Vec<String>, Failure> {
    let Some(raw) = request.get("input") else { return Ok(Vec::new()) };
    match kind(raw) {
        "string" => {
            let text: String = object::parse(raw)?;
            Ok(if text.is_empty() { Vec::new() } else { vec![text] })
        }
        "array" => {
            serde_json::from_str(raw.get()).map_err(|_| Failure::bad_request("invalid input type"))
        }
        _ => Err(Failure::bad_request("invalid input type")),
    }
}

/// A vector of unit length, from a small generator that the text seeds.
fn vector(text: &str, length: usize) -> Vec<f32> {
    let mut seed = text.bytes().fold(0x9E37_79B9_u32, |seed, byte| {
        seed.rotate_left(5).wrapping_mul(0x0100_0193) ^ u32::from(byte)
    });
    let raw: Vec<f32> = (0..length)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(seed >> 16).unwrap_or_default()) / 32_768.0 - 1.0
        })
        .collect();
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.into_iter().map(|x| if norm > 0.0 { x / norm } else { x }).collect()
}

fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_unit_length_and_follow_from_their_text() {
        let one = vector("a text", 768);
        assert_eq!(one, vector("a text", 768));
        assert_ne!(one, vector("another", 768));
        let norm: f32 = one.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-4, "{norm}");
    }

    #[test]
    fn inputs_are_strings_or_lists_of_strings() {
        let texts = |input: &str| embed(&format!(r#"{{"model":"m","input":{input}}}"#));
        assert_eq!(texts(r#""a""#).unwrap().texts, ["a"]);
        assert_eq!(texts(r#"["a","b"]"#).unwrap().texts, ["a", "b"]);
        assert!(texts(r#""""#).unwrap().texts.is_empty());
        assert!(texts("[1]").is_err() && texts("3").is_err());
    }
}
