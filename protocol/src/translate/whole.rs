//! A whole reply of an upstream in the dialect of the client.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json, value::RawValue};

use super::{
    Reply,
    chat_reply::{self, ReplyMeta},
    completion, message, native,
    piece::{Ending, Piece, Reason},
    response,
};
use crate::{
    body::Text,
    json::{self, write_string},
    ollama::reply::Line,
    openai::{
        calls,
        reply::{Called, Reply as Completion, Told},
        said::{Said, joined},
    },
    route::{Route, UpstreamKind},
    usage::Usage,
};

/// Why a reply cannot be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// It is no JSON object of the shape that is promised.
    #[error("the reply is not what the model server's API promises")]
    NotJson,
    /// It says that the model server failed.
    #[error("the model server reported an error")]
    UpstreamError,
    /// What it says is no text.
    #[error("the content of the reply is no text that can be translated")]
    Content,
    /// A tool call of it is none.
    #[error("a tool call of the reply has no name, or arguments that are no JSON object")]
    Call,
    /// It does not say that it is done: the model stopped in the middle.
    #[error("the reply broke off")]
    BrokenOff,
}

/// Translates a whole reply, and tells what it used. `prompt`: what its prompt is taken for, in tokens,
/// where the upstream does not count.
///
/// # Errors
/// [`ReplyError`] where it is no whole reply. Nothing of it may reach the client then.
pub fn whole(
    text: &[u8],
    from: UpstreamKind,
    reply: &Reply,
    meta: &ReplyMeta,
    prompt: u64,
) -> Result<(Vec<u8>, Usage), ReplyError> {
    match reply {
        Reply::Embedding { base64 } => return embedding(text, *base64, meta, prompt),
        Reply::Native(Route::OllamaEmbed) => return native_embedding(text, false, meta, prompt),
        Reply::Native(Route::OllamaEmbeddings) => {
            return native_embedding(text, true, meta, prompt);
        }
        _ => {}
    }
    let texts;
    let (pieces, ending) = match from {
        UpstreamKind::Ollama => {
            let line = Line::read(text).ok_or(ReplyError::NotJson)?;
            if line.error.is_some() {
                return Err(ReplyError::UpstreamError);
            }
            if !line.says_something() {
                return Err(ReplyError::NotJson);
            }
            let ending = line.ending().ok_or(ReplyError::BrokenOff)?;
            (vec![line.piece(0).ok_or(ReplyError::Call)?], ending)
        }
        UpstreamKind::OpenAi => {
            let completion = Completion::read(text).ok_or(ReplyError::NotJson)?;
            let reason = completion.reason();
            if completion.error.is_some() || reason.is_err() {
                return Err(ReplyError::UpstreamError);
            }
            if completion.is_without_choice() {
                return Err(ReplyError::NotJson);
            }
            let reason = reason.unwrap_or_default().unwrap_or(Reason::Stop);
            let told = completion.told();
            texts = said(&told, reply)?;
            let ending = Ending { reason, usage: completion.usage() };
            (pieces(&told, &texts, reason).ok_or(ReplyError::Call)?, ending)
        }
    };
    let guessed = || Usage { prompt, completion: text.len() as u64 / 4, estimated: true };
    let usage = ending.usage.unwrap_or_else(guessed);
    let written = write(&pieces, ending, usage, reply, meta, text.len());
    written.map(|written| (written, usage)).ok_or(ReplyError::Content)
}

/// What stands in lists, and not in plain strings: in its order where the dialect keeps one.
fn said(told: &Told<'_>, reply: &Reply) -> Result<Vec<Said>, ReplyError> {
    if !told.has_lists() {
        return Ok(Vec::new());
    }
    let said = told.said().ok_or(ReplyError::Content)?;
    match reply {
        Reply::Message | Reply::Response(_) => Ok(said),
        _ => joined(&said).ok_or(ReplyError::Content),
    }
}

/// The pieces of a whole completion; `None` where a tool call is none.
fn pieces<'a>(told: &Told<'a>, said: &'a [Said], reason: Reason) -> Option<Vec<Piece<'a>>> {
    let calls = match told.calls {
        Called::None => Vec::new(),
        Called::Listed(raw) => calls::whole(raw, reason)?,
        Called::Function(raw) => calls::whole_function(raw, reason)?,
    };
    if !told.has_lists() {
        return Some(vec![Piece { calls, ..told.piece.clone() }]);
    }
    let mut pieces: Vec<Piece<'a>> = Vec::new();
    for said in said {
        let piece = said.piece();
        match pieces.last_mut() {
            Some(last) if last.content.is_none() && !said.is_thinking => {
                last.content = piece.content;
            }
            _ => pieces.push(piece),
        }
    }
    if pieces.is_empty() {
        pieces.push(Piece::default());
    }
    if let Some(last) = pieces.last_mut() {
        (last.calls, last.logprobs) = (calls, told.piece.logprobs);
    }
    Some(pieces)
}

fn write(
    pieces: &[Piece<'_>],
    ending: Ending,
    usage: Usage,
    reply: &Reply,
    meta: &ReplyMeta,
    length: usize,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(length + 512);
    match reply {
        Reply::Response(echo) => {
            return response::write(pieces, ending.reason, usage, (meta, echo));
        }
        Reply::Message => return message::write(pieces, ending, usage, meta),
        _ => {}
    }
    let [piece] = pieces else { return None };
    match reply {
        Reply::Chat { .. } => chat_reply::write(piece, ending, usage, meta, &mut out)?,
        Reply::Completion { echo, .. } => {
            completion::write(piece, ending, usage, (meta, echo.as_deref()), &mut out)?;
        }
        Reply::Native(route) => return native::write(piece, ending, usage, (meta, *route)),
        Reply::Response(_) | Reply::Message | Reply::Embedding { .. } => return None,
    }
    Some(out)
}

/// Ollama's vectors as OpenAI's list of them.
fn embedding(
    text: &[u8],
    base64: bool,
    meta: &ReplyMeta,
    prompt: u64,
) -> Result<(Vec<u8>, Usage), ReplyError> {
    let text = std::str::from_utf8(text).map_err(|_| ReplyError::NotJson)?;
    let guessed = Usage { prompt, completion: 0, estimated: true };
    let embedded: Embedded<'_> = json::read_object(text).ok_or(ReplyError::NotJson)?;
    if embedded.error.is_some() {
        return Err(ReplyError::UpstreamError);
    }
    let vectors = embedded.embeddings.ok_or(ReplyError::NotJson)?;
    let usage = embedded.prompt_eval_count.map_or(guessed, |prompt| Usage {
        prompt,
        completion: 0,
        estimated: false,
    });
    let mut out = Vec::with_capacity(text.len() + 256);
    out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    for (at, vector) in vectors.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(
            format!("{{\"object\":\"embedding\",\"index\":{at},\"embedding\":").as_bytes(),
        );
        write_vector(vector, base64, &mut out).ok_or(ReplyError::NotJson)?;
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"model\":");
    write_string(&meta.model, &mut out);
    let used = usage.prompt;
    let usage_text = json!({ "prompt_tokens": used, "total_tokens": used }).to_string();
    out.extend_from_slice(format!(",\"usage\":{usage_text}}}").as_bytes());
    Ok((out, usage))
}

#[derive(serde::Deserialize)]
struct Embedded<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    embeddings: Option<Vec<&'a RawValue>>,
    prompt_eval_count: Option<u64>,
}

/// A vector as a list of numbers, or as its little-endian 32-bit floats in base64.
fn write_vector(vector: &RawValue, base64: bool, out: &mut Vec<u8>) -> Option<()> {
    if !base64 {
        return json::splice_list(vector.get(), out);
    }
    let numbers: Vec<f32> = serde_json::from_str(vector.get()).ok()?;
    let bytes: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
    write_string(&STANDARD.encode(bytes), out);
    Some(())
}

/// Vectors of an OpenAI-compatible server as Ollama's: a list of them (`/api/embed`), or the one
/// (`/api/embeddings`).
fn native_embedding(
    text: &[u8],
    is_legacy: bool,
    meta: &ReplyMeta,
    prompt: u64,
) -> Result<(Vec<u8>, Usage), ReplyError> {
    let reply: Completion<'_> = Completion::read(text).ok_or(ReplyError::NotJson)?;
    if reply.error.is_some() {
        return Err(ReplyError::UpstreamError);
    }
    let guessed = Usage { prompt, completion: 0, estimated: true };
    let usage = reply.usage().unwrap_or(guessed);
    let vectors: Option<Vec<Value>> = reply
        .data
        .ok_or(ReplyError::NotJson)?
        .into_iter()
        .map(|one| floats(one.embedding))
        .collect();
    let vectors = vectors.ok_or(ReplyError::NotJson)?;
    let body = if is_legacy {
        json!({ "embedding": vectors.into_iter().next().unwrap_or_else(|| json!([])) })
    } else {
        json!({
            "model": meta.model, "embeddings": vectors, "prompt_eval_count": usage.prompt,
        })
    };
    Ok((body.to_string().into_bytes(), usage))
}

/// A vector as numbers, however the server gave it.
fn floats(raw: &RawValue) -> Option<Value> {
    if let Ok(Text(text)) = serde_json::from_str::<Text<'_>>(raw.get()) {
        let bytes = STANDARD.decode(text.as_bytes()).ok()?;
        let (whole, rest) = bytes.as_chunks::<4>();
        let numbers = whole.iter().map(|four| f32::from_le_bytes(*four));
        return rest.is_empty().then(|| numbers.collect());
    }
    serde_json::from_str(raw.get()).ok().filter(Value::is_array)
}
