//! What `loadtests/scenarios/hostile/scenario.toml` says: who behaves well, who attacks how, what is expected.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

/// The scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What it shows, in a line.
    pub(crate) about: String,
    /// How long the attack lasts.
    pub(crate) seconds: u64,
    /// How long the tenant that behaves well is measured before.
    pub(crate) quiet_seconds: u64,
    /// Settings of the gateway.
    #[serde(default)]
    pub(crate) gateway: BTreeMap<String, String>,
    /// The tenant that behaves well.
    pub(crate) honest: Steady,
    /// Who attacks.
    pub(crate) attackers: Vec<Attackers>,
    /// What is expected.
    pub(crate) expect: Expect,
}

/// The load of the tenant that behaves well.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Steady {
    /// Connections that it asks on.
    pub(crate) users: usize,
    /// Requests a second, of all together.
    pub(crate) per_second: f64,
    /// One of its keys is used for the first time every so many seconds.
    pub(crate) new_key_every_s: f64,
}

/// Attackers who do the same.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attackers {
    /// What they do.
    pub(crate) kind: Kind,
    /// Connections at once.
    pub(crate) connections: usize,
    /// Requests a second, or connections where these are what it is about, of all together.
    pub(crate) per_second: f64,
    /// Tokens of each of their answers that may have been made and not be charged: the gateway never saw
    /// them, since they were still on their way from the model server when the answer was ended.
    #[serde(default)]
    pub(crate) unseen_tokens_max: u64,
}

/// What attackers do. Each kind is a tenant, a model and an address of its own.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// HTTP/2 with a window of 0: streams that are never read.
    NeverReadsH2,
    /// HTTP/1.1 with full sockets: a stream that is never read.
    NeverReadsH1,
    /// The preface of HTTP/2, and nothing more.
    IdlePreface,
    /// The preface, and half of the head of a frame.
    IdleHalf,
    /// A whole HTTP/2 connection that has no request, and pings.
    IdlePings,
    /// Pings, settings and requests that are reset at once, in bursts, over HTTP/2.
    FloodsH2,
    /// 60 MiB of tiny messages.
    GiantBodies,
    /// Bodies that are said to be large and come slowly: they hold room.
    SlowBodies,
    /// Fields that would have the model server do more than was reserved.
    TemplateBombs,
    /// A key with a limit of one request a minute, again and again.
    RefusedRpm,
    /// Wrong keys with the prefix of the honest tenant's.
    WrongPrefix,
    /// Keys that nobody made.
    UnknownKeys,
    /// Whole replies that are left before their first byte.
    LeavesEarly,
    /// Requests that are left while they wait in the queue of a model server.
    LeavesQueue,
    /// `/api/ps`, `/api/version`, `/readyz`, again and again.
    StatusLoops,
    /// Requests that a model server answers with 500.
    #[serde(rename = "causes-500")]
    Causes500,
}

/// What is expected.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// The honest tenant's 99th percentile under attack may be so many times its quiet one.
    pub(crate) p99_factor_max: f64,
    /// Memory afterwards may be so much more than before, in MiB.
    pub(crate) memory_more_max_mib: u64,
    /// The most memory that the gateway may ever have, in MiB.
    pub(crate) memory_max_mib: u64,
    /// Descriptors afterwards may be so many more than before: connections to the database, of which a pool
    /// keeps some.
    pub(crate) descriptors_more_max: usize,
    /// Bytes a second in the gateway's log, on average over the attack.
    pub(crate) log_bytes_per_second_max: u64,
    /// Rows a second that the audit stores beyond one for each request that the honest tenant made.
    pub(crate) audit_rows_per_second_max: f64,
    /// Requests a second that model servers get for the paths of `status-loops`.
    pub(crate) status_asks_per_second_max: f64,
    /// Tokens that each of the `template-bombs` has in all: the model servers may have read and made no more for
    /// all of them.
    pub(crate) bomb_budget: u64,
    /// How soon the gateway has ended after SIGTERM, in seconds.
    pub(crate) ends_within_s: f64,
    /// Metrics of requests that no event of the audit stands for.
    pub(crate) counted_only: Vec<String>,
}

// === impl Scenario ===

impl Scenario {
    /// Reads it from a file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| named(&error))?;
        let scenario: Self = toml::from_str(&text).map_err(|error| named(&error))?;
        for (number, attackers) in scenario.attackers.iter().enumerate() {
            let kind = attackers.kind;
            if scenario.attackers[..number].iter().any(|other| other.kind == kind) {
                return Err(named(&format!("{} attack twice", kind.name())));
            }
            if attackers.per_second.is_nan() || attackers.per_second <= 0.0 {
                return Err(named(&format!("{} attack at no rate", kind.name())));
            }
        }
        Ok(scenario)
    }
}

// === impl Kind ===

impl Kind {
    /// Its name: that of its tenant and of its model, too.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NeverReadsH2 => "never-reads-h2",
            Self::NeverReadsH1 => "never-reads-h1",
            Self::IdlePreface => "idle-preface",
            Self::IdleHalf => "idle-half",
            Self::IdlePings => "idle-pings",
            Self::FloodsH2 => "floods-h2",
            Self::GiantBodies => "giant-bodies",
            Self::SlowBodies => "slow-bodies",
            Self::TemplateBombs => "template-bombs",
            Self::RefusedRpm => "refused-rpm",
            Self::WrongPrefix => "wrong-prefix",
            Self::UnknownKeys => "unknown-keys",
            Self::LeavesEarly => "leaves-early",
            Self::LeavesQueue => "leaves-queue",
            Self::StatusLoops => "status-loops",
            Self::Causes500 => "causes-500",
        }
    }

    /// Whether they have a key that is one.
    pub(crate) const fn has_key(self) -> bool {
        !matches!(
            self,
            Self::IdlePreface
                | Self::IdleHalf
                | Self::IdlePings
                | Self::WrongPrefix
                | Self::UnknownKeys
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_of_the_tree_can_be_read_and_has_every_kind() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scenario = Scenario::read(&path.join("../scenarios/hostile/scenario.toml")).unwrap();
        assert_eq!(scenario.attackers.len(), 16);
        for Attackers { kind, .. } in &scenario.attackers {
            let read: Kind = serde_json::from_str(&format!("\"{}\"", kind.name())).unwrap();
            assert_eq!(read, *kind);
        }
    }
}
