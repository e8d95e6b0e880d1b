//! `neuronetz budget …`

use clap::{Args, Subcommand};
use storage::{Storage, limits::LimitPeriod};

use super::{
    arguments::Period,
    failure::Failure,
    limits::Whose,
    output::{Out, Row, date},
};
use crate::party::BudgetView;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Gives a tenant or a key so many tokens per period.
    Set {
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        budget: BudgetFlags,
    },
    /// Shows a budget, and how much of it is used.
    Show {
        #[command(flatten)]
        whose: Whose,
    },
    /// Forgives what was used of it in the period that is now. The ledger keeps it.
    Reset {
        #[command(flatten)]
        whose: Whose,
    },
    /// Has every gateway count anew what the ledger says was used, with the next request that it
    /// concerns. By how much it had counted wrongly, it logs then, and counts in its metrics.
    Reconcile {
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Args)]
pub(super) struct BudgetFlags {
    /// How many tokens, or `none`.
    #[arg(long, value_parser = tokens, value_name = "N")]
    tokens: Tokens,
    /// Per which period, in UTC.
    #[arg(long, value_enum, default_value_t = Period::Month)]
    period: Period,
}

/// So many tokens, or no budget.
#[derive(Clone, Copy)]
struct Tokens(Option<u64>);

pub(super) async fn run(
    storage: &Storage,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let party = match command {
        Command::Show { whose } => whose.party(storage).await?,
        Command::Set { whose, budget } => {
            let BudgetFlags { tokens: Tokens(tokens), period } = budget;
            whose.party(storage).await?.set_budget(storage, tokens, period.into()).await?
        }
        Command::Reset { whose } => whose.party(storage).await?.reset(storage).await?,
        Command::Reconcile { whose } => whose.party(storage).await?.reconcile(storage).await?,
    };
    Ok(out.one(&party.budget(storage).await?)?)
}

fn tokens(text: &str) -> Result<Tokens, String> {
    if text == "none" {
        return Ok(Tokens(None));
    }
    text.parse().map(|tokens| Tokens(Some(tokens))).map_err(|_| "give a number, or none".to_owned())
}

impl Row for BudgetView {
    const COLUMNS: &'static [&'static str] =
        &["SCOPE", "OF", "TOKENS", "PERIOD", "USED", "REMAINING", "RESETS"];

    fn cells(&self) -> Vec<String> {
        let or_dash =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        vec![
            self.scope.to_owned(),
            self.of.clone(),
            or_dash(self.tokens),
            self.period.map_or("-", LimitPeriod::as_str).to_owned(),
            self.used.to_string(),
            or_dash(self.remaining),
            self.resets_at.map_or_else(|| "never".to_owned(), date),
        ]
    }
}
