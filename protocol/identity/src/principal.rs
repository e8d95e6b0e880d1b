//! The proven identity that a request carries.

use jiff::Timestamp;
use protocol::id::{KeyId, TenantId};

use crate::{limits::Limits, models::ModelRule, policy::Policy};

/// A key that has been verified, with what was known of it and its tenant at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Who pays.
    pub tenant: TenantId,
    /// The tenant's name, for logs and metrics.
    pub tenant_name: String,
    /// The key that was presented.
    pub key: KeyId,
    /// Which models it may use: the key's word, else the tenant's.
    pub models: ModelRule,
    /// The limits of its tenant.
    pub tenant_limits: Limits,
    /// The limits of the key itself; both hold.
    pub key_limits: Limits,
    /// How its tenant is served.
    pub policy: Policy,
    /// Whether what it asks is to be kept for a while.
    pub log_prompts: bool,
    /// When the key stops being valid, if ever.
    pub expires_at: Option<Timestamp>,
}
