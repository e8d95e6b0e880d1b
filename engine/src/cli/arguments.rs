//! What several commands take.

use clap::Args;
use identity::{
    limits::{Budget, LimitPeriod, Observed},
    models::ModelRule,
    policy::{Exhausted, Policy, Reserve, WEIGHT_MAX},
};
use jiff::Timestamp;
use protocol::{
    id::TenantId,
    levers::{Levers, LoadOptions},
    name::ModelName,
};
use storage::{Storage, limits::Limits};

use super::failure::Failure;
use crate::party::Party;

/// Which models may be used.
#[derive(Args)]
#[group(multiple = false)]
pub(super) struct Models {
    /// Every model that is discovered may be used.
    #[arg(long)]
    allow_all_models: bool,
    /// These models and no others may be used.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    models: Option<Vec<String>>,
}

/// Limits, each a number or `none`.
#[derive(Args)]
pub(super) struct LimitFlags {
    /// Requests per minute, or `none`.
    #[arg(long, value_parser = limit, value_name = "N")]
    rpm: Option<Limit>,
    /// Tokens per minute, or `none`.
    #[arg(long, value_parser = limit, value_name = "N")]
    tpm: Option<Limit>,
    /// Requests at once, or `none`.
    #[arg(long, value_parser = limit, value_name = "N")]
    concurrency: Option<Limit>,
    /// Tokens per period, or `none`.
    #[arg(long, value_parser = limit, value_name = "N")]
    budget_tokens: Option<Limit>,
    /// The period of the budget. Default: as it is, or else a month.
    #[arg(long, value_enum, value_name = "PERIOD")]
    budget_period: Option<Period>,
    /// These limits only count and report: rpm, tpm, concurrency, budget.
    #[arg(long, value_name = "LIMITS", value_delimiter = ',')]
    observe: Vec<Named>,
    /// These limits refuse again what is beyond them.
    #[arg(long, value_name = "LIMITS", value_delimiter = ',')]
    enforce: Vec<Named>,
}

/// One of the limits.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Named {
    Rpm,
    Tpm,
    Concurrency,
    Budget,
}

/// How a tenant is served.
#[derive(Args)]
pub(super) struct PolicyFlags {
    /// Its share where requests wait for an upstream; twice the weight, twice the turns.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(WEIGHT_MAX)))]
    weight: Option<u32>,
    /// How much of a budget a request sets aside before it begins.
    #[arg(long, value_enum)]
    reserve: Option<ReserveWord>,
    /// What becomes of a stream that needs more than is left.
    #[arg(long, value_enum)]
    exhausted: Option<ExhaustedWord>,
    #[command(flatten)]
    levers: LeverFlags,
}

/// What a tenant may ask of model servers at the cost of others.
#[derive(Args)]
struct LeverFlags {
    /// The longest `keep_alive`, as 30m, or `none`; a longer one is held to it.
    #[arg(long, value_parser = keep_alive, value_name = "SPAN")]
    keep_alive_max: Option<KeepAliveMax>,
    /// Whether it may have models unloaded, at once or sooner than by themselves.
    #[arg(long, value_name = "true|false")]
    may_unload: Option<bool>,
    /// The largest `num_ctx`, or `none`; a larger one is held to it, and 0 forbids the option.
    #[arg(long, value_parser = limit, value_name = "N")]
    num_ctx_max: Option<Limit>,
    /// Which options it may choose, and whether it may use fields that the gateway does not know.
    #[arg(long, value_enum)]
    options: Option<OptionsWord>,
    /// Whether `/api/show` tells it prompts, templates and modelfiles.
    #[arg(long, value_name = "true|false")]
    trusted_show: Option<bool>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum OptionsWord {
    /// All, also those that a model is loaded with (num_gpu, num_thread, …), and every field.
    All,
    /// Those of one request, and num_ctx.
    Safe,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ReserveWord {
    /// The most that it may use; the upstream is held to it.
    Strict,
    /// What such requests have used before; more is set aside while it streams.
    Learned,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ExhaustedWord {
    /// It ends with `finish_reason: length`.
    Stop,
    /// It goes on and is charged beyond the budget.
    Finish,
}

/// A period of a budget, in UTC.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first of the month.
    Month,
    /// All time.
    Total,
}

/// A limit, or none.
#[derive(Clone, Copy)]
struct Limit(Option<u64>);

/// The longest `keep_alive`, or none.
#[derive(Clone, Copy)]
struct KeepAliveMax(Option<std::time::Duration>);

/// A moment: `2026-11-23T12:00:00Z`, or how long before (or after) now, as `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    At(Timestamp),
    Away(std::time::Duration),
}

// === impl Models ===

impl Models {
    /// The rule that was given, if one was.
    pub(super) fn rule(&self) -> Result<Option<ModelRule>, Failure> {
        if self.allow_all_models {
            return Ok(Some(ModelRule::All));
        }
        let Some(names) = &self.models else { return Ok(None) };
        let parse = |name: &String| {
            ModelName::read(name)
                .map_err(|_| Failure::Usage(format!("{name:?} is no name of a model")))
        };
        let names = names.iter().filter(|name| !name.trim().is_empty());
        Ok(Some(ModelRule::Only(names.map(parse).collect::<Result<_, _>>()?)))
    }
}

impl From<Period> for LimitPeriod {
    fn from(period: Period) -> Self {
        match period {
            Period::Day => Self::Day,
            Period::Month => Self::Month,
            Period::Total => Self::Total,
        }
    }
}

// === impl LimitFlags ===

impl LimitFlags {
    /// Whether any was given.
    pub(super) fn is_given(&self) -> bool {
        let limits = [self.rpm, self.tpm, self.concurrency, self.budget_tokens];
        limits.iter().any(Option::is_some)
            || self.budget_period.is_some()
            || !self.observe.is_empty()
            || !self.enforce.is_empty()
    }

    /// The limits with those that were given in their places.
    pub(super) fn over(&self, limits: Limits) -> Limits {
        let given = |flag: Option<Limit>, before| flag.map_or(before, |Limit(limit)| limit);
        let mut observed = limits.observed;
        for (named, is_observed) in [(&self.observe, true), (&self.enforce, false)] {
            for named in named {
                *named.of(&mut observed) = is_observed;
            }
        }
        Limits {
            observed,
            rpm: given(self.rpm, limits.rpm),
            tpm: given(self.tpm, limits.tpm),
            concurrency: given(self.concurrency, limits.concurrency),
            budget: budget(self.budget_tokens, self.budget_period, limits.budget),
        }
    }
}

fn budget(tokens: Option<Limit>, period: Option<Period>, before: Option<Budget>) -> Option<Budget> {
    let tokens = tokens.map_or(before.map(|budget| budget.tokens), |Limit(limit)| limit)?;
    let kept = || before.map_or(LimitPeriod::Month, |budget| budget.period);
    let period = period.map_or_else(kept, LimitPeriod::from);
    let correction = before.map(|budget| budget.correction).unwrap_or_default();
    Some(Budget { tokens, period, correction })
}

// === impl Named ===

impl Named {
    fn of(self, observed: &mut Observed) -> &mut bool {
        match self {
            Self::Rpm => &mut observed.rpm,
            Self::Tpm => &mut observed.tpm,
            Self::Concurrency => &mut observed.concurrency,
            Self::Budget => &mut observed.budget,
        }
    }
}

// === impl PolicyFlags ===

impl PolicyFlags {
    /// Whether any was given.
    pub(super) fn is_given(&self) -> bool {
        self.weight.is_some()
            || self.reserve.is_some()
            || self.exhausted.is_some()
            || self.levers.is_given()
    }

    /// The policy with what was given in its place.
    pub(super) fn over(&self, policy: Policy) -> Policy {
        let reserve = self.reserve.map(|word| match word {
            ReserveWord::Strict => Reserve::Strict,
            ReserveWord::Learned => Reserve::Learned,
        });
        let exhausted = self.exhausted.map(|word| match word {
            ExhaustedWord::Stop => Exhausted::Stop,
            ExhaustedWord::Finish => Exhausted::Finish,
        });
        Policy {
            weight: self.weight.unwrap_or(policy.weight),
            reserve: reserve.unwrap_or(policy.reserve),
            exhausted: exhausted.unwrap_or(policy.exhausted),
            levers: self.levers.over(policy.levers),
        }
    }
}

// === impl LeverFlags ===

impl LeverFlags {
    fn is_given(&self) -> bool {
        self.keep_alive_max.is_some()
            || self.may_unload.is_some()
            || self.num_ctx_max.is_some()
            || self.options.is_some()
            || self.trusted_show.is_some()
    }

    fn over(&self, levers: Levers) -> Levers {
        let options = self.options.map(|word| match word {
            OptionsWord::All => LoadOptions::All,
            OptionsWord::Safe => LoadOptions::Safe,
        });
        Levers {
            keep_alive_max: self
                .keep_alive_max
                .map_or(levers.keep_alive_max, |KeepAliveMax(most)| most),
            may_unload: self.may_unload.unwrap_or(levers.may_unload),
            num_ctx_max: self.num_ctx_max.map_or(levers.num_ctx_max, |Limit(most)| most),
            options: options.unwrap_or(levers.options),
            trusted_show: self.trusted_show.unwrap_or(levers.trusted_show),
        }
    }
}

/// How long something is kept: `30d`, or `default`, as everybody's is.
pub(super) fn retention(text: &str) -> Result<Retention, String> {
    if text == "default" {
        return Ok(Retention(None));
    }
    let parsed = humantime::parse_duration(text).ok().filter(|span| !span.is_zero());
    parsed.map(|span| Retention(Some(span))).ok_or_else(|| "give 30d, or default".to_owned())
}

/// How long something is kept; none: as long as everybody's.
#[derive(Clone, Copy)]
pub(super) struct Retention(pub(super) Option<std::time::Duration>);

/// Whole seconds: what is stored is what holds.
fn keep_alive(text: &str) -> Result<KeepAliveMax, String> {
    if text == "none" {
        return Ok(KeepAliveMax(None));
    }
    let parsed = humantime::parse_duration(text).ok();
    let whole = parsed.filter(|span| !span.is_zero() && span.subsec_nanos() == 0);
    let most = whole.ok_or_else(|| "give 30m, or none".to_owned())?;
    Ok(KeepAliveMax(Some(most)))
}

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    text.parse().map(|limit| Limit(Some(limit))).map_err(|_| "give a number, or none".to_owned())
}

/// The limits as people read them.
pub(super) fn limits_text(limits: &Limits) -> String {
    let named =
        [(limits.rpm, "requests/min"), (limits.tpm, "tokens/min"), (limits.concurrency, "at once")];
    let given = named.into_iter().filter_map(|(limit, of)| Some(format!("{} {of}", limit?)));
    let budget = limits.budget.map(|budget| {
        let period = match budget.period {
            LimitPeriod::Day => "/day",
            LimitPeriod::Month => "/month",
            LimitPeriod::Total => " in all",
        };
        format!("{} tokens{period}", budget.tokens)
    });
    let observed = Some(limits.observed.words()).filter(|words| !words.is_empty());
    let observed = observed.map(|words| format!("{words} only observed"));
    let text = given.chain(budget).chain(observed).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
}

// === impl Moment ===

impl Moment {
    /// Reads one from the command line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(duration) = humantime::parse_duration(text) {
            return Ok(Self::Away(duration));
        }
        text.parse().map(Self::At).map_err(|_| {
            "give a moment as 2026-11-23T12:00:00Z, or a duration as 30d, 24h, 15m".to_owned()
        })
    }

    /// The moment, counting back from now.
    pub(super) fn ago(self) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(span) => Timestamp::now().checked_sub(span).unwrap_or(Timestamp::MIN),
        }
    }

    /// The moment, counting on from now.
    pub(super) fn hence(self) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(span) => Timestamp::now().checked_add(span).unwrap_or(Timestamp::MAX),
        }
    }
}

/// The id of the tenant of that name, where one was given.
pub(super) async fn tenant_id(
    storage: &Storage,
    named: Option<&str>,
) -> Result<Option<TenantId>, Failure> {
    match named {
        Some(named) => Ok(Some(Party::tenant(storage, named).await?.id)),
        None => Ok(None),
    }
}

/// The rule as people read it.
pub(super) fn models_text(rule: &ModelRule) -> String {
    match rule {
        ModelRule::All => "all".to_owned(),
        ModelRule::Only(names) if names.is_empty() => "none".to_owned(),
        ModelRule::Only(names) => names.iter().map(ModelName::as_str).collect::<Vec<_>>().join(","),
    }
}

/// What a tenant may ask at the cost of others, as people read it.
pub(super) fn levers_text(levers: &Levers) -> String {
    let Levers { keep_alive_max, may_unload, num_ctx_max, options, trusted_show } = levers;
    let mut parts = Vec::new();
    if let Some(most) = keep_alive_max {
        parts.push(format!("keep_alive {}", humantime::format_duration(*most)));
    }
    if let Some(most) = num_ctx_max {
        parts.push(format!("num_ctx {most}"));
    }
    parts.push(format!("{} options", options.as_str()));
    parts.extend(may_unload.then(|| "unloads".to_owned()));
    parts.extend(trusted_show.then(|| "shows all".to_owned()));
    parts.join(", ")
}

/// A rule as JSON: `{"allow_all_models":true,"models":[]}`.
#[derive(serde::Serialize)]
pub(super) struct ModelsView {
    allow_all_models: bool,
    models: Vec<String>,
}

impl From<&ModelRule> for ModelsView {
    fn from(rule: &ModelRule) -> Self {
        match rule {
            ModelRule::All => Self { allow_all_models: true, models: Vec::new() },
            ModelRule::Only(names) => Self {
                allow_all_models: false,
                models: names.iter().map(|name| name.as_str().to_owned()).collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_or_durations() {
        assert_eq!(Moment::parse("24h"), Ok(Moment::Away(std::time::Duration::from_secs(86_400))));
        let at = "2026-11-23T12:00:00Z";
        assert_eq!(Moment::parse(at), Ok(Moment::At(at.parse().unwrap())));
        assert!(Moment::parse("yesterday").is_err());
    }
}
