//! The gateway beside nginx, and beside itself: `make compare`.
//!
//! | module | what it does |
//! |---|---|
//! | [`run`] | starts everything, lets the servers take turns, gathers what was found |
//! | [`scenario`] | what is asked |
//! | [`servers`] | nginx, the gateway, other gateways: how each is started |
//! | [`seed`] | tenants and keys in the gateway's database |
//! | [`measure`], [`quiet`], [`started`] | one number each: of a request, of an open stream, of a start |
//! | [`proc`] | time on a processor and memory, as Linux counts them |
//! | [`load`], [`framing`] | the load generator, a process of its own |
//! | [`upstream`], [`replies`], [`marks`] | the model server, a process of its own |
//! | [`report`], [`targets`], [`chart`] | what people read |

mod chart;
mod framing;
mod http;
mod load;
mod machine;
mod marks;
mod measure;
mod proc;
mod quiet;
mod replies;
mod report;
mod run;
mod scenario;
mod seed;
mod servers;
mod started;
mod targets;
mod timing;
mod upstream;

use std::{net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};
use rig::process::until_told;
use tokio::runtime::Runtime;

/// Measures the gateway beside nginx, on the same model server, in one run.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the comparison.
    Run(Box<run::Options>),
    /// Be the model server.
    Upstream {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:11434")]
        listen: SocketAddr,
    },
    /// Be the load: a plan on standard input, what was found on standard output.
    Load,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = runtime().and_then(|runtime| match arguments.task {
        Task::Run(options) => runtime.block_on(until_told(run::run(*options))),
        Task::Upstream { listen } => runtime.block_on(upstream::serve(listen)),
        Task::Load => load::run(&runtime),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            rig::out::note(&format!("compare: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// One thread: what is measured needs the others.
fn runtime() -> Result<Runtime, String> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| error.to_string())
}
