//! What policy must know of a native request body, which passes through byte for byte.
//!
//! What is checked here is what the upstream will do: the body has one reading only (see
//! [`BodyError`]'s `AmbiguousField`), and the options have the types that Ollama demands, because it
//! answers a wrong one with a 500, which would count as a failure of the upstream.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::{
    body::{Fields, Text},
    caps,
    error::Code,
    json,
    levers::{Change, KeepAlive, Levers},
    prompt::Prompt,
    route::Route,
    strangers,
};

pub use crate::body::BodyError;

/// Every top-level field that Ollama reads on one of the routes.
pub(crate) const FIELDS: [&str; 27] = [
    "model",
    "name",
    "messages",
    "prompt",
    "suffix",
    "system",
    "template",
    "context",
    "stream",
    "raw",
    "format",
    "keep_alive",
    "images",
    "options",
    "tools",
    "think",
    "truncate",
    "shift",
    "input",
    "dimensions",
    "logprobs",
    "top_logprobs",
    "verbose",
    "width",
    "height",
    "steps",
    "_debug_render_only",
];

/// The fields of a native body.
pub(crate) type Given<'a> = Fields<'a, { FIELDS.len() }>;

/// Its `options`.
pub(crate) type GivenOptions<'a> = Fields<'a, { OPTIONS.len() }>;

/// The options that have to be read in one way only; those up to `stop` have types that Ollama checks.
pub(crate) const OPTIONS: [&str; 26] = [
    "num_keep",
    "seed",
    "num_predict",
    "top_k",
    "repeat_last_n",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "draft_num_predict",
    "top_p",
    "min_p",
    "typical_p",
    "temperature",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "use_mmap",
    "stop",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "numa",
];

/// The options, besides `num_ctx`, that a model is loaded with: with others it is loaded anew. The last
/// six only older versions know.
pub(crate) const LOAD_OPTIONS: [&str; 12] = [
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "numa",
];

/// How many of [`OPTIONS`] are whole numbers; the numbers follow, up to `use_mmap`.
const INTEGERS: usize = 11;
/// Where the numbers end.
const NUMBERS: usize = 18;

/// What policy must know of a native request body.
pub(crate) struct Inspected<'a> {
    /// The model, as the client spelled it; never blank.
    pub(crate) model: Cow<'a, str>,
    /// Whether the reply is to be streamed, where the client says so; else it is.
    pub(crate) stream: Option<bool>,
    /// Nothing is asked: no messages, an empty prompt or input. To Ollama this is an order to load
    /// the model, or with `keep_alive` 0 to unload it.
    pub(crate) is_empty: bool,
    /// The most tokens that the reply may have, where the client says so.
    pub(crate) tokens_max: Option<u64>,
    fields: Given<'a>,
}

/// Reads what policy must know, without copying or decoding the large fields.
///
/// # Errors
/// [`BodyError`] with [`Code::InvalidJson`] where the body is not one JSON object,
/// [`Code::AmbiguousField`] where a field that matters stands there twice or in another case,
/// [`Code::ModelRequired`] where no model is named, and [`Code::InvalidRequest`] where a field that
/// is read here has a wrong type.
pub(crate) fn inspect(body: &[u8], route: Route) -> Result<Inspected<'_>, BodyError> {
    let fields = Fields::of_body(body, &FIELDS, Some(strangers::NATIVE))?;
    let mut model = fields.string("model")?;
    if route == Route::OllamaShow {
        let legacy = fields.string("name")?;
        model = match (model, legacy) {
            (Some(model), Some(legacy)) if model != legacy => {
                let message = "`model` and `name` are both given and differ.";
                return Err(BodyError::new(Code::AmbiguousField, "name", message));
            }
            (model, legacy) => model.or(legacy),
        };
    }
    let model = model.filter(|model| !model.trim().is_empty());
    let asked = match route {
        Route::OllamaChat => fields.get("messages"),
        Route::OllamaEmbed => fields.get("input"),
        _ => fields.get("prompt"),
    };
    let tokens_max = match fields.get("options") {
        Some(options) => check_options(options)?,
        None => None,
    };
    Ok(Inspected {
        model: model.ok_or_else(BodyError::model_required)?,
        stream: fields.flag("stream")?,
        is_empty: !asked.is_some_and(|raw| json::is_filled(raw.get())),
        tokens_max,
        fields,
    })
}

// === impl Inspected ===

impl<'a> Inspected<'a> {
    /// What its prompt is made of.
    pub(crate) fn prompt(&self, route: Route) -> Prompt<'a> {
        let mut prompt = Prompt::default();
        let texts: &[&str] = match route {
            Route::OllamaChat => &["tools", "format"],
            Route::OllamaGenerate => &["prompt", "system", "suffix", "template", "format"],
            Route::OllamaEmbed => &["input"],
            Route::OllamaEmbeddings => &["prompt"],
            _ => &[],
        };
        texts.iter().for_each(|name| prompt.text(self.fields.get(name)));
        match route {
            Route::OllamaChat => prompt.messages("messages", self.fields.get("messages")),
            Route::OllamaGenerate => {
                prompt.ids(self.fields.get("context"));
                prompt.images(self.fields.get("images"));
            }
            _ => {}
        }
        prompt
    }

    /// All of its fields.
    pub(crate) fn fields(&self) -> &Given<'a> {
        &self.fields
    }

    /// Whether, with nothing else asked, it is an order to unload the model; else it is one to load it.
    pub(crate) fn unloads(&self) -> bool {
        self.fields.get("keep_alive").and_then(KeepAlive::parse).is_some_and(KeepAlive::unloads)
    }

    /// What has to be another one under these levers: of the fields, and of the options.
    ///
    /// # Errors
    /// [`Code::OptionNotAllowed`] where something is asked for that must not be, and as [`inspect`].
    pub(crate) fn held(
        &self,
        levers: &Levers,
    ) -> Result<(Option<Change>, Option<Change>), BodyError> {
        let keep_alive = self.fields.get("keep_alive");
        let keep_alive = keep_alive.map(|raw| levers.keep_alive(raw, self.is_empty)).transpose()?;
        let options = match self.fields.get("options") {
            None => None,
            Some(raw) => levers.options(&options_of(raw)?)?,
        };
        Ok((keep_alive.flatten(), options))
    }

    /// The body for another model, for no more than so many tokens, under these levers; none where it may
    /// stay as it is.
    ///
    /// # Errors
    /// As [`Self::held`].
    pub(crate) fn replaced(
        &self,
        body: &[u8],
        model: Option<&str>,
        tokens_max: Option<u64>,
        levers: &Levers,
    ) -> Result<Option<Vec<u8>>, BodyError> {
        let (keep_alive, options) = self.held(levers)?;
        let mut changes = Vec::from_iter(keep_alive);
        if let Some(model) = model {
            let mut quoted = Vec::new();
            json::write_string(model, &mut quoted);
            let quoted = String::from_utf8_lossy(&quoted).into_owned();
            // The older name of the field goes with it.
            if self.fields.get("name").is_some() {
                changes.push(("name", quoted.clone()));
            }
            changes.push(("model", quoted));
        }
        let options = match self.fields.get("options") {
            None => tokens_max.map(|most| format!("{{\"num_predict\":{most}}}")),
            Some(given) => {
                let most = tokens_max.map(|most| ("num_predict", most.to_string()));
                let options: Vec<Change> = options.into_iter().chain(most).collect();
                let made = || {
                    let fields = options_of(given)?;
                    let made = fields.replaced(given.get().as_bytes(), &options);
                    Ok(String::from_utf8_lossy(&made).into_owned())
                };
                (!options.is_empty()).then(made).transpose()?
            }
        };
        changes.extend(options.map(|options| ("options", options)));
        Ok((!changes.is_empty()).then(|| self.fields.replaced(body, &changes)))
    }
}

/// The options, each found once.
pub(crate) fn options_of(raw: &RawValue) -> Result<GivenOptions<'_>, BodyError> {
    Fields::of_object(raw, &OPTIONS, Some(strangers::OPTIONS), "options.")
}

/// Checks the types of the options, and tells how many tokens may be produced.
fn check_options(options: &RawValue) -> Result<Option<u64>, BodyError> {
    let fields = options_of(options)?;
    for name in &OPTIONS[..INTEGERS] {
        fields.integer(name)?;
    }
    for name in &OPTIONS[INTEGERS..NUMBERS] {
        fields.number(name)?;
    }
    fields.flag("use_mmap")?;
    if let Some(stop) = fields.get("stop") {
        caps::list("options.stop", stop.get(), caps::STOPS_MAX)?;
    }
    fields.read::<Vec<Text<'_>>>("stop", "a list of strings")?;
    fields.most("num_predict")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(body: &str, route: Route) -> Inspected<'_> {
        inspect(body.as_bytes(), route).unwrap_or_else(|error| panic!("{body}: {error}"))
    }

    fn replaced(body: &str, model: Option<&str>, most: Option<u64>) -> Option<String> {
        let inspected = inspected(body, Route::OllamaShow);
        let made = inspected.replaced(body.as_bytes(), model, most, &Levers::OPEN).unwrap();
        made.map(|made| String::from_utf8(made).unwrap())
    }

    #[test]
    fn a_most_takes_the_place_of_any_other() {
        for (body, expected) in [
            (r#"{"model":"a"}"#, r#"{"model":"a","options":{"num_predict":7}}"#),
            (r#" {"model":"a","options":null} "#, r#"{"model":"a","options":{"num_predict":7}}"#),
            (r#"{"options":{ },"model":"a"}"#, r#"{"options":{ "num_predict":7},"model":"a"}"#),
            (
                r#"{"options":{"num_predict":-1,"stop":["}"]} ,"model":"a"}"#,
                r#"{"options":{"num_predict":7,"stop":["}"]} ,"model":"a"}"#,
            ),
        ] {
            assert_eq!(replaced(body, None, Some(7)).as_deref(), Some(expected));
        }
    }

    #[test]
    fn another_model_takes_the_place_of_the_one_that_was_named() {
        for (body, expected) in [
            (r#"{"model" : "a" ,"x":1}"#, r#"{"model" : "b\"" ,"x":1}"#),
            (r#"{"name":"a"}"#, r#"{"name":"b\"","model":"b\""}"#),
            (r#" {"name":"\u0061","model":"a"}"#, r#"{"name":"b\"","model":"b\""}"#),
        ] {
            assert_eq!(replaced(body, Some("b\""), None).as_deref(), Some(expected));
        }
        assert_eq!(replaced(r#"{"model":"a"}"#, None, None), None);
    }

    #[test]
    fn images_are_not_counted_as_text() {
        let image = "A".repeat(100_000);
        let body = format!(
            r#"{{"model":"a","messages":[{{"role":"user","content":"hello","images":["{image}"]}}]}}"#
        );
        let prompt = inspected(&body, Route::OllamaChat).prompt(Route::OllamaChat);
        assert!((5..100).contains(&prompt.text_bytes), "{}", prompt.text_bytes);
        assert_eq!(prompt.images, 1);
        let none = r#"{"model":"a","messages":[]}"#;
        assert_eq!(inspected(none, Route::OllamaChat).prompt(Route::OllamaChat).text_bytes, 0);
    }

    fn refusal(body: &str, route: Route) -> (Code, String) {
        let error = inspect(body.as_bytes(), route).map(drop).unwrap_err();
        (error.code, error.field.unwrap_or_default())
    }

    #[test]
    fn a_chat_says_what_policy_needs() {
        let body = r#"{"model":"llama3","messages":[{"role":"user","content":"hi"}],"stream":false,
            "keep_alive":"5m","options":{"num_predict":12,"temperature":0.5,"stop":["a"]}}"#;
        let inspected = inspected(body, Route::OllamaChat);
        assert!(matches!(inspected.model, Cow::Borrowed("llama3")));
        assert_eq!(inspected.stream, Some(false));
        assert!(!inspected.unloads());
        assert!(!inspected.is_empty);
        assert_eq!(inspected.tokens_max, Some(12));
    }

    #[test]
    fn an_empty_request_is_seen_on_each_route() {
        for (rest, route) in [
            ("", Route::OllamaChat),
            (r#","messages":[ ]"#, Route::OllamaChat),
            (r#","messages":null"#, Route::OllamaChat),
            (r#","prompt":"""#, Route::OllamaGenerate),
            (r#","input":"""#, Route::OllamaEmbed),
            (r#","input":[]"#, Route::OllamaEmbed),
            (r#","messages":[1]"#, Route::OllamaEmbeddings),
        ] {
            let body = format!(r#"{{"model":"m"{rest}}}"#);
            assert!(inspected(&body, route).is_empty, "{body}");
        }
        let body = r#"{"model":"m","prompt":"a","input":["a"]}"#;
        for route in [Route::OllamaGenerate, Route::OllamaEmbed, Route::OllamaEmbeddings] {
            assert!(!inspected(body, route).is_empty);
        }
    }

    #[test]
    fn a_model_must_be_named_by_a_string() {
        for body in
            ["{}", r#"{"model":null}"#, r#"{"model":""}"#, r#"{"model":" "}"#, r#"{"name":"m"}"#]
        {
            assert_eq!(refusal(body, Route::OllamaChat).0, Code::ModelRequired, "{body}");
        }
        assert_eq!(refusal(r#"{"model":1}"#, Route::OllamaChat).0, Code::InvalidRequest);
        assert_eq!(refusal(r#"{"model":["m"]}"#, Route::OllamaChat).0, Code::InvalidRequest);
    }

    #[test]
    fn show_takes_the_legacy_name_and_no_two_models() {
        assert_eq!(inspected(r#"{"name":"m"}"#, Route::OllamaShow).model, "m");
        assert_eq!(inspected(r#"{"name":"m","model":"m"}"#, Route::OllamaShow).model, "m");
        let (code, field) = refusal(r#"{"name":"a","model":"b"}"#, Route::OllamaShow);
        assert_eq!((code, field.as_str()), (Code::AmbiguousField, "name"));
        assert_eq!(
            refusal(r#"{"name":"","model":"b"}"#, Route::OllamaShow).0,
            Code::AmbiguousField
        );
    }

    #[test]
    fn a_field_in_two_readings_is_refused_at_both_levels() {
        for name in FIELDS {
            let twice = format!(r#"{{"model":"m","{name}":null,"{name}":null}}"#);
            let cased = format!(r#"{{"model":"m","{}":null}}"#, name.to_uppercase());
            for body in [twice, cased] {
                let (code, field) = refusal(&body, Route::OllamaGenerate);
                assert_eq!((code, field.as_str()), (Code::AmbiguousField, name), "{body}");
            }
        }
        for options in
            [r#"{"num_ctx":1,"num_ctx":2}"#, r#"{"NUM_CTX":2}"#, r#"{"num_ctx":1,"Num_ctx":2}"#]
        {
            let body = format!(r#"{{"model":"m","options":{options}}}"#);
            let (code, field) = refusal(&body, Route::OllamaChat);
            assert_eq!((code, field.as_str()), (Code::AmbiguousField, "options.num_ctx"), "{body}");
        }
    }

    #[test]
    fn an_option_of_a_wrong_type_never_reaches_the_upstream() {
        for (options, field) in [
            (r#"[]"#, "options"),
            (r#"{"seed":"1"}"#, "options.seed"),
            (r#"{"num_predict":1.5}"#, "options.num_predict"),
            (r#"{"temperature":"hot"}"#, "options.temperature"),
            (r#"{"use_mmap":1}"#, "options.use_mmap"),
            (r#"{"stop":"a"}"#, "options.stop"),
            (r#"{"stop":[1]}"#, "options.stop"),
        ] {
            let body = format!(r#"{{"model":"m","options":{options}}}"#);
            let (code, at) = refusal(&body, Route::OllamaChat);
            assert_eq!((code, at.as_str()), (Code::InvalidRequest, field), "{body}");
        }
        let most = |number: &str| {
            let body = format!(
                r#"{{"model":"m","options":{{"num_predict":{number},"seed":null,"unknown":{{}}}}}}"#
            );
            inspected(&body, Route::OllamaChat).tokens_max
        };
        assert_eq!(most("3.0"), Some(3));
        // Ollama takes each of them for no limit.
        assert_eq!(["0", "-1", "-2", "null"].map(most), [None; 4]);
    }
}
