//! A tenant as one row, and the SQL that is the same on both databases.

use std::time::Duration;

use identity::policy::{Exhausted, Policy, Reserve};
use protocol::levers::{Levers, LoadOptions};
use uuid::Uuid;

use super::Tenant;
use crate::{
    Revision,
    column::{At, Count, ModelList, rule},
    error::{Error, Result},
    limits::LimitColumns,
};

/// The columns of a tenant and its limits, of `tenants t` and `tenant_limits tl`. They have names
/// of their own so that a key can stand in the same row.
macro_rules! tenant_columns {
    () => {
        "t.id AS t_id, t.name AS t_name, t.suspended AS t_suspended,
         t.allow_all_models AS t_allow_all_models, t.models AS t_models,
         t.created_at AS t_created_at, tl.rpm AS t_rpm, tl.tpm AS t_tpm,
         tl.concurrency AS t_concurrency, tl.budget_tokens AS t_budget_tokens,
         CAST(tl.budget_period AS text) AS t_budget_period, tl.observed AS t_observed,
         tl.budget_forgiven AS t_budget_forgiven, tl.budget_reset_at AS t_budget_reset_at,
         tl.budget_read_at AS t_budget_read_at, t.weight AS t_weight, t.reserve AS t_reserve,
         t.exhausted AS t_exhausted, t.audit_retention AS t_audit_retention,
         t.keep_alive_max AS t_keep_alive_max, t.may_unload AS t_may_unload,
         t.num_ctx_max AS t_num_ctx_max, t.load_options AS t_load_options,
         t.trusted_show AS t_trusted_show, t.revision AS t_revision"
    };
}
pub(crate) use tenant_columns;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            tenant_columns!(),
            " FROM tenants t LEFT JOIN tenant_limits tl ON tl.tenant_id = t.id ",
            $rest
        )
    };
}

/// All of them, by name.
pub(super) const LIST: &str = select!("ORDER BY t.name");
/// One by id, `$1`.
pub(super) const BY_ID: &str = select!("WHERE t.id = $1");
/// One by name, `$1`.
pub(super) const BY_NAME: &str = select!("WHERE t.name = $1");
/// Bound: id, name, `allow_all_models`, models, `created_at`, weight, reserve, exhausted,
/// `audit_retention`, `keep_alive_max`, `may_unload`, `num_ctx_max`, `load_options`, `trusted_show`.
pub(super) const INSERT: &str = "
    INSERT INTO tenants (id, name, allow_all_models, models, created_at, weight, reserve, exhausted,
        audit_retention, keep_alive_max, may_unload, num_ctx_max, load_options, trusted_show)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
/// Bound: id, and then what is NULL where it stays: name, suspended, `allow_all_models` with models,
/// weight, reserve, exhausted; whether the retention changes, `audit_retention`; whether the levers
/// change, `keep_alive_max`, `may_unload`, `num_ctx_max`, `load_options`, `trusted_show`; last the revision
/// that is expected, or NULL.
pub(super) const UPDATE: &str = "
    UPDATE tenants SET
        name = COALESCE($2, name),
        suspended = COALESCE($3, suspended),
        allow_all_models = COALESCE($4, allow_all_models),
        models = CASE WHEN $4 IS NULL THEN models ELSE $5 END,
        weight = COALESCE($6, weight),
        reserve = COALESCE($7, reserve),
        exhausted = COALESCE($8, exhausted),
        audit_retention = CASE WHEN $9 THEN $10 ELSE audit_retention END,
        keep_alive_max = CASE WHEN $11 THEN $12 ELSE keep_alive_max END,
        may_unload = COALESCE($13, may_unload),
        num_ctx_max = CASE WHEN $11 THEN $14 ELSE num_ctx_max END,
        load_options = COALESCE($15, load_options),
        trusted_show = COALESCE($16, trusted_show),
        revision = revision + 1
    WHERE id = $1 AND revision = COALESCE($17, revision)";
/// One by id, `$1`; its keys and limits go with it.
pub(super) const DELETE: &str = "DELETE FROM tenants WHERE id = $1";

/// One row of [`tenant_columns`].
#[derive(sqlx::FromRow)]
pub(crate) struct TenantRow {
    t_id: Uuid,
    t_name: String,
    t_suspended: bool,
    t_allow_all_models: bool,
    t_models: ModelList,
    t_created_at: At,
    t_rpm: Option<Count>,
    t_tpm: Option<Count>,
    t_concurrency: Option<Count>,
    t_budget_tokens: Option<Count>,
    t_budget_period: Option<String>,
    t_observed: Option<String>,
    t_budget_forgiven: Option<Count>,
    t_budget_reset_at: Option<At>,
    t_budget_read_at: Option<At>,
    t_weight: Count,
    t_reserve: String,
    t_exhausted: String,
    t_audit_retention: Option<Count>,
    t_keep_alive_max: Option<Count>,
    t_may_unload: bool,
    t_num_ctx_max: Option<Count>,
    t_load_options: String,
    t_trusted_show: bool,
    t_revision: Count,
}

// === impl TenantRow ===

impl TryFrom<TenantRow> for Tenant {
    type Error = Error;

    fn try_from(row: TenantRow) -> Result<Self> {
        let limits = LimitColumns {
            rpm: row.t_rpm,
            tpm: row.t_tpm,
            concurrency: row.t_concurrency,
            budget_tokens: row.t_budget_tokens,
            budget_period: row.t_budget_period,
            observed: row.t_observed,
            budget_forgiven: row.t_budget_forgiven,
            budget_reset_at: row.t_budget_reset_at,
            budget_read_at: row.t_budget_read_at,
        };
        let policy = Policy {
            weight: u32::try_from(row.t_weight.0).unwrap_or(1),
            reserve: Reserve::parse(&row.t_reserve)
                .ok_or_else(|| Error::unknown_word("reserve"))?,
            exhausted: Exhausted::parse(&row.t_exhausted)
                .ok_or_else(|| Error::unknown_word("exhausted"))?,
            levers: Levers {
                keep_alive_max: row.t_keep_alive_max.map(|Count(span)| Duration::from_secs(span)),
                may_unload: row.t_may_unload,
                num_ctx_max: row.t_num_ctx_max.map(|Count(most)| most),
                options: LoadOptions::parse(&row.t_load_options)
                    .ok_or_else(|| Error::unknown_word("load_options"))?,
                trusted_show: row.t_trusted_show,
            },
        };
        Ok(Self {
            id: protocol::id::TenantId(row.t_id),
            name: row.t_name,
            suspended: row.t_suspended,
            models: rule(Some(row.t_allow_all_models), row.t_models).unwrap_or_default(),
            limits: limits.try_into()?,
            policy,
            audit_retention: row.t_audit_retention.map(|count| Duration::from_secs(count.0)),
            created_at: row.t_created_at.0,
            revision: Revision::read(row.t_revision),
        })
    }
}
