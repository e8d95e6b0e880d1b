//! Room in memory for what is held of bodies, in bytes, with a share for each tenant.
//!
//! Room is taken for what has arrived, not for what was announced, so that nobody takes it with a header alone.
//! What is held of one body counts against its tenant only beyond [`SMALL_BYTES`]: most bodies are shorter and
//! cost one atomic addition, and how many of those there are is bounded by the places in the audit.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use protocol::id::TenantId;

/// What one body may hold without counting against its tenant, in bytes.
pub(crate) const SMALL_BYTES: usize = 16 * 1024;

/// Room for the bodies of all.
#[derive(Debug)]
pub(crate) struct Room {
    bytes_max: usize,
    per_tenant_max: usize,
    taken: AtomicUsize,
    tenants: Mutex<HashMap<TenantId, usize>>,
}

/// What is held of one body. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    room: Arc<Room>,
    tenant: TenantId,
    bytes: usize,
}

/// There is no room for more, for this tenant or for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another body")]
pub(crate) struct NoRoom;

// === impl Room ===

impl Room {
    /// Room for `bytes_max` bytes, of which one tenant holds `per_tenant_max` at the most.
    pub(crate) fn new(bytes_max: usize, per_tenant_max: usize) -> Arc<Self> {
        let (taken, tenants) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { bytes_max, per_tenant_max, taken, tenants })
    }

    /// A place for a body of that tenant, of which nothing has arrived.
    pub(crate) fn hold(self: &Arc<Self>, tenant: TenantId) -> Held {
        Held { room: Arc::clone(self), tenant, bytes: 0 }
    }

    fn take(&self, more: usize) -> Result<(), NoRoom> {
        let add = |taken: usize| taken.checked_add(more).filter(|all| *all <= self.bytes_max);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| NoRoom)?;
        Ok(())
    }

    /// Counts a body of `before` bytes as one of `after` bytes.
    fn charge(&self, tenant: TenantId, before: usize, after: usize) -> Result<(), NoRoom> {
        let counted = |bytes: usize| if bytes > SMALL_BYTES { bytes } else { 0 };
        let (before, after) = (counted(before), counted(after));
        if before == after {
            return Ok(());
        }
        let mut tenants = self.tenants.lock();
        let others = tenants.get(&tenant).map_or(0, |all| all.saturating_sub(before));
        let all = others.saturating_add(after);
        if after > before && all > self.per_tenant_max {
            return Err(NoRoom);
        }
        if all == 0 {
            tenants.remove(&tenant);
        } else {
            tenants.insert(tenant, all);
        }
        Ok(())
    }
}

// === impl Held ===

impl Held {
    /// Holds so many bytes from now on, more or fewer than before.
    ///
    /// # Errors
    /// [`NoRoom`]; then as much is held as before.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let before = self.bytes;
        if bytes > before {
            self.room.take(bytes - before)?;
        }
        if let Err(error) = self.room.charge(self.tenant, before, bytes) {
            self.room.taken.fetch_sub(bytes - before, Ordering::Relaxed);
            return Err(error);
        }
        if bytes < before {
            self.room.taken.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Holds so many bytes more.
    ///
    /// # Errors
    /// [`NoRoom`]; then as much is held as before.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.resize(self.bytes.saturating_add(bytes))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Giving back never fails.
        let _ = self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn tenant(number: u128) -> TenantId {
        TenantId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn one_tenant_takes_its_share_and_no_more() {
        let room = Room::new(400 * KIB, 100 * KIB);
        let (mut one, mut two) = (room.hold(tenant(1)), room.hold(tenant(1)));
        assert_eq!(one.resize(60 * KIB), Ok(()));
        assert_eq!(two.resize(60 * KIB), Err(NoRoom));
        assert_eq!(two.resize(40 * KIB), Ok(()));
        // A small body is no burden, and another tenant has a share of its own.
        assert_eq!(room.hold(tenant(1)).resize(SMALL_BYTES), Ok(()));
        assert_eq!(room.hold(tenant(2)).resize(100 * KIB), Ok(()));
        drop(one);
        assert_eq!(two.add(60 * KIB), Ok(()));
    }

    #[test]
    fn all_together_take_no_more_than_there_is_and_all_comes_back() {
        let room = Room::new(100 * KIB, 100 * KIB);
        let mut all: Vec<_> = (0..4).map(|number| room.hold(tenant(number))).collect();
        for held in &mut all {
            assert_eq!(held.resize(25 * KIB), Ok(()));
        }
        assert_eq!(room.hold(tenant(9)).resize(1), Err(NoRoom));
        assert_eq!(all[0].resize(26 * KIB), Err(NoRoom));
        assert_eq!(all[0].resize(10 * KIB), Ok(()));
        assert_eq!(all[1].resize(40 * KIB), Ok(()));
        drop(all);
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
        assert!(room.tenants.lock().is_empty());
    }
}
