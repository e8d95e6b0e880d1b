//! The rule that says which models a principal may use.

use std::collections::BTreeSet;

use protocol::name::ModelName;

/// Which models may be used. The default is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRule {
    /// Every model that is discovered (`allow_all_models`).
    All,
    /// These and no others; the empty set allows nothing.
    Only(BTreeSet<ModelName>),
}

// === impl ModelRule ===

impl ModelRule {
    /// Whether the rule lets this model through, whether it exists or not.
    #[must_use]
    pub fn allows(&self, model: &ModelName) -> bool {
        match self {
            Self::All => true,
            Self::Only(models) => models.contains(model),
        }
    }

    /// The rule that is in force: a key that has its own word is not asked twice.
    #[must_use]
    pub fn effective<'a>(tenant: &'a Self, key: Option<&'a Self>) -> &'a Self {
        key.unwrap_or(tenant)
    }
}

impl Default for ModelRule {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_by_default() -> Result<(), protocol::name::InvalidModelName> {
        assert!(!ModelRule::default().allows(&ModelName::parse("llama3")?));
        Ok(())
    }

    #[test]
    fn the_keys_word_wins_over_the_tenants() {
        let only = ModelRule::default();
        assert_eq!(ModelRule::effective(&ModelRule::All, Some(&only)), &only);
        assert_eq!(ModelRule::effective(&only, Some(&ModelRule::All)), &ModelRule::All);
        assert_eq!(ModelRule::effective(&ModelRule::All, None), &ModelRule::All);
    }
}
