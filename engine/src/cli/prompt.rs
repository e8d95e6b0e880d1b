//! `neuronetz prompt …`

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;
use storage::{Storage, prompts::Prompt};

use super::{
    failure::Failure,
    output::{Out, Row, date},
};
use crate::party::Party;
use crate::{config, prompts::Cipher};

/// The longest text of a prompt in a table.
const TEXT_LENGTH_MAX: usize = 80;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Shows what was asked lately with a key that logs its prompts.
    Show {
        /// The key's id, or its public prefix.
        key: String,
        /// How many, the newest first.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

#[derive(Serialize)]
struct View {
    request: String,
    at: Timestamp,
    expires_at: Timestamp,
    encrypted: bool,
    /// The body as it came, or its beginning; null where it cannot be read with the configured key.
    body: Option<String>,
    /// The length of the whole body in bytes, where only its beginning is kept; else null.
    cut_from: Option<u64>,
}

pub(super) async fn run(
    storage: &Storage,
    settings: &config::Prompts,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let Command::Show { key, limit } = command;
    let key = Party::key(storage, &key).await?;
    let cipher = settings.encryption_key.as_ref().map(Cipher::new);
    let prompts = storage.prompts.list(key.id, limit).await?;
    let views: Vec<_> = prompts.into_iter().map(|one| View::new(one, cipher.as_ref())).collect();
    let none = if key.log_prompts {
        "Nothing was asked with this key lately."
    } else {
        "This key does not log its prompts: neuronetz key set ID --log-prompts true"
    };
    Ok(out.rows(&views, none)?)
}

// === impl View ===

impl View {
    fn new(prompt: Prompt, cipher: Option<&Cipher>) -> Self {
        let body = if prompt.encrypted {
            cipher.and_then(|cipher| cipher.decrypt(prompt.request, &prompt.body).ok())
        } else {
            Some(prompt.body)
        };
        Self {
            request: prompt.request.to_string(),
            at: prompt.at,
            expires_at: prompt.expires_at,
            encrypted: prompt.encrypted,
            cut_from: prompt.cut_from,
            body: body.map(|body| String::from_utf8_lossy(&body).into_owned()),
        }
    }
}

impl Row for View {
    const COLUMNS: &'static [&'static str] = &["AT", "REQUEST", "UNTIL", "KEPT", "BODY"];

    fn cells(&self) -> Vec<String> {
        let body = match &self.body {
            None => "(not readable with this prompts.encryption_key)".to_owned(),
            // Nothing that a client sent moves the cursor of this terminal.
            Some(body) => body
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(TEXT_LENGTH_MAX)
                .collect(),
        };
        let kept = match self.cut_from {
            None => "all".to_owned(),
            Some(whole) => format!("the beginning of {whole} bytes"),
        };
        vec![date(self.at), self.request.clone(), date(self.expires_at), kept, body]
    }
}
