//! What a request can ask of a model server at the cost of others.
//!
//! A model that is loaded serves everybody who asks for it. `keep_alive` says for how long it stays, `0`
//! that it goes at once, and with nothing else in the request that is all the request is for. A
//! load-time option that is another one than before has Ollama load the model anew, for all. So what is
//! asked of both is held to what the tenant may.

use std::{borrow::Cow, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    body::BodyError,
    error::Code,
    ollama::request::{GivenOptions, LOAD_OPTIONS},
    strangers,
};

/// For how long Ollama keeps a model where nobody says: whoever asks for less takes it from others.
const KEPT_BY_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// Ollama has taken whatever is shorter for 0.
const SHORTEST: Duration = Duration::from_secs(1);

/// What a tenant may ask of a model server at the cost of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Levers {
    /// The longest `keep_alive`, in whole seconds: a longer one is this. None: as long as it likes.
    #[serde(serialize_with = "seconds")]
    pub keep_alive_max: Option<Duration>,
    /// Whether it may have a model unloaded, at once or sooner than Ollama would by itself.
    pub may_unload: bool,
    /// The largest `num_ctx`: a larger one is this, and 0 forbids the option. None: as large as it likes.
    pub num_ctx_max: Option<u64>,
    /// Whether it may choose the other options that a model is loaded with, and use fields that the gateway
    /// does not know.
    pub options: LoadOptions,
    /// Whether `/api/show` tells it everything: prompts, templates, the whole modelfile.
    pub trusted_show: bool,
}

/// Whether the options may be chosen that a model is loaded with, `num_ctx` apart, and whether fields may be used
/// that the gateway does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadOptions {
    /// Every option may be chosen, and every field used.
    All,
    /// Only those that are of one request, and only the fields that are known to be harmless.
    #[default]
    Safe,
}

/// How long a request wants its model to stay loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeepAlive {
    /// So long after its reply.
    For(Duration),
    /// For ever.
    Forever,
}

/// Another value for a field.
pub(crate) type Change = (&'static str, String);

fn seconds<S: Serializer>(span: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs()).serialize(out)
}

// === impl Levers ===

impl Levers {
    /// Whoever has these may do everything.
    pub const OPEN: Self = Self {
        keep_alive_max: None,
        may_unload: true,
        num_ctx_max: None,
        options: LoadOptions::All,
        trusted_show: true,
    };

    /// What stands in the place of a `keep_alive`, where it is not let through. `is_order`: nothing
    /// else is asked.
    pub(crate) fn keep_alive(
        &self,
        raw: &RawValue,
        is_order: bool,
    ) -> Result<Option<Change>, BodyError> {
        let asked = KeepAlive::parse(raw).ok_or_else(|| {
            let must = "a number of seconds, or a duration such as \"5m\"";
            BodyError::invalid("keep_alive", must)
        })?;
        if asked < KeepAlive::For(SHORTEST) && is_order && !self.may_unload {
            return Err(not_allowed("keep_alive", "This key may not unload models."));
        }
        let held = self.keep_alive_max.map_or(asked, |most| asked.min(KeepAlive::For(most)));
        let shortens = held < KeepAlive::For(KEPT_BY_DEFAULT);
        Ok(match held {
            // As if nothing had been said: the model server's own time holds.
            _ if shortens && !self.may_unload => Some(("keep_alive", "null".to_owned())),
            KeepAlive::For(most) if held != asked => {
                Some(("keep_alive", format!("\"{}s\"", most.as_secs())))
            }
            KeepAlive::For(_) | KeepAlive::Forever => None,
        })
    }

    /// What stands in the place of some of the options.
    pub(crate) fn options(&self, options: &GivenOptions<'_>) -> Result<Option<Change>, BodyError> {
        if self.options == LoadOptions::Safe
            && let Some(stranger) = options.strangers().first()
        {
            return Err(strangers::not_listed(&format!("options.{}", stranger.name)));
        }
        if self.options == LoadOptions::Safe
            && let Some(name) = LOAD_OPTIONS.iter().find(|name| options.get(name).is_some())
        {
            let why = "This key may not choose how a model is loaded.";
            return Err(not_allowed(format!("options.{name}"), why));
        }
        let Some(most) = self.num_ctx_max else { return Ok(None) };
        let Some(asked) = options.integer("num_ctx")? else { return Ok(None) };
        if most == 0 {
            let why = "This key may not choose how much context a model is loaded with.";
            return Err(not_allowed("options.num_ctx", why));
        }
        let is_more = u64::try_from(asked).is_ok_and(|asked| asked > most);
        Ok(is_more.then(|| ("num_ctx", most.to_string())))
    }
}

impl Default for Levers {
    fn default() -> Self {
        Self {
            keep_alive_max: Some(Duration::from_secs(30 * 60)),
            may_unload: false,
            num_ctx_max: None,
            options: LoadOptions::Safe,
            trusted_show: false,
        }
    }
}

fn not_allowed(field: impl Into<String>, why: &'static str) -> BodyError {
    BodyError::new(Code::OptionNotAllowed, field, why)
}

// === impl LoadOptions ===

impl LoadOptions {
    /// The word that stands for it in the database, on the command line and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Safe => "safe",
        }
    }

    /// The one of that word, if there is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::All, Self::Safe].into_iter().find(|one| one.as_str() == word)
    }
}

// === impl KeepAlive ===

impl KeepAlive {
    /// Reads it as Ollama does: a number of seconds, or a duration as Go writes it; whatever is
    /// negative is for ever.
    pub(crate) fn parse(raw: &RawValue) -> Option<Self> {
        let seconds = if raw.get().starts_with('"') {
            go_seconds(&serde_json::from_str::<Cow<'_, str>>(raw.get()).ok()?)?
        } else {
            serde_json::from_str::<f64>(raw.get()).ok()?
        };
        if seconds < 0.0 {
            return Some(Self::Forever);
        }
        Some(Duration::try_from_secs_f64(seconds).map_or(Self::Forever, Self::For))
    }

    /// Whether a model is to go at once.
    pub(crate) fn unloads(self) -> bool {
        self < Self::For(SHORTEST)
    }
}

/// A duration as Go's `time.ParseDuration` reads it (`1h30m`, `-1.5s`, `0`), in seconds.
fn go_seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let is_digit = |letter: char| letter.is_ascii_digit() || letter == '.';
    let mut sum = 0.0;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|letter| !is_digit(letter))?);
        let (unit, behind) = behind.split_at(behind.find(is_digit).unwrap_or(behind.len()));
        let number: f64 = number.parse().ok()?;
        sum += number
            * match unit {
                "ns" => 1e-9,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                _ => return None,
            };
        rest = behind;
    }
    Some(sign * sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn keep_alive(levers: Levers, text: &str) -> Option<String> {
        levers.keep_alive(&raw(text), false).unwrap().map(|(_, value)| value)
    }

    fn capped(most: u64, may_unload: bool) -> Levers {
        let keep_alive_max = Some(Duration::from_secs(most));
        Levers { keep_alive_max, may_unload, ..Levers::OPEN }
    }

    #[test]
    fn a_keep_alive_is_read_as_ollama_reads_it() {
        let span = |millis| Some(KeepAlive::For(Duration::from_millis(millis)));
        for (text, expected) in [
            ("0", span(0)),
            ("-0", span(0)),
            ("300", span(300_000)),
            ("1.5", span(1_500)),
            ("1e2", span(100_000)),
            ("-1", Some(KeepAlive::Forever)),
            ("1e300", Some(KeepAlive::Forever)),
            (r#""5m""#, span(300_000)),
            (r#""1h30m""#, span(5_400_000)),
            (r#""\u0035m""#, span(300_000)),
            (r#"".5s""#, span(500)),
            (r#""+1.5h""#, span(5_400_000)),
            (r#""0""#, span(0)),
            (r#""-0""#, span(0)),
            (r#""3000us""#, span(3)),
            (r#""-1m""#, Some(KeepAlive::Forever)),
            (r#""""#, None),
            (r#""-""#, None),
            (r#""300""#, None),
            (r#""5 m""#, None),
            (r#""5M""#, None),
            (r#""1..5s""#, None),
            (r#"".s""#, None),
            (r#""m""#, None),
            (r#""1e2s""#, None),
            ("true", None),
            ("[]", None),
            ("{}", None),
        ] {
            assert_eq!(KeepAlive::parse(&raw(text)), expected, "{text}");
        }
    }

    #[test]
    fn who_may_not_unload_neither_does_so_nor_shortens_what_others_have() {
        let levers = Levers::default();
        for text in ["0", "0.4", r#""0s""#, r#""0""#, r#""1ms""#, "1", r#""4m59s""#] {
            assert_eq!(keep_alive(levers, text).as_deref(), Some("null"), "{text}");
            let order = levers.keep_alive(&raw(text), true);
            let is_unload = KeepAlive::parse(&raw(text)).is_some_and(KeepAlive::unloads);
            assert_eq!(order.is_err(), is_unload, "{text}");
            assert_eq!(keep_alive(Levers::OPEN, text), None, "{text}");
            assert_eq!(Levers::OPEN.keep_alive(&raw(text), true), Ok(None), "{text}");
        }
        let refused = levers.keep_alive(&raw("0"), true).unwrap_err();
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (Code::OptionNotAllowed, Some("keep_alive"))
        );
    }

    #[test]
    fn what_is_longer_than_the_cap_is_the_cap() {
        for text in ["-1", "1801", r#""24h""#, r#""30m1ms""#, r#""-1s""#, "1e300"] {
            assert_eq!(
                keep_alive(Levers::default(), text).as_deref(),
                Some(r#""1800s""#),
                "{text}"
            );
        }
        for text in ["1800", r#""30m""#, r#""5m""#, "300.0"] {
            assert_eq!(keep_alive(Levers::default(), text), None, "{text}");
        }
        // A cap below Ollama's own time would shorten what others have.
        assert_eq!(keep_alive(capped(60, false), "-1").as_deref(), Some("null"));
        assert_eq!(keep_alive(capped(60, true), "-1").as_deref(), Some(r#""60s""#));
        assert_eq!(keep_alive(capped(60, true), "0"), None);
    }

    #[test]
    fn a_keep_alive_that_cannot_be_read_is_refused() {
        let refused = Levers::OPEN.keep_alive(&raw(r#""soon""#), false).unwrap_err();
        assert_eq!(refused.code, Code::InvalidRequest);
    }

    #[test]
    fn every_word_reads_back() {
        for options in [LoadOptions::All, LoadOptions::Safe] {
            assert_eq!(LoadOptions::parse(options.as_str()), Some(options));
        }
        assert_eq!(LoadOptions::parse(""), None);
    }

    proptest! {
        #[test]
        fn whatever_is_sent_upstream_is_within_the_cap(text in "-?[0-9]{1,6}(\\.[0-9]{1,3})?|\"-?([0-9]{1,4}(h|m|s|ms|us|ns)){1,3}\"", most in 1_u64..10_000, may_unload: bool) {
            let Ok(asked) = RawValue::from_string(text) else { return Ok(()) };
            let levers = capped(most, may_unload);
            let Ok(change) = levers.keep_alive(&asked, false) else { return Ok(()) };
            let sent = change.map_or_else(|| asked.get().to_owned(), |(_, value)| value);
            if sent != "null" {
                let sent = KeepAlive::parse(&raw(&sent)).unwrap();
                prop_assert!(sent <= KeepAlive::For(Duration::from_secs(most)));
                prop_assert!(may_unload || sent >= KeepAlive::For(KEPT_BY_DEFAULT));
            }
        }
    }
}
