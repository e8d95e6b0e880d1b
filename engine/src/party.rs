//! Whoever has limits, a tenant or a key, as operators see and change it: on the command line and through
//! the admin API.

use actors::rules::budget::Budget as BudgetRule;
use jiff::Timestamp;
use protocol::id::{KeyId, TenantId};
use serde::Serialize;
use storage::{
    Storage,
    admission::Scope,
    budgets::Owner,
    keys::{Key, KeyChange},
    ledger::{LedgerBy, LedgerQuery, LedgerSum},
    limits::{Budget, Correction, LimitPeriod, Limits, Observed},
    tenants::{Tenant, TenantChange},
};

/// A tenant or a key, with its limits.
#[derive(Clone, Debug)]
pub(crate) enum Party {
    Tenant(Box<Tenant>),
    Key(Box<Key>),
}

/// Why something could not be done with a party.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartyError {
    /// There is no such tenant or key.
    #[error("there is no {0} {1}")]
    NotFound(&'static str, String),
    /// It has no budget.
    #[error("the {0} {1} has no budget")]
    NoBudget(&'static str, String),
    /// The database.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// Limits as JSON; null where there is none.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct LimitsView {
    /// Requests per minute.
    pub(crate) rpm: Option<u64>,
    /// Tokens per minute.
    pub(crate) tpm: Option<u64>,
    /// Requests at once.
    pub(crate) concurrency: Option<u64>,
    /// Tokens per period.
    pub(crate) budget_tokens: Option<u64>,
    /// `day`, `month` or `total`, in UTC.
    #[schema(value_type = Option<String>)]
    pub(crate) budget_period: Option<LimitPeriod>,
    /// Which of them only count and report.
    pub(crate) observed: Vec<&'static str>,
}

/// A budget, and how much of it is used.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct BudgetView {
    /// `tenant` or `key`.
    pub(crate) scope: &'static str,
    /// The tenant's name, or the key's prefix.
    pub(crate) of: String,
    /// Tokens per period; null where there is no budget.
    pub(crate) tokens: Option<u64>,
    /// `day`, `month` or `total`, in UTC.
    #[schema(value_type = Option<String>)]
    pub(crate) period: Option<LimitPeriod>,
    /// What the ledger says, without what was forgiven; requests under way are not in it yet.
    pub(crate) used: u64,
    /// What was forgiven by a reset in this period.
    pub(crate) forgiven: u64,
    /// What is left of it.
    pub(crate) remaining: Option<u64>,
    /// When the next period begins.
    #[schema(value_type = Option<String>)]
    pub(crate) resets_at: Option<Timestamp>,
}

// === impl Party ===

impl Party {
    /// The tenant of that name, or of that id.
    pub(crate) async fn tenant(storage: &Storage, named: &str) -> Result<Tenant, PartyError> {
        if let Some(tenant) = storage.tenants.by_name(named).await? {
            return Ok(tenant);
        }
        let by_id = match named.parse::<TenantId>() {
            Ok(id) => storage.tenants.by_id(id).await?,
            Err(_) => None,
        };
        by_id.ok_or_else(|| PartyError::NotFound("tenant", named.to_owned()))
    }

    /// The key of that id, or of that public prefix.
    pub(crate) async fn key(storage: &Storage, named: &str) -> Result<Key, PartyError> {
        let found = match named.parse::<KeyId>() {
            Ok(id) => storage.keys.by_id(id).await?,
            Err(_) => storage.keys.by_prefix(named).await?,
        };
        // A whole key that somebody gave is not repeated.
        let shown = || named.chars().take(36).collect::<String>();
        found.ok_or_else(|| {
            let looks_whole = identity::api_key::PresentedKey::parse(named).is_ok();
            let shown =
                if looks_whole { "(give its id or its prefix)".to_owned() } else { shown() };
            PartyError::NotFound("key", shown)
        })
    }

    /// The one of that name or id.
    pub(crate) async fn find(
        storage: &Storage,
        scope: Scope,
        named: &str,
    ) -> Result<Self, PartyError> {
        Ok(match scope {
            Scope::Tenant => Self::Tenant(Box::new(Self::tenant(storage, named).await?)),
            Scope::Key => Self::Key(Box::new(Self::key(storage, named).await?)),
        })
    }

    /// Its limits.
    pub(crate) fn limits(&self) -> &Limits {
        match self {
            Self::Tenant(tenant) => &tenant.limits,
            Self::Key(key) => &key.limits,
        }
    }

    /// Gives it other limits.
    pub(crate) async fn set(self, storage: &Storage, limits: Limits) -> Result<Self, PartyError> {
        let limits = Some(limits);
        Ok(match self {
            Self::Tenant(tenant) => {
                let change = TenantChange { limits, ..TenantChange::default() };
                Self::Tenant(Box::new(storage.tenants.change(tenant.id, change).await?))
            }
            Self::Key(key) => {
                let change = KeyChange { limits, ..KeyChange::default() };
                Self::Key(Box::new(storage.keys.change(key.id, change).await?))
            }
        })
    }

    /// Gives it another budget, or none.
    pub(crate) async fn set_budget(
        self,
        storage: &Storage,
        tokens: Option<u64>,
        period: LimitPeriod,
    ) -> Result<Self, PartyError> {
        let before = self.limits().budget;
        let correction = before.map(|budget| budget.correction).unwrap_or_default();
        let budget = tokens.map(|tokens| Budget { tokens, period, correction });
        let limits = Limits { budget, ..*self.limits() };
        self.set(storage, limits).await
    }

    /// Forgives what was used of its budget in the period that is now. The ledger keeps it.
    pub(crate) async fn reset(self, storage: &Storage) -> Result<Self, PartyError> {
        let now = Timestamp::now();
        let forgiven = self.written(storage, now).await?;
        let (reset_at, read_at) = (Some(now), Some(now));
        self.correct(storage, Correction { forgiven, reset_at, read_at }).await
    }

    /// Has every gateway count anew what the ledger says was used of its budget.
    pub(crate) async fn reconcile(self, storage: &Storage) -> Result<Self, PartyError> {
        let before = self.limits().budget.map(|budget| budget.correction).unwrap_or_default();
        let read_at = Some(Timestamp::now());
        self.correct(storage, Correction { read_at, ..before }).await
    }

    async fn correct(self, storage: &Storage, correction: Correction) -> Result<Self, PartyError> {
        if self.limits().budget.is_none() {
            return Err(PartyError::NoBudget(self.scope().as_str(), self.name().to_owned()));
        }
        let owner = match &self {
            Self::Tenant(tenant) => Owner::Tenant(tenant.id),
            Self::Key(key) => Owner::Key(key.id),
        };
        storage.budgets.correct(owner, correction).await?;
        let id = match &self {
            Self::Tenant(tenant) => tenant.id.to_string(),
            Self::Key(key) => key.id.to_string(),
        };
        Self::find(storage, self.scope(), &id).await
    }

    /// What the ledger says was used in the period that is now.
    async fn written(&self, storage: &Storage, now: Timestamp) -> Result<u64, PartyError> {
        let since = BudgetRule::start_of(self.period(), now);
        let query = match self {
            Self::Tenant(tenant) => {
                LedgerQuery { by: LedgerBy::Tenant, tenant: Some(tenant.id), key: None, since }
            }
            Self::Key(key) => {
                LedgerQuery { by: LedgerBy::Key, tenant: None, key: Some(key.id), since }
            }
        };
        Ok(LedgerSum::tokens(&storage.ledger.sums(query).await?))
    }

    /// Its budget, and how much of it is used.
    pub(crate) async fn budget(&self, storage: &Storage) -> Result<BudgetView, PartyError> {
        let now = Timestamp::now();
        let limit = self.limits().budget;
        let start = BudgetRule::start_of(self.period(), now);
        let forgiven = limit.map_or(0, |limit| limit.correction.forgiven_since(start, None));
        let used = self.written(storage, now).await?.saturating_sub(forgiven);
        let resets_at =
            limit.and_then(|limit| BudgetRule::new(0, limit.period, 0, now).reset_at(now));
        Ok(BudgetView {
            scope: self.scope().as_str(),
            of: self.name().to_owned(),
            tokens: limit.map(|budget| budget.tokens),
            period: limit.map(|budget| budget.period),
            used,
            forgiven,
            remaining: limit.map(|budget| budget.tokens.saturating_sub(used)),
            resets_at,
        })
    }

    fn period(&self) -> LimitPeriod {
        self.limits().budget.map_or(LimitPeriod::Total, |budget| budget.period)
    }

    /// Whether it is a tenant or a key.
    pub(crate) fn scope(&self) -> Scope {
        match self {
            Self::Tenant(_) => Scope::Tenant,
            Self::Key(_) => Scope::Key,
        }
    }

    /// The tenant's name, or the key's prefix.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Tenant(tenant) => &tenant.name,
            Self::Key(key) => &key.prefix,
        }
    }
}

// === impl LimitsView ===

impl From<&Limits> for LimitsView {
    fn from(limits: &Limits) -> Self {
        Self {
            rpm: limits.rpm,
            tpm: limits.tpm,
            concurrency: limits.concurrency,
            budget_tokens: limits.budget.map(|budget| budget.tokens),
            budget_period: limits.budget.map(|budget| budget.period),
            observed: observed(limits.observed),
        }
    }
}

fn observed(observed: Observed) -> Vec<&'static str> {
    let Observed { rpm, tpm, concurrency, budget } = observed;
    let all = [(rpm, "rpm"), (tpm, "tpm"), (concurrency, "concurrency"), (budget, "budget")];
    all.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect()
}
