//! What of the schema is there, compared with what this binary brings along.
//!
//! sqlx's own `Migrator::run` takes no lock on SQLite and does not say what it applied.

use std::collections::BTreeMap;

use sqlx::migrate::{AppliedMigration, Migrate, Migrator};

use crate::error::{Error, Result};

/// Whether every migration of this binary has been applied.
///
/// # Errors
/// [`Error::Schema`] where the database has one that this binary does not know, or has it with
/// another text: to serve on such a schema would be a guess.
pub(crate) fn is_complete(migrator: &Migrator, applied: &[AppliedMigration]) -> Result<bool> {
    let ours: BTreeMap<_, _> = migrator.iter().map(|ours| (ours.version, ours)).collect();
    for there in applied {
        match ours.get(&there.version) {
            None => {
                return Err(Error::Schema(format!(
                    "migration {} was applied by a newer binary",
                    there.version
                )));
            }
            Some(ours) if ours.checksum != there.checksum => {
                return Err(Error::Schema(format!("migration {} has another text", there.version)));
            }
            Some(_) => {}
        }
    }
    Ok(applied.len() == ours.len())
}

/// Applies what is missing and returns its versions. The caller holds a lock that keeps other
/// processes out.
///
/// # Errors
/// [`Error::Schema`] as [`is_complete`], and where a migration fails.
pub(crate) async fn apply<C: Migrate>(migrator: &Migrator, connection: &mut C) -> Result<Vec<i64>> {
    let table = &*migrator.table_name;
    connection.ensure_migrations_table(table).await?;
    let there = connection.list_applied_migrations(table).await?;
    is_complete(migrator, &there)?;
    let mut versions = Vec::new();
    for ours in migrator.iter() {
        if !there.iter().any(|there| there.version == ours.version) {
            connection.apply(table, ours).await?;
            versions.push(ours.version);
        }
    }
    Ok(versions)
}
