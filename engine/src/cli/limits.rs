//! `neuronetz limits …`

use clap::{Args, Subcommand};
use serde::Serialize;
use storage::{Storage, keys::KeyChange, limits::Limits, tenants::TenantChange};

use super::{
    arguments::{self, LimitFlags, LimitsView, limits_text},
    failure::Failure,
    output::{Out, Row},
};

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
    let (whose, flags) = match command {
        Command::Show { whose } => (whose, None),
        Command::Set { limits, .. } if !limits.is_given() => {
            let what = "say what to set: --rpm, --tpm or --concurrency";
            return Err(Failure::Usage(what.to_owned()));
        }
        Command::Set { whose, limits } => (whose, Some(limits)),
    };
    let view = match (&whose.tenant, &whose.key) {
        (Some(named), _) => of_tenant(storage, named, flags).await?,
        (None, Some(named)) => of_key(storage, named, flags).await?,
        (None, None) => return Err(Failure::Usage("give --tenant or --key".to_owned())),
    };
    Ok(out.one(&view)?)
}

async fn of_tenant(
    storage: &Storage,
    named: &str,
    flags: Option<LimitFlags>,
) -> Result<View, Failure> {
    let mut tenant = arguments::tenant(storage, named).await?;
    if let Some(flags) = flags {
        let limits = Some(flags.over(tenant.limits));
        let change = TenantChange { limits, ..TenantChange::default() };
        tenant = storage.tenants.change(tenant.id, change).await?;
    }
    Ok(View::new("tenant", tenant.name, &tenant.limits))
}

async fn of_key(
    storage: &Storage,
    named: &str,
    flags: Option<LimitFlags>,
) -> Result<View, Failure> {
    let mut key = arguments::key(storage, named).await?;
    if let Some(flags) = flags {
        let limits = Some(flags.over(key.limits));
        key = storage.keys.change(key.id, KeyChange { limits, ..KeyChange::default() }).await?;
    }
    Ok(View::new("key", key.prefix, &key.limits))
}

// === impl View ===

impl View {
    fn new(scope: &'static str, of: String, limits: &Limits) -> Self {
        Self { scope, of, limits: LimitsView::from(limits), text: limits_text(limits) }
    }
}

impl Row for View {
    const COLUMNS: &'static [&'static str] = &["SCOPE", "OF", "LIMITS"];

    fn cells(&self) -> Vec<String> {
        vec![self.scope.to_owned(), self.of.clone(), self.text.clone()]
    }
}
