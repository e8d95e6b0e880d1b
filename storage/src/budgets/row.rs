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

/// Bound: id, what is forgiven, since when, from when on the ledger counts.
pub(super) const CORRECT_TENANT: &str = correct!("tenant_limits", "tenant_id");
/// As [`CORRECT_TENANT`].
pub(super) const CORRECT_KEY: &str = correct!("key_limits", "key_id");
