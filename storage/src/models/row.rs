//! A model as one row, and the SQL that is the same on both databases.

use protocol::name::ModelName;

use super::Model;
use crate::{
    column::Count,
    error::{Error, Result},
};

/// All of them, by name.
pub(super) const LIST: &str =
    "SELECT name, prompt_price, completion_price FROM models ORDER BY name";
/// Bound: name, the prices of prompt and completion.
pub(super) const PUT: &str = "
    INSERT INTO models (name, prompt_price, completion_price) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET
        prompt_price = excluded.prompt_price, completion_price = excluded.completion_price";
/// One by name, `$1`.
pub(super) const DELETE: &str = "DELETE FROM models WHERE name = $1";

/// One row of [`LIST`].
#[derive(sqlx::FromRow)]
pub(super) struct ModelRow {
    name: String,
    prompt_price: Option<Count>,
    completion_price: Option<Count>,
}

// === impl ModelRow ===

impl TryFrom<ModelRow> for Model {
    type Error = Error;

    fn try_from(row: ModelRow) -> Result<Self> {
        let name = |text: &str| ModelName::read(text).map_err(|_| Error::unknown_word("name"));
        Ok(Self {
            name: name(&row.name)?,
            prompt_price: row.prompt_price.map(|price| price.0),
            completion_price: row.completion_price.map(|price| price.0),
        })
    }
}
