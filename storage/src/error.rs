//! What can go wrong with what lasts.

use std::fmt;

use sqlx::{error::DatabaseError, migrate::MigrateError};

/// The result of a call to a port.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call to a port failed. Never holds a URL or a bound value.
#[derive(thiserror::Error)]
pub enum Error {
    /// A row of that name (or prefix) is already there.
    #[error("{0} already exists")]
    Conflict(&'static str),
    /// There is no such row.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It was changed since it was read: nothing was done.
    #[error("the {0} was changed meanwhile")]
    Stale(&'static str),
    /// The database URL is neither `sqlite:…` nor `postgres://…`, or cannot be read.
    #[error("the database URL must be sqlite:PATH or postgres://…")]
    Url,
    /// The schema is older or newer than this binary.
    #[error("the schema does not fit this binary: {0}")]
    Schema(String),
    /// The database could not be reached, or did not answer in time.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The database answered with something that does not fit: a row that cannot be read, a
    /// constraint that was broken.
    #[error("the database answered unexpectedly")]
    Unexpected(#[source] sqlx::Error),
}

// === impl Error ===

impl Error {
    /// For a statement that may break a unique constraint: then `what` already exists.
    pub(crate) fn or_conflict(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |error| match error.as_database_error() {
            Some(cause) if cause.is_unique_violation() => Self::Conflict(what),
            _ => error.into(),
        }
    }

    /// For a statement that may break a foreign key: then there is no such `what`.
    pub(crate) fn or_not_found(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |error| match error.as_database_error() {
            Some(cause) if cause.is_foreign_key_violation() => Self::NotFound(what),
            _ => error.into(),
        }
    }

    /// For a change that found no row of the revision that was expected.
    pub(crate) fn not_as_expected(there: bool, what: &'static str) -> Self {
        if there { Self::Stale(what) } else { Self::NotFound(what) }
    }

    /// A word in that column that this binary does not know. The word itself is not told.
    pub(crate) fn unknown_word(column: &'static str) -> Self {
        let source = "unknown word".into();
        Self::Unexpected(sqlx::Error::ColumnDecode { index: column.to_owned(), source })
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let unavailable = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(cause) => is_away(cause.as_ref()),
            _ => false,
        };
        if unavailable { Self::Unavailable(error) } else { Self::Unexpected(error) }
    }
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Self {
        let text = error.to_string();
        match error {
            MigrateError::Execute(cause) => cause.into(),
            MigrateError::ExecuteMigration(cause, _) => match cause.into() {
                Self::Unavailable(cause) => Self::Unavailable(cause),
                _ => Self::Schema(text),
            },
            _ => Self::Schema(text),
        }
    }
}

/// Derived, it would print a server's `DETAIL`, which quotes the row that broke a constraint: a
/// hash, a name.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self {
            Self::Unavailable(cause) | Self::Unexpected(cause) => write!(f, ": {cause}"),
            Self::Conflict(_)
            | Self::NotFound(_)
            | Self::Stale(_)
            | Self::Url
            | Self::Schema(_) => Ok(()),
        }
    }
}

/// Whether what the server said means "not now" rather than "not so".
fn is_away(cause: &dyn DatabaseError) -> bool {
    let Some(code) = cause.code() else { return false };
    if cause.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        return match code.get(..2) {
            // Connection, authorization, resources, operator (shutdown, statement timeout),
            // system; lost conflicts between transactions; no such database (yet).
            Some("08" | "28" | "53" | "57" | "58" | "40" | "3D") => true,
            // A lock was not got in time; a replica was promoted elsewhere and this one only reads.
            _ => matches!(&*code, "55P03" | "25006"),
        };
    }
    // https://www.sqlite.org/rescode.html: the low byte is the primary code. BUSY, LOCKED,
    // READONLY, IOERR, FULL, CANTOPEN.
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_away_is_told_from_what_is_wrong() {
        assert!(matches!(Error::from(sqlx::Error::PoolTimedOut), Error::Unavailable(_)));
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(matches!(Error::from(sqlx::Error::Io(refused)), Error::Unavailable(_)));
        assert!(matches!(Error::from(sqlx::Error::RowNotFound), Error::Unexpected(_)));
    }
}
