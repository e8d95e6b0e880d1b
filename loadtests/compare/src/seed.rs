//! The database of a gateway, before it starts: tenants and keys. The command line would take a second
//! for a few keys.

use identity::limits::{Budget, Correction, LimitPeriod, Limits, Observed};
use rig::seed::{CHEAP, Seeding};

/// Every kind of limit, each so high that nothing is refused.
pub(crate) const HIGH: Limits = Limits {
    rpm: Some(1_000_000_000),
    tpm: Some(1_000_000_000_000),
    concurrency: Some(1_000_000),
    budget: Some(Budget {
        tokens: 1_000_000_000_000_000,
        period: LimitPeriod::Month,
        correction: Correction { forgiven: 0, reset_at: None, read_at: None },
    }),
    observed: Observed { rpm: false, tpm: false, concurrency: false, budget: false },
};

/// Makes tenants with so many keys each, hashed at next to no cost: what is measured comes after it. Of the
/// keys that it returns two neighbours have different tenants, where there is more than one.
pub(crate) async fn seed(
    url: &str,
    tenants: usize,
    keys_each: usize,
    limits: Limits,
) -> Result<Vec<String>, String> {
    let seeding = Seeding::open(url, CHEAP).await?;
    let mut ids = Vec::with_capacity(tenants);
    for number in 0..tenants {
        ids.push(seeding.tenant(&format!("tenant-{number}"), limits).await?);
    }
    let keys = seeding.keys(&ids, "key", tenants * keys_each, limits).await?;
    seeding.close().await;
    Ok(keys)
}
