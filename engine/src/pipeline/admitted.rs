//! The fourth stage: the request is let in.

use std::sync::Arc;

use identity::principal::Principal;

use super::{
    authorized::Ask,
    routed::{Here, Routed, Way},
};
use crate::cuts::Cut;

/// A request that is let in.
pub struct Admitted {
    principal: Arc<Principal>,
    ask: Ask,
    cut: Cut,
}

// === impl Admitted ===

impl Admitted {
    pub(super) fn new(principal: Arc<Principal>, ask: Ask, cut: Cut) -> Self {
        Self { principal, ask, cut }
    }

    /// Finds out who answers: the gateway itself, or an upstream.
    #[must_use]
    pub fn route(self) -> Way {
        let Self { principal, ask, cut } = self;
        match ask {
            Ask::Inference(inference) => {
                Way::Upstream(Box::new(Routed::new(principal, *inference, cut)))
            }
            other => Way::Here(Here::new(principal, other)),
        }
    }
}
