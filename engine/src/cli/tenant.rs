//! `neuronetz tenant …`

use clap::Subcommand;
use identity::{models::ModelRule, policy::Policy};
use jiff::Timestamp;
use serde::Serialize;
use storage::{
    Storage,
    limits::Limits,
    tenants::{NewTenant, Tenant, TenantChange},
};

use super::{
    arguments::{
        LimitFlags, Models, ModelsView, PolicyFlags, Retention, levers_text, limits_text,
        models_text, retention,
    },
    failure::Failure,
    output::{Out, Row},
};
use crate::party::{LimitsView, Party};

/// The longest name.
const NAME_LENGTH_MAX: usize = 64;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Makes a tenant. Without a word on models its keys may use none.
    Create {
        /// Its name: letters, digits, `-`, `_`, `.`.
        name: String,
        #[command(flatten)]
        models: Models,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        policy: PolicyFlags,
        /// How long its audit events are kept, as 30d, or `default`.
        #[arg(long, value_parser = retention, value_name = "SPAN")]
        audit_retention: Option<Retention>,
    },
    /// Lists all tenants.
    List,
    /// Shows one.
    Show {
        /// Its name, or its id.
        name: String,
    },
    /// Changes one.
    Set {
        /// Its name, or its id.
        name: String,
        /// A new name.
        #[arg(long = "name", value_name = "NAME")]
        new_name: Option<String>,
        #[command(flatten)]
        models: Models,
        #[command(flatten)]
        limits: LimitFlags,
        #[command(flatten)]
        policy: PolicyFlags,
        /// How long its audit events are kept, as 30d, or `default`.
        #[arg(long, value_parser = retention, value_name = "SPAN")]
        audit_retention: Option<Retention>,
    },
    /// Refuses every request of its keys, until it is resumed.
    Suspend {
        /// Its name, or its id.
        name: String,
    },
    /// Ends a suspension.
    Resume {
        /// Its name, or its id.
        name: String,
    },
    /// Deletes one with its keys. What was audited and counted stays.
    Delete {
        /// Its name, or its id.
        name: String,
    },
}

#[derive(Serialize)]
struct View {
    id: String,
    name: String,
    suspended: bool,
    #[serde(flatten)]
    models: ModelsView,
    limits: LimitsView,
    policy: Policy,
    /// How long its audit events are kept, in seconds; null: as long as everybody's.
    audit_retention: Option<u64>,
    created_at: Timestamp,
    #[serde(skip)]
    rule: ModelRule,
    #[serde(skip)]
    limits_text: String,
}

pub(super) async fn run(
    storage: &Storage,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let changed = match command {
        Command::Create { name, models, limits, policy, audit_retention } => {
            let new = NewTenant {
                name: checked(name)?,
                models: models.rule()?.unwrap_or_default(),
                limits: limits.over(Limits::default()),
                policy: policy.over(Policy::default()),
                audit_retention: audit_retention.and_then(|Retention(span)| span),
                at: Timestamp::now(),
            };
            storage.tenants.create(new).await?
        }
        Command::List => {
            let views: Vec<_> = storage.tenants.list().await?.into_iter().map(View::from).collect();
            let none = "There are no tenants yet: neuronetz tenant create NAME --allow-all-models";
            return Ok(out.rows(&views, none)?);
        }
        Command::Show { name } => Party::tenant(storage, &name).await?,
        Command::Set { name, new_name, models, limits, policy, audit_retention } => {
            let models = models.rule()?;
            let says = limits.is_given() || policy.is_given() || audit_retention.is_some();
            if new_name.is_none() && models.is_none() && !says {
                let what = "say what to set: --name, --models, --allow-all-models, --weight, \
                            --reserve, --exhausted, --keep-alive-max, --may-unload, --num-ctx-max, \
                            --options, --trusted-show, --audit-retention or a limit";
                return Err(Failure::Usage(what.to_owned()));
            }
            let tenant = Party::tenant(storage, &name).await?;
            let new_name = new_name.map(checked).transpose()?;
            let change = |before: &Tenant| TenantChange {
                name: new_name.clone(),
                models: models.clone(),
                limits: limits.is_given().then(|| limits.over(before.limits)),
                policy: policy.is_given().then(|| policy.over(before.policy)),
                audit_retention: audit_retention.as_ref().map(|Retention(span)| *span),
                ..TenantChange::default()
            };
            Party::change_tenant(storage, tenant, change).await?
        }
        Command::Suspend { name } => change(storage, &name, suspended(true)).await?,
        Command::Resume { name } => change(storage, &name, suspended(false)).await?,
        Command::Delete { name } => {
            let tenant = Party::tenant(storage, &name).await?;
            storage.tenants.delete(tenant.id).await?;
            let text = format!("Tenant {} and its keys are deleted.", tenant.name);
            return Ok(out.said(&text, &serde_json::json!({ "deleted": tenant.name }))?);
        }
    };
    Ok(out.one(&View::from(changed))?)
}

async fn change(storage: &Storage, name: &str, change: TenantChange) -> Result<Tenant, Failure> {
    let tenant = Party::tenant(storage, name).await?;
    Ok(storage.tenants.change(tenant.id, change).await?)
}

fn suspended(suspended: bool) -> TenantChange {
    TenantChange { suspended: Some(suspended), ..TenantChange::default() }
}

/// Names stand in metrics and on command lines.
fn checked(name: String) -> Result<String, Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= NAME_LENGTH_MAX && name.chars().all(fits) {
        return Ok(name);
    }
    Err(Failure::Usage(format!(
        "{name:?} is no name of a tenant: up to {NAME_LENGTH_MAX} letters, digits, `-`, `_`, `.`"
    )))
}

// === impl View ===

impl From<Tenant> for View {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id.to_string(),
            name: tenant.name,
            suspended: tenant.suspended,
            models: ModelsView::from(&tenant.models),
            limits: LimitsView::from(&tenant.limits),
            limits_text: limits_text(&tenant.limits),
            policy: tenant.policy,
            audit_retention: tenant.audit_retention.map(|span| span.as_secs()),
            created_at: tenant.created_at,
            rule: tenant.models,
        }
    }
}

impl Row for View {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "STATUS", "MODELS", "LIMITS", "WEIGHT", "RESERVE", "MAY ASK", "CREATED", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            if self.suspended { "suspended" } else { "active" }.to_owned(),
            models_text(&self.rule),
            self.limits_text.clone(),
            self.policy.weight.to_string(),
            self.policy.reserve.as_str().to_owned(),
            levers_text(&self.policy.levers),
            super::output::date(self.created_at),
            self.id.clone(),
        ]
    }
}
