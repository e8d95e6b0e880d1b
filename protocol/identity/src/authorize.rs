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

/// Decides. `exists` is asked last and only of those who may use the model, so that nobody learns
/// of models they may not use.
///
/// # Errors
/// [`Denied`], with the reason.
pub fn model(
    rule: &ModelRule,
    model: &ModelName,
    cloud_allowed: bool,
    exists: bool,
) -> Result<(), Denied> {
    if model.is_cloud() && !cloud_allowed {
        return Err(Denied::Cloud);
    }
    if !rule.allows(model) {
        return Err(Denied::NotAllowed);
    }
    if exists { Ok(()) } else { Err(Denied::NotFound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ModelName {
        ModelName::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn only(text: &str) -> ModelRule {
        ModelRule::Only([name(text)].into())
    }

    #[test]
    fn a_stranger_cannot_tell_whether_a_model_exists() {
        let rule = only("a:latest");
        for exists in [true, false] {
            assert_eq!(model(&rule, &name("b:latest"), true, exists), Err(Denied::NotAllowed));
        }
    }

    #[test]
    fn who_may_use_it_learns_that_it_is_not_there() {
        for rule in [ModelRule::All, only("a:latest")] {
            assert_eq!(model(&rule, &name("a:latest"), false, true), Ok(()));
            assert_eq!(model(&rule, &name("a:latest"), false, false), Err(Denied::NotFound));
        }
    }

    #[test]
    fn a_cloud_name_is_refused_even_where_every_model_is_allowed() {
        let cloud = name("big:cloud");
        assert_eq!(model(&ModelRule::All, &cloud, false, true), Err(Denied::Cloud));
        assert_eq!(model(&ModelRule::All, &cloud, true, true), Ok(()));
    }
}
