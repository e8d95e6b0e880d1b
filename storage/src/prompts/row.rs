//! A prompt as one row, and the SQL that is the same on both databases.

use protocol::id::{KeyId, RequestId};
use uuid::Uuid;

use super::Prompt;
use crate::column::{At, Count};

/// Bound: the request (it is the id, too), key, when it came, when it ends, whether it is encrypted,
/// the body, the length of the whole one where it is cut.
pub(super) const INSERT: &str = "
    INSERT INTO prompt_logs (id, request_id, key_id, created_at, expires_at, encrypted, body, cut_from)
    SELECT $1, $1, $2, $3, $4, $5, $6, $7 WHERE EXISTS (SELECT 1 FROM keys WHERE id = $2)
    ON CONFLICT (id) DO NOTHING";
/// A key's, `$1`; at most `$2`.
pub(super) const LIST: &str = "
    SELECT request_id, key_id, created_at, expires_at, encrypted, body, cut_from FROM prompt_logs
    WHERE key_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2";
/// Those that end at `$1` or before; at most `$2`.
pub(super) const FORGET: &str = "
    DELETE FROM prompt_logs WHERE id IN
        (SELECT id FROM prompt_logs WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";

/// One row of [`LIST`].
#[derive(sqlx::FromRow)]
pub(super) struct PromptRow {
    request_id: Uuid,
    key_id: Uuid,
    created_at: At,
    expires_at: At,
    encrypted: bool,
    body: Vec<u8>,
    cut_from: Option<Count>,
}

// === impl PromptRow ===

impl From<PromptRow> for Prompt {
    fn from(row: PromptRow) -> Self {
        Self {
            request: RequestId(row.request_id),
            key: KeyId(row.key_id),
            at: row.created_at.0,
            expires_at: row.expires_at.0,
            encrypted: row.encrypted,
            body: row.body,
            cut_from: row.cut_from.map(|count| count.0),
        }
    }
}
