//! A body that passes to an upstream of its own dialect, OpenAI's: what has to be another there.

use super::chat_request::{Given, Wanted, wanted};
use crate::{
    body::{BodyError, Fields},
    openai::write::limit_name,
    strangers,
};

/// The fields that say how long a reply may be; the newer one stands first, and wins.
const LIMITS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// A field and its new value.
pub(super) type Change = (&'static str, String);

/// The most tokens of a chat's reply. `held_to`: what it is, whatever the client says; `said`: what the
/// client's word is taken for.
///
/// A server may know only one of the two fields: where both are there, they say the same.
pub(super) fn chat_limit(
    given: &Given<'_>,
    model: &str,
    held_to: Option<u64>,
    said: Option<u64>,
) -> Result<Vec<Change>, BodyError> {
    let names = LIMITS.into_iter().filter(|name| given.get(name).is_some()).collect();
    agreed(given, names, limit_name(model), (held_to, said))
}

/// The same, of a completion.
pub(super) fn limit<const N: usize>(
    given: &Fields<'_, N>,
    held_to: Option<u64>,
    said: Option<u64>,
) -> Result<Vec<Change>, BodyError> {
    let names = given.get("max_tokens").map(|_| "max_tokens").into_iter().collect();
    agreed(given, names, "max_tokens", (held_to, said))
}

/// What makes all spellings of the most tokens say the same. `names`: those of the dialect that are there;
/// `own`: the one that the server knows for certain.
///
/// A server may prefer another spelling to the dialect's own (llama.cpp does), so one that is there is never
/// left as it is; and it may not know the other one at all, so it does not stand alone.
fn agreed<const N: usize>(
    given: &Fields<'_, N>,
    mut names: Vec<&'static str>,
    own: &'static str,
    (held_to, said): (Option<u64>, Option<u64>),
) -> Result<Vec<Change>, BodyError> {
    let count = names.len();
    if !given.strangers().is_empty() {
        names.extend(strangers::limits(given));
    }
    let has_others = names.len() > count;
    let most = match (held_to, said) {
        (Some(most), _) => most,
        (None, Some(most)) if has_others || count > 1 => most,
        (None, _) => return Ok(Vec::new()),
    };
    if (held_to.is_some() || has_others) && !names.contains(&own) {
        names.push(own);
    }
    let mut changes = Vec::new();
    for name in names {
        if given.most(name)? != Some(most) {
            changes.push((name, most.to_string()));
        }
    }
    Ok(changes)
}

/// The format of a reply, where the server might not read it as it stands: a schema goes to its standard place, and
/// nothing at all is no format.
///
/// # Errors
/// Where the format is a schema, and there is none.
pub(super) fn response_format(given: &Given<'_>) -> Result<Option<Change>, BodyError> {
    let raw = given.get("response_format").filter(|raw| raw.get().starts_with('{'));
    let Some(raw) = raw else { return Ok(None) };
    let format = match wanted(raw)? {
        Wanted::SchemaOutside(schema) => format!(
            "{{\"type\":\"json_schema\",\"json_schema\":{{\"name\":\"reply\",\"schema\":{}}}}}",
            schema.get()
        ),
        Wanted::Text if !raw.get().contains('"') => "null".to_owned(),
        Wanted::Text | Wanted::Object | Wanted::Schema(_) | Wanted::Other => return Ok(None),
    };
    Ok(Some(("response_format", format)))
}

/// The options of a stream, with the wish for its usage among them.
pub(super) fn with_usage<const N: usize>(given: &Fields<'_, N>) -> Result<Change, BodyError> {
    const KNOWN: [&str; 1] = ["include_usage"];
    let options = match given.get("stream_options") {
        None => "{\"include_usage\":true}".to_owned(),
        Some(raw) => {
            let options = Fields::of_object(raw, &KNOWN, None, "stream_options.")?;
            let change = [("include_usage", "true".to_owned())];
            let made = options.replaced(raw.get().as_bytes(), &change);
            String::from_utf8_lossy(&made).into_owned()
        }
    };
    Ok(("stream_options", options))
}

#[cfg(test)]
mod tests {
    use crate::{
        error::Code,
        levers::Levers,
        route::{Route, UpstreamKind},
        translate::request::{Request, Target},
    };

    fn sent(route: Route, rest: &str, model: &str, held_to: Option<u64>) -> Option<String> {
        let body = format!(r#"{{"model":"{model}","messages":[],"input":"a"{rest}}}"#);
        let request = Request::read(route, body.as_bytes()).unwrap();
        let levers = &Levers::OPEN;
        let target =
            Target { kind: UpstreamKind::OpenAi, model: None, tokens_max: held_to, levers };
        let sent = request.write(&target).unwrap().body;
        sent.map(|sent| String::from_utf8(sent).unwrap())
    }

    #[test]
    fn the_most_is_said_so_that_the_server_hears_it() {
        for (rest, model, held_to, expected) in [
            ("", "m", None, None),
            (r#","max_tokens":5"#, "m", None, None),
            (r#","max_completion_tokens":5"#, "m", None, None),
            (r#","max_tokens":5,"max_completion_tokens":5.0"#, "m", None, None),
            // The reservation is for the newer one: a server that knows only the other must not have more.
            (
                r#","max_tokens":9,"max_completion_tokens":5"#,
                "m",
                None,
                Some(r#","max_tokens":5,"max_completion_tokens":5}"#),
            ),
            (
                r#","max_tokens":5,"max_completion_tokens":-1"#,
                "m",
                None,
                Some(r#","max_tokens":5,"max_completion_tokens":5}"#),
            ),
            ("", "m", Some(7), Some(r#","max_tokens":7}"#)),
            ("", "gpt-5-mini", Some(7), Some(r#","max_completion_tokens":7}"#)),
            ("", "gpt-6-mini", Some(7), Some(r#","max_completion_tokens":7}"#)),
            ("", "gpt-oss:20b", Some(7), Some(r#","max_tokens":7}"#)),
            (r#","max_tokens":0"#, "m", Some(7), Some(r#","max_tokens":7}"#)),
            (
                r#","max_completion_tokens":0"#,
                "m",
                Some(7),
                Some(r#","max_completion_tokens":7,"max_tokens":7}"#),
            ),
            (
                r#","max_completion_tokens":0"#,
                "o3",
                Some(7),
                Some(r#","max_completion_tokens":7}"#),
            ),
        ] {
            let sent = sent(Route::OpenAiChat, rest, model, held_to);
            let end = sent.as_deref().and_then(|sent| sent.split_once(r#""input":"a""#));
            assert_eq!(end.map(|(_, end)| end), expected, "{rest} {model}");
        }
        let made = sent(Route::OpenAiResponses, r#","max_output_tokens":5"#, "o4-mini", None);
        assert!(made.unwrap().contains(r#""max_completion_tokens":5"#));
    }

    #[test]
    fn a_completion_says_how_many_replies_there_will_be() {
        for (prompt, replies) in [
            (r#""a""#, Some(1)),
            (r#""""#, Some(1)),
            (r#"["a","b","c"]"#, Some(3)),
            ("[1,2,3]", Some(1)),
            ("[[1,2],[3]]", Some(2)),
            ("[]", None),
            ("5", None),
        ] {
            let body = format!(r#"{{"model":"m","prompt":{prompt}}}"#);
            let read = Request::read(Route::OpenAiCompletions, body.as_bytes());
            let said = read.map(|request| request.replies).map_err(|error| error.code);
            assert_eq!(said, replies.ok_or(Code::InvalidRequest), "{prompt}");
        }
    }
}
