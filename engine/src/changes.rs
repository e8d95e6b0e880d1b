//! Listens for what other processes change, and tells those whom it concerns.

use std::{sync::Arc, time::Duration};

use storage::{changes::Change, upstreams::Upstream};

use crate::gateway::Gateway;

/// The pause before a feed that failed is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens until everything has ended. While the feed is deaf, the keyring trusts nothing for longer
/// than a second.
pub(crate) async fn listen(gateway: Arc<Gateway>) {
    let stop = gateway.life.stopped().clone();
    stop.run_until_cancelled(async {
        loop {
            if let Err(error) = follow(&gateway).await {
                gateway.keyring.set_hears_changes(false);
                tracing::warn!(%error, "changes are not heard; identities are checked every second");
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
}

async fn follow(gateway: &Arc<Gateway>) -> storage::Result<()> {
    let mut feed = gateway.storage.changes.feed().await?;
    loop {
        for change in feed.next().await? {
            apply(gateway, change).await?;
        }
        gateway.keyring.set_hears_changes(true);
    }
}

/// Fails where it is not known which streams are to be cut: then everything is asked for again.
async fn apply(gateway: &Arc<Gateway>, change: Change) -> storage::Result<()> {
    gateway.keyring.changed(change).await;
    match change {
        Change::Revoked { key, cut: true } => gateway.cuts.cut(key),
        Change::Upstreams => read_upstreams(gateway).await,
        Change::Models => read_aliases(gateway).await,
        Change::Everything => {
            cut_what_was_missed(gateway).await?;
            read_upstreams(gateway).await;
            read_aliases(gateway).await;
        }
        Change::Revoked { cut: false, .. } | Change::Tenant(_) | Change::Key(_) => {}
    }
    Ok(())
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

async fn read_upstreams(gateway: &Gateway) {
    match upstreams(gateway).await {
        Ok(upstreams) => gateway.handles.upstreams.set(upstreams).await,
        Err(error) => tracing::warn!(%error, "the list of upstreams cannot be read"),
    }
}

async fn read_aliases(gateway: &Gateway) {
    match gateway.storage.aliases.list().await {
        Ok(aliases) => gateway.aliases.set(aliases),
        Err(error) => tracing::warn!(%error, "the aliases of models cannot be read"),
    }
}

async fn upstreams(gateway: &Gateway) -> storage::Result<Vec<Upstream>> {
    let stored = gateway.storage.upstreams.list().await?;
    Ok(merge(stored, &gateway.configured))
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
