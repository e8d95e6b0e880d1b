//! An alias as one row, and the SQL that is the same on both databases.

use protocol::{id::TenantId, name::ModelName};
use uuid::Uuid;

use super::Alias;
use crate::{
    column::ModelList,
    error::{Error, Result},
};

/// Everybody's first, since nil sorts before every id.
pub(super) const LIST: &str =
    "SELECT tenant_id, name, targets FROM model_aliases ORDER BY tenant_id, name";
/// Bound: tenant, name, targets.
pub(super) const PUT: &str = "
    INSERT INTO model_aliases (tenant_id, name, targets) VALUES ($1, $2, $3)
    ON CONFLICT (tenant_id, name) DO UPDATE SET targets = excluded.targets";
/// One, by tenant and name.
pub(super) const DELETE: &str = "DELETE FROM model_aliases WHERE tenant_id = $1 AND name = $2";

/// One row of [`LIST`].
#[derive(sqlx::FromRow)]
pub(super) struct AliasRow {
    tenant_id: Uuid,
    name: String,
    targets: ModelList,
}

/// The column of a tenant, or of everybody.
pub(super) fn owner(tenant: Option<TenantId>) -> Uuid {
    tenant.map_or(Uuid::nil(), |tenant| tenant.0)
}

// === impl AliasRow ===

impl TryFrom<AliasRow> for Alias {
    type Error = Error;

    fn try_from(row: AliasRow) -> Result<Self> {
        let name = ModelName::read(&row.name).map_err(|_| Error::unknown_word("name"))?;
        let tenant = (!row.tenant_id.is_nil()).then_some(TenantId(row.tenant_id));
        Ok(Self { tenant, name, targets: row.targets.0 })
    }
}
