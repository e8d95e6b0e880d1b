//! The door of the tenants' actors: finds the one that decides, starts it on its first use.
//!
//! An actor that has been idle ends by itself; one that fails is started again and goes on with what lies
//! on its desk. Where a tenant's fails again and again, or a rule of it does, what was kept is not to be
//! trusted: that tenant is refused for a while, and no other, and begins anew.

use parking_lot::{Mutex, MutexGuard};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use foldhash::HashMap;
use identity::limits::Limits;
use protocol::id::{KeyId, TenantId};
use ractor::{ActorId, ActorRef, concurrency, rpc::CallResult};

use storage::admission::Gauges;

use crate::{
    measure::{Kind, Queued},
    root,
    tenant::{Ask, Asked, Denied, Desk, Look, Message, Of, Permit},
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

/// The desks of tenants that are active, with the actors at them.
#[derive(Default)]
pub(crate) struct Registry(Mutex<HashMap<TenantId, Arc<Desk>>>);

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
        if let Some(decided) = self.registry.decide(&ask) {
            return decided;
        }
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
                // It ended before it could answer, or is about to: the next one does.
                Ok(CallResult::SenderError) | Err(_) => {
                    self.registry.left(ask.tenant, actor.get_id());
                }
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
        let mut tenants: Vec<_> = self.registry.running().map(|(tenant, _)| tenant).collect();
        tenants.sort_unstable();
        tenants
    }

    /// How many tenants' actors are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.registry.running().count()
    }

    /// Waits until all has been told to the others that is to be told.
    pub(crate) async fn flush(&self) {
        let asked: Vec<_> = (self.registry.running())
            .map(|(_, actor)| {
                let (reply, told) = concurrency::oneshot();
                let _ = actor.cast(Message::Flush(reply.into()));
                told
            })
            .collect();
        for told in asked {
            let _ = told.await;
        }
    }

    #[cfg(test)]
    pub(crate) fn poison(&self, tenant: TenantId) {
        if let Some(actor) = self.registry.find(tenant) {
            let _ = actor.cast(Message::Poison);
        }
    }

    /// A rule fails, and it is not the actor who had it run.
    #[cfg(test)]
    pub(crate) fn break_desk(&self, tenant: TenantId) {
        if let Some(desk) = self.registry.lock().get(&tenant) {
            desk.poison();
        }
    }

    #[cfg(test)]
    pub(crate) fn break_rule(&self, tenant: TenantId) {
        if let Some(actor) = self.registry.find(tenant) {
            let _ = actor.cast(Message::Break);
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
    /// The actor of a tenant, where it runs.
    pub(crate) fn find(&self, tenant: TenantId) -> Option<ActorRef<Message>> {
        self.lock().get(&tenant)?.actor()
    }

    /// What is decided at the desk of a tenant, where its actor runs and need not be asked.
    fn decide(&self, ask: &Ask) -> Option<Result<Permit, Denied>> {
        let desk = Arc::clone(self.lock().get(&ask.tenant)?);
        if desk.has_actor() { desk.decide(ask) } else { None }
    }

    /// The desk of a tenant; where there is none, or a closed one, that one.
    pub(crate) fn desk(&self, tenant: TenantId, new: impl FnOnce() -> Desk) -> Arc<Desk> {
        let mut desks = self.lock();
        if let Some(desk) = desks.get(&tenant)
            && !desk.is_closed()
        {
            return Arc::clone(desk);
        }
        let desk = Arc::new(new());
        desks.insert(tenant, Arc::clone(&desk));
        desk
    }

    /// An actor is no more, unless another one has taken its place. What it leaves stays.
    pub(crate) fn left(&self, tenant: TenantId, who: ActorId) {
        if let Some(desk) = self.lock().get(&tenant) {
            desk.left(who);
        }
    }

    /// An actor has ended. Where it had nothing left to do it has closed its desk, which goes with it.
    pub(crate) fn ended(&self, tenant: TenantId, who: ActorId) {
        let mut desks = self.lock();
        let Some(desk) = desks.get(&tenant) else { return };
        desk.left(who);
        if desk.is_closed() {
            desks.remove(&tenant);
        }
    }

    /// Takes the desk of a tenant away.
    pub(crate) fn take(&self, tenant: TenantId) -> Option<Arc<Desk>> {
        self.lock().remove(&tenant)
    }

    fn running(&self) -> impl Iterator<Item = (TenantId, ActorRef<Message>)> + use<> {
        let desks = self.lock();
        let running = desks.iter().filter_map(|(tenant, desk)| Some((*tenant, desk.actor()?)));
        running.collect::<Vec<_>>().into_iter()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Desk>>> {
        self.0.lock()
    }
}
