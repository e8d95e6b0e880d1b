//! `neuronetz usage`

use clap::{Args, ValueEnum};
use storage::{
    Storage,
    ledger::{LedgerBy, LedgerQuery, LedgerSum},
};

use super::{
    arguments::{self, Moment},
    failure::Failure,
    output::{Out, Row},
};
use crate::party::Party;

#[derive(Args)]
pub(super) struct Arguments {
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<String>,
    /// Only this key's, by its id or its prefix.
    #[arg(long)]
    key: Option<String>,
    /// By what to sum. Default: by tenant, or by model where one tenant or key is asked for.
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Only days that end after: a moment, or so long ago, as 30d.
    #[arg(long, value_parser = Moment::parse)]
    since: Option<Moment>,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    /// By tenant.
    Tenant,
    /// By key.
    Key,
    /// By model.
    Model,
    /// By UTC day.
    Day,
}

pub(super) async fn run(
    storage: &Storage,
    arguments: Arguments,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let tenant = arguments::tenant_id(storage, arguments.tenant.as_deref()).await?;
    let key = match &arguments.key {
        Some(named) => Some(Party::key(storage, named).await?.id),
        None => None,
    };
    let by = match arguments.by {
        Some(By::Tenant) => LedgerBy::Tenant,
        Some(By::Key) => LedgerBy::Key,
        Some(By::Model) => LedgerBy::Model,
        Some(By::Day) => LedgerBy::Day,
        None if tenant.is_some() || key.is_some() => LedgerBy::Model,
        None => LedgerBy::Tenant,
    };
    let since = arguments.since.map(Moment::ago);
    let sums = storage.ledger.sums(LedgerQuery { by, tenant, key, since }).await?;
    Ok(out.rows(&sums, "Nothing has been used.")?)
}

impl Row for LedgerSum {
    const COLUMNS: &'static [&'static str] =
        &["OF", "REQUESTS", "PROMPT TOKENS", "COMPLETION TOKENS", "ESTIMATED REQUESTS"];

    fn cells(&self) -> Vec<String> {
        let numbers = [self.requests, self.prompt, self.completion, self.estimated];
        let numbers = numbers.iter().map(u64::to_string);
        std::iter::once(self.of.clone()).chain(numbers).collect()
    }
}
