//! `neuronetz check-config`, `migrate`, `healthcheck`, `openapi`, `completions`, `man`

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::{Args, CommandFactory};
use http::Method;
use protocol::route::UpstreamKind;
use serde_json::json;

use super::{Cli, Context, failure::Failure, output::Out};
use crate::{
    admin, api,
    clock::request_id,
    config::{Config, table},
    upstream::{
        client::{Call, Client},
        connect::Origin,
    },
};

/// How long a gateway may take to say that it is alive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct CheckConfig {
    /// Print the reference of all settings instead, as Markdown.
    #[arg(long)]
    reference: bool,
    /// Print the catalogue of errors instead, as Markdown.
    #[arg(long, conflicts_with = "reference")]
    errors: bool,
}

#[derive(Args)]
pub(super) struct Healthcheck {
    /// Ask whether it can serve, not only whether it lives.
    #[arg(long)]
    ready: bool,
}

#[derive(Args)]
pub(super) struct Openapi {
    /// Of which listener.
    listener: Listener,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Listener {
    /// What clients speak.
    Data,
    /// What operators speak.
    Admin,
}

#[derive(Args)]
pub(super) struct Completions {
    /// For which shell.
    shell: clap_complete::Shell,
}

pub(super) fn check_config(
    context: &mut Context<'_>,
    arguments: &CheckConfig,
) -> Result<(), Failure> {
    if arguments.reference {
        return Ok(context.out.text(&table::reference())?);
    }
    if arguments.errors {
        return Ok(context.out.text(&protocol::error::reference())?);
    }
    context.config()?;
    let file = context.config_file.as_ref().map(|file| file.display().to_string());
    let text = match &file {
        Some(file) => format!("The configuration in {file} and in the environment is right."),
        None => "The configuration in the environment is right; no file was named.".to_owned(),
    };
    Ok(context.out.said(&text, &json!({ "ok": true, "file": file }))?)
}

pub(super) fn openapi(arguments: &Openapi, out: &mut Out<'_>) -> Result<(), Failure> {
    let document = match arguments.listener {
        Listener::Data => api::description::document(),
        Listener::Admin => admin::description::document(),
    };
    Ok(out.text(&format!("{document:#}\n"))?)
}

pub(super) async fn migrate(context: &mut Context<'_>) -> Result<(), Failure> {
    let config = context.config()?;
    let storage = storage::open(config.database.storage()).await?;
    let applied = storage.database.migrate().await?;
    storage.database.close().await;
    let text = match applied.as_slice() {
        [] => "The schema is up to date.".to_owned(),
        versions => format!("Applied {} migrations: {versions:?}.", versions.len()),
    };
    Ok(context.out.said(&text, &json!({ "applied": applied }))?)
}

/// Asks the admin listener, which never speaks TLS.
pub(super) async fn healthcheck(
    context: &mut Context<'_>,
    arguments: &Healthcheck,
) -> Result<(), Failure> {
    let config = context.config()?;
    let address = admin_address(&config);
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!("the gateway at http://{address} does not answer: {error}"))
    };
    let client = Client::new(&config.upstream).map_err(|error| failed(&error))?;
    let origin = Origin::parse(&format!("http://{address}"), UpstreamKind::Ollama)
        .map(Arc::new)
        .map_err(|error| failed(&error))?;
    let call = Call {
        method: Method::GET,
        path: if arguments.ready { "/readyz" } else { "/healthz" },
        body: Bytes::new(),
        request: request_id(),
        first_byte: ANSWER_TIMEOUT,
        origin: &origin,
        credential: None,
        keep_alive: false,
    };
    let reply = client.call(&call).await.map_err(|error| failed(&error))?;
    if !reply.status.is_success() {
        let what = if arguments.ready { "cannot serve now" } else { "is not alive" };
        return Err(Failure::Failed(format!("the gateway at http://{address} {what}")));
    }
    Ok(context.out.said("ok", &json!({ "ok": true }))?)
}

/// Where the admin listener of this configuration can be reached on this machine.
pub(super) fn admin_address(config: &Config) -> SocketAddr {
    let mut address = config.admin.listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

pub(super) fn completions(arguments: &Completions, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "neuronetz", &mut text);
    Ok(out.text(&String::from_utf8_lossy(&text))?)
}

/// One page for all commands.
pub(super) fn man(out: &mut Out<'_>) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        describe(sub, "neuronetz", &mut page)?;
    }
    Ok(out.text(&String::from_utf8_lossy(&page))?)
}

fn describe(command: &clap::Command, parent: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    let name = format!("{parent} {}", command.get_name());
    let subs: Vec<_> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
    if subs.is_empty() {
        let man = clap_mangen::Man::new(command.clone());
        page.extend_from_slice(format!(".SH \"{}\"\n", name.to_uppercase()).as_bytes());
        if let Some(about) = command.get_about() {
            page.extend_from_slice(format!("{about}\n.PP\n").as_bytes());
        }
        man.render_options_section(page)?;
    }
    subs.into_iter().try_for_each(|sub| describe(sub, &name, page))
}
