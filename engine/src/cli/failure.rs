//! Why a command failed, and the exit code that says so to scripts.

use std::{io, process::ExitCode};

use crate::{config::Mistakes, gateway::BuildError, party::PartyError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// There is no such thing.
    #[error("there is no {0} {1}")]
    NotFound(&'static str, String),
    /// A tenant or a key.
    #[error("{0}")]
    Party(#[from] PartyError),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] Mistakes),
    /// The schema is not up to date and may not be brought up to date by itself.
    #[error("the database is not migrated; run `neuronetz migrate` first")]
    NotMigrated,
    /// The database.
    #[error("{0}")]
    Storage(#[from] storage::Error),
    /// The gateway could not be built.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// What was to be said could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// It was ended before it was done.
    #[error("ended at once, as asked; what had not been stored is lost")]
    EndedAtOnce,
}

// === impl Failure ===

impl Failure {
    /// See `EXIT_CODES`.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Storage(error) | Self::Party(PartyError::Storage(error)) => of_storage(error),
            Self::NotFound(..) | Self::Party(PartyError::NotFound(..)) => 3,
            Self::Config(_) => 5,
            Self::NotMigrated | Self::Build(BuildError::Storage(_) | BuildError::NotMigrated) => 6,
            Self::Party(PartyError::NoBudget(..) | PartyError::Stale(..))
            | Self::Failed(_)
            | Self::Build(_)
            | Self::Output(_)
            | Self::EndedAtOnce => 1,
        })
    }
}

fn of_storage(error: &storage::Error) -> u8 {
    match error {
        storage::Error::Stale(_) => 1,
        storage::Error::NotFound(_) => 3,
        storage::Error::Conflict(_) => 4,
        storage::Error::Url => 5,
        storage::Error::Schema(_)
        | storage::Error::Unavailable(_)
        | storage::Error::Unexpected(_) => 6,
    }
}
