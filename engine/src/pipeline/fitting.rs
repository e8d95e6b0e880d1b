//! Which upstreams can take a request. What one dialect has no word for, the other may have: where a model
//! is served in both, the request goes to those that can take it, and is refused only where none can.

use std::sync::Arc;

use actors::catalog::Model;
use bytes::Bytes;
use identity::authorize;
use protocol::{
    levers::Levers,
    route::UpstreamKind,
    translate::request::{Request, Target},
};

use super::authorized::{Written, spelled};
use crate::http::refusal::Refusal;

/// The models that can take a request, with those of their upstreams only, and what these are sent.
pub(super) struct Fitting {
    pub(super) targets: Vec<Arc<Model>>,
    /// For the first upstream of each dialect; most others are sent the same.
    pub(super) written: Vec<Written>,
}

/// What holds for a request, whoever takes it.
#[derive(Clone, Copy)]
pub(super) struct Terms<'t> {
    pub(super) is_alias: bool,
    /// The most tokens that the reply may have, where the client does not say.
    pub(super) held_to: Option<u64>,
    pub(super) levers: &'t Levers,
}

// === impl Fitting ===

impl Fitting {
    /// Writes a request whose body is `body` for each dialect that is spoken among `targets`, and leaves out
    /// who cannot take it.
    ///
    /// # Errors
    /// Where nobody can: why the first one cannot.
    pub(super) fn find(
        request: &Request<'_>,
        body: &Bytes,
        targets: Vec<Arc<Model>>,
        terms: Terms<'_>,
    ) -> Result<Self, Refusal> {
        let mut written: Vec<Written> = Vec::with_capacity(1);
        let mut unfit: Vec<(UpstreamKind, Refusal)> = Vec::new();
        for model in &targets {
            for upstream in &model.upstreams {
                let kind = upstream.kind;
                let is_tried = written.iter().any(|one| one.kind() == kind)
                    || unfit.iter().any(|(one, _)| *one == kind);
                if is_tried {
                    continue;
                }
                let target = Target {
                    kind,
                    model: spelled(model, upstream, terms.is_alias),
                    tokens_max: terms.held_to,
                    levers: terms.levers,
                };
                match Written::new(request, body, &target) {
                    Ok(one) => written.push(one),
                    Err(refusal) => unfit.push((kind, refusal)),
                }
            }
        }
        if unfit.is_empty() && !written.is_empty() {
            return Ok(Self { targets, written });
        }
        if written.is_empty() {
            let first = unfit.into_iter().next().map(|(_, refusal)| refusal);
            return Err(first.unwrap_or(Refusal::Denied(authorize::Denied::NotFound)));
        }
        let fits = |kind| unfit.iter().all(|(unfit, _)| *unfit != kind);
        let fitting = |model: &Arc<Model>| model.only(|upstream| fits(upstream.kind)).map(Arc::new);
        Ok(Self { targets: targets.iter().filter_map(fitting).collect(), written })
    }
}

/// Whether only servers of OpenAI's dialect serve these models.
pub(super) fn are_foreign(targets: &[Arc<Model>]) -> bool {
    let mut upstreams = targets.iter().flat_map(|model| &model.upstreams);
    upstreams.all(|upstream| upstream.kind == UpstreamKind::OpenAi)
}
