//! Puts the gateway under load and judges whether it kept its word: `make loadtest`, `make soak`.
//!
//! | module | what it does |
//! |---|---|
//! | [`scenario`] | users of goose or locust, faults, and what is expected meanwhile |
//! | [`soak`] | half of the full load for a long time: does what it takes come back? |
//! | [`hostile`] | everybody attacks at once beside a tenant that behaves well: does that one notice? |
//! | [`started`] | the scripted Ollama and the gateway, started for it |
//! | [`keys`] | keys that are none |
//! | [`proc`] | what Linux says of a process |
//! | [`sampling`], [`chart`] | what the gateway holds over time, and a picture of it |
//! | [`table`] | what was expected and what was found |

mod chart;
mod hostile;
mod keys;
mod proc;
mod sampling;
mod scenario;
mod soak;
mod started;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rig::process::until_told;

/// Puts the gateway under load and judges whether it kept its word.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Users of a scenario; ends with 1 where something is not as expected, with 3 where nothing is but not
    /// everything could be judged.
    Scenario(Box<scenario::Options>),
    /// Everybody attacks at once beside a tenant that behaves well; ends as `scenario` does.
    Hostile(Box<hostile::Options>),
    /// Half of the full load for a long time; ends with 1 where something does not come back.
    Soak(Box<soak::Options>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Scenario(options) => Box::pin(until_told(scenario::run(*options))).await,
        Task::Hostile(options) => Box::pin(until_told(hostile::run(*options))).await,
        Task::Soak(options) => Box::pin(until_told(soak::run(*options))).await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            rig::out::note(&format!("loadtest: {error}"));
            ExitCode::FAILURE
        }
    }
}
