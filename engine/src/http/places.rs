//! A place for each connection: so many in all, and so many of one client.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::telemetry;

/// The places of a listener.
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// The most of one client.
    per_client_max: usize,
    /// How many each client has; no more entries than there are places.
    of: Mutex<HashMap<Client, usize>>,
}

/// Who connects, as far as an address tells: an IPv4 address, or the 64 bits of an IPv6 address that name a
/// network. Whoever has one address of such a network has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    V4([u8; 4]),
    V6([u16; 4]),
}

/// A connection's place, given back when it is dropped.
pub(super) struct Place {
    client: Client,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

// === impl Places ===

impl Places {
    pub(super) fn new(connections_max: usize, per_client_max: usize) -> Arc<Self> {
        let all = Arc::new(Semaphore::new(connections_max));
        Arc::new(Self { all, per_client_max, of: Mutex::default() })
    }

    /// Waits until there is room for another connection.
    pub(super) async fn room(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.all).acquire_owned().await
    }

    /// Takes a place for a client; none where it has all that one client may have.
    pub(super) fn take(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        address: IpAddr,
    ) -> Option<Place> {
        let client = Client::of(address);
        {
            let mut of = self.of.lock();
            let taken = of.entry(client).or_default();
            if *taken >= self.per_client_max {
                return None;
            }
            *taken += 1;
        }
        telemetry::connections_open(1);
        Some(Place { client, places: Arc::clone(self), _permit: permit })
    }
}

// === impl Client ===

impl Client {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => Self::V6(network(address)),
        }
    }
}

fn network(address: Ipv6Addr) -> [u16; 4] {
    let [a, b, c, d, ..] = address.segments();
    [a, b, c, d]
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        telemetry::connections_open(-1);
        let mut of = self.places.of.lock();
        if let Some(taken) = of.get_mut(&self.client) {
            *taken -= 1;
            if *taken == 0 {
                of.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(places: &Arc<Places>, address: &str) -> Option<Place> {
        let permit = places.room().await.unwrap();
        places.take(permit, address.parse().unwrap())
    }

    #[tokio::test]
    async fn a_client_has_so_many_and_what_it_gives_back_is_forgotten() {
        let places = Places::new(10, 2);
        for (mine, also_mine, other) in [
            ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
        ] {
            let held = [take(&places, mine).await, take(&places, also_mine).await];
            assert!(held.iter().all(Option::is_some));
            assert!(
                take(&places, mine).await.is_none() && take(&places, also_mine).await.is_none()
            );
            let another = take(&places, other).await;
            assert!(another.is_some());
            drop((held, another));
            assert!(take(&places, mine).await.is_some());
        }
        assert!(places.of.lock().is_empty());
        assert_eq!(places.all.available_permits(), 10);
    }
}
