//! Model names, spelled the way Ollama will read them.
//!
//! `llama3`, `LLAMA3:latest`, `library/llama3`, `registry.ollama.ai/library/llama3:latest` and
//! `llama3:local` are one model to Ollama. Policy that compares what the client wrote would let a
//! second spelling past an allow-list, so every name is made canonical before anybody looks at it.
//!
//! Servers of OpenAI's dialect call their models as they like: `accounts/x/models/y`, `/models/a.gguf`,
//! `ft:gpt-4o:org::id`. What Ollama would not read as a name is such an id, taken to the letter: no
//! spelling of it is another name, and none of it is ever a name of Ollama's.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// What Ollama fills in where a name does not say it.
const HOST_DEFAULT: &str = "registry.ollama.ai";
const NAMESPACE_DEFAULT: &str = "library";
const TAG_DEFAULT: &str = "latest";

/// The longest host, in bytes (Ollama's limit).
const HOST_LENGTH_MAX: usize = 350;
/// The longest other part, in bytes (Ollama's limit).
const PART_LENGTH_MAX: usize = 80;

/// The longest id that is no name of Ollama's, in bytes.
const ID_LENGTH_MAX: usize = 512;

const CLOUD: &str = "cloud";
const LOCAL: &str = "local";
const CLOUD_ENDING: &str = "-cloud";

/// A canonical model name: what Ollama would understand, so that policy sees what it will see.
///
/// Registry, namespace and tag defaults are left out or filled in the same way for every spelling
/// (`Llama3`, `library/llama3:latest`, ` llama3 ` are all `llama3:latest`), compared without case. What is
/// no name to Ollama is the id of a model elsewhere, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ModelName(Arc<str>);

/// A text that is no model name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a model name: up to 512 bytes without blanks and control characters")]
pub struct InvalidModelName;

/// Where the last part of a name says that the model runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Local,
    Cloud,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Namespace,
    Model,
    Tag,
}

/// The parts as they are written; none where a default is left out.
struct Parts<'a> {
    host: Option<&'a str>,
    namespace: Option<&'a str>,
    model: &'a str,
    tag: &'a str,
}

// === impl ModelName ===

impl ModelName {
    /// The name that a client, an operator or a server of OpenAI's dialect wrote: a name of Ollama's in its
    /// canonical form, else an id as it is.
    ///
    /// Which of both it is follows from the text alone, so that no id equals a name.
    ///
    /// # Errors
    /// [`InvalidModelName`] where it is empty or too long, or has blanks or control characters in it.
    pub fn read(text: &str) -> Result<Self, InvalidModelName> {
        if let Ok(name) = Self::parse(text) {
            return Ok(name);
        }
        let id = text.trim();
        let is_plain = |letter: char| !letter.is_whitespace() && !letter.is_control();
        let is_id = !id.is_empty() && id.len() <= ID_LENGTH_MAX && id.chars().all(is_plain);
        if is_id { Ok(Self(id.into())) } else { Err(InvalidModelName) }
    }

    /// The canonical form of a name of Ollama's.
    ///
    /// It is the shortest form with a tag (`llama3:latest`, `ns/m:tag`, `host/ns/m:tag`) in lower
    /// case. `:local` is dropped; `m:8b:cloud` is `m:8b-cloud`, and `m:latest-cloud` is `m:cloud`.
    ///
    /// # Errors
    /// [`InvalidModelName`] where Ollama would not read it as a name either.
    pub fn parse(text: &str) -> Result<Self, InvalidModelName> {
        let (base, source) = split_source(text.trim());
        // Ollama refuses a second suffix ("use either :local or :cloud, not both").
        if source.is_some() && split_source(base).1.is_some() {
            return Err(InvalidModelName);
        }
        let parts = Parts::split(base)?;
        let mut name = String::with_capacity(text.len() + TAG_DEFAULT.len() + 1);
        let host = parts.host.filter(|host| !host.eq_ignore_ascii_case(HOST_DEFAULT));
        let namespace =
            parts.namespace.filter(|namespace| !namespace.eq_ignore_ascii_case(NAMESPACE_DEFAULT));
        if let Some(host) = host {
            name.push_str(host);
            name.push('/');
        }
        if host.is_some() || namespace.is_some() {
            name.push_str(namespace.unwrap_or(NAMESPACE_DEFAULT));
            name.push('/');
        }
        name.push_str(parts.model);
        name.push(':');
        match source {
            Some(Source::Cloud) if parts.tag.eq_ignore_ascii_case(TAG_DEFAULT) => {
                name.push_str(CLOUD);
            }
            Some(Source::Cloud) => {
                name.push_str(parts.tag);
                name.push_str(CLOUD_ENDING);
            }
            Some(Source::Local) | None => name.push_str(parts.tag),
        }
        name.make_ascii_lowercase();
        Ok(Self(name.into()))
    }

    /// The canonical spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name makes Ollama leave the machine (`:cloud`, `…-cloud`).
    #[must_use]
    pub fn is_cloud(&self) -> bool {
        split_source(&self.0).1 == Some(Source::Cloud)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

// === impl Parts ===

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, InvalidModelName> {
        // A colon before the last slash belongs to a port or a scheme.
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG_DEFAULT),
        };
        let (rest, model) = path.rsplit_once('/').map_or((None, path), |(a, b)| (Some(a), b));
        let (host, namespace) = match rest {
            None => (None, None),
            Some(rest) => match rest.rsplit_once('/') {
                None => (None, Some(rest)),
                Some((host, namespace)) => {
                    let host = host.split_once("://").map_or(host, |(_, host)| host);
                    (Some(host), Some(namespace))
                }
            },
        };
        let is_valid = host.is_none_or(|host| Part::Host.allows(host))
            && namespace.is_none_or(|namespace| Part::Namespace.allows(namespace))
            && Part::Model.allows(model)
            && Part::Tag.allows(tag);
        if is_valid { Ok(Self { host, namespace, model, tag }) } else { Err(InvalidModelName) }
    }
}

// === impl Part ===

impl Part {
    fn allows(self, text: &str) -> bool {
        let length_max = if self == Self::Host { HOST_LENGTH_MAX } else { PART_LENGTH_MAX };
        let Some((first, rest)) = text.as_bytes().split_first() else { return false };
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        text.len() <= length_max
            && is_word(*first)
            && rest.iter().all(|byte| match byte {
                b'-' => true,
                b'.' => self != Self::Namespace,
                b':' => self == Self::Host,
                other => is_word(*other),
            })
    }
}

/// Takes the suffix off that says where the model runs.
fn split_source(text: &str) -> (&str, Option<Source>) {
    let Some((base, suffix)) = text.rsplit_once(':') else { return (text, None) };
    if suffix.eq_ignore_ascii_case(CLOUD) {
        return (base, Some(Source::Cloud));
    }
    if suffix.eq_ignore_ascii_case(LOCAL) {
        return (base, Some(Source::Local));
    }
    let Some(at) = suffix.len().checked_sub(CLOUD_ENDING.len()) else { return (text, None) };
    let is_cloud = !suffix.contains('/')
        && suffix.get(at..).is_some_and(|ending| ending.eq_ignore_ascii_case(CLOUD_ENDING));
    if is_cloud {
        return (&text[..text.len() - CLOUD_ENDING.len()], Some(Source::Cloud));
    }
    (text, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        ModelName::parse(text).ok().map(|name| name.as_str().to_owned())
    }

    #[test]
    fn every_spelling_of_a_model_is_one_name() {
        for text in [
            "llama3",
            "LLAMA3:latest",
            "llama3:LATEST",
            "library/llama3",
            "Library/llama3:latest",
            "registry.ollama.ai/library/llama3:latest",
            "https://registry.ollama.ai/library/llama3",
            "REGISTRY.OLLAMA.AI/library/llama3",
            " llama3 ",
            "\tllama3\n",
            "\u{a0}llama3\u{3000}",
            "llama3:local",
            "llama3:latest:LOCAL",
        ] {
            assert_eq!(canonical(text).as_deref(), Some("llama3:latest"), "{text:?}");
        }
    }

    #[test]
    fn the_shortest_form_keeps_what_is_no_default() {
        for (text, expected) in [
            ("NS/Model", "ns/model:latest"),
            ("ns/m:7b-Q4_0", "ns/m:7b-q4_0"),
            ("hf.co/Org/Model-GGUF:Q4_K_M", "hf.co/org/model-gguf:q4_k_m"),
            ("localhost:5000/library/m", "localhost:5000/library/m:latest"),
            ("http://h:80/ns/m:t", "h:80/ns/m:t"),
            ("registry.ollama.ai/ns/m", "ns/m:latest"),
            ("_m", "_m:latest"),
            ("m:8b:local", "m:8b"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn a_cloud_name_is_seen_in_each_of_its_spellings() {
        for (text, expected) in [
            ("gpt-oss:cloud", "gpt-oss:cloud"),
            ("gpt-oss:CLOUD", "gpt-oss:cloud"),
            ("gpt-oss:latest:cloud", "gpt-oss:cloud"),
            ("gpt-oss:latest-cloud", "gpt-oss:cloud"),
            ("gpt-oss:20b-Cloud", "gpt-oss:20b-cloud"),
            ("gpt-oss:20b:cloud", "gpt-oss:20b-cloud"),
            ("library/gpt-oss:20b:cloud", "gpt-oss:20b-cloud"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text:?}");
            assert!(ModelName::parse(text).is_ok_and(|name| name.is_cloud()), "{text:?}");
        }
        for text in ["cloud", "my-cloud", "cloud/m", "m:cloudy", "m:cloud-8b"] {
            assert!(ModelName::parse(text).is_ok_and(|name| !name.is_cloud()), "{text:?}");
        }
    }

    #[test]
    fn what_ollama_refuses_is_refused() {
        for text in [
            "",
            " ",
            ":",
            "m:",
            ":t",
            "/m",
            "ns/",
            "a//m",
            "a/b/c/d",
            "m t",
            "-m",
            ".m",
            "m:-t",
            "n.s/m",
            "h/n.s/m",
            "m@sha256:00",
            "m+q",
            "mödel",
            "llama\u{212a}",
            "http://ns/m",
            "m:local:cloud",
            "m:cloud:local",
            "m:cloud-cloud",
            "m:-cloud",
            "m: cloud",
            "m\0",
        ] {
            assert_eq!(canonical(text), None, "{text:?}");
        }
        let long = "m".repeat(PART_LENGTH_MAX);
        assert!(canonical(&long).is_some());
        assert_eq!(canonical(&format!("{long}m")), None);
        let host = "h".repeat(HOST_LENGTH_MAX);
        assert!(canonical(&format!("{host}/ns/m")).is_some());
        assert_eq!(canonical(&format!("{host}h/ns/m")), None);
    }

    #[test]
    fn what_is_no_name_to_ollama_is_an_id_to_the_letter() {
        for id in [
            "/models/llama.gguf",
            "accounts/X/models/Y",
            "ft:gpt-4o:org::id",
            "meta.llama/Llama-3",
            "@cf/meta/llama-3",
            "n.s/m:latest",
            "n.s/m",
            "mödel",
            "llama\u{212a}",
        ] {
            let name = ModelName::read(id).unwrap();
            assert_eq!(name.as_str(), id);
            assert_ne!(ModelName::read(&id.to_ascii_uppercase()), Ok(name), "{id}");
        }
        for (text, expected) in [("GPT-4o", "gpt-4o:latest"), (" Qwen/Qwen3 ", "qwen/qwen3:latest")]
        {
            assert_eq!(ModelName::read(text).unwrap().as_str(), expected);
        }
        let long = "/".repeat(ID_LENGTH_MAX);
        assert!(ModelName::read(&long).is_ok());
        for bad in ["", " ", "a b", "a\u{a0}b", "a\0", "a\nb", &format!("{long}/")] {
            assert!(ModelName::read(bad).is_err(), "{bad:?}");
        }
    }

    fn random_case(text: &str, bits: u64) -> String {
        let flip = |(at, c): (usize, char)| {
            if bits >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c }
        };
        text.chars().enumerate().map(flip).collect()
    }

    proptest! {
        #[test]
        fn a_canonical_name_is_its_own_canonical_form(text in "[a-z./:_A-Z0-9 -]{0,24}|.{0,12}") {
            if let Ok(name) = ModelName::parse(&text) {
                prop_assert_eq!(ModelName::parse(name.as_str()), Ok(name));
            }
        }

        #[test]
        fn an_id_is_itself_and_never_a_name(text in "[a-z./:_A-Z0-9@ -]{0,24}|.{0,12}") {
            if let Ok(name) = ModelName::read(&text) {
                prop_assert_eq!(ModelName::read(name.as_str()), Ok(name.clone()));
                let is_name = ModelName::parse(&text);
                prop_assert_eq!(ModelName::parse(name.as_str()), is_name.clone());
                prop_assert!(is_name.is_ok() || name.as_str() == text.trim());
            }
        }

        #[test]
        fn all_spellings_of_any_name_are_equal(
            model in "[a-z0-9_][a-z0-9_.-]{0,8}",
            tag in "[a-z0-9_][a-z0-9_.]{0,8}",
            bits in any::<u64>(),
        ) {
            prop_assume!(tag != LOCAL && tag != CLOUD);
            let name = format!("{model}:{tag}");
            let plain = ModelName::parse(&name);
            prop_assert_eq!(plain.as_ref().map(ModelName::as_str), Ok(name.as_str()));
            for text in [
                format!(" {model}:{tag}\t"),
                format!("library/{model}:{tag}"),
                format!("registry.ollama.ai/library/{model}:{tag}"),
                format!("https://registry.ollama.ai/library/{model}:{tag}"),
                format!("{model}:{tag}:local"),
            ] {
                prop_assert_eq!(&ModelName::parse(&random_case(&text, bits)), &plain, "{}", text);
            }
        }
    }
}
