//! What can go wrong with what lasts.

/// The result of a call to a port.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call to a port failed. Never holds a URL or a bound value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A row of that name (or prefix) is already there.
    #[error("{0} already exists")]
    Conflict(&'static str),
    /// There is no such row.
    #[error("there is no such {0}")]
    NotFound(&'static str),
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
