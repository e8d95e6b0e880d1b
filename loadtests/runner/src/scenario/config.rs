//! What `scenario.toml` says: who asks, what goes wrong, what is expected. goose and locust read the same
//! file, of which they need `users` alone.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What it shows, in a line.
    pub(crate) about: String,
    /// How long users ask.
    pub(crate) seconds: u64,
    /// Scripted Ollamas.
    #[serde(default = "one")]
    pub(crate) upstreams: usize,
    /// Why locust cannot do it; absent: it can.
    pub(crate) not_with_locust: Option<String>,
    /// Settings of the gateway.
    #[serde(default)]
    pub(crate) gateway: BTreeMap<String, String>,
    /// Keys, by the name under which users have them.
    pub(crate) keys: BTreeMap<String, Keys>,
    /// Who asks.
    pub(crate) users: Vec<Users>,
    /// What goes wrong meanwhile.
    #[serde(default)]
    pub(crate) faults: Vec<Fault>,
    /// What is expected besides.
    #[serde(default)]
    pub(crate) expect: Expect,
}

/// Keys of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys {
    #[serde(default = "one")]
    pub(crate) count: usize,
    #[serde(default)]
    pub(crate) kind: KeyKind,
    /// Requests per minute of each.
    pub(crate) rpm: Option<u64>,
}

/// Whether keys are keys.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyKind {
    /// They are.
    #[default]
    Real,
    /// They have the form, and nobody made them.
    Forged,
    /// They have the prefix of a real one, and another secret.
    Lookalike,
    /// They have not even the form.
    Garbage,
}

/// Users who do the same. What they do is for the generators to read: `prompt`, `stream`, `wait_ms`, `once`,
/// `together_every_s`, `bytes_per_second`, `leave_after_s`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Users {
    pub(crate) name: String,
    pub(crate) count: usize,
    /// The keys that they have.
    pub(crate) keys: String,
    /// What may become of a request: `200`, or a status and a code, or `left`.
    pub(crate) allowed: Vec<String>,
    /// So many of a hundred must be served.
    #[serde(default)]
    pub(crate) served_percent_min: f64,
    /// And so many in all: or nobody has asked.
    #[serde(default = "one")]
    pub(crate) served_min: usize,
    /// And so many at the same moment.
    #[serde(default)]
    pub(crate) at_once_min: usize,
}

/// Something that goes wrong, and is right again afterwards.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    pub(crate) what: FaultKind,
    /// When, in seconds since users began, and for how long.
    pub(crate) at: u64,
    pub(crate) seconds: u64,
    /// What besides may become of requests meanwhile, and until it has recovered.
    pub(crate) allowed: Vec<String>,
    /// Nothing that is asked meanwhile may be served: it could not be checked, or by nobody.
    #[serde(default)]
    pub(crate) nothing_is_served: bool,
    /// How soon afterwards all is as before, in seconds.
    #[serde(default = "two")]
    pub(crate) recovers_within_s: f64,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// One scripted Ollama is killed, and started again.
    OneUpstreamKilled,
    /// All of them are.
    UpstreamsKilled,
    /// Redis is stopped, connections and all, and goes on.
    RedisStopped,
    /// Redis is killed, and started again with nothing in it.
    RedisKilled,
}

/// What is expected of the gateway.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// The most memory that it may ever have, in MiB.
    pub(crate) memory_max_mib: Option<u64>,
    /// 99 of 100 requests cost less than 5 ms of its own time. Not judged on a machine whose host gives its
    /// time to others.
    #[serde(default)]
    pub(crate) own_time: bool,
    /// What its metrics must say.
    #[serde(default)]
    pub(crate) metrics: Vec<Metric>,
    /// What its database must say.
    #[serde(default)]
    pub(crate) sql: Vec<Sql>,
}

/// A metric, of which there must be so much.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metric {
    pub(crate) what: String,
    /// As Prometheus shows it, with its labels.
    pub(crate) name: String,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

/// A question to the database.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sql {
    pub(crate) what: String,
    pub(crate) query: String,
    /// A number; another question; `ollama:FIELD`, what the scripted Ollamas say; `{limit}`.
    pub(crate) is: String,
}

/// What is changed of a scenario by who runs it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    /// Users in all.
    pub(crate) users: Option<usize>,
    pub(crate) seconds: Option<u64>,
    /// Requests per minute of keys that are limited.
    pub(crate) limit: Option<u64>,
}

const fn one() -> usize {
    1
}

const fn two() -> f64 {
    2.0
}

// === impl Scenario ===

impl Scenario {
    /// Reads one from a file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| named(&error))?;
        let scenario: Self = toml::from_str(&text).map_err(|error| named(&error))?;
        scenario.check().map_err(|error| named(&error))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        for users in &self.users {
            if !self.keys.contains_key(&users.keys) {
                return Err(format!("users {:?} have no keys {:?}", users.name, users.keys));
            }
        }
        Ok(())
    }

    /// Changes it as its caller wants.
    pub(crate) fn change(&mut self, changes: Changes) {
        self.seconds = changes.seconds.unwrap_or(self.seconds);
        if changes.users.is_some() || changes.seconds.is_some() {
            // How many are served says something of the scenario as it is written only.
            for users in &mut self.users {
                users.served_min = users.served_min.min(1);
            }
        }
        if let Some(wanted) = changes.users {
            let all: usize = self.users.iter().map(|users| users.count).sum();
            for users in &mut self.users {
                users.count = (users.count * wanted / all.max(1)).max(1);
                users.at_once_min = users.at_once_min.min(users.count);
            }
        }
        if changes.limit.is_some() {
            for keys in self.keys.values_mut().filter(|keys| keys.rpm.is_some()) {
                keys.rpm = changes.limit;
            }
        }
    }

    /// The limit of the keys that have one.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.keys.values().find_map(|keys| keys.rpm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What may stand of users, here or in the generators.
    const OF_USERS: &str = "name count keys prompt stream wait_ms once together_every_s bytes_per_second \
                            leave_after_s allowed served_percent_min served_min at_once_min";

    #[test]
    fn every_scenario_of_the_tree_can_be_read() {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        let mut count = 0;
        for folder in fs::read_dir(all).unwrap() {
            let folder = folder.unwrap().path();
            let file = folder.join("scenario.toml");
            let table: toml::Table = toml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            if table.contains_key("attackers") {
                continue; // [`crate::hostile`] reads it.
            }
            Scenario::read(&file).unwrap();
            for users in table["users"].as_array().unwrap() {
                for name in users.as_table().unwrap().keys() {
                    let is_known = OF_USERS.split(' ').any(|known| known == name);
                    assert!(is_known, "{}: {name}", file.display());
                }
            }
            assert!(folder.join("README.md").is_file(), "{}", folder.display());
            count += 1;
        }
        assert!(count >= 9, "{count}");
    }

    #[test]
    fn users_are_changed_in_proportion() {
        let text = "about = ''\nseconds = 1\n[keys.a]\nrpm = 5\n[[users]]\nname = 'x'\ncount = 30\nkeys = 'a'\n\
                    prompt = ''\nallowed = []\n[[users]]\nname = 'y'\ncount = 10\nkeys = 'a'\nprompt = ''\n\
                    allowed = []\n";
        let mut scenario: Scenario = toml::from_str(text).unwrap();
        scenario.change(Changes { users: Some(8), seconds: Some(9), limit: Some(7) });
        assert_eq!((scenario.users[0].count, scenario.users[1].count), (6, 2));
        assert_eq!((scenario.seconds, scenario.limit()), (9, Some(7)));
    }
}
