//! `neuronetz demo`: a gateway to try out.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use clap::Args;
use identity::{models::ModelRule, policy::Policy};
use jiff::Timestamp;
use protocol::{name::ModelName, secret::Secret};
use storage::{Storage, keys::NewKey, limits::Limits, tenants::NewTenant};

use self::echo::{Echo, MODEL};
use super::{failure::Failure, key, open, output::Out, serve, upstream};
use crate::{
    clock::SystemClock,
    config::{Config, env::Environment},
    gateway, telemetry,
};

mod echo;

/// Where an Ollama listens that was started with no settings.
const OLLAMA: &str = "http://127.0.0.1:11434";

/// A free port of this machine.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[derive(Args)]
pub(super) struct Arguments {
    /// Where the gateway listens. Where the port is taken, a free one is.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The model server, as in NEURONETZ_UPSTREAMS: http://host:port, or openai+http://host:port of OpenAI's
    /// dialect. Default: the Ollama of this machine, or one that only says again what it is told.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
}

/// The model server behind the demo.
struct Behind {
    url: String,
    /// What it is, for the user.
    what: String,
    model: String,
    /// Kept while the demo runs, where there is no real one.
    echo: Option<Echo>,
}

/// Makes everything anew in a temporary directory, prints what to try, and serves.
pub(super) async fn run(arguments: Arguments, out: &mut Out<'_>) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let listen = free(arguments.listen).await;
    let behind = behind(directory.path(), arguments.upstream).await?;
    let config = config(directory.path(), listen, &behind.url)?;
    telemetry::log(&config.log);
    let key = make_key(&open(&config).await?, &config).await?;
    let built = serve::build(config).await?;
    let address = built.data_address()?;
    out.text(&told(address, &behind, key.expose()))?;
    let ended = serve::until_told(built).await;
    if let Some(echo) = behind.echo {
        echo.stop().await;
    }
    ended
}

/// The address that was asked for, or a free port of it.
async fn free(listen: SocketAddr) -> SocketAddr {
    match tokio::net::TcpListener::bind(listen).await {
        Ok(_) => listen,
        Err(_) => SocketAddr::new(listen.ip(), 0),
    }
}

fn config(directory: &Path, listen: SocketAddr, upstream: &str) -> Result<Config, Failure> {
    let variables = [
        ("DATABASE_URL", format!("sqlite:{}", directory.join("demo.db").display())),
        ("NEURONETZ_LISTEN", listen.to_string()),
        ("NEURONETZ_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("NEURONETZ_UPSTREAMS", format!("ollama={upstream}")),
        ("NEURONETZ_LOG_LEVEL", "warn".to_owned()),
    ];
    let named = variables.map(|(name, value)| (name.to_owned(), value));
    Ok(Config::load(None, &Environment::of(named), |path| std::fs::read_to_string(path))?)
}

/// The model server that was named; else the Ollama of this machine where one answers with a model, else the
/// echo.
async fn behind(directory: &Path, named: Option<String>) -> Result<Behind, Failure> {
    if let Some(url) = named {
        let what = format!("the model server at {url}");
        let none = || Failure::Failed(format!("No model that chats is to be had at {url}."));
        let model = model(directory, &url).await?.ok_or_else(none)?;
        return Ok(Behind { url, what, model, echo: None });
    }
    if let Some(model) = model(directory, OLLAMA).await? {
        let what = format!("the Ollama at {OLLAMA}");
        return Ok(Behind { url: OLLAMA.to_owned(), what, model, echo: None });
    }
    let echo = Echo::start().await?;
    Ok(Behind {
        url: format!("http://{}", echo.address()),
        what: format!("an echo (no Ollama with a model answers at {OLLAMA})"),
        model: MODEL.to_owned(),
        echo: Some(echo),
    })
}

/// The first model of a server that chats. `None` where there is none, or the server does not answer.
async fn model(directory: &Path, url: &str) -> Result<Option<String>, Failure> {
    let config = config(directory, ANY, url)?;
    let upstreams = gateway::configured(&config.upstream, &SystemClock);
    let mut answers = upstream::ask(&config, upstreams).await?;
    let models = answers.pop().and_then(|(_, models, _)| models.ok()).unwrap_or_default();
    // A model that embeds does not chat.
    let chats =
        |name: &ModelName| !["embed", "bert", "bge"].iter().any(|w| name.as_str().contains(w));
    let found = models.into_iter().find(|model| chats(&model.name));
    Ok(found.map(|model| model.name.as_str().to_owned()))
}

async fn make_key(storage: &Storage, config: &Config) -> Result<Secret, Failure> {
    let at = Timestamp::now();
    let new = NewTenant {
        name: "demo".to_owned(),
        models: ModelRule::All,
        limits: Limits::default(),
        policy: Policy::default(),
        audit_retention: None,
        at,
    };
    let tenant = storage.tenants.create(new).await?.id;
    let (new, secret) = key::minted(&config.keys, |prefix, hash| {
        Ok(NewKey {
            tenant,
            name: "demo".to_owned(),
            prefix,
            hash,
            models: None,
            limits: Limits::default(),
            log_prompts: false,
            expires_at: None,
            at,
        })
    })?;
    storage.keys.create(new).await?;
    storage.database.close().await;
    Ok(secret)
}

fn told(address: SocketAddr, behind: &Behind, key: &str) -> String {
    let Behind { what, model, .. } = behind;
    format!(
        r#"Neuronetz is listening on http://{address}, in front of {what}.
The key of this demo is {key}

1. Ollama's API, streamed:

curl -sN http://{address}/api/chat \
  -H 'Authorization: Bearer {key}' \
  -d '{{"model":"{model}","messages":[{{"role":"user","content":"Why is the sky blue?"}}]}}'

2. OpenAI's API, streamed:

curl -sN http://{address}/v1/chat/completions \
  -H 'Authorization: Bearer {key}' \
  -d '{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"Why is the sky blue?"}}]}}'

3. The OpenAI SDK for Python (python3 -m pip install openai):

python3 - <<'END'
from openai import OpenAI
client = OpenAI(base_url="http://{address}/v1", api_key="{key}")
messages = [{{"role": "user", "content": "Why is the sky blue?"}}]
for chunk in client.chat.completions.create(model="{model}", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
END

Ctrl-C ends the demo; nothing of it is kept.
"#
    )
}
