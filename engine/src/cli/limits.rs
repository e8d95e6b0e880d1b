//! `neuronetz limits …`

use clap::{Args, Subcommand};
use serde::Serialize;
use storage::{Storage, admission::Scope};

use super::{
    arguments::{LimitFlags, limits_text},
    failure::Failure,
    output::{Out, Row},
};
use crate::party::{LimitsView, Party};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Changes limits; those that are not named stay.
    Set {
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        limits: LimitFlags,
    },
    /// Shows limits.
    Show {
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Whose {
    /// A tenant's, by its name or its id.
    #[arg(long)]
    tenant: Option<String>,
    /// A key's, by its id or its prefix.
    #[arg(long)]
    key: Option<String>,
}

#[derive(Serialize)]
struct View {
    /// `tenant` or `key`.
    scope: &'static str,
    /// The tenant's name, or the key's prefix.
    of: String,
    #[serde(flatten)]
    limits: LimitsView,
    #[serde(skip)]
    text: String,
}

pub(super) async fn run(
    storage: &Storage,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let party = match command {
        Command::Show { whose } => whose.party(storage).await?,
        Command::Set { limits, .. } if !limits.is_given() => {
            let what = "say what to set: --rpm, --tpm, --concurrency, --budget-tokens, --observe \
                        or --enforce";
            return Err(Failure::Usage(what.to_owned()));
        }
        Command::Set { whose, limits } => {
            let party = whose.party(storage).await?;
            party.set(storage, |before| limits.over(*before)).await?
        }
    };
    Ok(out.one(&View::of(&party))?)
}

// === impl Whose ===

impl Whose {
    pub(super) async fn party(&self, storage: &Storage) -> Result<Party, Failure> {
        Ok(match (&self.tenant, &self.key) {
            (Some(named), _) => Party::find(storage, Scope::Tenant, named).await?,
            (None, Some(named)) => Party::find(storage, Scope::Key, named).await?,
            (None, None) => return Err(Failure::Usage("give --tenant or --key".to_owned())),
        })
    }
}

// === impl View ===

impl View {
    fn of(party: &Party) -> Self {
        let limits = party.limits();
        Self {
            scope: party.scope().as_str(),
            of: party.name().to_owned(),
            limits: LimitsView::from(limits),
            text: limits_text(limits),
        }
    }
}

impl Row for View {
    const COLUMNS: &'static [&'static str] = &["SCOPE", "OF", "LIMITS"];

    fn cells(&self) -> Vec<String> {
        vec![self.scope.to_owned(), self.of.clone(), self.text.clone()]
    }
}
