//! Listens for what other processes change, and tells those whom it concerns.
//!
//! Two tasks. The *listener* takes all that the feed has as one batch, marks what is cached of it as stale
//! and cuts streams. For that it asks nobody, so that a revocation never waits behind what was changed
//! before it. What has to be read from the database (prefixes of keys, upstreams, aliases) it leaves to the
//! *reader*, which reads each thing once, however often it has changed meanwhile.

use std::{mem, sync::Arc, time::Duration};

use actors::tasks::Watched;
use foldhash::{HashSet, HashSetExt as _};
use parking_lot::Mutex;
use protocol::id::KeyId;
use storage::{changes::Change, upstreams::Upstream};
use tokio::sync::Notify;

use crate::{gateway::Gateway, keyring::Changed};

/// The pause before a feed that failed is asked again, and before what could not be read is read again.
const PAUSE: Duration = Duration::from_millis(200);
/// Keys whose prefixes are read one by one. Where more have changed, one query reads all prefixes there are.
const READ_ONE_BY_ONE_MAX: usize = 8;

/// What has changed and is to be read from the database.
#[derive(Default)]
struct Pending {
    what: Mutex<What>,
    came: Notify,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct What {
    /// At most [`READ_ONE_BY_ONE_MAX`] and one more.
    keys: HashSet<KeyId>,
    all_keys: bool,
    upstreams: bool,
    aliases: bool,
}

/// Starts both tasks.
pub(crate) fn start(watched: &Watched, gateway: &Arc<Gateway>) {
    let pending = Arc::<Pending>::default();
    watched.spawn("the change listener", listen(Arc::clone(gateway), Arc::clone(&pending)));
    watched.spawn("the reader of changes", read(Arc::clone(gateway), pending));
}

/// Listens until everything has ended. While the feed is deaf, the keyring trusts nothing for longer
/// than a second.
async fn listen(gateway: Arc<Gateway>, pending: Arc<Pending>) {
    let stop = gateway.life.stopped().clone();
    stop.run_until_cancelled(async {
        loop {
            if let Err(error) = follow(&gateway, &pending).await {
                actors::quiet!(warn, "changes are not heard; identities are checked every second", ""; %error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
}

/// Follows one feed until it fails.
async fn follow(gateway: &Gateway, pending: &Pending) -> storage::Result<()> {
    let mut feed = gateway.storage.changes.feed().await?;
    // Dropped with this function, however it ends.
    let mut hearing = None;
    loop {
        let batch = feed.next().await?;
        // First the keyring, then the cuts: a request that comes in between is refused by the one or ended
        // by the other.
        gateway.keyring.changed(&batch);
        for change in &batch {
            if let Change::Revoked { key, cut: true } = change {
                gateway.cuts.cut(*key);
            }
        }
        pending.add(&batch);
        if batch.contains(&Change::Everything) {
            // Deaf until it is known which streams had to be cut meanwhile.
            hearing = None;
            cut_what_was_missed(gateway).await?;
        }
        if hearing.is_none() {
            hearing = Some(gateway.keyring.hear_changes());
        }
    }
}

/// Cuts what was to be cut while nobody listened.
async fn cut_what_was_missed(gateway: &Gateway) -> storage::Result<()> {
    if gateway.cuts.is_empty() {
        return Ok(());
    }
    for key in gateway.storage.revocations.cut_keys().await? {
        gateway.cuts.cut(key);
    }
    Ok(())
}

/// Reads what has changed until everything has ended. What cannot be read is read again after a pause.
async fn read(gateway: Arc<Gateway>, pending: Arc<Pending>) {
    let stop = gateway.life.stopped().clone();
    stop.run_until_cancelled(async {
        loop {
            let what = pending.take().await;
            let left = what.read(&gateway).await;
            if left != What::default() {
                tokio::time::sleep(PAUSE).await;
                pending.put_back(left);
            }
        }
    })
    .await;
}

async fn read_upstreams(gateway: &Gateway) -> storage::Result<()> {
    let stored = gateway.storage.upstreams.list().await?;
    gateway.handles.upstreams.set(merge(stored, &gateway.configured)).await;
    Ok(())
}

async fn read_aliases(gateway: &Gateway) -> storage::Result<()> {
    gateway.aliases.set(gateway.storage.aliases.list().await?);
    Ok(())
}

/// The upstreams of the database and, besides them, those of the configuration; where a name stands
/// in both, the database's word counts.
pub(crate) fn merge(stored: Vec<Upstream>, configured: &[Upstream]) -> Vec<Upstream> {
    let mut all = stored;
    for upstream in configured {
        if all.iter().all(|other| other.name != upstream.name) {
            all.push(upstream.clone());
        }
    }
    all
}

// === impl Pending ===

impl Pending {
    fn add(&self, batch: &[Change]) {
        let mut what = self.what.lock();
        batch.iter().for_each(|change| what.add(*change));
        if *what != What::default() {
            self.came.notify_one();
        }
    }

    fn put_back(&self, left: What) {
        self.what.lock().join(left);
        self.came.notify_one();
    }

    /// Waits until there is something. One task takes.
    async fn take(&self) -> What {
        loop {
            let what = mem::take(&mut *self.what.lock());
            if what != What::default() {
                return what;
            }
            self.came.notified().await;
        }
    }
}

// === impl What ===

impl What {
    fn add(&mut self, change: Change) {
        match change {
            Change::Key(key) => self.add_keys([key]),
            Change::Upstreams => self.upstreams = true,
            Change::Models => self.aliases = true,
            Change::Everything => {
                *self = Self { all_keys: true, upstreams: true, aliases: true, ..Self::default() };
            }
            // The prefix of a revoked key is known, and nothing of a tenant is kept but in the cache.
            Change::Revoked { .. } | Change::Tenant(_) => {}
        }
    }

    fn add_keys(&mut self, keys: impl IntoIterator<Item = KeyId>) {
        if !self.all_keys {
            self.keys.extend(keys);
        }
        if self.keys.len() > READ_ONE_BY_ONE_MAX {
            self.all_keys = true;
            self.keys = HashSet::new();
        }
    }

    fn join(&mut self, other: Self) {
        self.all_keys |= other.all_keys;
        self.upstreams |= other.upstreams;
        self.aliases |= other.aliases;
        self.add_keys(other.keys);
    }

    /// Reads all of it; what could not be read is left.
    async fn read(self, gateway: &Gateway) -> Self {
        let mut left = Self::default();
        let keys = if self.all_keys { Changed::All } else { Changed::Keys(self.keys) };
        if let Err(error) = gateway.keyring.learn(&keys).await {
            tracing::warn!(%error, "the prefixes of keys cannot be read");
            match keys {
                Changed::All => left.all_keys = true,
                Changed::Keys(keys) => left.keys = keys,
            }
        }
        if self.upstreams
            && let Err(error) = read_upstreams(gateway).await
        {
            tracing::warn!(%error, "the list of upstreams cannot be read");
            left.upstreams = true;
        }
        if self.aliases
            && let Err(error) = read_aliases(gateway).await
        {
            tracing::warn!(%error, "the aliases of models cannot be read");
            left.aliases = true;
        }
        left
    }
}
