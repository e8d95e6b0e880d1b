//! `neuronetz budget …`

use actors::rules::budget;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use storage::{
    Storage,
    budgets::Owner,
    ledger::{LedgerBy, LedgerQuery, LedgerSum},
    limits::{Budget, Correction, LimitPeriod, Limits},
};

use super::{
    arguments::Period,
    failure::Failure,
    limits::{Party, Whose},
    output::{Out, Row, date},
};

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
    /// Has every gateway count anew what the ledger says was used.
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

#[derive(Serialize)]
struct View {
    /// `tenant` or `key`.
    scope: &'static str,
    /// The tenant's name, or the key's prefix.
    of: String,
    tokens: Option<u64>,
    period: Option<LimitPeriod>,
    /// What the ledger says, without what was forgiven; requests under way are not in it yet.
    used: u64,
    /// What was forgiven by a reset in this period.
    forgiven: u64,
    remaining: Option<u64>,
    resets_at: Option<Timestamp>,
}

pub(super) async fn run(
    storage: &Storage,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let party = match command {
        Command::Show { whose } => whose.party(storage).await?,
        Command::Set { whose, budget } => {
            let party = whose.party(storage).await?;
            let Tokens(tokens) = budget.tokens;
            let period = budget.period.into();
            let before = party.limits().budget;
            let correction = before.map(|budget| budget.correction).unwrap_or_default();
            let budget = tokens.map(|tokens| Budget { tokens, period, correction });
            let limits = Limits { budget, ..*party.limits() };
            party.set(storage, limits).await?
        }
        Command::Reset { whose } => {
            let party = whose.party(storage).await?;
            let now = Timestamp::now();
            let written = used(&party, storage, now).await?;
            let (reset_at, read_at) = (Some(now), Some(now));
            correct(storage, &whose, Correction { forgiven: written, reset_at, read_at }).await?
        }
        Command::Reconcile { whose } => {
            let party = whose.party(storage).await?;
            let before = party.limits().budget.map(|budget| budget.correction).unwrap_or_default();
            let read_at = Some(Timestamp::now());
            correct(storage, &whose, Correction { read_at, ..before }).await?
        }
    };
    Ok(out.one(&View::of(&party, storage).await?)?)
}

/// Says how what was used is to be counted from now on. Gateways hear of it within a second.
async fn correct(
    storage: &Storage,
    whose: &Whose,
    correction: Correction,
) -> Result<Party, Failure> {
    let party = whose.party(storage).await?;
    if party.limits().budget.is_none() {
        let (scope, name) = (party.scope(), party.name());
        return Err(Failure::Failed(format!("the {scope} {name} has no budget: budget set")));
    }
    let owner = match &party {
        Party::Tenant(tenant) => Owner::Tenant(tenant.id),
        Party::Key(key) => Owner::Key(key.id),
    };
    storage.budgets.correct(owner, correction).await?;
    whose.party(storage).await
}

/// What the ledger says was used in the period that is now.
async fn used(party: &Party, storage: &Storage, now: Timestamp) -> Result<u64, Failure> {
    let period = party.limits().budget.map_or(LimitPeriod::Total, |budget| budget.period);
    let since = budget::Budget::start_of(period, now);
    let query = match party {
        Party::Tenant(tenant) => {
            LedgerQuery { by: LedgerBy::Tenant, tenant: Some(tenant.id), key: None, since }
        }
        Party::Key(key) => {
            LedgerQuery { by: LedgerBy::Key, tenant: None, key: Some(key.id), since }
        }
    };
    Ok(LedgerSum::tokens(&storage.ledger.sums(query).await?))
}

fn tokens(text: &str) -> Result<Tokens, String> {
    if text == "none" {
        return Ok(Tokens(None));
    }
    text.parse().map(|tokens| Tokens(Some(tokens))).map_err(|_| "give a number, or none".to_owned())
}

// === impl View ===

impl View {
    async fn of(party: &Party, storage: &Storage) -> Result<Self, Failure> {
        let now = Timestamp::now();
        let limit = party.limits().budget;
        let period = limit.map_or(LimitPeriod::Total, |budget| budget.period);
        let written = used(party, storage, now).await?;
        let forgiven = limit.map_or(0, |limit| {
            let start = budget::Budget::start_of(period, now);
            limit.correction.forgiven_since(start, None)
        });
        let used = written.saturating_sub(forgiven);
        let resets_at =
            limit.and_then(|limit| budget::Budget::new(0, limit.period, 0, now).reset_at(now));
        Ok(Self {
            scope: party.scope(),
            of: party.name().to_owned(),
            tokens: limit.map(|budget| budget.tokens),
            period: limit.map(|budget| budget.period),
            used,
            forgiven,
            remaining: limit.map(|budget| budget.tokens.saturating_sub(used)),
            resets_at,
        })
    }
}

impl Row for View {
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
