//! The binary: arguments and environment in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use engine::{cli::Cli, config::env::Environment};
use mimalloc::MiMalloc;

/// A request makes and drops some hundred small things on threads that change: what the system's allocator
/// needs a tenth of the CPU for. docs/PERFORMANCE.md has the figures.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "neuronetz: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let environment = Environment::of_process();
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let code = runtime.block_on(cli.run(&environment, &mut stdout, &mut stderr));
    // What is still at work (a hash, a slow disk) must not hold up the end.
    runtime.shutdown_background();
    code
}
