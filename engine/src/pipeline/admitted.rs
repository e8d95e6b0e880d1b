//! The fourth stage: the request is let in.

use std::sync::Arc;

use identity::principal::Principal;

use super::{
    authorized::{Ask, Inference},
    routed::{Here, Routed, Way},
};
use crate::{gateway::Gateway, http::refusal::Refusal, upstream::connect::Origin};

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

    /// Finds out who answers: the gateway itself, or an upstream that serves the model. Upstreams
    /// that answered their last poll come first, among them the one with the fewest requests under
    /// way.
    ///
    /// # Errors
    /// Where no upstream serves the model any more.
    pub fn route(self, gateway: &Gateway) -> Result<Way, Refusal> {
        let Self { principal, ask } = self;
        let inference = match ask {
            Ask::Inference(inference) => inference,
            other => return Ok(Way::Here(Here::new(principal, other))),
        };
        let views = gateway.handles.upstreams.views();
        let is_down = |name: &str| views.iter().any(|view| view.name == name && !view.up);
        let mut candidates: Vec<_> = upstreams(&inference)
            .filter_map(|upstream| Some((Origin::parse(&upstream.url).ok()?, upstream)))
            .collect();
        candidates.sort_by_key(|(_, upstream)| {
            (is_down(&upstream.name), gateway.client.under_way(&upstream.name))
        });
        if candidates.is_empty() {
            return Err(actors::catalog::Unavailable.into());
        }
        let cut = gateway.cuts.enter(principal.key);
        Ok(Way::Upstream(Box::new(Routed::new(*inference, candidates, cut))))
    }
}

fn upstreams(
    inference: &Inference,
) -> impl Iterator<Item = Arc<storage::upstreams::Upstream>> + '_ {
    inference.model.upstreams.iter().map(Arc::clone)
}
