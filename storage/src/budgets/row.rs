//! The SQL that is the same on both databases.

macro_rules! correct {
    ($table:literal, $id:literal) => {
        concat!(
            "UPDATE ",
            $table,
            " SET budget_forgiven = $2, budget_reset_at = $3, budget_read_at = $4 WHERE ",
            $id,
            " = $1"
        )
    };
}

macro_rules! revise {
    ($table:literal) => {
        concat!(
            "UPDATE ",
            $table,
            " SET revision = revision + 1 WHERE id = $1 AND revision = COALESCE($2, revision)"
        )
    };
}

/// Bound: id, the revision that is expected or NULL.
pub(super) const REVISE_TENANT: &str = revise!("tenants");
/// As [`REVISE_TENANT`].
pub(super) const REVISE_KEY: &str = revise!("keys");
/// Whether there are limits of `$1`.
pub(super) const TENANT_IS_THERE: &str =
    "SELECT EXISTS (SELECT 1 FROM tenant_limits WHERE tenant_id = $1)";
/// As [`TENANT_IS_THERE`].
pub(super) const KEY_IS_THERE: &str = "SELECT EXISTS (SELECT 1 FROM key_limits WHERE key_id = $1)";
/// Bound: id, what is forgiven, since when, from when on the ledger counts.
pub(super) const CORRECT_TENANT: &str = correct!("tenant_limits", "tenant_id");
/// As [`CORRECT_TENANT`].
pub(super) const CORRECT_KEY: &str = correct!("key_limits", "key_id");
