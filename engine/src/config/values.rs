//! Settings as they were written, wherever they were written, and the mistakes in them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{route::UpstreamKind, secret::Secret};

use super::{
    Configured,
    env::Environment,
    table::{ALSO, Kind, OTHERS, SETTINGS, Setting},
};
use crate::upstream::connect::Origin;

/// What stands before the URL of an upstream that speaks OpenAI's dialect.
const OPENAI_PREFIX: &str = "openai+";
/// What stands before the URL, or behind the other prefix, where each call has a connection of its own.
const NO_KEEP_ALIVE_PREFIX: &str = "no-keep-alive+";

/// All that is wrong with a configuration, for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

/// What was written.
pub(super) struct Values {
    written: BTreeMap<String, Written>,
    pub(super) mistakes: Vec<String>,
}

struct Written {
    value: zeroize::Zeroizing<String>,
    source: String,
}

// === impl Mistakes ===

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is wrong:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  - {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

// === impl Values ===

impl Values {
    /// Gathers defaults, file and environment, in this order.
    pub(super) fn gather(
        file: Option<&Path>,
        env: &Environment,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Self {
        let mut values = Self { written: BTreeMap::new(), mistakes: Vec::new() };
        for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
            values.write(setting, setting.default.to_owned(), "the default".to_owned());
        }
        if let Some(file) = file {
            match read(file) {
                Ok(text) => values.gather_file(file, &text, read),
                Err(error) => {
                    values.mistakes.push(format!("cannot read {}: {error}", file.display()));
                }
            }
        }
        values.gather_environment(env, read);
        values
    }

    fn gather_file(&mut self, file: &Path, text: &str, read: &dyn Fn(&Path) -> io::Result<String>) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                // The parser's message would quote the line, and the line may hold a secret.
                let error: toml::de::Error = error;
                let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
                return self
                    .mistakes
                    .push(format!("{} is not TOML, near line {line}", file.display()));
            }
        };
        let source = file.display().to_string();
        for (section, fields) in &table {
            let Some(fields) = fields.as_table() else {
                self.mistakes.push(format!("`{section}` in {source}: settings stand in sections"));
                continue;
            };
            let mut secrets = BTreeSet::new();
            for (field, value) in fields {
                let name = format!("{section}.{field}");
                let (setting, from_file) = match find(&name) {
                    Some(setting) => (setting, false),
                    None => {
                        match name.strip_suffix("_file").and_then(find).filter(|s| s.is_secret()) {
                            Some(setting) => (setting, true),
                            None => {
                                self.unknown(&name, &source, SETTINGS.iter().map(Setting::name));
                                continue;
                            }
                        }
                    }
                };
                if setting.is_secret() && !secrets.insert(setting.name()) {
                    self.both(setting, &source);
                }
                match plain(value) {
                    Some(text) if from_file => self.write_file(setting, &text, &source, read),
                    Some(text) => self.write(setting, text, source.clone()),
                    None => self
                        .mistakes
                        .push(format!("`{name}` in {source} must be {}", setting.kind.allowed())),
                }
            }
        }
    }

    fn gather_environment(
        &mut self,
        env: &Environment,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) {
        let mut names: BTreeMap<String, &'static Setting> =
            SETTINGS.iter().map(|setting| (setting.variable(), setting)).collect();
        names
            .extend(ALSO.iter().filter_map(|(also, name)| Some(((*also).to_owned(), find(name)?))));
        let mut set = BTreeMap::new();
        for variable in env.names() {
            let Some(value) = env.get(variable) else { continue };
            if let Some(setting) = names.get(variable) {
                if let Some(other) = set.insert(setting.name(), variable.to_owned())
                    && env.get(&other) != Some(value)
                {
                    self.mistakes.push(format!("{other} and {variable} say different things"));
                }
                self.write(setting, value.to_owned(), variable.to_owned());
                continue;
            }
            let secret =
                variable.strip_suffix("_FILE").and_then(|name| Some((name, names.get(name)?)));
            match secret.filter(|(_, setting)| setting.is_secret()) {
                Some((name, setting)) if env.get(name).is_some() => {
                    self.both(setting, "the environment");
                }
                Some((_, setting)) => self.write_file(setting, value, variable, read),
                None if variable.starts_with("NEURONETZ_") && !OTHERS.contains(&variable) => {
                    self.unknown(variable, "the environment", names.keys().cloned());
                }
                None => {}
            }
        }
    }

    fn write(&mut self, setting: &Setting, value: String, source: String) {
        self.written.insert(setting.name(), Written { value: value.into(), source });
    }

    fn write_file(
        &mut self,
        setting: &Setting,
        path: &str,
        source: &str,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) {
        match read(Path::new(path)) {
            Ok(mut text) => {
                text.truncate(text.trim_end_matches(['\n', '\r']).len());
                self.write(setting, text, format!("{source} ({path})"));
            }
            Err(error) => {
                let name = setting.name();
                self.mistakes.push(format!("`{name}`, from {source}: cannot read {path}: {error}"));
            }
        }
    }

    fn both(&mut self, setting: &Setting, source: &str) {
        let name = setting.name();
        self.mistakes.push(format!("`{name}` in {source}: give the value or the file, not both"));
    }

    fn unknown(&mut self, name: &str, source: &str, known: impl Iterator<Item = String>) {
        let nearest = known.map(|other| (distance(name, &other), other)).min();
        let hint = match nearest {
            Some((distance, other)) if distance <= 4 => format!("; did you mean `{other}`?"),
            _ => "; `neuronetz check-config --reference` lists all".to_owned(),
        };
        self.mistakes.push(format!("`{name}` in {source} is no setting{hint}"));
    }

    /// Reads a setting with `parse`; a mistake is noted and answered with `None`.
    fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(Kind, &str) -> Option<T>) -> Option<T> {
        let setting = find(name)?;
        let Written { value, source } = self.written.get(name)?;
        let parsed = parse(setting.kind, value.trim());
        if parsed.is_none() {
            let value = if setting.is_secret() {
                "(not shown)".to_owned()
            } else {
                format!("{:?}", value.as_str())
            };
            let allowed = setting.kind.allowed();
            self.mistakes.push(format!("`{name}` is {value}, from {source}; allowed: {allowed}"));
        }
        parsed
    }

    pub(super) fn address(&mut self, name: &str) -> SocketAddr {
        let fallback = SocketAddr::from(([127, 0, 0, 1], 0));
        self.parsed(name, |_, text| text.parse().ok()).unwrap_or(fallback)
    }

    pub(super) fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.parsed(name, |_, text| (!text.is_empty()).then(|| PathBuf::from(text)))
    }

    pub(super) fn number<T: TryFrom<u64> + Default>(&mut self, name: &str) -> T {
        self.number_if_given(name).unwrap_or_default()
    }

    pub(super) fn number_if_given<T: TryFrom<u64>>(&mut self, name: &str) -> Option<T> {
        self.parsed(name, |kind, text| {
            let (number, min, max) = match kind {
                Kind::Number(min, max) => (text.parse::<u64>().ok()?, min, max),
                Kind::Bytes(min, max) => (bytes(text)?, min, max),
                _ => return None,
            };
            (min..=max).contains(&number).then(|| T::try_from(number).ok()).flatten()
        })
    }

    pub(super) fn duration(&mut self, name: &str) -> Duration {
        self.parsed(name, |kind, text| {
            let Kind::Duration(min, max) = kind else { return None };
            let duration = humantime::parse_duration(text).ok()?;
            let within = Duration::from_millis(min)..=Duration::from_millis(max);
            within.contains(&duration).then_some(duration)
        })
        .unwrap_or_default()
    }

    pub(super) fn duration_or_forever(&mut self, name: &str) -> Option<Duration> {
        self.parsed(name, |_, text| match text {
            "forever" => Some(None),
            text => humantime::parse_duration(text).ok().map(Some),
        })
        .flatten()
    }

    pub(super) fn switch(&mut self, name: &str) -> bool {
        self.parsed(name, |_, text| text.parse().ok()).unwrap_or_default()
    }

    pub(super) fn word(&mut self, name: &str) -> &'static str {
        self.parsed(name, |kind, text| {
            let Kind::Word(words) = kind else { return None };
            words.iter().find(|word| **word == text).copied()
        })
        .unwrap_or_default()
    }

    pub(super) fn upstreams(&mut self, name: &str) -> Vec<Configured> {
        self.parsed(name, |_, text| {
            let mut names = BTreeSet::new();
            text.split(',')
                .map(|pair| {
                    let (name, url) = pair.trim().split_once('=')?;
                    let (kind, url) = match url.strip_prefix(OPENAI_PREFIX) {
                        Some(url) => (UpstreamKind::OpenAi, url),
                        None => (UpstreamKind::Ollama, url),
                    };
                    let (keep_alive, url) = match url.strip_prefix(NO_KEEP_ALIVE_PREFIX) {
                        Some(url) => (false, url),
                        None => (true, url),
                    };
                    Origin::parse(url, kind).ok()?;
                    let fine = !name.is_empty()
                        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                    (fine && names.insert(name)).then(|| {
                        let (name, url) = (name.to_owned(), url.to_owned());
                        Configured { name, kind, url, keep_alive }
                    })
                })
                .collect()
        })
        .unwrap_or_default()
    }

    /// Names of hosts, in lower case.
    pub(super) fn hosts(&mut self, name: &str) -> Vec<String> {
        self.parsed(name, |_, text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            let read = |name: &str| {
                let plain = name.strip_prefix("*.").unwrap_or(name);
                let fine = !plain.is_empty()
                    && plain
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte));
                fine.then(|| name.to_ascii_lowercase())
            };
            names.map(read).collect()
        })
        .unwrap_or_default()
    }

    /// Pairs of an upstream's name and its key, with commas or line ends between them.
    pub(super) fn keys(&mut self, name: &str) -> HashMap<String, Secret> {
        self.parsed(name, |_, text| {
            let pairs = text.split([',', '\n']).map(str::trim).filter(|pair| !pair.is_empty());
            let read = |pair: &str| {
                let (name, key) = pair.split_once('=')?;
                let fine = !name.is_empty() && http::HeaderValue::from_str(key).is_ok();
                (fine && !key.is_empty()).then(|| (name.to_owned(), Secret::new(key.to_owned())))
            };
            pairs.map(read).collect()
        })
        .unwrap_or_default()
    }

    pub(super) fn secret(&mut self, name: &str) -> Option<Secret> {
        self.parsed(name, |_, text| (!text.is_empty()).then(|| Secret::new(text.to_owned())))
    }
}

fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name() == name)
}

/// A value of the file as it would be written in a variable.
fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(plain).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Table(table) => {
            let pairs = table.iter().map(|(name, value)| Some(format!("{name}={}", plain(value)?)));
            pairs.collect::<Option<Vec<_>>>().map(|pairs| pairs.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) => None,
    }
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Levenshtein's distance, for names of settings.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
