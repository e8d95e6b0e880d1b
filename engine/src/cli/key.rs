//! `neuronetz key …`

use clap::Subcommand;
use identity::{
    api_key::{self, Minted},
    models::ModelRule,
};
use jiff::Timestamp;
use protocol::secret::Secret;
use serde::Serialize;
use storage::{
    Storage,
    keys::{Key, KeyChange, KeyStatus, NewKey},
    limits::Limits,
    revocations::Revocation,
};

use super::{
    arguments::{self, LimitFlags, Models, ModelsView, Moment, limits_text, models_text},
    failure::Failure,
    output::{Out, Row, date},
};
use crate::config;
use crate::party::{LimitsView, Party, PartyError};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Makes a key and prints it: once, now, and never again.
    Create {
        /// Whose it is.
        #[arg(long)]
        tenant: String,
        /// What it is called.
        #[arg(long, default_value = "default")]
        name: String,
        #[command(flatten)]
        models: Models,
        /// When it ends: a moment, or a duration from now, as 30d.
        #[arg(long, value_parser = Moment::parse, value_name = "WHEN")]
        expires: Option<Moment>,
        /// Keep what is asked with it for a while (see `[prompts]`).
        #[arg(long)]
        log_prompts: bool,
        #[command(flatten)]
        limits: LimitFlags,
    },
    /// Lists keys, without their secrets.
    List {
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Shows one.
    Show {
        /// Its id, or its public prefix.
        id: String,
    },
    /// Changes one.
    Set {
        /// Its id, or its public prefix.
        id: String,
        /// A new name.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        models: Models,
        /// Forget its own word on models: the tenant's counts.
        #[arg(long, conflicts_with_all = ["models", "allow_all_models"])]
        inherit_models: bool,
        /// When it ends: a moment, a duration from now, or `never`.
        #[arg(long, value_parser = expiry, value_name = "WHEN")]
        expires: Option<Expiry>,
        /// Whether what is asked with it is kept for a while (see `[prompts]`).
        #[arg(long, value_name = "BOOL")]
        log_prompts: Option<bool>,
        #[command(flatten)]
        limits: LimitFlags,
    },
    /// Makes a new key in the place of one, which goes on for a while.
    Rotate {
        /// Its id, or its public prefix.
        id: String,
        /// How long the old key goes on.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "24h")]
        grace: std::time::Duration,
    },
    /// Withdraws one, for good.
    Revoke {
        /// Its id, or its public prefix.
        id: String,
        /// Cut its streams in flight as well.
        #[arg(long)]
        cut: bool,
        /// Why; it is kept with the revocation.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Clone, Copy)]
pub(super) enum Expiry {
    Never,
    At(Moment),
}

#[derive(Serialize)]
struct View {
    id: String,
    /// Only where the key was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    prefix: String,
    name: String,
    tenant: String,
    status: &'static str,
    /// Its own word on models; null where the tenant's counts.
    models: Option<ModelsView>,
    limits: LimitsView,
    /// Whether what is asked with it is kept for a while.
    log_prompts: bool,
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    revoked_at: Option<Timestamp>,
    rotated_to: Option<String>,
    #[serde(skip)]
    rule: Option<ModelRule>,
    #[serde(skip)]
    limits_text: String,
}

pub(super) async fn run(
    storage: &Storage,
    settings: &config::Keys,
    command: Command,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let shown = match command {
        Command::Create { tenant, name, models, expires, log_prompts, limits } => {
            let tenant = Party::tenant(storage, &tenant).await?;
            let (new, secret) = minted(settings, |prefix, hash| {
                Ok(NewKey {
                    tenant: tenant.id,
                    name,
                    prefix,
                    hash,
                    models: models.rule()?,
                    limits: limits.over(Limits::default()),
                    log_prompts,
                    expires_at: expires.map(Moment::hence),
                    at: Timestamp::now(),
                })
            })?;
            let key = storage.keys.create(new).await?;
            return Ok(show_once(out, View::new(key, &tenant.name), &secret)?);
        }
        Command::List { tenant } => return list(storage, tenant.as_deref(), out).await,
        Command::Show { id } => Party::key(storage, &id).await?,
        Command::Set { id, name, models, inherit_models, expires, log_prompts, limits } => {
            let own = models.rule()?.map(Some);
            let change = |before: &Key| KeyChange {
                name: name.clone(),
                limits: limits.is_given().then(|| limits.over(before.limits)),
                models: if inherit_models { Some(None) } else { own.clone() },
                log_prompts,
                expires_at: expires.map(Expiry::moment),
                expected: None,
            };
            let key = Party::key(storage, &id).await?;
            if change(&key) == KeyChange::default() {
                let what = "say what to set: --name, --models, --allow-all-models, --inherit-models, \
                            --expires, --log-prompts or a limit";
                return Err(Failure::Usage(what.to_owned()));
            }
            Party::change_key(storage, key, change).await?
        }
        Command::Rotate { id, grace } => {
            let old = Party::key(storage, &id).await?;
            return rotate(storage, settings, old, grace, out).await;
        }
        Command::Revoke { id, cut, reason } => {
            let key = Party::key(storage, &id).await?;
            let revocation = Revocation { key: key.id, at: Timestamp::now(), reason, cut };
            storage.revocations.revoke(revocation).await?;
            Party::key(storage, &key.id.to_string()).await?
        }
    };
    let tenant = tenant_name(storage, &shown).await?;
    Ok(out.one(&View::new(shown, &tenant))?)
}

async fn list(storage: &Storage, tenant: Option<&str>, out: &mut Out<'_>) -> Result<(), Failure> {
    let tenant = arguments::tenant_id(storage, tenant).await?;
    let tenants = storage.tenants.list().await?;
    let named = |key: Key| {
        let owner = tenants.iter().find(|tenant| tenant.id == key.tenant);
        View::new(key, owner.map_or("-", |tenant| &tenant.name))
    };
    let views: Vec<_> = storage.keys.list(tenant).await?.into_iter().map(named).collect();
    Ok(out.rows(&views, "There are no keys yet: neuronetz key create --tenant NAME")?)
}

/// The new key is as the old one was, down to its end.
async fn rotate(
    storage: &Storage,
    settings: &config::Keys,
    old: Key,
    grace: std::time::Duration,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let tenant = tenant_name(storage, &old).await?;
    let now = Timestamp::now();
    let ends_at = now.checked_add(grace).unwrap_or(Timestamp::MAX);
    let (new, secret) = minted(settings, |prefix, hash| {
        Ok(NewKey {
            tenant: old.tenant,
            name: old.name,
            prefix,
            hash,
            models: old.models,
            limits: old.limits,
            log_prompts: old.log_prompts,
            expires_at: old.expires_at,
            at: now,
        })
    })?;
    // What the new key has was read of the old one.
    let rotated = storage.keys.rotate(old.id, new, ends_at, Some(old.revision)).await;
    let stale = |error| match error {
        storage::Error::Stale(what) => PartyError::Stale(what, old.prefix),
        error => error.into(),
    };
    let key = rotated.map_err(stale)?;
    Ok(show_once(out, View::new(key, &tenant), &secret)?)
}

/// Makes a key of fresh randomness, and what is stored of it.
pub(super) fn minted(
    settings: &config::Keys,
    new: impl FnOnce(String, Secret) -> Result<NewKey, Failure>,
) -> Result<(NewKey, Secret), Failure> {
    let no_randomness = || Failure::Failed("the operating system gives no randomness".to_owned());
    let mut random = Ok(());
    let Minted { prefix, key } = api_key::mint(|buffer| {
        if getrandom::fill(buffer).is_err() {
            random = Err(no_randomness());
        }
    });
    random?;
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| no_randomness())?;
    let hashing = settings.hashing();
    let hash = hashing.hash(&key, &salt).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok((new(prefix, hash)?, key))
}

fn show_once(out: &mut Out<'_>, mut view: View, secret: &Secret) -> std::io::Result<()> {
    if out.is_json() {
        view.key = Some(secret.expose().to_owned());
        return out.one(&view);
    }
    out.one(&view)?;
    let key = secret.expose();
    out.text(&format!("\n{key}\n\nKeep it now: it is not stored and cannot be shown again.\n"))
}

async fn tenant_name(storage: &Storage, key: &Key) -> Result<String, Failure> {
    let tenant = storage.tenants.by_id(key.tenant).await?;
    Ok(tenant.map_or_else(|| "-".to_owned(), |tenant| tenant.name))
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" { Ok(Expiry::Never) } else { Moment::parse(text).map(Expiry::At) }
}

// === impl Expiry ===

impl Expiry {
    fn moment(self) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::At(moment) => Some(moment.hence()),
        }
    }
}

// === impl View ===

impl View {
    fn new(key: Key, tenant: &str) -> Self {
        let expired = key.expires_at.is_some_and(|at| at <= Timestamp::now());
        Self {
            id: key.id.to_string(),
            key: None,
            prefix: key.prefix,
            name: key.name,
            tenant: tenant.to_owned(),
            status: match key.status {
                KeyStatus::Revoked => "revoked",
                KeyStatus::Active if expired => "expired",
                KeyStatus::Active => "active",
            },
            models: key.models.as_ref().map(ModelsView::from),
            limits: LimitsView::from(&key.limits),
            limits_text: limits_text(&key.limits),
            log_prompts: key.log_prompts,
            expires_at: key.expires_at,
            created_at: key.created_at,
            revoked_at: key.revoked_at,
            rotated_to: key.rotated_to.map(|id| id.to_string()),
            rule: key.models,
        }
    }
}

impl Row for View {
    const COLUMNS: &'static [&'static str] =
        &["PREFIX", "TENANT", "NAME", "STATUS", "MODELS", "LIMITS", "EXPIRES", "CREATED", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.prefix.clone(),
            self.tenant.clone(),
            self.name.clone(),
            self.status.to_owned(),
            self.rule.as_ref().map_or_else(|| "tenant's".to_owned(), models_text),
            self.limits_text.clone(),
            self.expires_at.map_or_else(|| "never".to_owned(), date),
            date(self.created_at),
            self.id.clone(),
        ]
    }
}
