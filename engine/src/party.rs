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

/// How often a change is tried. Where somebody else changed the same thing since it was read, it is read again and the
/// change made by that: two operators who change different things both win.
const TRIES: usize = 16;

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
    /// It was changed meanwhile, again and again.
    #[error("the {0} {1} was changed meanwhile; look at it again and repeat the command")]
    Stale(&'static str, String),
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

    /// Changes a tenant by what is there.
    pub(crate) async fn change_tenant(
        storage: &Storage,
        mut read: Tenant,
        change: impl Fn(&Tenant) -> TenantChange + Send + Sync,
    ) -> Result<Tenant, PartyError> {
        for _ in 0..TRIES {
            let change = TenantChange { expected: Some(read.revision), ..change(&read) };
            match storage.tenants.change(read.id, change).await {
                Err(storage::Error::Stale(_)) => {
                    let again = storage.tenants.by_id(read.id).await?;
                    read = again.ok_or(PartyError::NotFound("tenant", read.name))?;
                }
                done => return Ok(done?),
            }
        }
        Err(PartyError::Stale("tenant", read.name))
    }

    /// Changes a key by what is there.
    pub(crate) async fn change_key(
        storage: &Storage,
        mut read: Key,
        change: impl Fn(&Key) -> KeyChange + Send + Sync,
    ) -> Result<Key, PartyError> {
        for _ in 0..TRIES {
            let change = KeyChange { expected: Some(read.revision), ..change(&read) };
            match storage.keys.change(read.id, change).await {
                Err(storage::Error::Stale(_)) => {
                    let again = storage.keys.by_id(read.id).await?;
                    read = again.ok_or(PartyError::NotFound("key", read.prefix))?;
                }
                done => return Ok(done?),
            }
        }
        Err(PartyError::Stale("key", read.prefix))
    }

    /// Gives it other limits, made of those that it has.
    pub(crate) async fn set(
        self,
        storage: &Storage,
        limits: impl Fn(&Limits) -> Limits + Send + Sync,
    ) -> Result<Self, PartyError> {
        Ok(match self {
            Self::Tenant(tenant) => {
                let change = |tenant: &Tenant| TenantChange {
                    limits: Some(limits(&tenant.limits)),
                    ..TenantChange::default()
                };
                Self::Tenant(Box::new(Self::change_tenant(storage, *tenant, change).await?))
            }
            Self::Key(key) => {
                let change = |key: &Key| KeyChange {
                    limits: Some(limits(&key.limits)),
                    ..KeyChange::default()
                };
                Self::Key(Box::new(Self::change_key(storage, *key, change).await?))
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
        let limits = |before: &Limits| {
            let correction = before.budget.map(|budget| budget.correction).unwrap_or_default();
            let budget = tokens.map(|tokens| Budget { tokens, period, correction });
            Limits { budget, ..*before }
        };
        self.set(storage, limits).await
    }

    /// Forgives what was used of its budget in the period that is now. The ledger keeps it.
    pub(crate) async fn reset(self, storage: &Storage) -> Result<Self, PartyError> {
        self.correct(storage, true).await
    }

    /// Has every gateway count anew what the ledger says was used of its budget.
    pub(crate) async fn reconcile(self, storage: &Storage) -> Result<Self, PartyError> {
        self.correct(storage, false).await
    }

    async fn correct(mut self, storage: &Storage, forgive: bool) -> Result<Self, PartyError> {
        for _ in 0..TRIES {
            let Some(budget) = self.limits().budget else {
                return Err(PartyError::NoBudget(self.scope().as_str(), self.name().to_owned()));
            };
            let now = Timestamp::now();
            let mut correction = Correction { read_at: Some(now), ..budget.correction };
            if forgive {
                correction.forgiven = self.written(storage, now).await?;
                correction.reset_at = Some(now);
            }
            let (owner, id, revision) = match &self {
                Self::Tenant(tenant) => {
                    (Owner::Tenant(tenant.id), tenant.id.to_string(), tenant.revision)
                }
                Self::Key(key) => (Owner::Key(key.id), key.id.to_string(), key.revision),
            };
            let corrected = storage.budgets.correct(owner, correction, Some(revision)).await;
            self = Self::find(storage, self.scope(), &id).await?;
            match corrected {
                Err(storage::Error::Stale(_)) => {}
                done => return Ok(done.map(|()| self)?),
            }
        }
        Err(PartyError::Stale(self.scope().as_str(), self.name().to_owned()))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use identity::{models::ModelRule, policy::Policy};
    use protocol::secret::Secret;
    use storage::tenants::{NewTenant, Tenants};

    use super::*;

    async fn stage() -> (Storage, Tenant) {
        let config = storage::Config {
            url: Secret::new("sqlite::memory:".to_owned()),
            connections_max: 1,
            acquire_timeout: std::time::Duration::from_secs(20),
            deadlines: storage::Deadlines::default(),
        };
        let storage = storage::open(config).await.unwrap();
        storage.database.migrate().await.unwrap();
        let new = NewTenant {
            name: "acme".to_owned(),
            models: ModelRule::All,
            limits: Limits::default(),
            policy: Policy::default(),
            audit_retention: None,
            at: Timestamp::now(),
        };
        let tenant = storage.tenants.create(new).await.unwrap();
        (storage, tenant)
    }

    #[tokio::test]
    async fn operators_who_change_different_things_of_what_they_read_all_win() {
        let (storage, read) = stage().await;
        let party = || Party::Tenant(Box::new(read.clone()));
        let rpm = party().set(&storage, |before| Limits { rpm: Some(1), ..*before });
        let tpm = party().set(&storage, |before| Limits { tpm: Some(2), ..*before });
        let budget = party().set_budget(&storage, Some(3), LimitPeriod::Day);
        let rename = Party::change_tenant(&storage, read.clone(), |_| TenantChange {
            name: Some("other".to_owned()),
            ..TenantChange::default()
        });
        let (rpm, tpm, budget, rename) = tokio::join!(rpm, tpm, budget, rename);
        assert!(rpm.is_ok() && tpm.is_ok() && budget.is_ok() && rename.is_ok());
        let now = storage.tenants.by_id(read.id).await.unwrap().unwrap();
        let (limits, wanted) = (now.limits, Some(Budget::new(3, LimitPeriod::Day)));
        assert_eq!((limits.rpm, limits.tpm, limits.budget), (Some(1), Some(2), wanted));
        assert_eq!(now.name, "other");

        // Both corrections were made of what was read before either.
        let party = || Party::Tenant(Box::new(now.clone()));
        let (reset, reconciled) =
            tokio::join!(party().reset(&storage), party().reconcile(&storage));
        assert!(reset.is_ok() && reconciled.is_ok());
        let budget = storage.tenants.by_id(read.id).await.unwrap().unwrap().limits.budget.unwrap();
        assert!(budget.correction.reset_at.is_some() && budget.correction.read_at.is_some());
    }

    /// Tenants that somebody else always changes first.
    struct Busy(Arc<dyn Tenants>);

    #[async_trait::async_trait]
    impl Tenants for Busy {
        async fn create(&self, new: NewTenant) -> storage::Result<Tenant> {
            self.0.create(new).await
        }
        async fn list(&self) -> storage::Result<Vec<Tenant>> {
            self.0.list().await
        }
        async fn by_id(&self, id: TenantId) -> storage::Result<Option<Tenant>> {
            self.0.by_id(id).await
        }
        async fn by_name(&self, name: &str) -> storage::Result<Option<Tenant>> {
            self.0.by_name(name).await
        }
        async fn change(&self, id: TenantId, change: TenantChange) -> storage::Result<Tenant> {
            self.0.change(id, TenantChange::default()).await?;
            self.0.change(id, change).await
        }
        async fn delete(&self, id: TenantId) -> storage::Result<()> {
            self.0.delete(id).await
        }
    }

    #[tokio::test]
    async fn what_is_changed_all_the_time_is_given_up_in_plain_words() {
        let (mut storage, read) = stage().await;
        storage.tenants = Arc::new(Busy(Arc::clone(&storage.tenants)));
        let party = Party::Tenant(Box::new(read.clone()));
        let set = party.set(&storage, |before| Limits { rpm: Some(1), ..*before }).await;
        let said = "the tenant acme was changed meanwhile; look at it again and repeat the command";
        assert_eq!(set.unwrap_err().to_string(), said);
        assert_eq!(storage.tenants.by_id(read.id).await.unwrap().unwrap().limits.rpm, None);
    }
}
