//! The supervisor: starts the actors, restarts what fails, and gives up with a reason.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::AtomicU64},
};

use protocol::id::TenantId;
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};
use storage::upstreams::Upstream as Record;
use tokio::{sync::watch, time::Instant};

use crate::{
    Handles, STOP_TIMEOUT,
    address::{Published, unpublished},
    admission::{self, Registry},
    audit::{self, Audit},
    catalog::{self, Catalog},
    directory::{Directory, Views},
    measure::{self, Kind, Queued},
    restart::Restarts,
    shared::Shared,
    sweeper::{self, Sweeper},
    tenant::{self, Desk, Tenant},
    upstream::{self, Upstream},
};

pub(crate) struct Root;

pub(crate) enum Message {
    /// From now on these are the upstreams.
    SetUpstreams { upstreams: Vec<Record>, reply: RpcReplyPort<()>, queued: Queued },
    /// The actor of a tenant, started where there is none; none where it fails again and again.
    StartTenant {
        tenant: TenantId,
        reply: RpcReplyPort<Option<ActorRef<tenant::Message>>>,
        queued: Queued,
    },
    /// The beginning of the end: only those go on that have something to tell, tenants and the audit.
    StopLeaves { reply: RpcReplyPort<()> },
}

pub(crate) struct Arguments {
    pub(crate) arguments: crate::Arguments,
    pub(crate) children: Children,
    pub(crate) failed: watch::Sender<Option<String>>,
}

/// What each child needs to start again, and where its living instance is published.
pub(crate) struct Children {
    audit: (audit::Arguments, Published<audit::Message>),
    catalog: (catalog::Arguments, Published<catalog::Message>),
    catalog_handle: catalog::Handle,
    views: Arc<Views>,
    tenants: Arc<Registry>,
    audit_handle: audit::Handle,
    /// What all tenants have in common.
    common: Arc<tenant::Common>,
}

pub(crate) struct State {
    arguments: crate::Arguments,
    children: Children,
    failed: watch::Sender<Option<String>>,
    sweeper: Option<ActorRef<sweeper::Message>>,
    upstreams: BTreeMap<String, Running>,
    tenants: HashMap<ActorId, TenantId>,
    restarts: BTreeMap<&'static str, Restarts>,
    /// Of the tenants whose actors have failed lately.
    tenant_restarts: HashMap<TenantId, Restarts>,
}

struct Running {
    record: Arc<Record>,
    actor: ActorRef<upstream::Message>,
    restarts: Restarts,
}

/// The handles, and what their actors will need.
pub(crate) fn prepare(arguments: &crate::Arguments) -> (Handles, Children) {
    let settings = &arguments.settings;
    let (published_audit, audit_address) = unpublished();
    let audit_handle = audit::Handle::new(&settings.audit, audit_address);
    let audit = audit::Arguments {
        ring: audit_handle.ring(),
        port: Arc::clone(&arguments.audit),
        settings: settings.audit.clone(),
        tasks: arguments.tasks.clone(),
    };
    let (published_catalog, catalog_address) = unpublished();
    let (snapshot, reader) = watch::channel(Arc::default());
    let catalog_handle = catalog::Handle::new(&settings.catalog, reader, catalog_address);
    let views = Arc::<Views>::default();
    let tenants = Arc::<Registry>::default();
    let handles = Handles {
        admission: admission::Handle::new(Arc::clone(&tenants)),
        audit: audit_handle,
        catalog: catalog_handle.clone(),
        upstreams: Directory::new(Arc::clone(&views)),
    };
    let epoch = Instant::now();
    let shared = arguments.admission.clone().map(|admission| Shared::new(admission, epoch));
    let common = tenant::Common {
        epoch,
        clock: Arc::clone(&arguments.clock),
        replica: fastrand::u64(..),
        next: AtomicU64::new(0),
        shared,
    };
    let children = Children {
        audit_handle: handles.audit.clone(),
        common: Arc::new(common),
        audit: (audit, published_audit),
        catalog: (catalog::Arguments { snapshot }, published_catalog),
        catalog_handle,
        views,
        tenants,
    };
    (handles, children)
}

// === impl Root ===

impl Actor for Root {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        Arguments { arguments, children, failed }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            arguments,
            children,
            failed,
            sweeper: None,
            upstreams: BTreeMap::new(),
            tenants: HashMap::new(),
            restarts: BTreeMap::new(),
            tenant_restarts: HashMap::new(),
        };
        let me = myself.get_cell();
        state.start_audit(&me).await?;
        state.start_catalog(&me).await?;
        state.start_sweeper(&me).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _handling = measure::Handling::begin(Kind::Root);
        match message {
            Message::SetUpstreams { upstreams, reply, queued } => {
                drop(queued);
                state.set_upstreams(upstreams, &myself.get_cell()).await?;
                let _ = reply.send(());
            }
            Message::StartTenant { tenant, reply, queued } => {
                drop(queued);
                let _ = reply.send(state.tenant(tenant, &myself.get_cell()).await);
            }
            Message::StopLeaves { reply } => {
                state.stop_leaves().await;
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, cause) => {
                let reason = cause.to_string();
                let restarted = state.restart(&who, cause, &myself.get_cell()).await;
                restarted.inspect_err(|_| {
                    state
                        .failed
                        .send_replace(Some(format!("an actor fails again and again: {reason}")));
                })
            }
            // A child that ends on purpose is no reason to end its supervisor, which is what ractor
            // does unless told otherwise.
            SupervisionEvent::ActorTerminated(who, ..) => {
                if let Some(tenant) = state.tenants.remove(&who.get_id()) {
                    state.children.tenants.ended(tenant, who.get_id());
                }
                Ok(())
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
        }
    }
}

// === impl State ===

impl State {
    async fn restart(
        &mut self,
        who: &ActorCell,
        cause: ActorProcessingErr,
        me: &ActorCell,
    ) -> Result<(), ActorProcessingErr> {
        tracing::error!(%cause, "an actor failed; it is started again");
        if let Some(tenant) = self.tenants.remove(&who.get_id()) {
            self.restart_tenant(tenant, who.get_id(), cause, me).await;
            return Ok(());
        }
        let kind = if self.children.audit.1.is(who) {
            Kind::Audit
        } else if self.children.catalog.1.is(who) {
            Kind::Catalog
        } else if self.sweeper.as_ref().is_some_and(|sweeper| sweeper.get_id() == who.get_id()) {
            Kind::Sweeper
        } else {
            return self.restart_upstream(who, cause, me).await;
        };
        measure::restarted(kind);
        self.restarts.entry(kind.as_str()).or_insert_with(Restarts::new).spend(cause)?;
        match kind {
            Kind::Audit => self.start_audit(me).await,
            Kind::Catalog => self.start_catalog(me).await,
            _ => self.start_sweeper(me).await,
        }
    }

    async fn restart_upstream(
        &mut self,
        who: &ActorCell,
        cause: ActorProcessingErr,
        me: &ActorCell,
    ) -> Result<(), ActorProcessingErr> {
        let running =
            self.upstreams.values_mut().find(|running| running.actor.get_id() == who.get_id());
        let Some(running) = running else { return Ok(()) };
        measure::restarted(Kind::Upstream);
        running.restarts.spend(cause)?;
        let record = Arc::clone(&running.record);
        let actor = self.start_upstream(record.clone(), me).await?;
        if let Some(running) = self.upstreams.get_mut(&record.name) {
            running.actor = actor;
        }
        Ok(())
    }

    /// What the actor of a tenant left is gone on with at once, since it is to be said who is under way.
    /// Where it fails again and again, or a rule has failed, it may be that which is wrong: once that
    /// is past, the tenant begins anew.
    async fn restart_tenant(
        &mut self,
        tenant: TenantId,
        who: ActorId,
        cause: ActorProcessingErr,
        me: &ActorCell,
    ) {
        measure::restarted(Kind::Tenant);
        self.children.tenants.left(tenant, who);
        let desk = self.desk(tenant);
        let restarts = self.tenant_restarts.entry(tenant).or_insert_with(Restarts::new);
        if desk.is_broken() {
            restarts.exhaust();
        }
        if restarts.spend(cause).is_ok() {
            let _ = self.tenant(tenant, me).await;
        } else if let Some(desk) = self.children.tenants.take(tenant)
            && let Some(actor) = desk.actor()
        {
            actor.stop(None);
        }
    }

    fn desk(&self, tenant: TenantId) -> Arc<Desk> {
        let Children { tenants, common, .. } = &self.children;
        tenants.desk(tenant, || Desk::new(common))
    }

    /// The actor of a tenant. One that has failed too often is not started until that is past; the
    /// others have nothing to do with it.
    async fn tenant(
        &mut self,
        tenant: TenantId,
        me: &ActorCell,
    ) -> Option<ActorRef<tenant::Message>> {
        if let Some(running) = self.children.tenants.find(tenant) {
            return Some(running);
        }
        self.tenant_restarts.retain(|_, restarts| !restarts.are_past());
        if self.tenant_restarts.get(&tenant).is_some_and(Restarts::are_spent) {
            return None;
        }
        let desk = self.desk(tenant);
        let arguments = tenant::Arguments {
            tenant,
            desk: Arc::clone(&desk),
            common: Arc::clone(&self.children.common),
            ledger: Arc::clone(&self.arguments.ledger),
            audit: self.children.audit_handle.clone(),
            tasks: self.arguments.tasks.clone(),
            idle_after: self.arguments.settings.admission.idle_after,
        };
        let started = Actor::spawn_linked(None, Tenant, arguments, me.clone()).await;
        let (actor, _) = started
            .inspect_err(|error| tracing::error!(%error, "a tenant's actor does not start"))
            .ok()?;
        self.tenants.insert(actor.get_id(), tenant);
        desk.publish(actor.clone());
        Some(actor)
    }

    async fn start_audit(&self, me: &ActorCell) -> Result<(), ActorProcessingErr> {
        let (arguments, published) = &self.children.audit;
        let (actor, _) = Actor::spawn_linked(None, Audit, arguments.clone(), me.clone()).await?;
        published.replace(actor.clone());
        // What was recorded between the two instances was told to nobody.
        let _ = actor.cast(audit::Message::Recorded(Queued::new(Kind::Audit)));
        Ok(())
    }

    async fn start_catalog(&self, me: &ActorCell) -> Result<(), ActorProcessingErr> {
        let (arguments, published) = &self.children.catalog;
        let (actor, _) = Actor::spawn_linked(None, Catalog, arguments.clone(), me.clone()).await?;
        published.replace(actor);
        Ok(())
    }

    async fn start_sweeper(&mut self, me: &ActorCell) -> Result<(), ActorProcessingErr> {
        let arguments = sweeper::Arguments {
            settings: self.arguments.settings.sweeper.clone(),
            audit: Arc::clone(&self.arguments.audit),
            tenants: Arc::clone(&self.arguments.tenants),
            prompts: Arc::clone(&self.arguments.prompts),
            clock: Arc::clone(&self.arguments.clock),
            tasks: self.arguments.tasks.clone(),
        };
        let (actor, _) = Actor::spawn_linked(None, Sweeper, arguments, me.clone()).await?;
        self.sweeper = Some(actor);
        Ok(())
    }

    async fn start_upstream(
        &self,
        record: Arc<Record>,
        me: &ActorCell,
    ) -> Result<ActorRef<upstream::Message>, ActorProcessingErr> {
        let arguments = upstream::Arguments {
            record,
            settings: self.arguments.settings.poll.clone(),
            prober: Arc::clone(&self.arguments.prober),
            catalog: self.children.catalog_handle.clone(),
            views: Arc::clone(&self.children.views),
            tasks: self.arguments.tasks.clone(),
            epoch: self.children.common.epoch,
        };
        let (actor, _) = Actor::spawn_linked(None, Upstream, arguments, me.clone()).await?;
        Ok(actor)
    }

    async fn set_upstreams(
        &mut self,
        upstreams: Vec<Record>,
        me: &ActorCell,
    ) -> Result<(), ActorProcessingErr> {
        let wanted: BTreeMap<_, _> =
            upstreams.into_iter().map(|record| (record.name.clone(), record)).collect();
        let same = |running: &Running| {
            let wanted = wanted.get(&running.record.name);
            let there = &running.record;
            wanted.is_some_and(|wanted| {
                wanted.url == there.url
                    && wanted.kind == there.kind
                    && wanted.keep_alive == there.keep_alive
            })
        };
        let gone: Vec<_> =
            self.upstreams.iter().filter(|(_, r)| !same(r)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            if let Some(running) = self.upstreams.remove(&name) {
                let _ = running.actor.stop_and_wait(None, Some(STOP_TIMEOUT)).await;
            }
            self.children.views.remove(&name);
            self.children.catalog_handle.removed(name);
        }
        for (name, record) in wanted {
            if let Some(running) = self.upstreams.get_mut(&name) {
                if running.record.slots != record.slots {
                    let _ = running.actor.cast(upstream::Message::SetSlots(record.slots));
                    running.record = Arc::new(record);
                }
            } else {
                let record = Arc::new(record);
                let actor = self.start_upstream(Arc::clone(&record), me).await?;
                self.upstreams.insert(name, Running { record, actor, restarts: Restarts::new() });
            }
        }
        Ok(())
    }

    async fn stop_leaves(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            let _ = sweeper.stop_and_wait(None, Some(STOP_TIMEOUT)).await;
        }
        for (_, running) in std::mem::take(&mut self.upstreams) {
            let _ = running.actor.stop_and_wait(None, Some(STOP_TIMEOUT)).await;
        }
        if let Some(catalog) = self.children.catalog.1.current() {
            let _ = catalog.stop_and_wait(None, Some(STOP_TIMEOUT)).await;
        }
    }
}
