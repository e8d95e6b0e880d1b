//! `neuronetz model …`

use std::collections::BTreeMap;

use clap::Subcommand;
use jiff::Timestamp;
use protocol::name::ModelName;
use serde::Serialize;
use storage::Storage;

use super::{
    alias,
    failure::Failure,
    output::{Out, Row, date},
    upstream,
};
use crate::config::Config;
use crate::party::Party;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Lists the models that the upstreams serve, as they say now.
    List {
        /// Only those that this tenant may use.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Names that stand for models.
    #[command(subcommand)]
    Alias(alias::Command),
}

#[derive(Serialize)]
struct View {
    name: String,
    upstreams: Vec<String>,
    modified_at: Option<Timestamp>,
}

pub(super) async fn run(
    storage: &Storage,
    config: &Config,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let tenant = match command {
        Command::List { tenant } => tenant,
        Command::Alias(command) => return alias::run(storage, command, out).await,
    };
    let rule = match tenant {
        Some(named) => Some(Party::tenant(storage, &named).await?.models),
        None => None,
    };
    let allowed = |name: &ModelName| rule.as_ref().is_none_or(|rule| rule.allows(name));
    let answers = upstream::ask(config, upstream::all(storage, config).await?).await?;
    let asked = answers.len();
    let mut silent = Vec::new();
    let mut models: BTreeMap<ModelName, View> = BTreeMap::new();
    for (upstream, answer, _) in answers {
        let Ok(discovered) = answer else {
            silent.push(upstream.name);
            continue;
        };
        for model in discovered.into_iter().filter(|model| allowed(&model.name)) {
            let view = models.entry(model.name.clone()).or_insert_with(|| View {
                name: model.name.as_str().to_owned(),
                upstreams: Vec::new(),
                modified_at: model.modified_at,
            });
            view.upstreams.push(upstream.name.clone());
        }
    }
    if asked > 0 && silent.len() == asked {
        let names = silent.join(", ");
        return Err(Failure::Failed(format!(
            "no upstream answers ({names}): neuronetz upstream check"
        )));
    }
    let mut views: Vec<_> = models.into_values().collect();
    views.iter_mut().for_each(|view| view.upstreams.sort());
    Ok(out.rows(&views, "No model may be used, or none is installed.")?)
}

impl Row for View {
    const COLUMNS: &'static [&'static str] = &["MODEL", "UPSTREAMS", "MODIFIED"];

    fn cells(&self) -> Vec<String> {
        let modified = self.modified_at.map_or_else(|| "-".to_owned(), date);
        vec![self.name.clone(), self.upstreams.join(","), modified]
    }
}
