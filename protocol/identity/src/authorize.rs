//! May this principal use this model?

use protocol::name::ModelName;

use crate::models::ModelRule;

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The name makes the model server leave the machine, and the gateway does not allow that.
    #[error("cloud models are not allowed")]
    Cloud,
    /// The principal may not use it. Said alike of models that exist and of those that do not.
    #[error("the model is not allowed")]
    NotAllowed,
    /// It may be used and does not exist.
    #[error("the model does not exist")]
    NotFound,
}

/// Decides. Whether the model exists is not asked, so that nobody learns of models they may not use:
/// who finds that one is missing ([`Denied::NotFound`]) asks this first, and who may not use it hears
/// nothing else.
///
/// # Errors
/// [`Denied`], with the reason.
pub fn model(rule: &ModelRule, model: &ModelName, cloud_allowed: bool) -> Result<(), Denied> {
    if !rule.allows(model) {
        return Err(Denied::NotAllowed);
    }
    if model.is_cloud() && !cloud_allowed { Err(Denied::Cloud) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ModelName {
        ModelName::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_rule_lets_through_what_it_names_and_nothing_else() {
        let rule = ModelRule::Only([name("a:latest")].into());
        assert_eq!(model(&rule, &name("A"), true), Ok(()));
        assert_eq!(model(&rule, &name("b"), true), Err(Denied::NotAllowed));
        assert_eq!(model(&ModelRule::All, &name("b"), false), Ok(()));
        assert_eq!(model(&ModelRule::default(), &name("a"), true), Err(Denied::NotAllowed));
    }

    #[test]
    fn a_cloud_name_is_refused_even_where_every_model_is_allowed() {
        let cloud = name("big:cloud");
        assert_eq!(model(&ModelRule::All, &cloud, false), Err(Denied::Cloud));
        assert_eq!(model(&ModelRule::All, &cloud, true), Ok(()));
        assert_eq!(model(&ModelRule::default(), &cloud, false), Err(Denied::NotAllowed));
    }
}
