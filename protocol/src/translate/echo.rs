//! What a response says again of its request, as text: tools and instructions can be most of a body, and as a tree
//! they would be many times as large.

use std::{borrow::Cow, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, value::RawValue};

use super::tools::Names;
use crate::{json::compact, surrogate::mended};

/// What a response says again of its request: fields, and the JSON text of their values on one line; and how the
/// client calls its tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Echo {
    fields: Vec<(&'static str, Arc<str>)>,
    names: Arc<Names>,
}

/// A response, with what it says again in the places of its own values.
pub(super) struct Echoed<'e> {
    pub(super) response: &'e Value,
    pub(super) echo: &'e Echo,
}

// === impl Echo ===

impl Echo {
    /// Keeps a field as the client wrote it.
    pub(super) fn push(&mut self, name: &'static str, raw: &RawValue) {
        let text = match mended(raw.get()) {
            Cow::Borrowed(text) => compact(text).into(),
            Cow::Owned(text) => compact(&text).into(),
        };
        self.fields.push((name, text));
    }

    /// The names of the client's tools.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn with_names(self, names: Names) -> Self {
        Self { names: Arc::new(names), ..self }
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(echoed, _)| *echoed == name).map(|(_, text)| &**text)
    }
}

// === impl Echoed ===

impl Serialize for Echoed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(response) = self.response else {
            return self.response.serialize(serializer);
        };
        let mut map = serializer.serialize_map(Some(response.len()))?;
        for (name, value) in response {
            let echoed = self.echo.find(name);
            match echoed.map(serde_json::from_str::<&RawValue>) {
                Some(Ok(raw)) => map.serialize_entry(name, raw)?,
                Some(Err(_)) | None => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}
