//! The fourth stage: the request is let in.

use std::sync::Arc;

use identity::principal::Principal;

use super::{
    authorized::Ask,
    routed::{Here, Routed, Way},
};
use crate::gateway::Gateway;

/// A request that is let in.
pub struct Admitted {
    principal: Arc<Principal>,
    ask: Ask,
}

// === impl Admitted ===

impl Admitted {
    pub(super) fn new(principal: Arc<Principal>, ask: Ask) -> Self {
        Self { principal, ask }
    }

    /// Finds out who answers: the gateway itself, or an upstream.
    #[must_use]
    pub fn route(self, gateway: &Gateway) -> Way {
        let Self { principal, ask } = self;
        match ask {
            Ask::Inference(inference) => {
                let cut = gateway.cuts.enter(principal.key);
                Way::Upstream(Box::new(Routed::new(principal, *inference, cut)))
            }
            other => Way::Here(Here::new(principal, other)),
        }
    }
}
