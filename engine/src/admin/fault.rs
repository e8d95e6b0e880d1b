//! What an operator is told when something cannot be done.

use axum::{
    Json,
    extract::{FromRequestParts, Path, Query},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use protocol::error::Code;
use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::party::PartyError;

/// Why something could not be done.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is no such thing.
    NotFound(String),
    /// It was changed meanwhile, again and again.
    Stale(String),
    /// What was asked cannot be.
    Invalid(String),
    /// It was not proven who asks.
    Unauthorized,
    /// Nobody may change anything here.
    NoToken,
    /// No such endpoint.
    NoEndpoint,
    /// Another method is wanted.
    Method,
    /// Another host was asked for, of this name; empty where it is not told back.
    Host(String),
    /// A page of another origin asks for a change.
    Origin,
    /// The database.
    Storage(storage::Error),
}

/// What an operator is told.
#[derive(Serialize, ToSchema)]
pub(super) struct Told {
    /// For people.
    error: String,
    /// One of those in docs/ERRORS.md.
    code: &'static str,
}

/// What the path names, read; what cannot be read is not there.
pub(super) struct Named<T>(pub(super) T);

/// What the query asks for, read.
pub(super) struct Asked<T>(pub(super) T);

impl From<PartyError> for Fault {
    fn from(error: PartyError) -> Self {
        match error {
            PartyError::Storage(error) => Self::Storage(error),
            PartyError::NotFound(..) => Self::NotFound(error.to_string()),
            PartyError::NoBudget(..) => Self::Invalid(error.to_string()),
            PartyError::Stale(..) => Self::Stale(error.to_string()),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let read = Path::from_request_parts(parts, state).await;
        read.map(|Path(named)| Self(named))
            .map_err(|_| Fault::NotFound("the path is not readable".to_owned()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let read = Query::from_request_parts(parts, state).await;
        read.map(|Query(asked)| Self(asked))
            .map_err(|rejection| Fault::Invalid(rejection.body_text()))
    }
}

// === impl Fault ===

impl Fault {
    /// The code of this fault. No wildcard arm.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::NotFound(_) | Self::Storage(storage::Error::NotFound(_)) => Code::NoSuchObject,
            Self::Invalid(_) => Code::InvalidSetting,
            Self::Unauthorized => Code::OperatorUnproven,
            Self::NoToken => Code::ChangesForbidden,
            Self::NoEndpoint => Code::NotFound,
            Self::Method => Code::MethodNotAllowed,
            Self::Host(_) => Code::HostNotAllowed,
            Self::Origin => Code::OriginNotAllowed,
            Self::Storage(storage::Error::Conflict(_)) => Code::AlreadyThere,
            Self::Stale(_) | Self::Storage(storage::Error::Stale(_)) => Code::ChangedMeanwhile,
            Self::Storage(_) => Code::DatabaseUnavailable,
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let code = self.code();
        let error = match self {
            Self::NotFound(message) | Self::Invalid(message) | Self::Stale(message) => message,
            Self::Unauthorized => "give the operator's token: Authorization: Bearer …".to_owned(),
            Self::NoToken => "changes need `admin.token` to be configured".to_owned(),
            Self::NoEndpoint | Self::Method | Self::Origin => code.message().to_owned(),
            Self::Host(name) if name.is_empty() => code.message().to_owned(),
            Self::Host(name) => format!("{} It was asked for as `{name}`.", code.message()),
            Self::Storage(storage::Error::NotFound(what)) => format!("there is no such {what}"),
            Self::Storage(error @ storage::Error::Stale(_)) => error.to_string(),
            Self::Storage(storage::Error::Conflict(what)) => {
                format!("the {what} is there already")
            }
            Self::Storage(error) => {
                actors::quiet!(warn, "an operator's request failed", ""; %error);
                "the database cannot be used".to_owned()
            }
        };
        let status =
            StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let challenge = (status == StatusCode::UNAUTHORIZED).then_some("Bearer");
        let mut response = (status, Json(Told { error, code: code.as_str() })).into_response();
        if let Some(Ok(value)) = challenge.map(str::parse) {
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, value);
        }
        response
    }
}
