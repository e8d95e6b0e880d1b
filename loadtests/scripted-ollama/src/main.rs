//! The scripted Ollama as a program of its own, for load tests and for trying things out. At its end it
//! says what it has done, as JSON.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use scripted_ollama::{Script, Scripted};

/// A model server that behaves on the wire like Ollama, without a model.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:11434")]
    listen: SocketAddr,
    /// A TOML file that says what to serve and how.
    #[arg(long)]
    script: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "scripted-ollama: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let script = match &arguments.script {
        None => Script::default(),
        Some(path) => {
            let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
            Script::from_toml(&text).map_err(|error| named(&error))?
        }
    };
    let server = Scripted::start(script, arguments.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    let _ = writeln!(std::io::stdout(), "http://{}", server.address());
    let _ = tokio::signal::ctrl_c().await;
    server.stop().await;
    let fault = |error: serde_json::Error| error.to_string();
    let mut said = serde_json::to_value(server.produced()).map_err(fault)?;
    said["models"] = serde_json::to_value(server.models()).map_err(fault)?;
    said["paths"] = serde_json::to_value(server.paths()).map_err(fault)?;
    let _ = writeln!(std::io::stdout(), "{said}");
    Ok(())
}
