//! Why a call of an upstream failed: what the client is told of it, what it says of the upstream, and whether
//! another upstream may do better.
//!
//! | what the upstream says | told | its breaker | tried elsewhere |
//! |---|---|---|---|
//! | the request is too long, or asks for what the model cannot | that | it is well | no |
//! | it is limited, or has too much to do | that, with its `retry-after` | it is well | yes |
//! | it loads the model | that | counts, as long as nothing else can be had of it | yes |
//! | it has too little memory | that | counts, by tenant: the request may ask for too much | once |
//! | another status | our code for it | 5xx count | as [`status`] says |

use std::time::Duration;

use actors::rules::breaker::Ended;
use protocol::{cause::Cause, route::Route};

use crate::{
    http::refusal::{Caused, Refusal},
    upstream::client::{CallError, ReadError},
};

/// Why a call failed.
pub(super) struct Fault {
    pub(super) why: Refusal,
    /// The word for it in metrics.
    pub(super) kind: &'static str,
    /// Whether that is the upstream's fault.
    pub(super) ended: Ended,
    pub(super) again: Again,
}

/// Whether another upstream may do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// Perhaps: the request itself may have provoked the fault. It is tried on one more upstream, and not
    /// on all of them.
    Once,
    Yes,
}

// === impl Fault ===

impl Fault {
    pub(super) fn new(
        why: impl Into<Refusal>,
        kind: &'static str,
        ended: Ended,
        again: Again,
    ) -> Self {
        Self { why: why.into(), kind, ended, again }
    }

    /// There is nothing that could be sent to this upstream.
    pub(super) fn unsent(why: Refusal) -> Self {
        Self::new(why, "unsent", Ended::Unknown, Again::Yes)
    }
}

/// It could not be called, or did not answer.
pub(super) fn call(error: CallError) -> Fault {
    let (kind, ended, again) = match &error {
        error if error.is_ours() => ("own_shortage", Ended::Unknown, Again::Yes),
        CallError::Connect(_) | CallError::ConnectTimeout => {
            ("unconnected", Ended::Unconnected, Again::Yes)
        }
        // The request may have brought down what served it.
        CallError::Broken(_) => ("broken", Ended::Suspected, Again::Once),
        // Whoever waited for that long is not made to wait for as long again.
        CallError::FirstByteTimeout => ("first_byte_timeout", Ended::Suspected, Again::No),
    };
    Fault::new(error, kind, ended, again)
}

/// It answered with a status that is no success, and did not say why. `wait`: when it wants to be asked again.
pub(super) fn status(status: u16, wait: Option<Duration>) -> Fault {
    let (kind, ended, again) = match status {
        502..=504 => ("unavailable", Ended::Suspected, Again::Yes),
        // Model servers answer so to requests that they cannot serve, too.
        500..=599 => ("internal_error", Ended::Suspected, Again::Once),
        // It no longer has the model.
        404 => ("not_now", Ended::Well, Again::Yes),
        _ => ("refused", Ended::Well, Again::No),
    };
    Fault::new(Refusal::UpstreamStatus(status, wait), kind, ended, again)
}

/// It said why. `wait`: as [`status`].
pub(super) fn cause(cause: Cause, route: Route, wait: Option<Duration>) -> Fault {
    let (ended, again) = match cause {
        Cause::Context(_) | Cause::Lacks(_) | Cause::Filtered => (Ended::Well, Again::No),
        Cause::RateLimited | Cause::Overloaded => (Ended::Well, Again::Yes),
        Cause::Loading => (Ended::Suspected, Again::Yes),
        Cause::OutOfMemory => (Ended::Suspected, Again::Once),
    };
    Fault::new(Caused { cause, route, wait }, cause.code().as_str(), ended, again)
}

/// Its reply could not be read.
pub(super) fn read(error: ReadError) -> Fault {
    let (kind, ended, again) = match &error {
        ReadError::Broken(_) => ("broken", Ended::Suspected, Again::Once),
        ReadError::Stalled => ("stalled", Ended::Suspected, Again::No),
        ReadError::TooLarge => ("too_large", Ended::Well, Again::No),
        ReadError::NoRoom => ("no_room", Ended::Well, Again::No),
    };
    Fault::new(error, kind, ended, again)
}
