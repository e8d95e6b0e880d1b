//! An upstream as one row, and the SQL that is the same on both databases.

use super::Upstream;
use crate::{
    column::{At, Count},
    error::{Error, Result},
};

/// All of them, by name.
pub(super) const LIST: &str = "
    SELECT name, url, CAST(kind AS text) AS kind, slots, keep_alive, created_at
    FROM upstreams ORDER BY name";
/// One by name, `$1`.
pub(super) const SET_SLOTS: &str = "UPDATE upstreams SET slots = $2 WHERE name = $1";
/// One by name, `$1`.
pub(super) const SET_KEEP_ALIVE: &str = "UPDATE upstreams SET keep_alive = $2 WHERE name = $1";

pub(super) const DELETE: &str = "DELETE FROM upstreams WHERE name = $1";

/// One row of [`LIST`].
#[derive(sqlx::FromRow)]
pub(super) struct UpstreamRow {
    name: String,
    url: String,
    kind: String,
    slots: Option<Count>,
    keep_alive: bool,
    created_at: At,
}

// === impl UpstreamRow ===

impl TryFrom<UpstreamRow> for Upstream {
    type Error = Error;

    fn try_from(row: UpstreamRow) -> Result<Self> {
        let kind = row.kind.parse().map_err(|_| Error::unknown_word("kind"))?;
        Ok(Self {
            name: row.name,
            url: row.url,
            kind,
            slots: row.slots.map(|count| count.0),
            keep_alive: row.keep_alive,
            created_at: row.created_at.0,
        })
    }
}
