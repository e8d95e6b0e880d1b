//! What is asked of the script, and what it answers, as JSON.

use std::time::Duration;

use identity::limits::{LimitPeriod, Limits, Observed};
use jiff::Timestamp;
use protocol::id::KeyId;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::admission::{
    Admitted, Answer, Counted, Gauge, Gauges, Limit, Member, Operation, Refusal, Refused, Scope,
    Standing, Unavailable, Unknown, Wait,
};

/// Numbers in Lua are doubles: what is larger is taken for this.
const NUMBER_MAX: u64 = (1 << 53) - 1;
/// The party that is the tenant.
const TENANT: &str = "t";

// === What is asked ===

/// A batch as the script reads it.
pub(super) fn question(batch: &[Operation]) -> Result<String, Unavailable> {
    let asked: Vec<_> = batch.iter().map(Asked::from).collect();
    serde_json::to_string(&asked)
        .map_err(|_| Unavailable("what Redis is asked cannot be written".to_owned()))
}

/// [`Operation`], in the words of the script.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Asked<'a> {
    Admit {
        member: MemberText,
        key: Party,
        tenant_limits: AskedLimits,
        key_limits: AskedLimits,
        tokens: u64,
        tokens_max: u64,
    },
    TopUp {
        member: MemberText,
        more: u64,
        limits: [AskedLimits; 2],
    },
    Settle {
        member: MemberText,
        used: u64,
    },
    Cancel {
        member: MemberText,
    },
    Beat {
        members: Vec<MemberText>,
    },
    Register {
        member: MemberText,
        held: &'a str,
    },
    SetUsage {
        party: Party,
        kind: &'static str,
        start: i64,
        used: u64,
        counted: u64,
        read_at: i64,
        memory: u64,
    },
    Look {
        tenant_limits: AskedLimits,
        keys: Vec<(Party, AskedLimits)>,
    },
}

/// What is not limited is left out.
#[derive(Serialize)]
struct AskedLimits {
    observed: Observed,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpm: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tpm: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<AskedBudget>,
}

#[derive(Serialize)]
struct AskedBudget {
    tokens: u64,
    kind: &'static str,
    read_at: i64,
}

/// A key, or the tenant.
struct Party(Option<KeyId>);

/// A request under way, as [`member_of`] reads it.
struct MemberText(Member);

// === impl Asked ===

impl<'a> From<&'a Operation> for Asked<'a> {
    fn from(operation: &'a Operation) -> Self {
        match operation {
            Operation::Admit(admit) => Self::Admit {
                member: MemberText(admit.member),
                key: Party(Some(admit.key)),
                tenant_limits: AskedLimits::from(&admit.tenant_limits),
                key_limits: AskedLimits::from(&admit.key_limits),
                tokens: number(admit.need.tokens),
                tokens_max: number(admit.need.tokens_max),
            },
            Operation::TopUp { member, more, tenant_limits, key_limits } => Self::TopUp {
                member: MemberText(*member),
                more: number(*more),
                limits: [AskedLimits::from(tenant_limits), AskedLimits::from(key_limits)],
            },
            Operation::Settle { member, used } => {
                Self::Settle { member: MemberText(*member), used: number(*used) }
            }
            Operation::Cancel { member } => Self::Cancel { member: MemberText(*member) },
            Operation::Beat { members } => {
                Self::Beat { members: members.iter().copied().map(MemberText).collect() }
            }
            Operation::Register { member, held } => {
                Self::Register { member: MemberText(*member), held }
            }
            Operation::SetUsage(usage) => Self::SetUsage {
                party: Party(usage.key),
                kind: usage.period.as_str(),
                start: millis(usage.start),
                used: number(usage.used),
                counted: number(usage.counted),
                read_at: millis(usage.read_at),
                memory: usage.memory,
            },
            Operation::Look { tenant_limits, keys } => Self::Look {
                tenant_limits: AskedLimits::from(tenant_limits),
                keys: (keys.iter().map(|(id, of)| (Party(Some(*id)), AskedLimits::from(of))))
                    .collect(),
            },
        }
    }
}

// === impl AskedLimits ===

impl From<&Limits> for AskedLimits {
    fn from(limits: &Limits) -> Self {
        let budget = limits.budget.map(|budget| AskedBudget {
            tokens: number(budget.tokens),
            kind: budget.period.as_str(),
            read_at: millis(budget.correction.read_at),
        });
        Self {
            observed: limits.observed,
            rpm: limits.rpm.map(number),
            tpm: limits.tpm.map(number),
            concurrency: limits.concurrency.map(number),
            budget,
        }
    }
}

// === impl Party ===

impl Serialize for Party {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(key) => serializer.collect_str(&key.0.as_simple()),
            None => serializer.serialize_str(TENANT),
        }
    }
}

// === impl MemberText ===

impl Serialize for MemberText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Member { replica, number } = self.0;
        serializer.collect_str(&format_args!("{replica:x}:{number:x}"))
    }
}

fn number(number: u64) -> u64 {
    number.min(NUMBER_MAX)
}

/// 0 where there is none.
fn millis(at: Option<Timestamp>) -> i64 {
    at.map_or(0, Timestamp::as_millisecond)
}

// === What is answered ===

/// The answers to a batch, unless they are not to be understood.
pub(super) fn answers(text: &str, batch: &[Operation]) -> Result<Vec<Answer>, Unavailable> {
    let told: Vec<Told<'_>> = serde_json::from_str(text).unwrap_or_default();
    let is_whole = told.len() == batch.len();
    let answers = told.into_iter().zip(batch).map(|(told, operation)| told.answer(operation));
    let unreadable = || Unavailable("Redis answers with what is no answer".to_owned());
    answers.collect::<Option<_>>().filter(|_| is_whole).ok_or_else(unreadable)
}

/// One answer; which fields it has says what kind it is. All its texts are words and numbers, which JSON
/// need not escape.
#[derive(Debug, Deserialize)]
pub(super) struct Told<'a> {
    #[serde(borrow)]
    held: Option<&'a str>,
    #[serde(borrow)]
    observed: Option<Vec<(&'a str, &'a str)>>,
    /// Scope, limit, milliseconds to wait.
    #[serde(borrow)]
    refused: Option<(&'a str, &'a str, &'a str)>,
    #[serde(borrow)]
    key: Option<ToldGauges<'a>>,
    #[serde(borrow)]
    tenant: Option<ToldGauges<'a>>,
    #[serde(borrow)]
    unknown: Option<Vec<ToldUnknown<'a>>>,
    topped: Option<bool>,
    #[serde(borrow)]
    missing: Option<Vec<&'a str>>,
    #[serde(borrow)]
    looked: Option<Vec<ToldStanding<'a>>>,
}

/// What is left and, in milliseconds, when everything is there again.
#[derive(Debug, Default, Deserialize)]
struct ToldGauges<'a> {
    #[serde(borrow)]
    rpm: Option<Vec<&'a str>>,
    #[serde(borrow)]
    tpm: Option<Vec<&'a str>>,
    #[serde(borrow)]
    budget: Option<Vec<&'a str>>,
}

#[derive(Debug, Deserialize)]
struct ToldUnknown<'a> {
    party: &'a str,
    kind: &'a str,
    start: &'a str,
    #[serde(borrow)]
    counted: Option<(&'a str, &'a str, &'a str)>,
    settled: Option<&'a str>,
    memory: &'a str,
}

#[derive(Debug, Deserialize)]
struct ToldStanding<'a> {
    #[serde(borrow)]
    gauges: ToldGauges<'a>,
    under_way: u64,
}

// === impl Told ===

impl Told<'_> {
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
                    let scope = scope_of(scope)?;
                    let limits = match scope {
                        Scope::Tenant => &admit.tenant_limits,
                        Scope::Key => &admit.key_limits,
                    };
                    let (what, limit) = limit_of(word, limits)?;
                    let by = Refusal { what, limit, wait: wait_of(wait)? };
                    return Some(Answer::Refused(Box::new(Refused { scope, by, gauges })));
                }
                let observed =
                    self.observed.unwrap_or_default().into_iter().map(|(scope, word)| {
                        let scope = scope_of(scope)?;
                        let limits = match scope {
                            Scope::Tenant => &admit.tenant_limits,
                            Scope::Key => &admit.key_limits,
                        };
                        Some((scope, limit_of(word, limits)?.0))
                    });
                let observed = observed.collect::<Option<_>>()?;
                Answer::Admitted(Box::new(Admitted {
                    held: self.held?.to_owned(),
                    gauges,
                    observed,
                }))
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

impl ToldGauges<'_> {
    fn of(self, limits: &Limits) -> Gauges {
        let gauge = |told: Option<Vec<&str>>, limit: Option<u64>| {
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

impl ToldUnknown<'_> {
    fn of(self, tenant_limits: &Limits, key_limits: &Limits) -> Option<Unknown> {
        let (key, limits) = match self.party {
            TENANT => (None, tenant_limits),
            party => (Some(KeyId(Uuid::parse_str(party).ok()?)), key_limits),
        };
        let counted = match self.counted {
            None => None,
            Some((kind, start, used)) => {
                let period = LimitPeriod::parse(kind)?;
                Some(Counted { period, start: start_of(period, start)?, used: used.parse().ok()? })
            }
        };
        let period = LimitPeriod::parse(self.kind)?;
        let read_at = limits.budget.and_then(|budget| budget.correction.read_at);
        let start = start_of(period, self.start)?;
        let settled = self.settled.map_or(Some(0), |settled| settled.parse().ok())?;
        let memory = self.memory.parse().ok()?;
        Some(Unknown { key, period, start, read_at, counted, settled, memory })
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
