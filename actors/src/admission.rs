//! The door of the tenants' actors: finds the one that decides, starts it on its first use.
//!
//! An actor that has been idle ends by itself; one that fails is started again when it is asked for
//! next. Where a tenant's fails again and again, that tenant is refused for a while, and no other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use identity::limits::Limits;
use protocol::id::{KeyId, TenantId};
use ractor::{ActorRef, MessagingErr, rpc::CallResult};

use storage::admission::Gauges;

use crate::{
    measure::{Kind, Queued},
    root,
    tenant::{Ask, Asked, Denied, Look, Message, Of, Permit},
};

/// How long a decision may take. It takes microseconds, or, where the ledger has to be read first, as
/// long as a database may.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an actor is looked for that ended just before it was asked.
const TRIES: usize = 3;
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a tenant's actor stays with nothing to do.
    pub idle_after: Duration,
}

/// The one way to admission.
#[derive(Clone)]
pub struct Handle {
    registry: Arc<Registry>,
    root: Arc<OnceLock<ActorRef<root::Message>>>,
}

/// The tenants' actors that are running.
#[derive(Default)]
pub(crate) struct Registry(Mutex<HashMap<TenantId, ActorRef<Message>>>);

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { idle_after: Duration::from_secs(600) }
    }
}

// === impl Handle ===

impl Handle {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, root: Arc::default() }
    }

    pub(crate) fn bind(&self, root: ActorRef<root::Message>) {
        let _ = self.root.set(root);
    }

    /// Asks for a permit.
    ///
    /// # Errors
    /// [`Denied`]; where nobody can say, the answer is no.
    pub async fn admit(&self, ask: Ask) -> Result<Permit, Denied> {
        for _ in 0..TRIES {
            let actor = match self.registry.find(ask.tenant) {
                Some(actor) => actor,
                None => self.start(ask.tenant).await?,
            };
            let (again, queued) = (ask.clone(), Some(Queued::new(Kind::Tenant)));
            let message = |reply| Message::Admit(Box::new(Asked { ask: again, reply, queued }));
            match actor.call(message, Some(DECISION_TIMEOUT)).await {
                Ok(CallResult::Success(decided)) => return decided,
                Ok(CallResult::Timeout) => return Err(Denied::Unavailable),
                // It ended before it could answer: the next one begins anew.
                Ok(CallResult::SenderError) | Err(MessagingErr::ChannelClosed) => {
                    self.registry.forget(ask.tenant, &actor);
                }
                Err(_) => return Err(Denied::Unavailable),
            }
        }
        Err(Denied::Unavailable)
    }

    async fn start(&self, tenant: TenantId) -> Result<ActorRef<Message>, Denied> {
        let root = self.root.get().ok_or(Denied::Unavailable)?;
        let queued = Queued::new(Kind::Root);
        let message = |reply| root::Message::StartTenant { tenant, reply, queued };
        match root.call(message, Some(DECISION_TIMEOUT)).await {
            Ok(CallResult::Success(Some(actor))) => Ok(actor),
            _ => Err(Denied::Unavailable),
        }
    }

    /// How a tenant and its keys stand; none where its actor does not run, or does not say.
    pub async fn look(&self, tenant: TenantId) -> Option<Look> {
        let actor = self.registry.find(tenant)?;
        look(&actor, None).await
    }

    /// How the limits of a key and of its tenant stand, whichever is nearer to its end; none where
    /// nobody says.
    pub async fn stand(
        &self,
        tenant: TenantId,
        tenant_limits: Limits,
        key: KeyId,
        key_limits: Limits,
    ) -> Option<Gauges> {
        let actor = match self.registry.find(tenant) {
            Some(actor) => actor,
            None => self.start(tenant).await.ok()?,
        };
        let look = look(&actor, Some(Box::new(Of { tenant_limits, key, key_limits }))).await?;
        let of_key = look.keys.first().map(|(_, _, standing)| standing.gauges).unwrap_or_default();
        Some(of_key.tighter(look.standing.gauges))
    }

    /// The tenants whose actors are running.
    #[must_use]
    pub fn tenants(&self) -> Vec<TenantId> {
        let mut tenants: Vec<_> = self.registry.lock().keys().copied().collect();
        tenants.sort_unstable();
        tenants
    }

    /// How many tenants' actors are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.registry.lock().len()
    }

    #[cfg(test)]
    pub(crate) fn poison(&self, tenant: TenantId) {
        if let Some(actor) = self.registry.find(tenant) {
            let _ = actor.cast(Message::Poison);
        }
    }
}

async fn look(actor: &ActorRef<Message>, of: Option<Box<Of>>) -> Option<Look> {
    match actor.call(|reply| Message::Look { of, reply }, Some(LOOK_TIMEOUT)).await {
        Ok(CallResult::Success(look)) => look,
        _ => None,
    }
}

// === impl Registry ===

impl Registry {
    pub(crate) fn find(&self, tenant: TenantId) -> Option<ActorRef<Message>> {
        self.lock().get(&tenant).cloned()
    }

    pub(crate) fn publish(&self, tenant: TenantId, actor: ActorRef<Message>) {
        self.lock().insert(tenant, actor);
    }

    /// The actor of a tenant is no more, unless another one has taken its place.
    pub(crate) fn forget(&self, tenant: TenantId, actor: &ActorRef<Message>) {
        let mut actors = self.lock();
        if actors.get(&tenant).is_some_and(|current| current.get_id() == actor.get_id()) {
            actors.remove(&tenant);
        }
    }

    /// The tenant whose actor this was, which is no more.
    pub(crate) fn forget_cell(&self, who: &ractor::ActorCell) -> Option<TenantId> {
        let mut actors = self.lock();
        let found = actors.iter().find(|(_, actor)| actor.get_id() == who.get_id());
        let tenant = *found?.0;
        actors.remove(&tenant);
        Some(tenant)
    }

    pub(crate) fn take_all(&self) -> Vec<ActorRef<Message>> {
        std::mem::take(&mut *self.lock()).into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, ActorRef<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
