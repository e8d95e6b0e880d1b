//! What is asked of the script, and what it answers, as JSON.

use std::time::Duration;

use identity::limits::{LimitPeriod, Limits};
use jiff::Timestamp;
use protocol::id::KeyId;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::admission::{
    Admitted, Answer, Counted, Gauge, Gauges, Limit, Member, Operation, Refusal, Refused, Scope,
    Standing, Unavailable, Unknown, Usage, Wait,
};

/// Numbers in Lua are doubles: what is larger is taken for this.
const NUMBER_MAX: u64 = (1 << 53) - 1;
/// The party that is the tenant.
const TENANT: &str = "t";

// === What is asked ===

pub(super) fn operation(operation: &Operation) -> Json {
    match operation {
        Operation::Admit(admit) => json!({
            "op": "admit",
            "member": member(admit.member),
            "key": key(admit.key),
            "tenant_limits": limits(&admit.tenant_limits),
            "key_limits": limits(&admit.key_limits),
            "tokens": number(admit.need.tokens),
            "tokens_max": number(admit.need.tokens_max),
        }),
        Operation::TopUp { member: whose, more, tenant_limits, key_limits } => json!({
            "op": "top_up",
            "member": member(*whose),
            "more": number(*more),
            "limits": [limits(tenant_limits), limits(key_limits)],
        }),
        Operation::Settle { member: whose, used } => {
            json!({ "op": "settle", "member": member(*whose), "used": number(*used) })
        }
        Operation::Cancel { member: whose } => json!({ "op": "cancel", "member": member(*whose) }),
        Operation::Beat { members } => {
            let members: Vec<_> = members.iter().copied().map(member).collect();
            json!({ "op": "beat", "members": members })
        }
        Operation::Register { member: whose, held } => {
            json!({ "op": "register", "member": member(*whose), "held": held })
        }
        Operation::SetUsage(usage) => set_usage(usage),
        Operation::Look { tenant_limits, keys } => {
            let keys: Vec<_> = keys.iter().map(|(id, of)| json!([key(*id), limits(of)])).collect();
            json!({ "op": "look", "tenant_limits": limits(tenant_limits), "keys": keys })
        }
    }
}

fn set_usage(usage: &Usage) -> Json {
    json!({
        "op": "set_usage",
        "party": usage.key.map_or_else(|| TENANT.to_owned(), key),
        "kind": usage.period.as_str(),
        "start": usage.start.map_or(0, Timestamp::as_millisecond),
        "used": number(usage.used),
        "counted": number(usage.counted),
        "read_at": usage.read_at.map_or(0, Timestamp::as_millisecond),
    })
}

fn limits(limits: &Limits) -> Json {
    let mut told = json!({ "observed": limits.observed });
    for (name, limit) in
        [("rpm", limits.rpm), ("tpm", limits.tpm), ("concurrency", limits.concurrency)]
    {
        if let Some(limit) = limit {
            told[name] = number(limit).into();
        }
    }
    if let Some(budget) = limits.budget {
        told["budget"] = json!({
            "tokens": number(budget.tokens),
            "kind": budget.period.as_str(),
            "read_at": budget.correction.read_at.map_or(0, Timestamp::as_millisecond),
        });
    }
    told
}

fn number(number: u64) -> u64 {
    number.min(NUMBER_MAX)
}

fn key(key: KeyId) -> String {
    key.0.as_simple().to_string()
}

fn member(member: Member) -> String {
    format!("{:x}:{:x}", member.replica, member.number)
}

// === What is answered ===

/// The answers to a batch, unless they are not to be understood.
pub(super) fn answers(text: &str, batch: &[Operation]) -> Result<Vec<Answer>, Unavailable> {
    let told: Vec<Told> = serde_json::from_str(text).unwrap_or_default();
    let is_whole = told.len() == batch.len();
    let answers = told.into_iter().zip(batch).map(|(told, operation)| told.answer(operation));
    let unreadable = || Unavailable("Redis answers with what is no answer".to_owned());
    answers.collect::<Option<_>>().filter(|_| is_whole).ok_or_else(unreadable)
}

/// One answer; which fields it has says what kind it is.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    held: Option<String>,
    observed: Option<Vec<(String, String)>>,
    /// Scope, limit, milliseconds to wait.
    refused: Option<(String, String, String)>,
    key: Option<ToldGauges>,
    tenant: Option<ToldGauges>,
    unknown: Option<Vec<ToldUnknown>>,
    topped: Option<bool>,
    missing: Option<Vec<String>>,
    looked: Option<Vec<ToldStanding>>,
}

/// What is left and, in milliseconds, when everything is there again.
#[derive(Debug, Default, Deserialize)]
struct ToldGauges {
    rpm: Option<Vec<String>>,
    tpm: Option<Vec<String>>,
    budget: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct ToldUnknown {
    party: String,
    kind: String,
    start: String,
    counted: Option<(String, String, String)>,
}

#[derive(Debug, Deserialize)]
struct ToldStanding {
    gauges: ToldGauges,
    under_way: u64,
}

// === impl Told ===

impl Told {
    pub(super) fn answer(self, asked: &Operation) -> Option<Answer> {
        Some(match asked {
            Operation::Admit(admit) => {
                if let Some(unknown) = self.unknown {
                    let of = |one: ToldUnknown| one.of(&admit.tenant_limits, &admit.key_limits);
                    return Some(Answer::Unknown(
                        unknown.into_iter().map(of).collect::<Option<_>>()?,
                    ));
                }
                let gauges = (self.key?.of(&admit.key_limits))
                    .tighter(self.tenant?.of(&admit.tenant_limits));
                if let Some((scope, word, wait)) = self.refused {
                    let scope = scope_of(&scope)?;
                    let limits = match scope {
                        Scope::Tenant => &admit.tenant_limits,
                        Scope::Key => &admit.key_limits,
                    };
                    let (what, limit) = limit_of(&word, limits)?;
                    let by = Refusal { what, limit, wait: wait_of(&wait)? };
                    return Some(Answer::Refused(Box::new(Refused { scope, by, gauges })));
                }
                let observed =
                    self.observed.unwrap_or_default().into_iter().map(|(scope, word)| {
                        let scope = scope_of(&scope)?;
                        let limits = match scope {
                            Scope::Tenant => &admit.tenant_limits,
                            Scope::Key => &admit.key_limits,
                        };
                        Some((scope, limit_of(&word, limits)?.0))
                    });
                let observed = observed.collect::<Option<_>>()?;
                Answer::Admitted(Box::new(Admitted { held: self.held?, gauges, observed }))
            }
            Operation::TopUp { .. } => Answer::ToppedUp(self.topped?),
            Operation::Beat { .. } => {
                let missing = self.missing.unwrap_or_default();
                let members =
                    missing.iter().map(|text| member_of(text)).collect::<Option<Vec<_>>>();
                Answer::Missing(members?)
            }
            Operation::Look { tenant_limits, keys } => {
                let all = std::iter::once(tenant_limits).chain(keys.iter().map(|(_, of)| of));
                let looked = self.looked?.into_iter().zip(all).map(|(told, limits)| Standing {
                    gauges: told.gauges.of(limits),
                    under_way: told.under_way,
                });
                Answer::Looked(looked.collect())
            }
            Operation::Settle { .. }
            | Operation::Cancel { .. }
            | Operation::Register { .. }
            | Operation::SetUsage(_) => Answer::Done,
        })
    }
}

impl ToldGauges {
    fn of(self, limits: &Limits) -> Gauges {
        let gauge = |told: Option<Vec<String>>, limit: Option<u64>| {
            let (told, limit) = (told?, limit?);
            let remaining = told.first()?.parse().ok()?;
            let reset = told.get(1).and_then(|text| text.parse().ok()).map(Duration::from_millis);
            Some(Gauge { limit, remaining, reset })
        };
        Gauges {
            requests: gauge(self.rpm, limits.rpm),
            tokens: gauge(self.tpm, limits.tpm),
            budget: gauge(self.budget, limits.budget.map(|budget| budget.tokens)),
        }
    }
}

impl ToldUnknown {
    fn of(self, tenant_limits: &Limits, key_limits: &Limits) -> Option<Unknown> {
        let (key, limits) = match self.party.as_str() {
            TENANT => (None, tenant_limits),
            party => (Some(KeyId(Uuid::parse_str(party).ok()?)), key_limits),
        };
        let counted = match self.counted {
            None => None,
            Some((kind, start, used)) => {
                let period = LimitPeriod::parse(&kind)?;
                Some(Counted { period, start: start_of(period, &start)?, used: used.parse().ok()? })
            }
        };
        let period = LimitPeriod::parse(&self.kind)?;
        let read_at = limits.budget.and_then(|budget| budget.correction.read_at);
        Some(Unknown { key, period, start: start_of(period, &self.start)?, read_at, counted })
    }
}

/// None for all time.
fn start_of(period: LimitPeriod, millis: &str) -> Option<Option<Timestamp>> {
    if period == LimitPeriod::Total {
        return Some(None);
    }
    Some(Some(Timestamp::from_millisecond(millis.parse().ok()?).ok()?))
}

fn scope_of(word: &str) -> Option<Scope> {
    [Scope::Tenant, Scope::Key].into_iter().find(|scope| scope.as_str() == word)
}

fn limit_of(word: &str, limits: &Limits) -> Option<(Limit, u64)> {
    match word {
        "rpm" => Some((Limit::Requests, limits.rpm?)),
        "tpm" => Some((Limit::Tokens, limits.tpm?)),
        "concurrency" => Some((Limit::Concurrency, limits.concurrency?)),
        "budget" => limits.budget.map(|budget| (Limit::Budget(budget.period), budget.tokens)),
        _ => None,
    }
}

pub(super) fn wait_of(text: &str) -> Option<Wait> {
    Some(match text.parse::<i64>().ok()? {
        -1 => Wait::Forever,
        -2 => Wait::Unknown,
        millis => Wait::For(Duration::from_millis(millis.try_into().ok()?)),
    })
}

fn member_of(text: &str) -> Option<Member> {
    let (replica, number) = text.split_once(':')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(Member { replica: hex(replica)?, number: hex(number)? })
}
