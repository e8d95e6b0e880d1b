//! The gateway, with everything on.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use identity::limits::Limits;
use rig::{
    process::{Process, Signal},
    seed::CHEAP,
};
use tokio::{process::Command, time::Instant};

use super::{Kind, PATIENCE, Place, Server, put, ready};
use crate::seed;

const READY_MAX: Duration = Duration::from_secs(30);

/// A build of it.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// What it is called in the table.
    pub(crate) name: String,
    /// The program.
    pub(crate) path: PathBuf,
}

/// Where it keeps what lasts, and what it shares.
#[derive(Clone, Debug)]
pub(crate) struct Databases {
    /// `DATABASE_URL`
    pub(crate) database: String,
    /// `REDIS_URL`
    pub(crate) redis: Option<String>,
}

/// Whom it knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Population {
    pub(crate) tenants: usize,
    pub(crate) keys_each: usize,
    /// What tenants and keys are held to.
    pub(crate) limits: Limits,
}

impl Population {
    /// One tenant with one key.
    pub(crate) const ONE: Self = Self { tenants: 1, keys_each: 1, limits: seed::HIGH };

    /// Whether anything is limited.
    fn is_limited(self) -> bool {
        self.limits != Limits::default()
    }
}

// === impl Build ===

impl std::str::FromStr for Build {
    type Err = String;

    /// `NAME=PATH`, or a path.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').unwrap_or(("neuronetz", text));
        if name.is_empty() || path.is_empty() {
            return Err("expected NAME=PATH".to_owned());
        }
        Ok(Self { name: name.to_owned(), path: PathBuf::from(path) })
    }
}

// === impl Databases ===

impl Databases {
    /// A SQLite file that is not there yet.
    pub(crate) fn sqlite(place: &Place) -> Result<Self, String> {
        let directory = tempfile::Builder::new().prefix("gateway-").tempdir_in(&place.directory);
        let directory = directory.map_err(|error| format!("a directory: {error}"))?.keep();
        let database = format!("sqlite:{}", directory.join("gateway.db").display());
        Ok(Self { database, redis: None })
    }
}

/// Fills its database and starts it.
pub(crate) async fn start(
    build: &Build,
    place: &Place,
    databases: &Databases,
    population: Population,
) -> Result<Server, String> {
    let Population { tenants, keys_each, limits } = population;
    let keys = seed::seed(&databases.database, tenants, keys_each, limits).await?;
    let (mut process, address, admin) = launch(build, place, databases).await?;
    ready(&mut process, address, "/readyz", READY_MAX).await?;
    let name = if databases.redis.is_some() {
        format!("{}, cluster", build.name)
    } else if !population.is_limited() {
        unlimited(&build.name)
    } else {
        build.name.clone()
    };
    let file = |what: &str| format!("{what}-{}", process.pid());
    let first = keys.first().map(String::as_str).unwrap_or_default();
    Ok(Server {
        name,
        kind: Kind::Gateway,
        address,
        admin: Some(admin),
        headers: Vec::new(),
        key: put(&place.directory, &file("key"), first)?,
        keys: put(&place.directory, &file("keys"), &keys.join("\n"))?,
        divisor: 1,
        answered: 0,
        process,
    })
}

/// What a build is called where nothing is limited.
pub(crate) fn unlimited(build: &str) -> String {
    format!("{build}, no limits")
}

/// How long it takes from its start until it is ready to serve.
pub(crate) async fn time_to_ready(
    build: &Build,
    place: &Place,
    databases: &Databases,
) -> Result<Duration, String> {
    let start = Instant::now();
    let (mut process, address, _) = launch(build, place, databases).await?;
    ready(&mut process, address, "/readyz", READY_MAX).await?;
    let took = start.elapsed();
    process.end(Signal::TERM).await;
    Ok(took)
}

async fn launch(
    build: &Build,
    place: &Place,
    databases: &Databases,
) -> Result<(Process, SocketAddr, SocketAddr), String> {
    let mut command = Command::new(&build.path);
    // What the caller has set for a gateway of theirs is not for this one.
    command.env_clear();
    command.args(["serve", "--json"]);
    command.env("DATABASE_URL", &databases.database);
    if let Some(url) = &databases.redis {
        command.env("REDIS_URL", url);
    }
    command.env("NEURONETZ_UPSTREAMS", format!("ollama=http://{}", place.upstream));
    for (name, value) in [
        ("NEURONETZ_LISTEN", "127.0.0.1:0"),
        ("NEURONETZ_ADMIN_LISTEN", "127.0.0.1:0"),
        ("NEURONETZ_LOG_LEVEL", "warn"),
        ("NEURONETZ_SERVER_DRAIN_TIMEOUT", "1s"),
    ] {
        command.env(name, value);
    }
    let cost = CHEAP;
    command.env("NEURONETZ_KEYS_ARGON2_MEMORY_KIB", cost.memory_kib.to_string());
    command.env("NEURONETZ_KEYS_ARGON2_ITERATIONS", cost.iterations.to_string());
    let mut process = Process::start(&build.name, &mut command, &place.directory, PATIENCE)?;
    let line = process.line().await?;
    let (address, admin) = addresses(&line).ok_or_else(|| format!("it says {line:?}"))?;
    Ok((process, address, admin))
}

/// Where it listens, as it says itself.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let said: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| said[name].as_str()?.strip_prefix("http://")?.parse().ok();
    Some((address("listening")?, address("admin")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_has_a_name() {
        let build: Build = "before=target/old".parse().unwrap();
        assert_eq!((build.name.as_str(), build.path), ("before", PathBuf::from("target/old")));
        let build: Build = "target/release/neuronetz".parse().unwrap();
        assert_eq!(build.name, "neuronetz");
        assert!("=x".parse::<Build>().is_err());
    }

    #[test]
    fn the_line_of_a_start_is_read() {
        let line = r#"{"listening":"http://127.0.0.1:8080","admin":"http://127.0.0.1:9090"}"#;
        assert_eq!(addresses(line).unwrap().1, SocketAddr::from(([127, 0, 0, 1], 9090)));
        assert!(addresses("{}").is_none());
    }
}
