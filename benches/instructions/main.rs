//! Runs one hot path so many times, for valgrind to count: `instructions PATH TIMES`. Without arguments it
//! prints the names of the paths.
//!
//! Nothing here reads a clock, draws a number or starts a thread: the same path takes the same instructions
//! in every run.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

mod paths;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let known = |name: &str| paths::ALL.iter().find(|(known, _)| *known == name);
    match arguments.as_slice() {
        [] => {
            let all: String = paths::ALL.iter().map(|(name, _)| format!("{name}\n")).collect();
            io::stdout().write_all(all.as_bytes()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        [name, times] => match (known(name), times.parse()) {
            (Some((_, run)), Ok(times)) if run(times) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        },
        _ => ExitCode::FAILURE,
    }
}
