//! `neuronetz upstream …`

use std::sync::Arc;

use actors::ports::{DiscoveredModel, ProbeError, Prober};
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use storage::{
    Storage,
    upstreams::{Upstream, UpstreamKind},
};
use tokio::time::Instant;

use super::{
    failure::Failure,
    output::{Out, Row},
};
use crate::{
    changes,
    clock::SystemClock,
    config::Config,
    gateway,
    upstream::{client::Client, connect::Origin, probe::Probe},
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Adds a model server.
    Add {
        /// What it is called.
        name: String,
        /// Where it is: http://host:port or https://host; of OpenAI's dialect with the path of its API,
        /// where that is not /v1.
        url: String,
        /// Which dialect it speaks.
        #[arg(long, value_enum, default_value_t = Kind::Ollama)]
        kind: Kind,
        /// How many requests it takes at once; more wait. Default: `upstream.slots`.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        slots: Option<u64>,
        /// Each request has a connection of its own: for a server that is not trusted, which could push an
        /// answer into a connection before the next request is sent through it.
        #[arg(long)]
        no_keep_alive: bool,
    },
    /// Changes a model server of the database.
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// Its name.
        name: String,
        /// How many requests it takes at once, or `default`.
        #[arg(long, value_parser = slots, value_name = "N", group = "change")]
        slots: Option<Slots>,
        /// Each request has a connection of its own.
        #[arg(long, group = "change", conflicts_with = "keep_alive")]
        no_keep_alive: bool,
        /// Connections serve further requests.
        #[arg(long, group = "change")]
        keep_alive: bool,
    },
    /// Lists the model servers of the database and of the configuration.
    List,
    /// Asks model servers for their models.
    Check {
        /// Only this one.
        name: Option<String>,
    },
    /// Removes a model server of the database.
    Remove {
        /// Its name.
        name: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    /// Ollama's own API.
    Ollama,
    /// OpenAI's API: OpenAI itself, vLLM, the server of llama.cpp, LM Studio.
    Openai,
}

/// So many requests at once, or as the configuration says.
#[derive(Clone, Copy)]
pub(super) struct Slots(Option<u64>);

#[derive(Serialize)]
struct View {
    name: String,
    url: String,
    kind: UpstreamKind,
    /// Requests at once; null: as the configuration says.
    slots: Option<u64>,
    /// Whether its connections serve further requests after their first.
    keep_alive: bool,
    /// Where it is written down: `database` or `configuration`.
    from: &'static str,
}

#[derive(Serialize)]
struct CheckView {
    name: String,
    url: String,
    up: bool,
    models: usize,
    milliseconds: u64,
    error: Option<String>,
}

pub(super) async fn run(
    storage: &Storage,
    config: &Config,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    match command {
        Command::Add { name, url, kind, slots, no_keep_alive } => {
            let kind = match kind {
                Kind::Ollama => UpstreamKind::Ollama,
                Kind::Openai => UpstreamKind::OpenAi,
            };
            Origin::parse(&url, kind)
                .map_err(|error| Failure::Usage(format!("{url:?}: {error}")))?;
            if name.is_empty() || name.contains(['=', ',']) || name.contains(char::is_whitespace) {
                return Err(Failure::Usage(format!("{name:?} is no name of an upstream")));
            }
            let created_at = Timestamp::now();
            let keep_alive = !no_keep_alive;
            let upstream = Upstream { name, url, kind, slots, keep_alive, created_at };
            storage.upstreams.add(upstream.clone()).await?;
            Ok(out.one(&View::new(upstream, "database"))?)
        }
        Command::Set { name, slots, no_keep_alive, keep_alive } => {
            if let Some(Slots(slots)) = slots {
                storage.upstreams.set_slots(&name, slots).await?;
            }
            if no_keep_alive || keep_alive {
                storage.upstreams.set_keep_alive(&name, keep_alive).await?;
            }
            let all = storage.upstreams.list().await?;
            let set = all.into_iter().find(|upstream| upstream.name == name);
            let set = set.ok_or(Failure::NotFound("upstream", name))?;
            Ok(out.one(&View::new(set, "database"))?)
        }
        Command::List => {
            let stored = storage.upstreams.list().await?;
            let is_stored = |name: &str| stored.iter().any(|upstream| upstream.name == name);
            let views: Vec<_> = all(storage, config)
                .await?
                .into_iter()
                .map(|upstream| {
                    let from = if is_stored(&upstream.name) { "database" } else { "configuration" };
                    View::new(upstream, from)
                })
                .collect();
            Ok(out.rows(&views, "There are no upstreams: neuronetz upstream add NAME URL")?)
        }
        Command::Check { name } => check(storage, config, name.as_deref(), out).await,
        Command::Remove { name } => {
            storage.upstreams.remove(&name).await?;
            let text = format!("Upstream {name} is removed.");
            Ok(out.said(&text, &serde_json::json!({ "removed": name }))?)
        }
    }
}

fn slots(text: &str) -> Result<Slots, String> {
    if text == "default" {
        return Ok(Slots(None));
    }
    let number = text.parse().ok().filter(|number| *number > 0);
    number.map(|number| Slots(Some(number))).ok_or_else(|| "give a number, or default".to_owned())
}

/// The upstreams that a gateway of this configuration would use.
pub(super) async fn all(storage: &Storage, config: &Config) -> Result<Vec<Upstream>, Failure> {
    let configured = gateway::configured(&config.upstream, &SystemClock);
    Ok(changes::merge(storage.upstreams.list().await?, &configured))
}

/// Asks upstreams for their models, all at once.
pub(super) async fn ask(
    config: &Config,
    upstreams: Vec<Upstream>,
) -> Result<Vec<(Upstream, Result<Vec<DiscoveredModel>, ProbeError>, u64)>, Failure> {
    let client =
        Client::new(&config.upstream).map_err(|error| Failure::Failed(format!("TLS: {error}")))?;
    let probe = Probe::new(Arc::new(client), config.catalog.allow_cloud_models);
    let asked = upstreams.into_iter().map(async |upstream| {
        let begun = Instant::now();
        let models = probe.models(&upstream).await;
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        (upstream, models, took)
    });
    Ok(futures_util::future::join_all(asked).await)
}

async fn check(
    storage: &Storage,
    config: &Config,
    name: Option<&str>,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let mut upstreams = all(storage, config).await?;
    if let Some(name) = name {
        upstreams.retain(|upstream| upstream.name == name);
        if upstreams.is_empty() {
            return Err(Failure::NotFound("upstream", name.to_owned()));
        }
    }
    let views: Vec<_> = ask(config, upstreams)
        .await?
        .into_iter()
        .map(|(upstream, models, milliseconds)| CheckView {
            name: upstream.name,
            url: upstream.url,
            up: models.is_ok(),
            models: models.as_ref().map_or(0, Vec::len),
            milliseconds,
            error: models.err().map(|error| error.to_string()),
        })
        .collect();
    out.rows(&views, "There are no upstreams: neuronetz upstream add NAME URL")?;
    match views.iter().filter(|view| !view.up).count() {
        0 => Ok(()),
        down => Err(Failure::Failed(format!("{down} of {} upstreams do not answer", views.len()))),
    }
}

// === impl View ===

impl View {
    fn new(upstream: Upstream, from: &'static str) -> Self {
        let Upstream { name, url, kind, slots, keep_alive, .. } = upstream;
        Self { name, url, kind, slots, keep_alive, from }
    }
}

impl Row for View {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "URL", "KIND", "SLOTS", "KEEP-ALIVE", "FROM"];

    fn cells(&self) -> Vec<String> {
        let kind = self.kind.as_str().to_owned();
        let slots = self.slots.map_or_else(|| "default".to_owned(), |slots| slots.to_string());
        let keep_alive = if self.keep_alive { "on" } else { "off" }.to_owned();
        vec![self.name.clone(), self.url.clone(), kind, slots, keep_alive, self.from.to_owned()]
    }
}

impl Row for CheckView {
    const COLUMNS: &'static [&'static str] = &["NAME", "URL", "STATE", "MODELS", "TOOK"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.url.clone(),
            self.error.clone().unwrap_or_else(|| "up".to_owned()),
            self.models.to_string(),
            format!("{} ms", self.milliseconds),
        ]
    }
}
