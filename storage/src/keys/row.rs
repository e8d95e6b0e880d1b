//! A key as one row, and the SQL that is the same on both databases.

use protocol::{
    id::{KeyId, TenantId},
    secret::Secret,
};
use uuid::Uuid;

use super::{Credential, Key, KeyStatus};
use crate::{
    Revision,
    column::{At, Count, ModelList, rule},
    error::{Error, Result},
    limits::LimitColumns,
    tenants::row::{TenantRow, tenant_columns},
};

/// The columns of a key, its limits and its revocation.
macro_rules! key_columns {
    () => {
        "k.id, k.tenant_id, k.name, k.prefix,
         (r.key_id IS NOT NULL OR k.status = 'revoked') AS revoked,
         k.allow_all_models, k.models, kl.rpm, kl.tpm, kl.concurrency, kl.budget_tokens,
         CAST(kl.budget_period AS text) AS budget_period, kl.observed, kl.budget_forgiven,
         kl.budget_reset_at, kl.budget_read_at, k.log_prompts, k.expires_at,
         k.created_at, r.revoked_at, k.rotated_to, k.revision"
    };
}

macro_rules! key_tables {
    () => {
        " FROM keys k
          LEFT JOIN key_limits kl ON kl.key_id = k.id
          LEFT JOIN revocations r ON r.key_id = k.id "
    };
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", key_columns!(), key_tables!(), $rest)
    };
}

/// All of them, oldest first.
pub(super) const LIST: &str = select!("ORDER BY k.created_at, k.id");
/// A tenant's, `$1`, oldest first.
pub(super) const LIST_OF: &str = select!("WHERE k.tenant_id = $1 ORDER BY k.created_at, k.id");
/// One by id, `$1`.
pub(super) const BY_ID: &str = select!("WHERE k.id = $1");
/// One by prefix, `$1`.
pub(super) const BY_PREFIX: &str = select!("WHERE k.prefix = $1");
/// A key with its hash and its tenant, by prefix, `$1`.
pub(super) const CREDENTIAL: &str = concat!(
    "SELECT k.hash, ",
    key_columns!(),
    ", ",
    tenant_columns!(),
    key_tables!(),
    "JOIN tenants t ON t.id = k.tenant_id
     LEFT JOIN tenant_limits tl ON tl.tenant_id = t.id
     WHERE k.prefix = $1"
);
/// The prefixes of those that are not revoked.
pub(super) const PREFIXES: &str = "
    SELECT k.prefix FROM keys k
    WHERE k.status = 'active' AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.key_id = k.id)";
/// Bound: id, tenant, name, prefix, hash, `allow_all_models`, models, `log_prompts`, `expires_at`,
/// `created_at`.
pub(super) const INSERT: &str = "
    INSERT INTO keys (id, tenant_id, name, prefix, hash, allow_all_models, models, log_prompts,
        expires_at, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
/// Bound: id; name or NULL; whether the models change, `allow_all_models`, models; `log_prompts` or
/// NULL; whether the end changes, `expires_at`; the revision that is expected, or NULL.
pub(super) const UPDATE: &str = "
    UPDATE keys SET
        name = COALESCE($2, name),
        allow_all_models = CASE WHEN $3 THEN $4 ELSE allow_all_models END,
        models = CASE WHEN $3 THEN $5 ELSE models END,
        log_prompts = COALESCE($6, log_prompts),
        expires_at = CASE WHEN $7 THEN $8 ELSE expires_at END,
        revision = revision + 1
    WHERE id = $1 AND revision = COALESCE($9, revision)";
/// Bound: id, old hash, new hash.
pub(super) const REHASH: &str = "UPDATE keys SET hash = $3 WHERE id = $1 AND hash = $2";
/// Lets a key end. Bound: id, tenant, the key that takes its place, the latest end, the revision that is
/// expected or NULL.
pub(super) const RETIRE: &str = "
    UPDATE keys SET
        rotated_to = $3,
        revision = revision + 1,
        expires_at = CASE WHEN expires_at < $4 THEN expires_at ELSE $4 END
    WHERE id = $1 AND tenant_id = $2 AND status = 'active' AND revision = COALESCE($5, revision)
        AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.key_id = keys.id)";

/// One row of `key_columns`.
#[derive(sqlx::FromRow)]
pub(super) struct KeyRow {
    id: Uuid,
    tenant_id: Uuid,
    name: String,
    prefix: String,
    revoked: bool,
    allow_all_models: Option<bool>,
    models: ModelList,
    rpm: Option<Count>,
    tpm: Option<Count>,
    concurrency: Option<Count>,
    budget_tokens: Option<Count>,
    budget_period: Option<String>,
    observed: Option<String>,
    budget_forgiven: Option<Count>,
    budget_reset_at: Option<At>,
    budget_read_at: Option<At>,
    log_prompts: bool,
    expires_at: Option<At>,
    created_at: At,
    revoked_at: Option<At>,
    rotated_to: Option<Uuid>,
    revision: Count,
}

/// One row of [`CREDENTIAL`].
#[derive(sqlx::FromRow)]
pub(super) struct CredentialRow {
    hash: String,
    #[sqlx(flatten)]
    key: KeyRow,
    #[sqlx(flatten)]
    tenant: TenantRow,
}

/// Why a key could not be stored: its prefix is taken, or its tenant is not there.
pub(super) fn refused(error: sqlx::Error) -> Error {
    match error.as_database_error() {
        Some(cause) if cause.is_unique_violation() => Error::Conflict("key"),
        _ => Error::or_not_found("tenant")(error),
    }
}

// === impl KeyRow ===

impl TryFrom<KeyRow> for Key {
    type Error = Error;

    fn try_from(row: KeyRow) -> Result<Self> {
        let limits = LimitColumns {
            rpm: row.rpm,
            tpm: row.tpm,
            concurrency: row.concurrency,
            budget_tokens: row.budget_tokens,
            budget_period: row.budget_period,
            observed: row.observed,
            budget_forgiven: row.budget_forgiven,
            budget_reset_at: row.budget_reset_at,
            budget_read_at: row.budget_read_at,
        };
        Ok(Self {
            id: KeyId(row.id),
            tenant: TenantId(row.tenant_id),
            name: row.name,
            prefix: row.prefix,
            status: if row.revoked { KeyStatus::Revoked } else { KeyStatus::Active },
            models: rule(row.allow_all_models, row.models),
            limits: limits.try_into()?,
            log_prompts: row.log_prompts,
            expires_at: row.expires_at.map(|at| at.0),
            created_at: row.created_at.0,
            revoked_at: row.revoked_at.map(|at| at.0),
            rotated_to: row.rotated_to.map(KeyId),
            revision: Revision::read(row.revision),
        })
    }
}

// === impl CredentialRow ===

impl TryFrom<CredentialRow> for Credential {
    type Error = Error;

    fn try_from(row: CredentialRow) -> Result<Self> {
        // Wrapped first: what fails below must not leave the hash behind in memory.
        let hash = Secret::new(row.hash);
        Ok(Self { key: row.key.try_into()?, tenant: row.tenant.try_into()?, hash })
    }
}
