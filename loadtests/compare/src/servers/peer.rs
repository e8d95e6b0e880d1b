//! Other gateways that translate OpenAI's chat for Ollama, where they are installed.

use std::time::Duration;

use rig::process::Process;
use tokio::process::Command;

use super::{Kind, PATIENCE, Place, Server, free_address, put, ready};
use crate::replies::MODEL;

/// Python takes its time.
const READY_MAX: Duration = Duration::from_secs(120);

/// What their requests are divided by. JavaScript is slow until it has run a few thousand times, so
/// Portkey must not be asked too little.
const PORTKEY_DIVISOR: u64 = 3;
const LITELLM_DIVISOR: u64 = 30;

/// Starts Portkey's gateway.
pub(crate) async fn portkey(directory: &std::path::Path, place: &Place) -> Result<Server, String> {
    let address = free_address()?;
    let mut command = Command::new("node");
    command.arg(directory.join("build/start-server.js")).arg(format!("--port={}", address.port()));
    command.arg("--headless").env("NODE_ENV", "production");
    let mut process = Process::start_unheard("portkey", &mut command, &place.directory, PATIENCE)?;
    ready(&mut process, address, "/", READY_MAX).await?;
    let headers = vec![
        "x-portkey-provider: ollama".to_owned(),
        format!("x-portkey-custom-host: http://{}", place.upstream),
    ];
    server("portkey", address, headers, process, PORTKEY_DIVISOR, place)
}

/// Starts LiteLLM's proxy with one worker, as its documentation does.
pub(crate) async fn litellm(program: &std::path::Path, place: &Place) -> Result<Server, String> {
    let address = free_address()?;
    let config = format!(
        "model_list:
  - model_name: {MODEL}
    litellm_params:
      model: ollama_chat/{MODEL}
      api_base: http://{}
general_settings:
  master_key: sk-compare
",
        place.upstream
    );
    let config = put(&place.directory, "litellm.yaml", &config)?;
    let mut command = Command::new(program);
    command.arg("--config").arg(config).args(["--host", "127.0.0.1", "--num_workers", "1"]);
    command.arg("--port").arg(address.port().to_string());
    command.env("LITELLM_LOG", "ERROR").env("LITELLM_TELEMETRY", "False");
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    let mut process = Process::start_unheard("litellm", &mut command, &place.directory, PATIENCE)?;
    ready(&mut process, address, "/health/liveliness", READY_MAX).await?;
    server("litellm", address, Vec::new(), process, LITELLM_DIVISOR, place)
}

fn server(
    name: &str,
    address: std::net::SocketAddr,
    headers: Vec<String>,
    process: Process,
    divisor: u64,
    place: &Place,
) -> Result<Server, String> {
    let key = put(&place.directory, &format!("{name}.key"), "sk-compare")?;
    Ok(Server {
        name: name.to_owned(),
        kind: Kind::Peer,
        address,
        admin: None,
        headers,
        keys: key.clone(),
        key,
        divisor,
        answered: 0,
        process,
    })
}
