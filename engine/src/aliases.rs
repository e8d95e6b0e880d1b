//! The names that stand for models.

use parking_lot::RwLock;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use protocol::{id::TenantId, name::ModelName};
use storage::aliases::Alias;

/// Aliases by whom they are for (none: everybody) and name.
type Known = HashMap<(Option<TenantId>, ModelName), Arc<[ModelName]>>;

/// The aliases as they were last read. Empty at first.
#[derive(Default)]
pub(crate) struct Aliases(RwLock<Arc<Known>>);

// === impl Aliases ===

impl Aliases {
    /// From now on these are the aliases.
    pub(crate) fn set(&self, aliases: Vec<Alias>) {
        let known =
            aliases.into_iter().map(|alias| ((alias.tenant, alias.name), alias.targets.into()));
        *self.0.write() = Arc::new(known.collect());
    }

    /// What a name stands for: a tenant's own word before everybody's.
    pub(crate) fn find(&self, tenant: TenantId, name: &ModelName) -> Option<Arc<[ModelName]>> {
        let known = self.known();
        if known.is_empty() {
            return None;
        }
        let of = |whose| known.get(&(whose, name.clone())).cloned();
        of(Some(tenant)).or_else(|| of(None))
    }

    /// All that count for a tenant, by name.
    pub(crate) fn of(&self, tenant: TenantId) -> BTreeMap<ModelName, Arc<[ModelName]>> {
        let known = self.known();
        let whose = |wanted: Option<TenantId>| {
            let of = known.iter().filter(move |((whose, _), _)| *whose == wanted);
            of.map(|((_, name), targets)| (name.clone(), Arc::clone(targets)))
        };
        whose(None).chain(whose(Some(tenant))).collect()
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.read())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_tenants_own_word_counts_before_everybodys() {
        let name = |text: &str| ModelName::parse(text).unwrap();
        let tenant = |number| TenantId(Uuid::from_u128(number));
        let alias = |tenant, target: &str| Alias {
            tenant,
            name: name("fast"),
            targets: vec![name(target)],
        };
        let aliases = Aliases::default();
        assert!(aliases.find(tenant(1), &name("fast")).is_none());
        aliases.set(vec![alias(Some(tenant(1)), "own"), alias(None, "common")]);
        for (number, target) in [(1, "own"), (2, "common")] {
            let found = aliases.find(tenant(number), &name("fast")).unwrap();
            assert_eq!(*found, [name(target)]);
            assert_eq!(*aliases.of(tenant(number))[&name("fast")], [name(target)]);
        }
    }
}
