//! A native request, read as far as policy needs it. Its bytes go on as they are.

use memchr::memmem;
use serde_json::value::RawValue;

pub use crate::fields::BodyError;
use crate::{error::Code, fields::Fields, route::Route};

/// What policy reads of a native request.
#[derive(Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The model, as the client spelled it.
    pub model: String,
    /// Whether a stream is wanted, where the client says so.
    pub stream: Option<bool>,
    /// About how many bytes of text the upstream has to read, images not counted.
    pub text_bytes: u64,
}

/// Reads the top level of a body.
///
/// # Errors
/// [`BodyError`] where it is no JSON, names no model, or could be read in two ways.
pub fn inspect(body: &[u8], route: Route) -> Result<Inspected, BodyError> {
    let fields = Fields::read(body)?;
    let model = match (route, fields.raw("model"), fields.raw("name")) {
        // `/api/show` still takes the model's old name.
        (Route::OllamaShow, None, Some(_)) => fields.model("name")?,
        (Route::OllamaShow, Some(_), Some(_)) => {
            let (model, name) = (fields.model("model")?, fields.model("name")?);
            if model != name {
                return Err(BodyError::new(Code::AmbiguousField, Some("name")));
            }
            model
        }
        _ => fields.model("model")?,
    };
    let stream = fields.get("stream", "`stream` must be true or false.")?;
    let text = ["messages", "prompt", "input", "system", "suffix"];
    let text_bytes = text.iter().filter_map(|name| fields.raw(name)).map(text_bytes).sum();
    Ok(Inspected { model, stream, text_bytes })
}

/// The bytes of a value without what is an image in it: whatever is long and has no blank.
pub(crate) fn text_bytes(raw: &RawValue) -> u64 {
    let text = raw.get();
    if text.len() < IMAGE_BYTES_MIN || memmem::find(text.as_bytes(), b"image").is_none() {
        return text.len() as u64;
    }
    text.split('"').map(str::len).filter(|length| *length < IMAGE_BYTES_MIN).sum::<usize>() as u64
}

/// A string of a message with images that is longer than this is taken for one of them, in bytes.
const IMAGE_BYTES_MIN: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(body: &str, route: Route) -> Result<(String, Option<bool>), Code> {
        inspect(body.as_bytes(), route)
            .map(|inspected| (inspected.model, inspected.stream))
            .map_err(|error| error.code)
    }

    #[test]
    fn model_and_stream_are_read() {
        let read = |body| inspected(body, Route::OllamaChat);
        assert_eq!(read(r#"{"model":"a"}"#), Ok(("a".into(), None)));
        assert_eq!(read(r#"{"stream":false,"model":"a"}"#), Ok(("a".into(), Some(false))));
        assert_eq!(read(r#"{"stream":null,"model":"a"}"#), Ok(("a".into(), None)));
        assert_eq!(read(r#"{"messages":[]}"#), Err(Code::ModelRequired));
        assert_eq!(read(r#"{"model":" "}"#), Err(Code::ModelRequired));
        assert_eq!(read(r#"{"model":7}"#), Err(Code::InvalidRequest));
        assert_eq!(read(r#"{"model":"a","stream":"yes"}"#), Err(Code::InvalidRequest));
    }

    #[test]
    fn show_takes_the_old_name_but_not_two_models() {
        let read = |body| inspected(body, Route::OllamaShow);
        assert_eq!(read(r#"{"name":"a"}"#), Ok(("a".into(), None)));
        assert_eq!(read(r#"{"name":"a","model":"a"}"#), Ok(("a".into(), None)));
        assert_eq!(read(r#"{"name":"a","model":"b"}"#), Err(Code::AmbiguousField));
        assert_eq!(inspected(r#"{"name":"a"}"#, Route::OllamaChat), Err(Code::ModelRequired));
    }

    #[test]
    fn images_are_not_counted_as_text() -> Result<(), BodyError> {
        let image = "A".repeat(100_000);
        let body = format!(
            r#"{{"model":"a","messages":[{{"role":"user","content":"hello","images":["{image}"]}}]}}"#
        );
        assert!(inspect(body.as_bytes(), Route::OllamaChat)?.text_bytes < 100);
        Ok(())
    }
}
