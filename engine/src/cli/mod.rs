//! The commands: a file per noun.
//!
//! | file | commands |
//! |---|---|
//! | [`serve`] | `serve`, `demo` share it |
//! | [`demo`] | `demo` |
//! | [`tenant`], [`key`], [`limits`], [`budget`], [`upstream`], [`model`], [`alias`], [`prompt`] | what is stored, and what upstreams say |
//! | [`audit`], [`usage`] | what happened, and what it came to |
//! | [`top`] | how it is, live |
//! | [`setup`] | `check-config`, `migrate`, `healthcheck`, `completions`, `man` |
//! | [`arguments`], [`output`], [`failure`] | what is read, printed and said when it fails |
//!
//! Every command but `serve`, `demo`, `top` and `healthcheck` works on the database (and the upstreams)
//! alone; a gateway that runs hears of a change within a second.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use storage::Storage;

use self::{failure::Failure, output::Out};
use crate::config::{Config, env::Environment};

mod alias;
mod arguments;
mod audit;
mod budget;
mod demo;
mod failure;
mod key;
mod limits;
mod model;
mod output;
mod prompt;
mod serve;
mod setup;
mod tenant;
mod top;
mod upstream;
mod usage;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  it could not be done
  2  the command line is wrong
  3  there is no such thing
  4  it exists already
  5  the configuration is wrong
  6  the database cannot be used";

/// A streaming gateway between clients and model servers: keys, limits, audit.
#[derive(Parser)]
#[command(name = "neuronetz", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// The configuration file (TOML). Also NEURONETZ_CONFIG.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the gateway.
    Serve,
    /// Runs a gateway to try out, with a key, on a temporary database.
    Demo(demo::Arguments),
    /// Reads the configuration and says what is wrong with it.
    CheckConfig(setup::CheckConfig),
    /// Brings the database's schema up to date.
    Migrate,
    /// Asks the gateway of this configuration whether it is alive.
    Healthcheck(setup::Healthcheck),
    /// Tenants: who pays.
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// API keys of tenants.
    #[command(subcommand)]
    Key(key::Command),
    /// Limits of tenants and keys.
    #[command(subcommand)]
    Limits(limits::Command),
    /// Budgets of tokens, and how much of them is used.
    #[command(subcommand)]
    Budget(budget::Command),
    /// Model servers.
    #[command(subcommand)]
    Upstream(upstream::Command),
    /// Models that the upstreams serve.
    #[command(subcommand)]
    Model(model::Command),
    /// What was asked with keys that log their prompts.
    #[command(subcommand)]
    Prompt(prompt::Command),
    /// What happened, request by request.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Sums of requests and tokens.
    Usage(usage::Arguments),
    /// Shows every limit, slot, queue and breaker live in the terminal.
    Top(top::Arguments),
    /// Prints the OpenAPI document of a listener.
    Openapi(setup::Openapi),
    /// Prints completions for a shell.
    Completions(setup::Completions),
    /// Prints the manual page.
    Man,
}

/// What a command has to work with.
struct Context<'a> {
    environment: &'a Environment,
    config_file: Option<PathBuf>,
    out: Out<'a>,
}

// === impl Cli ===

impl Cli {
    /// Does what was asked and says how it went.
    pub async fn run(
        self,
        environment: &Environment,
        stdout: &mut (dyn Write + Send),
        stderr: &mut (dyn Write + Send),
    ) -> ExitCode {
        let config_file =
            self.config.or_else(|| environment.get("NEURONETZ_CONFIG").map(PathBuf::from));
        let out = Out::new(self.json, stdout);
        let context = Context { environment, config_file, out };
        match Box::pin(context.run(self.command)).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                // Nothing is left to be done about a terminal that has gone.
                let _ = writeln!(stderr, "neuronetz: {failure}");
                failure.exit_code()
            }
        }
    }
}

// === impl Context ===

impl Context<'_> {
    async fn run(mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Serve => serve::run(self.config()?, &mut self.out).await,
            Command::Demo(arguments) => demo::run(arguments, &mut self.out).await,
            Command::CheckConfig(arguments) => setup::check_config(&mut self, &arguments),
            Command::Migrate => setup::migrate(&mut self).await,
            Command::Healthcheck(arguments) => setup::healthcheck(&mut self, &arguments).await,
            Command::Tenant(command) => {
                tenant::run(&self.storage().await?, command, &mut self.out).await
            }
            Command::Key(command) => {
                let config = self.config()?;
                key::run(&open(&config).await?, &config.keys, command, &mut self.out).await
            }
            Command::Limits(command) => {
                limits::run(&self.storage().await?, command, &mut self.out).await
            }
            Command::Budget(command) => {
                budget::run(&self.storage().await?, command, &mut self.out).await
            }
            Command::Upstream(command) => {
                let config = self.config()?;
                upstream::run(&open(&config).await?, &config, command, &mut self.out).await
            }
            Command::Model(command) => {
                let config = self.config()?;
                model::run(&open(&config).await?, &config, command, &mut self.out).await
            }
            Command::Prompt(command) => {
                let config = self.config()?;
                prompt::run(&open(&config).await?, &config.prompts, command, &mut self.out).await
            }
            Command::Audit(command) => {
                audit::run(&self.storage().await?, command, &mut self.out).await
            }
            Command::Usage(arguments) => {
                usage::run(&self.storage().await?, arguments, &mut self.out).await
            }
            Command::Top(arguments) => top::run(&self.config()?, arguments, &mut self.out).await,
            Command::Openapi(arguments) => setup::openapi(&arguments, &mut self.out),
            Command::Completions(arguments) => setup::completions(&arguments, &mut self.out),
            Command::Man => setup::man(&mut self.out),
        }
    }

    fn config(&self) -> Result<Config, Failure> {
        let read = |path: &std::path::Path| std::fs::read_to_string(path);
        Ok(Config::load(self.config_file.as_deref(), self.environment, read)?)
    }

    async fn storage(&self) -> Result<Storage, Failure> {
        open(&self.config()?).await
    }
}

/// Opens the database, with its schema up to date.
async fn open(config: &Config) -> Result<Storage, Failure> {
    let storage = storage::open(config.database.storage()).await?;
    if config.database.migrate {
        storage.database.migrate().await?;
    } else if !storage.database.is_migrated().await? {
        return Err(Failure::NotMigrated);
    }
    Ok(storage)
}
