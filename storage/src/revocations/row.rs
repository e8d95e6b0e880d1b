//! A revocation as one row, and the SQL that is the same on both databases.

use protocol::id::KeyId;
use uuid::Uuid;

use super::Revocation;
use crate::column::At;

/// Bound: key, time, reason, cut. A second one can add the cut and nothing else.
pub(super) const INSERT: &str = "
    INSERT INTO revocations (key_id, revoked_at, reason, cut) VALUES ($1, $2, $3, $4)
    ON CONFLICT (key_id) DO UPDATE SET cut = excluded.cut
        WHERE excluded.cut AND NOT revocations.cut";
/// The newest first, at most `$1`.
pub(super) const LIST: &str = "
    SELECT key_id, revoked_at, reason, cut FROM revocations
    ORDER BY revoked_at DESC, key_id DESC LIMIT $1";
/// Keys whose streams are to be cut.
pub(super) const CUT: &str = "SELECT key_id FROM revocations WHERE cut";

/// One row of [`LIST`].
#[derive(sqlx::FromRow)]
pub(super) struct RevocationRow {
    key_id: Uuid,
    revoked_at: At,
    reason: String,
    cut: bool,
}

// === impl RevocationRow ===

impl From<RevocationRow> for Revocation {
    fn from(row: RevocationRow) -> Self {
        Self { key: KeyId(row.key_id), at: row.revoked_at.0, reason: row.reason, cut: row.cut }
    }
}
