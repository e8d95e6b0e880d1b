//! Work on large bodies, away from the threads that serve connections.
//!
//! To read and to translate a body takes time in proportion to its length. A serving thread does that for short
//! ones; a long one would hold up everybody whose connections it serves. Long ones are worked on by a small
//! number of threads, in turns of their tenants.

use std::sync::Arc;

use bytes::Bytes;
use protocol::id::TenantId;

use crate::{gateway::Gateway, http::refusal::Refusal, turns::Turns};

/// The longest body that a serving thread works on, in bytes.
pub(crate) const LIGHT_BYTES_MAX: usize = 256 * 1024;
/// Requests of one tenant that may wait for their turns.
const WAITING_PER_TENANT_MAX: usize = 256;

/// The turns at working on large bodies.
pub(crate) struct Heavy(Turns<TenantId>);

// === impl Heavy ===

impl Heavy {
    /// One body at once for every two of the machine's processors, and one at once for a tenant.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Turns::new(processors.div_ceil(2), 1, WAITING_PER_TENANT_MAX))
    }
}

/// Does work on that body: here and now where it is short, else when its tenant's turn comes. Work that
/// has begun goes on where the caller leaves, and keeps its turn.
///
/// The caller holds the body until the work is done: the allocator gives a large block back to the system at once
/// only where the thread that took it lets go of it.
///
/// # Errors
/// Where too much of this tenant waits already.
pub(super) async fn work<T: Send + 'static>(
    gateway: &Arc<Gateway>,
    (tenant, body): (TenantId, &Bytes),
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if body.len() <= LIGHT_BYTES_MAX { Ok(work()) } else { in_turn(gateway, tenant, work).await }
}

/// Does work when that tenant's turn comes.
///
/// # Errors
/// Where too much of this tenant waits already.
pub(super) async fn in_turn<T: Send + 'static>(
    gateway: &Arc<Gateway>,
    tenant: TenantId,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let turn = gateway.heavy.0.take(tenant).await;
    let turn = turn.map_err(|_| Refusal::NoRoom("too many large bodies of this tenant wait"))?;
    let working = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    working.await.map_err(|_| Refusal::NoRoom("the work on a large body failed"))
}
